"""qbench: check and time every provider of a quantized operation, and judge it against stored baselines.

The names below are the public interface. Nothing here imports torch until a case runs or a kernel is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.aot.cases import CompileCase, compile_cases, parametrize_compiled
from qbench.aot.expect import Expectation
from qbench.case import (
    Case,
    Cost,
    Op,
    Provider,
    Unsupported,
    Workload,
    cases,
    parametrize,
    provider,
    provider_info,
)
from qbench.check import GemmBound, Mismatch, WrongResult, exact, gemm_error, within

if TYPE_CHECKING:
    from qbench.aot.compiled import compiled
    from qbench.interpreter.calls import register_inline_asm
    from qbench.tensors import poisoned_allocations

__all__ = [
    "Case",
    "CompileCase",
    "Cost",
    "Expectation",
    "GemmBound",
    "Mismatch",
    "Op",
    "Provider",
    "Unsupported",
    "Workload",
    "WrongResult",
    "cases",
    "compile_cases",
    "compiled",
    "exact",
    "gemm_error",
    "parametrize",
    "parametrize_compiled",
    "poisoned_allocations",
    "provider",
    "provider_info",
    "register_inline_asm",
    "within",
]


def __getattr__(name: str) -> Any:
    """These live beside torch and Triton, so they are imported when they are first asked for."""
    if name == "compiled":
        from qbench.aot.compiled import compiled

        return compiled
    if name == "register_inline_asm":
        from qbench.interpreter.calls import register_inline_asm

        return register_inline_asm
    if name == "poisoned_allocations":
        from qbench.tensors import poisoned_allocations

        return poisoned_allocations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

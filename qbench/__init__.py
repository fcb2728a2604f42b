"""qbench: check and time every provider of a quantized operation, and judge it against stored baselines.

The names below are the public interface. Nothing here imports torch until a case runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from qbench.interpreter import register_inline_asm
    from qbench.tensors import poisoned_allocations

__all__ = [
    "Case",
    "Cost",
    "GemmBound",
    "Mismatch",
    "Op",
    "Provider",
    "Unsupported",
    "Workload",
    "WrongResult",
    "cases",
    "exact",
    "gemm_error",
    "parametrize",
    "poisoned_allocations",
    "provider",
    "provider_info",
    "register_inline_asm",
    "within",
]


def __getattr__(name: str) -> Any:
    """What needs torch or numpy is imported when it is first asked for."""
    if name == "poisoned_allocations":
        from qbench.tensors import poisoned_allocations

        return poisoned_allocations
    if name == "register_inline_asm":
        from qbench.interpreter import register_inline_asm

        return register_inline_asm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

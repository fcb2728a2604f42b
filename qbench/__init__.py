"""qbench: check and time every provider of a quantized operation, and judge it against stored baselines.

The names below are the public interface. Nothing here imports torch until a case runs or a kernel is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from qbench.later import later

if TYPE_CHECKING:
    from qbench.aot.compiled import compiled
    from qbench.interpreter import register_inline_asm
    from qbench.model.accuracy.likelihood import divergence_from, reference_logits
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
    "divergence_from",
    "exact",
    "gemm_error",
    "parametrize",
    "parametrize_compiled",
    "poisoned_allocations",
    "provider",
    "provider_info",
    "reference_logits",
    "register_inline_asm",
    "within",
]


_LATER = {
    "compiled": "qbench.aot.compiled",
    "divergence_from": "qbench.model.accuracy.likelihood",
    "poisoned_allocations": "qbench.tensors",
    "reference_logits": "qbench.model.accuracy.likelihood",
    "register_inline_asm": "qbench.interpreter",
}

__getattr__ = later(__name__, _LATER)

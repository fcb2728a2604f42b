"""qbench: check and time every provider of a quantized operation, and judge it against stored baselines.

The names below are the public interface. Nothing here imports torch until a case runs.
"""

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
    "provider",
    "provider_info",
    "within",
]

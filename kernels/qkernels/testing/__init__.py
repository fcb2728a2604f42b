"""Checks that anybody can run on their own kernels: `check_quantizer` here, hypothesis strategies in `strategies`.

Needs hypothesis (`pip install "pytest-qbench[property]"`).
"""

from qkernels.testing.checks import CHECKS
from qkernels.testing.gemm import GEMM_CHECKS, check_gemm
from qkernels.testing.quantizer import check_quantizer, replay

__all__ = ["CHECKS", "GEMM_CHECKS", "check_gemm", "check_quantizer", "replay"]

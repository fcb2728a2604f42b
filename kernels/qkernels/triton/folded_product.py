"""Which of Hopper's kernels multiplies folded operands: mxfp4_few_sm90 few rows of x, mxfp4_gemm_sm90 more."""

from __future__ import annotations

from torch import Tensor

from qkernels.triton.mxfp4_few_plan import quicker
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.quantized_result import Quantized


def product(
    x: FoldedRows, w: FoldedWeights, *, bias: Tensor | None = None, into: Quantized | None = None
) -> Tensor:
    """bf16 [M, N] = x [M, K] times w [N, K] transposed, plus bias [N]; or quantized into `into`."""
    if quicker(x.elements.shape[0], *w.codes.shape[:2]):
        from qkernels.triton.mxfp4_few_sm90 import mxfp4_few_sm90  # imports Gluon's names for Hopper

        return mxfp4_few_sm90(x, w, bias=bias, into=into)
    from qkernels.triton.mxfp4_gemm_sm90 import mxfp4_gemm_sm90

    return mxfp4_gemm_sm90(x, w, bias=bias, into=into)

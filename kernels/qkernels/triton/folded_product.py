"""Which of Hopper's kernels multiplies folded operands: mxfp4_few_sm90 few rows of x, mxfp4_gemm_sm90 more.

On an H200 the first was quicker wherever both were measured: by 2.2 times at 4096 x 4096 and one row, by 4% at
6144 x 4096 and 64. 11008 x 4096 at 32 rows, where its plan divides K among programs, was not.
"""

from __future__ import annotations

from torch import Tensor

from qkernels.triton.mxfp4_few_plan import MAX_ROWS
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.quantized_result import Quantized


def product(
    x: FoldedRows, w: FoldedWeights, *, bias: Tensor | None = None, into: Quantized | None = None
) -> Tensor:
    """bf16 [M, N] = x [M, K] times w [N, K] transposed, plus bias [N]; or quantized into `into`."""
    if x.elements.shape[0] <= MAX_ROWS:
        from qkernels.triton.mxfp4_few_sm90 import mxfp4_few_sm90  # imports Gluon's names for Hopper

        return mxfp4_few_sm90(x, w, bias=bias, into=into)
    from qkernels.triton.mxfp4_gemm_sm90 import mxfp4_gemm_sm90

    return mxfp4_gemm_sm90(x, w, bias=bias, into=into)

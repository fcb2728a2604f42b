"""out[M, N] = (x . wT) * alpha + bias of folded operands (mxfp4_folded) for few rows of x (M <= 64) on Hopper.

The kernel of fp4_few_sm90 with other units: 16 rows of w by 128 of K, 256 words of codes and 16 of spread, decoded to
E4M3 (mxfp4_operand_sm90), by x's elements in E4M3, 128 bytes a row as 64 of bf16 are. So a step of the same bytes of w
has half the products, half the bytes of x and two thirds of the instructions. Sums are multiplied by the factors of
their rows of w and x, which are asked for before an item's first step (those of more than 32 rows of x after its last).

Sums are wgmma's own FP8 accumulation, as those of mxfp4_gemm_sm90 ("fp8-fast"); a plan decides where K is divided.

SASS (sm_90, Triton 3.6), M <= 8: 410 instructions for 4 units of 64 weights a lane, 13 for 8 weights. No spills in the
loop; up to 23 registers a thread at an item's end where four warpgroups share 64 rows of x.

Predicted were the times of weight-only products, which read the same bytes of w (fp4_few_sm90), up to 16 rows, and less
from 32 on, where those wait for decoding and products. Measured (H200, Triton 3.6, torch 2.11; us in a CUDA graph,
weights not in the L2 cache; in brackets what was predicted), as benchmarks do, one process:

    N x K         M = 1         M = 16
    57344 x 8192  58.5 (62)     61.9 (64)
    8192 x 28672  30.4          31.3
    10240 x 8192  14.2          14.9
    8192 x 8192   10.9 (12.3)   11.5 (12.5)

Behind another small kernel, whose time is taken off, as in a model, beside mxfp4_gemm_sm90 and the weight-only product:

    N x K         M    this         back to back   many rows'   weight-only
    4096 x 4096   1    7.2 (7.5)    5.2            14.0         7.7
                  32   8.6 (8.5)    6.6
                  64   12.7 (9.5)   10.2           14.3         13.8
    6144 x 4096   1    9.1          6.1            14.4         10.5
    28672 x 4096  1    20.1 (22)    18.8           33.0         21.9
                  32   22.6 (25)    21.6           26.8
    4096 x 14336  1    12.5 (14)    11.1           23.5         13.9
                  16   12.9 (14.5)  11.8
                  64   20.3 (18)    18.3           22.1

At 64 rows of 4096 x 14336 Few(2, 1, 2, 6) took 19.6, and 17.5 back to back.

Judged against a float64 product of the same operands within the bound of "fp8-fast" (gemm_error).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from qkernels.triton.fp4_few_plan import TILES, Few
from qkernels.triton.fp4_few_sm90 import launch
from qkernels.triton.mxfp4_few_plan import MAX_ROWS, choose
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.mxfp4_operand_sm90 import unit_layouts
from qkernels.triton.quantized_result import Quantized
from qkernels.triton.workspaces import processors, require_hopper

if TYPE_CHECKING:
    from torch import Tensor


def mxfp4_few_sm90(
    x: FoldedRows, w: FoldedWeights, *, bias: Tensor | None = None, few: Few | None = None, early: bool = True,
    into: Quantized | None = None,
) -> Tensor:  # fmt: skip
    """bf16 [M, N] = x [M, K] times w [N, K] transposed, plus bias [N]. M <= 64.

    into: quantize the fp32 result there instead; returned are its codes. few: for tests.
    early: may begin before the kernel launched before it has ended; the codes of w and their spread (nothing else) are
    read at once. Rows of x that are not 16 bytes apart and aligned, and those of K that is no multiple of 128, are
    copied first. Raises ValueError otherwise.
    """
    elements = x.elements
    m, k = elements.shape
    if k != w.k or x.hadamard != w.hadamard:
        raise ValueError(f"x has K = {k} and rotation {x.hadamard}, w has {w.k} and {w.hadamard}")
    if m > MAX_ROWS:
        raise ValueError(f"M = {m}; this kernel takes up to {MAX_ROWS} rows, mxfp4_gemm_sm90 takes more")
    device = elements.device
    out = torch.empty((m, w.n), dtype=torch.bfloat16, device=device) if into is None else into.codes
    if not out.numel():
        return out
    require_hopper(device)
    tiles, chunks = w.codes.shape[:2]
    few = few or choose(m, tiles, chunks, processors(device), whole=into is not None)
    units = w.codes.view(torch.int32), w.spread.view(torch.int32)
    scales = (None, None, None, None, x.factor, w.factor)
    launch(
        few, elements, units, out, into, scales, bias, 1.0 / (x.gain * w.gain),
        partial(unit_layouts, TILES), early, STEP=0, U=2,
    )  # fmt: skip
    return out

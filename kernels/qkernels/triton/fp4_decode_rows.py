"""FP4 rows [M, K] -> bf16 [M, K] of code * scale, exact (6 significant bits): an operand for products of fragments.

A product of two NVFP4 operands runs on bf16 tensor cores, for no FP8 type holds six bits. Activations are decoded
once, 2 K + 0.56 K bytes a row, where a product decodes them again for each of its tiles; they then lie in the L2
cache. The global scale stays with the QTensor. The product after it is launched early, and fetches its weights
meanwhile. Rows of MXFP4 are a quarter of their values (fp4_decode.E8M0_UNIT): six times 2^127 is in no bf16.
Predicted 6 us at 1024 x 8192 (H200); measured as what it adds to a product: 4 us there, and 16 at 4096 x 8192.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkernels.ops.require import decodes_as, names
from qkernels.tensor import QTensor
from qkernels.triton.early import after_previous, early_launches
from qkernels.triton.fp4_decode import dequantize_tile
from qkernels.triton.fp4_plan import DECODES
from qkernels.triton.launch import choose_tile


@triton.jit(do_not_specialize=["m"])
def fp4_decode_rows_kernel(
    data_ptr, scale_ptr, out_ptr, m, k, stride, scale_stride,
    BLOCK: tl.constexpr, E8M0: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS x COLUMNS."""
    after_previous(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < m)[:, None]
    row = row.to(tl.int64)[:, None]
    byte = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    block = tl.program_id(1) * (COLUMNS // BLOCK) + tl.arange(0, COLUMNS // BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    data = tl.load(data_ptr + row * stride + byte[None, :], mask=inside & (byte < k // 2)[None, :], other=0)
    scale = tl.load(
        scale_ptr + row * scale_stride + block[None, :], mask=inside & (block < k // BLOCK)[None, :], other=0
    )
    values = dequantize_tile(data, scale, E8M0, tl.bfloat16)
    tl.store(out_ptr + row * k + column[None, :], values, mask=inside & (column < k)[None, :])


def fp4_decode_rows(x: QTensor) -> Tensor:
    """bf16 [M, K] of x without its global scale, MXFP4 divided by four; NVFP4, MXFP4 or bytes that mean the same."""
    if not decodes_as(x.format, *DECODES):
        raise ValueError(f"x is {x.format.name}; this kernel decodes {names(DECODES)}")
    if x.scale_layout != "linear":
        raise ValueError(
            f"the scales of x are {x.scale_layout}; this kernel reads linear ones, use x.linear()"
        )
    m, k = x.shape
    out = torch.empty(m, k, dtype=torch.bfloat16, device=x.device)
    if m > 0:
        tile, early = choose_tile(m, k), early_launches(x.device)
        with torch.cuda.device_of(x.data):
            fp4_decode_rows_kernel[(tile.down, tile.across)](
                x.data, x.scale, out, m, k, x.data.stride(0), x.scale.stride(0),
                BLOCK=x.format.block, E8M0=x.format.scale == "e8m0", ROWS=tile.rows, COLUMNS=tile.columns,
                EARLY=early, num_warps=4, launch_pdl=early,
            )  # fmt: skip
    return out

"""Fragments (fp4_fragments) -> the dense [N, K] of code * scale, exact: what a product of cuBLAS multiplies.

For shapes that the products of fragments do not take: many rows on another GPU than Hopper, N that is no multiple of
8. A program takes 16 rows of w by CHUNKS units; each lane decodes the words it would decode for a product and writes
pairs. The workspace has twice the bytes of a bf16 weight row, so it is no hot path.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.fp4_stream import decode, factors_of

_CHUNKS = 8


@triton.jit
def fp4_unpack_kernel(
    data_ptr, scale_ptr, base_ptr, out_ptr, n, k, chunks, STEP: tl.constexpr, U: tl.constexpr, CHUNKS: tl.constexpr
):  # fmt: skip
    """U: words of scales that a row has in a unit, 2 for blocks of 16 and 1 for 32."""
    tile = tl.program_id(0)
    i = tl.arange(0, CHUNKS * 32)
    chunk, lane = tl.program_id(1) * CHUNKS + i // 32, i % 32
    unit = tile.to(tl.int64) * chunks + chunk
    there = chunk < chunks
    words = tl.load(
        data_ptr + (unit * 128 + lane * 4)[:, None] + tl.arange(0, 4)[None, :], mask=there[:, None], other=0
    )
    scales = tl.load(
        scale_ptr + (unit * (8 * U) + lane // 4 * U)[:, None] + tl.arange(0, U)[None, :],
        mask=there[:, None],
        other=0,
    )
    base = tl.load(base_ptr).to(tl.int32) * 0x01000100
    v = decode(
        words, factors_of(scales, base, STEP, U), out_ptr.dtype.element_ty
    )  # i, e, k + 8, row + 8, k + 1
    pair = tl.arange(0, 2)
    row = tile * 16 + (lane // 4)[:, None] + 8 * pair[None, :]  # i, s
    step = 16 * tl.arange(0, 4)[:, None, None] + 8 * pair[None, :, None] + pair[None, None, :]  # e, h, j
    column = (chunk * 64 + lane % 4 * 2)[:, None, None, None] + step[None, :, :, :]
    at = row.to(tl.int64)[:, None, None, :, None] * k + column[:, :, :, None, :]
    inside = (row < n)[:, None, None, :, None] & (column < k)[:, :, :, None, :]
    tl.store(out_ptr + at, v, mask=inside)


def fp4_unpack(w: Fragments, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """dtype [N, K], bf16 or (NVFP4 only) fp16: weights are this times `w.unit`, over the global scale."""
    if dtype == torch.float16 and w.format.scale == "e8m0":
        raise TypeError("MXFP4's scales leave the range of float16; use bfloat16")
    out = torch.empty(w.n, w.k, dtype=dtype, device=w.data.device)
    if not out.numel():
        return out
    half = dtype == torch.float16
    tiles, chunks = w.data.shape[:2]
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        fp4_unpack_kernel[(tiles, triton.cdiv(chunks, _CHUNKS))](
            w.data, w.scale, torch.zeros_like(w.base) if half else w.base, out, w.n, w.k, chunks,
            STEP=128 if half or w.format.scale == "e8m0" else 16, U=2 if w.format.block == 16 else 1,
            CHUNKS=_CHUNKS, num_warps=4,
        )  # fmt: skip
    return out

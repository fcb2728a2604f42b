"""out[M, N] = (a . bT) * alpha + bias with both operands in NVFP4 or MXFP4, on Blackwell's block-scaled tensor cores.

Codes and scale bytes go to `tl.dot_scaled` as they are stored: tcgen05.mma kind::mxf4nvf4 or kind::mxf4 on sm_100 and
sm_103, mma.sync block_scale on sm_120; nothing is decoded. alpha, bias and one rounding follow in fp32.

Compiled and read, checked in the repaired interpreter, never run: there was no such GPU. On sm_100 scales reach
tensor memory by way of registers, for they are stored in rows; a layout of 128 x 4 would spare that. With these tiles
Triton 3.6 to 3.9 keeps the block-scaled instruction and does not spill.

Judged like fp4_gemm, within E = 4 sqrt(K) 2^-24 |A||B|T + 3 2^-24 |ref|.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

import qbench
from qbench import Unsupported
from qkernels.tensor import QTensor
from qkernels.triton.expected import BEFORE_HOPPER, TENSOR_MEMORY
from qkernels.triton.fp4_gemm import finish
from qkernels.triton.fp4_plan import check_operands, check_out_dtype, require_formats

if TYPE_CHECKING:
    from torch import Tensor

    from qkernels.format import Format

NO_BLOCK_SCALES = "block-scaled products of FP4 need Blackwell's tensor cores (sm_100 and on)"


def expected(fmt: Format, k: int) -> qbench.Expectation:
    """What the kernel must be compiled to: block-scaled products of the operands as they are stored."""
    kind = "mxf4nvf4" if fmt.block == 16 else "mxf4"
    return qbench.Expectation(
        {TENSOR_MEMORY: (f"tcgen05.block_scale.{kind}",), "sm_120": (f"mma.sync.{kind}.block_scale",)},
        load_bits={"*": 64 if k % 128 else 128},
        unsupported={f"{BEFORE_HOPPER} sm_90": NO_BLOCK_SCALES},
    )


@triton.jit(do_not_specialize=["m", "n"])
def fp4_gemm_scaled_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, a_gs_ptr, b_gs_ptr, bias_ptr, out_ptr, factor, m, n, k,
    stride_a, stride_a_scale, stride_b, stride_b_scale, stride_out,
    BLOCK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    group = pid // (GROUP * tiles_n)
    height = min(tiles_m - group * GROUP, GROUP)
    row0 = (group * GROUP + (pid % (GROUP * tiles_n)) % height) * BM
    column0 = (pid % (GROUP * tiles_n)) // height * BN
    # rows past the edge repeat the last one: their results are never stored
    rows = tl.minimum(row0 + tl.arange(0, BM), m - 1).to(tl.int64)
    columns = tl.minimum(column0 + tl.arange(0, BN), n - 1).to(tl.int64)
    codes, blocks = tl.arange(0, BK // 2), tl.arange(0, BK // BLOCK)
    a_at = a_ptr + rows[:, None] * stride_a + codes[None, :]
    b_at = b_ptr + columns[None, :] * stride_b + codes[:, None]
    a_scale_at = a_scale_ptr + rows[:, None] * stride_a_scale + blocks[None, :]
    b_scale_at = b_scale_ptr + columns[:, None] * stride_b_scale + blocks[None, :]
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(tl.cdiv(k, BK)):
        if EVEN_K:
            a, b = tl.load(a_at), tl.load(b_at)
            a_scale, b_scale = tl.load(a_scale_at), tl.load(b_scale_at)
        else:
            left = k - step * BK
            a = tl.load(a_at, mask=codes[None, :] < left // 2, other=0)
            b = tl.load(b_at, mask=codes[:, None] < left // 2, other=0)
            a_scale = tl.load(a_scale_at, mask=blocks[None, :] < left // BLOCK, other=0)
            b_scale = tl.load(b_scale_at, mask=blocks[None, :] < left // BLOCK, other=0)
        if BLOCK == 16:
            a_scale = a_scale.to(tl.float8e4nv, bitcast=True)
            b_scale = b_scale.to(tl.float8e4nv, bitcast=True)
        sums = tl.dot_scaled(a, a_scale, "e2m1", b, b_scale, "e2m1", sums)
        a_at += BK // 2
        b_at += BK // 2
        a_scale_at += BK // BLOCK
        b_scale_at += BK // BLOCK
    out_rows, out_columns = row0 + tl.arange(0, BM), column0 + tl.arange(0, BN)
    result = finish(tl.trans(sums), a_gs_ptr, b_gs_ptr, bias_ptr, factor, out_columns, n)
    target = out_ptr + out_rows.to(tl.int64)[:, None] * stride_out + out_columns[None, :]
    inside = (out_rows < m)[:, None] & (out_columns < n)[None, :]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=inside)


def fp4_gemm_scaled(
    a: QTensor, b: QTensor, *, bias: Tensor | None = None, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """out_dtype [M, N] = a [M, K] times b [N, K] transposed, plus bias [N], summed in fp32 and rounded once.

    Rows may be strided. TypeError or ValueError name what is wrong with an operand, and the remedy.
    """
    check_out_dtype(out_dtype)
    m, n, k = check_operands(a, b, bias)
    out = torch.empty((m, n), dtype=out_dtype, device=b.device)
    if not out.numel():
        return out
    capability = torch.cuda.get_device_capability(b.device) if b.device.type == "cuda" else (10, 0)
    if capability[0] < 10:
        raise Unsupported(NO_BLOCK_SCALES, "triton")
    # tcgen05 multiplies 128 rows at a time; of mma.sync's tiles the wide one would spill with four warps
    bm, bn, bk = 128, 128 if m > 64 else 64, 128
    warps = 8 if capability[0] == 12 and bn == 128 else 4
    with torch.cuda.device(b.device) if b.device.type == "cuda" else nullcontext():
        fp4_gemm_scaled_kernel[(triton.cdiv(m, bm) * triton.cdiv(n, bn),)](
            a.data, a.scale, b.data, b.scale, a.global_scale, b.global_scale, bias, out,
            1.0 / (a.format.gain * b.format.gain), m, n, k,
            a.data.stride(0), a.scale.stride(0), b.data.stride(0), b.scale.stride(0), out.stride(0),
            BLOCK=b.format.block, BM=bm, BN=bn, BK=bk, EVEN_K=k % bk == 0, GROUP=8, num_warps=warps, num_stages=3,
        )  # fmt: skip
    return out


@qbench.provider("triton-scaled", needs_capability=(10, 0), instead="triton")
def gemm(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """The product of operands as they are stored, on block-scaled tensor cores."""
    if not isinstance(a, QTensor):
        raise Unsupported("block-scaled products take two quantized operands", "triton")
    require_formats(a, b)
    return lambda: fp4_gemm_scaled(a, b)

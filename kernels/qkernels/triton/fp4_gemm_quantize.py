"""The FP4 product with an NVFP4 result: y = (a . bT) * alpha + bias in fp32, then quantized in the epilogue.

What is quantized is the fp32 accumulator after alpha and bias. It is never rounded to bf16, so the codes can
differ from those of quantizing a stored bf16 product; they are the ones nearer to the exact product.
The global scale of the result is static: gs = 448*6/amax needs all of y, which no program sees. Blocks whose
amax exceeds 448*6/gs saturate, as they do in every quantizer under a static scale.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold), N = K = 4096: 34.7 us at M = 1, 93.4 at 128.

Mainloop, operands and tiles are fp4_gemm's; blocks of 16 along N never cross a tile. Judged as a quantizer of
a value that is only known within the product's error bound E (see fp4_gemm).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

import qbench
from qkernels.format import NVFP4
from qkernels.tensor import QTensor
from qkernels.triton.expected import WARP_PRODUCTS, products
from qkernels.triton.fp4 import encode_nvfp4, pack_pairs
from qkernels.triton.fp4_gemm import finish, gemm_tile
from qkernels.triton.fp4_plan import plan, require_formats

if TYPE_CHECKING:
    from torch import Tensor


def expected(m: int) -> qbench.Expectation:
    """What the kernel must be compiled to, for bf16 or quantized activations."""
    return qbench.Expectation(
        products("bf16"),
        load_bits={"*": 128},
        store_bits={"*": 64 if m >= 128 else 32},
        spill_bytes={WARP_PRODUCTS: 128} if m >= 128 else {},
    )


@triton.jit(do_not_specialize=["m"])
def nvfp4_gemm_quantize_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, a_gs_ptr, b_gs_ptr, bias_ptr, codes_ptr, scales_ptr, gs_ptr,
    factor, m, n, k, stride_a, stride_a_scale, stride_b, stride_b_scale,
    BLOCK: tl.constexpr, E8M0: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    sums, row0, column0 = gemm_tile(
        a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, m, n, k, tl.program_id(0),
        stride_a, stride_a_scale, stride_b, stride_b_scale,
        BLOCK, E8M0, DTYPE, PRECISION, BM, BN, BK, EVEN_K, GROUP,
    )  # fmt: skip
    y = finish(sums, a_gs_ptr, b_gs_ptr, bias_ptr, factor, column0 + tl.arange(0, BN), n)
    codes, scales = encode_nvfp4(tl.reshape(y, (BM * BN // 16, 16)), tl.load(gs_ptr))
    rows = row0 + tl.arange(0, BM)
    inside = (rows < m)[:, None]
    rows = rows.to(tl.int64)[:, None]
    packed = column0 // 2 + tl.arange(0, BN // 2)[None, :]
    tl.store(codes_ptr + rows * (n // 2) + packed, pack_pairs(codes, BM, BN), mask=inside & (packed < n // 2))
    blocks = column0 // 16 + tl.arange(0, BN // 16)[None, :]
    scales = tl.reshape(scales, (BM, BN // 16)).to(tl.uint8)
    tl.store(scales_ptr + rows * (n // 16) + blocks, scales, mask=inside & (blocks < n // 16))


def nvfp4_gemm_quantize(
    a: Tensor | QTensor, b: QTensor, *, bias: Tensor | None = None, out_global_scale: Tensor
) -> QTensor:
    """NVFP4 [M, N] = a [M, K] times b [N, K] transposed, plus bias [N], under a static encode scale.

    out_global_scale is one float32 on the operands' device, 448*6/amax for the amax expected of the result.
    It is read on the device only. N must be a multiple of 16; the operands are those of fp4_gemm.
    """
    p = plan(a, b, bias, quantize=True)
    if p.n % 16:
        raise ValueError(f"N = {p.n} is not a multiple of 16, the block of the NVFP4 result; pad b's rows")
    if out_global_scale.dtype != torch.float32 or out_global_scale.numel() != 1:
        shape = list(out_global_scale.shape)
        raise ValueError(f"out_global_scale is {out_global_scale.dtype} {shape}; it must be one float32")
    if out_global_scale.device != b.device:
        raise ValueError(
            f"out_global_scale is on {out_global_scale.device} and b on {b.device}; move it there"
        )
    codes = torch.empty((p.m, p.n // 2), dtype=torch.uint8, device=b.device)
    scales = torch.empty((p.m, p.n // 16), dtype=torch.uint8, device=b.device)
    if codes.numel():
        with p.device_guard():
            nvfp4_gemm_quantize_kernel[p.grid](
                *p.tensors, bias, codes, scales, out_global_scale, *p.scalars, **p.constants
            )
    return QTensor(codes, scales, NVFP4, (p.m, p.n), global_scale=out_global_scale.reshape(()))


@qbench.provider("triton", needs_cuda=True)
def gemm_quantize(a: Tensor | QTensor, b: QTensor, out_global_scale: Tensor | None) -> Callable[[], QTensor]:
    """The product of the operands as they are, quantized to NVFP4 under the given scale."""
    require_formats(a, b)
    # the op's result has the format of its operands
    for operand in (a, b):
        if isinstance(operand, QTensor) and operand.format != NVFP4:
            raise qbench.Unsupported(
                f"the fused epilogue quantizes to {NVFP4.name}, not to {operand.format.name}", "torch-exact"
            )
    if out_global_scale is None:
        raise qbench.Unsupported(f"{NVFP4.name} needs a static global scale of the result", "torch-exact")
    return lambda: nvfp4_gemm_quantize(a, b, out_global_scale=out_global_scale)

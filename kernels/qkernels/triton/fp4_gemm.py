"""out[M, N] = (a . bT) * alpha + bias with b (and optionally a) in NVFP4 or MXFP4, on plain tensor cores.

Each program dequantizes its tiles in registers (exactly, see fp4_decode) and accumulates in fp32; alpha and
bias follow in fp32, then one rounding to the output's dtype. alpha is 1/(global scale of a * of b) times the
format's constant (1/3 for each abs_max operand); the global scales are read on the device, so a launch needs
no synchronization and can be captured in a CUDA graph.

Operands of the dot product (each exact):
    activations   NVFP4 weights   MXFP4 weights
    bf16          bf16            bf16
    fp16          fp16            tf32: E8M0 leaves the range of fp16, and fp16's 11 significant bits fit tf32's
    fp32          fp32, ieee      fp32, ieee: FMA instead of tensor cores
    quantized     bf16            bf16

Weights are the first operand of the dot, so that on sm_90 they go from registers into wgmma, which needs 64
rows of its first operand but only 8 of its second: a batch of one fills 16 columns, not 64 rows. The sums
depend on the tile alone, and a tile on the shape alone: results repeat from run to run.

Predicted 40-60 us at M = 1 and over 200 TFLOP/s at large M, for N = K = 8192. Measured (H200, torch 2.11,
Triton 3.6, graph replay, L2 cold): M = 1 61.6 us weight-only NVFP4, 52.1 MXFP4, 59.6 both quantized; M = 4096 283,
284 and 223 TFLOP/s; cuBLAS bf16 33.4 us and 818. Letting products overlap the next tile's decoding, which Triton
does when both operands of the dot are direct loads, took 48.1 us and 368 TFLOP/s, but writes registers that
wgmma still reads; no wrong result of it was seen here, one of the same pattern was (fp4.rotate_tile).

Judged against a float64 product of the same operands within E = 4 sqrt(K) 2^-24 |A||B|T + 3 2^-24 |ref|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

import qbench
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import decodes_as, names, require
from qkernels.tensor import QTensor
from qkernels.triton import fp4_rows, mxfp4_quantize, nvfp4_quantize
from qkernels.triton.expected import TENSOR_MEMORY, TENSOR_PRODUCTS, products
from qkernels.triton.fp4_decode import dequantize_tile
from qkernels.triton.fp4_plan import (
    DECODES,
    IEEE_BECOMES_TF32,
    NO_IEEE,
    check_out_dtype,
    plan,
    require_formats,
)

if TYPE_CHECKING:
    from torch import Tensor

    from qkernels.format import Format
    from qkernels.tensor import ScaleLayout
    from qkernels.triton.outputs import Outputs

QUANTIZES = nvfp4_quantize.TAKES | fp4_rows.TAKES | mxfp4_quantize.TAKES
MULTIPLIES = {fmt: options for fmt, options in QUANTIZES.items() if decodes_as(fmt, *DECODES)}
"""Of the formats that are quantized here, those whose products are formed here."""


def expected(fmt: Format, activations: str, m: int) -> qbench.Expectation:
    """What the kernel must be compiled to. activations: "bf16", "fp16", "fp32" or "quantized"."""
    if activations == "fp32":  # rounding them to TF32 would be a wrong result, and only the instruction tells
        return qbench.Expectation(
            forbidden={"*": TENSOR_PRODUCTS},
            load_bits={"*": 128},
            unsupported={TENSOR_MEMORY: NO_IEEE} if IEEE_BECOMES_TF32 else {},
        )
    operands = "bf16" if activations in ("bf16", "quantized") else "tf32" if fmt.scale == "e8m0" else "f16"
    narrow = activations == "quantized" and m <= 16  # four bits an element, few rows
    return qbench.Expectation(products(operands), load_bits={"*": 64 if narrow else 128})


@triton.jit
def load_columns(pointers, columns, limit, EVEN: tl.constexpr):
    """A tile of which the first `limit` columns exist; the others are 0, in codes the value zero."""
    if EVEN:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=columns[None, :] < limit, other=0)


@triton.jit
def load_next(pointers, columns, limit, EVEN: tl.constexpr):
    """load_columns for the step after this one, of which nothing may exist (limit <= 0)."""
    if EVEN:
        return tl.load(pointers, mask=limit > 0, other=0)
    else:
        return tl.load(pointers, mask=columns[None, :] < limit, other=0)


@triton.jit
def gemm_tile(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, m, n, k, pid,
    stride_a, stride_a_scale, stride_b, stride_b_scale,
    BLOCK: tl.constexpr, E8M0: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """fp32 [BN, BM] sums of output tile `pid`, and the tile's first row and column.

    Tiles are taken GROUP rows of tiles at a time, so that programs running together share operands in L2.
    """
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    group = pid // (GROUP * tiles_n)
    height = min(tiles_m - group * GROUP, GROUP)
    row0 = (group * GROUP + (pid % (GROUP * tiles_n)) % height) * BM
    column0 = (pid % (GROUP * tiles_n)) // height * BN

    # Rows past the edge repeat the last one: their results are never stored, and loads stay unmasked.
    rows = tl.minimum(row0 + tl.arange(0, BM), m - 1).to(tl.int64)[:, None]
    columns = tl.minimum(column0 + tl.arange(0, BN), n - 1).to(tl.int64)[:, None]
    values, codes, blocks = tl.arange(0, BK), tl.arange(0, BK // 2), tl.arange(0, BK // BLOCK)
    b_codes = b_ptr + columns * stride_b + codes[None, :]
    b_scales = b_scale_ptr + columns * stride_b_scale + blocks[None, :]
    b_scale = load_columns(b_scales, blocks, k // BLOCK, EVEN_K)
    if a_scale_ptr is None:
        a_values = a_ptr + rows * stride_a + values[None, :]
    else:
        a_codes = a_ptr + rows * stride_a + codes[None, :]
        a_scales = a_scale_ptr + rows * stride_a_scale + blocks[None, :]
        a_scale = load_columns(a_scales, blocks, k // BLOCK, EVEN_K)

    # Scales are taken one step ahead: a tile has so few of them that the compiler would not prefetch them itself.
    sums = tl.zeros((BN, BM), dtype=tl.float32)
    for step in range(tl.cdiv(k, BK)):
        limit = k - step * BK
        left = (limit - BK) // BLOCK
        b_scales += BK // BLOCK
        b_scale_next = load_next(b_scales, blocks, left, EVEN_K)
        if a_scale_ptr is None:
            # m > 0 always, but the compiler does not know: so a passes through registers, and Triton then waits for
            # the product in each iteration. Of two direct loads it would leave products in flight while the next
            # iteration writes their weight registers, which is undefined (see rotate_tile, where it went wrong).
            a = tl.where(m > 0, load_columns(a_values, values, limit, EVEN_K).to(DTYPE), 0.0)
            a_values += BK
        else:
            a_scales += BK // BLOCK
            a_scale_next = load_next(a_scales, blocks, left, EVEN_K)
            a = dequantize_tile(load_columns(a_codes, codes, limit // 2, EVEN_K), a_scale, E8M0, DTYPE)
            a_scale = a_scale_next
            a_codes += BK // 2
        b = dequantize_tile(load_columns(b_codes, codes, limit // 2, EVEN_K), b_scale, E8M0, DTYPE)
        b_scale = b_scale_next
        b_codes += BK // 2
        sums = tl.dot(b, tl.trans(a), sums, input_precision=PRECISION)
    return sums, row0, column0


@triton.jit
def finish(sums, a_gs_ptr, b_gs_ptr, bias_ptr, factor, columns, n):
    """fp32 [BM, BN]: sums transposed, times alpha, plus bias. A global scale that is not there is 1."""
    a_alpha = 1.0
    b_alpha = 1.0
    if a_gs_ptr is not None:
        a_alpha = tl.div_rn(1.0, tl.load(a_gs_ptr))
    if b_gs_ptr is not None:
        b_alpha = tl.div_rn(1.0, tl.load(b_gs_ptr))
    result = tl.trans(sums) * factor
    if a_gs_ptr is not None and b_gs_ptr is not None:
        # Where the product of the two leaves the normal numbers the result need not: then one after the other.
        alpha = a_alpha * b_alpha
        normal = (alpha >= 1.1754943508222875e-38) & (alpha < float("inf"))
        result *= tl.where(normal, alpha, a_alpha)
        result *= tl.where(normal, 1.0, b_alpha)
    else:
        result *= a_alpha * b_alpha
    if bias_ptr is not None:
        result += tl.load(bias_ptr + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
    return result


# m is not specialized: every batch size would otherwise compile up to three kernels (m = 1, m % 16 == 0, other).
@triton.jit(do_not_specialize=["m", "n"])
def fp4_gemm_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, a_gs_ptr, b_gs_ptr, bias_ptr, out_ptr, factor, m, n, k,
    stride_a, stride_a_scale, stride_b, stride_b_scale, stride_out,
    BLOCK: tl.constexpr, E8M0: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    sums, row0, column0 = gemm_tile(
        a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, m, n, k, tl.program_id(0),
        stride_a, stride_a_scale, stride_b, stride_b_scale,
        BLOCK, E8M0, DTYPE, PRECISION, BM, BN, BK, EVEN_K, GROUP,
    )  # fmt: skip
    rows, columns = row0 + tl.arange(0, BM), column0 + tl.arange(0, BN)
    result = finish(sums, a_gs_ptr, b_gs_ptr, bias_ptr, factor, columns, n)
    target = out_ptr + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=inside)


def fp4_gemm(
    a: Tensor | QTensor, b: QTensor, *, bias: Tensor | None = None, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """out_dtype [M, N] = a [M, K] times b [N, K] transposed, plus bias [N], summed in fp32 and rounded once.

    a is bf16, fp16 or fp32 (weight-only) or a QTensor of b's block and scale type. Rows may be strided. A
    plain `a` is taken as it is: rotate it first if b carries a Hadamard rotation.
    """
    check_out_dtype(out_dtype)
    p = plan(a, b, bias)
    out = torch.empty((p.m, p.n), dtype=out_dtype, device=b.device)
    if out.numel():
        with p.device_guard():
            fp4_gemm_kernel[p.grid](*p.tensors, bias, out, *p.scalars, out.stride(0), **p.constants)
    return out


def quantize_fp4(
    x: Tensor,
    fmt: Format,
    *,
    global_scale: Tensor | None = None,
    hadamard: int | None = None,
    scale_layout: ScaleLayout = "linear",
    outputs: Outputs | None = None,
) -> QTensor:
    """x [M, K] in an FP4 format by the Triton quantizers; ValueError for a format that has none."""
    if fmt in nvfp4_quantize.TAKES:
        return nvfp4_quantize.nvfp4_quantize(
            x,
            fmt=fmt,
            global_scale=global_scale,
            hadamard=hadamard,
            scale_layout=scale_layout,
            outputs=outputs,
        )
    if fmt in fp4_rows.TAKES:
        return fp4_rows.nvfp4_token(
            x, global_scale=global_scale, hadamard=hadamard, scale_layout=scale_layout, outputs=outputs
        )
    if fmt not in mxfp4_quantize.TAKES:
        raise ValueError(f"no Triton kernel quantizes to {fmt.name}; known: {names(QUANTIZES)}")
    if global_scale is not None:
        raise ValueError(f"{fmt.name} has no global scale; leave global_scale out")
    return mxfp4_quantize.mxfp4_quantize(
        x, rule=fmt.rule, hadamard=hadamard, scale_layout=scale_layout, outputs=outputs
    )


@qbench.provider("triton", needs_cuda=True)
def gemm(a: Tensor | QTensor, b: QTensor) -> Callable[[], Tensor]:
    """GEMM on operands as they are: weight-only with a plain `a`, both quantized with a QTensor."""
    require_formats(a, b)
    out_dtype = torch.bfloat16 if isinstance(a, QTensor) else a.dtype
    return lambda: fp4_gemm(a, b, out_dtype=out_dtype)


@qbench.provider("triton", needs_cuda=True)
def hadamard_gemm(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, QTensor]]:
    """Rotate and quantize x as w was, then multiply; the quantized x is returned to be checked too."""
    require(
        QuantizeOptions(w.format, w.hadamard), "the Triton FP4 product", MULTIPLIES, instead="torch-eager"
    )

    def run() -> tuple[Tensor, QTensor]:
        xq = quantize_fp4(x, w.format, hadamard=w.hadamard)
        return fp4_gemm(xq, w, out_dtype=x.dtype), xq

    return run


@qbench.provider("triton", needs_cuda=True)
def linear(x: Tensor, module: torch.nn.Module) -> Callable[[], Tensor]:
    """A quantized linear layer's forward."""
    return lambda: module(x)

"""x [M, K] -> INT8 with fp32 scales: static per tensor or dynamic per token, symmetric or with a zero point.

    static               q = sat(rne(x/s))                                     s given; -128 is reachable
    static, zero point   q = sat(rne(x/s) + zp)                                s and zp given
    per token            q = sat(rne(x * (127/amax))), s = amax/127
    per token, asymm.    q = sat(rne(x/s) + zp), s = (max - min)/255, zp = rne(-128 - min/s)
value = (q - zp)*s. rne is to nearest even, sat to [-128, 127]. A zero row gives zeros (its reciprocal is capped
at the largest fp32). A constant row has max = min and gets s = |x|; a nearly constant one gets s >= amax*2^-20,
or its zero point would need more than fp32's 24 bits.

Saturation precedes rounding (its bounds are integers, so the order does not matter); then adding 1.5*2^23
rounds, and the low bits of the sum are the code.

Layout: q int8 [M, K]; s float32 and zp int32 [1] or [M, 1]. A static program takes a tile; a dynamic one a row,
held in registers up to 16384 elements and read twice beyond.
Tolerance: none. fp32 in the order written, with correctly rounded division: the bits equal the reference's.

Non-finite input: a row with a computed scale and inf or NaN has the scale NaN and codes 0. Under a static
scale inf saturates and NaN becomes code 0: INT8 has no place for it.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
26.2 / 97 / 2.1 us (4.1 TB/s), per token 25.1 / 101 / 2.3; asymmetric per token 41.1 at 4096 x 8192. Compiled for sm_90
static takes 15.9 instructions an element and per token 12.5; predicted from that were 25.5 and 27 us.

Source: vLLM csrc/quantization/w8a8/int8/scaled_quant.cu (the formulas, not the code).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FLOAT32_MAX, INT8, INT8_ASYM, INT8_TOKEN
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.quantize_scaled import ZERO_POINT_LIMIT
from qkernels.tensor import QTensor
from qkernels.triton.expected import widths
from qkernels.triton.fp4 import correct_quotient, divide_by_scale, magnitude_bits, scale_factor
from qkernels.triton.launch import as_scale, check_matrix, choose_row, choose_tile

TAKES = {INT8: ("scale",), INT8_TOKEN: (), INT8_ASYM: ("scale", "zero_point")}
"""The formats of these kernels and the options of each."""


def expected(k: int, m: int = 4096) -> qbench.Expectation:
    """What both kernels must be compiled to."""
    return qbench.Expectation(load_bits=widths(k, 128), store_bits=widths(k, 128 if m >= 1024 else 64))


_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def round_even(y):
    """fp32 |y| <= 2^22 -> int32, nearest even."""
    return (y + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def to_int8(y, zero_point):
    """sat(rne(y) + zp); NaN (and only NaN) gives the code 0. |zp| <= 2^22 - 128."""
    shift = zero_point.to(tl.float32)
    code = round_even(tl.maximum(tl.minimum(y, 127.0 - shift), -128.0 - shift)) + zero_point
    return tl.where(y == y, code, 0).to(tl.int8)


@triton.jit
def symmetric_codes(x, scale):
    """sat(rne(x/scale)), NaN 0, for a scalar scale > 0 of any size: saturates x, so that no quotient needs it."""
    factor = scale_factor(scale)
    divisor = scale * factor
    bounded = tl.maximum(tl.minimum(x * factor, divisor * 127.25), divisor * -128.25)
    code = round_even(correct_quotient(bounded, divisor, tl.div_rn(1.0, divisor)))
    return tl.where(x == x, code, 0).to(tl.int8)


@triton.jit(do_not_specialize=["m"])
def int8_static_kernel(
    x_ptr, out_ptr, scale_ptr, zero_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """One tile under one given scale."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None] & (column < k)[None, :]
    scale = tl.load(scale_ptr)
    zero_point = tl.full((), 0, tl.int32)
    if not SYMMETRIC:
        zero_point = tl.load(zero_ptr)
    at = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + at * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if SYMMETRIC:
        codes = symmetric_codes(x, scale)
    else:
        codes = to_int8(divide_by_scale(x, scale), zero_point)
    tl.store(out_ptr + at * k + column[None, :], codes, mask=inside)


@triton.jit
def asymmetric_scale(low, high, amax):
    """fp32 scale and int32 zero point of a finite row from its extremes."""
    spread = high - low
    scale = tl.div_rn(spread, 255.0)
    if spread == float("inf"):  # max - min beyond fp32: both ends near 3e38
        scale = ((high.to(tl.float64) - low.to(tl.float64)) / 255.0).to(tl.float32)
    scale = tl.maximum(scale, amax * 9.5367431640625e-07)  # 2^-20
    scale = tl.where((spread == 0.0) | (scale == 0.0), amax, scale)
    scale = tl.where(amax == 0.0, 1.0, scale)
    return scale, round_even(-128.0 - tl.div_rn(low, scale))


@triton.jit
def scaled_codes(x, factor, zero_point, finite, SYMMETRIC: tl.constexpr):
    """Codes of a piece of a row: x times the factor, or divided by it; 0 in a row that is not finite."""
    if SYMMETRIC:  # |x| <= amax, and fl(127/amax)*amax is 127 but for two roundings: nothing saturates
        codes = tl.where(finite, round_even(x * factor), 0).to(tl.int8)
    else:
        codes = to_int8(tl.where(finite, divide_by_scale(x, factor), float("nan")), zero_point)
    return codes


@triton.jit
def int8_token_kernel(
    x_ptr, out_ptr, scale_ptr, zero_ptr, k, stride,
    LENGTH: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """One row, in one piece (WHOLE) or in pieces of LENGTH, of which the last is whole if EVEN."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    out_ptr += row * k
    column = tl.arange(0, LENGTH)
    # Absent elements repeat the row's first, which changes no extreme.
    first = tl.load(x_ptr)
    inside = (column < k) | EVEN
    x = tl.load(x_ptr + column, mask=inside, other=first).to(tl.float32)
    bits, low, high = magnitude_bits(x), x, x
    if not WHOLE:
        for start in range(LENGTH, k, LENGTH):
            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=first).to(
                tl.float32
            )
            bits = tl.maximum(bits, magnitude_bits(more))
            if not SYMMETRIC:
                low, high = tl.minimum(low, more), tl.maximum(high, more)
    amax_bits = tl.max(bits, axis=0)
    finite = amax_bits < 0x7F800000
    amax = tl.where(finite, amax_bits, 0).to(tl.float32, bitcast=True)
    zero_point = tl.full((), 0, tl.int32)
    if SYMMETRIC:
        scale = tl.div_rn(amax, 127.0)
        factor = tl.minimum(tl.div_rn(127.0, amax), _LARGEST)
    else:
        lowest, highest = tl.min(low, axis=0), tl.max(high, axis=0)
        factor, zero_point = asymmetric_scale(
            tl.where(finite, lowest, 0.0), tl.where(finite, highest, 0.0), amax
        )
        scale = factor
        zero_point = tl.where(finite, zero_point, 0)
        tl.store(zero_ptr + row, zero_point)
    tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))
    tl.store(out_ptr + column, scaled_codes(x, factor, zero_point, finite, SYMMETRIC), mask=inside)
    if not WHOLE:
        for start in range(LENGTH, k, LENGTH):
            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0).to(tl.float32)
            codes = scaled_codes(more, factor, zero_point, finite, SYMMETRIC)
            tl.store(out_ptr + start + column, codes, mask=(start + column < k) | EVEN)


def int8_quantize(
    x: Tensor,
    scale: Tensor | float | None = None,
    *,
    zero_point: Tensor | int | None = None,
    symmetric: bool = True,
    per_token: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32 -> INT8 (static scale), INT8_TOKEN or INT8_ASYM.

    scale: one fp32, finite and > 0, for the whole tensor; then `per_token` does not apply. zero_point: one int32
    of magnitude at most 2^22 - 128, needed with a scale when not symmetric. Values of tensors are not checked.
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if symmetric and zero_point is not None:
        raise ValueError(
            "zero_point is given but symmetric is True; pass symmetric=False or leave zero_point out"
        )
    if not symmetric and (scale is None) != (zero_point is None):
        raise ValueError(
            "asymmetric INT8 takes scale and zero_point together (static) or neither (per token)"
        )
    if scale is None and not per_token:
        raise ValueError("INT8 per tensor is static: pass scale=..., or per_token=True for dynamic scales")
    m, k = check_matrix(x)
    out = torch.empty(m, k, dtype=torch.int8, device=x.device)
    if scale is not None:
        scales, zeros = as_scale(scale, "scale", x.device), _as_zero_point(zero_point, x.device)
        if m > 0:
            tile = choose_tile(m, k)
            with torch.cuda.device_of(x):
                int8_static_kernel[(tile.down, tile.across)](
                    x, out, scales, zeros, m, k, x.stride(0), ROWS=tile.rows, COLUMNS=tile.columns,
                    SYMMETRIC=symmetric, num_warps=4, enable_fp_fusion=False,
                )  # fmt: skip
        return QTensor(out, scales, INT8 if symmetric else INT8_ASYM, (m, k), zero_point=zeros)
    scales = torch.empty(m, 1, dtype=torch.float32, device=x.device)
    zeros = None if symmetric else torch.empty(m, 1, dtype=torch.int32, device=x.device)
    if m > 0:
        length, warps = choose_row(k)
        with torch.cuda.device_of(x):
            int8_token_kernel[(m,)](
                x, out, scales, zeros, k, x.stride(0), LENGTH=length, WHOLE=k <= length, EVEN=k % length == 0,
                SYMMETRIC=symmetric, num_warps=warps, enable_fp_fusion=False,
            )  # fmt: skip
    return QTensor(out, scales, INT8_TOKEN if symmetric else INT8_ASYM, (m, k), zero_point=zeros)


def _as_zero_point(value: Tensor | int | None, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.dtype != torch.int32 or value.numel() != 1:
            raise TypeError(
                f"zero_point must be one int32 value, got {value.dtype} {list(value.shape)}; use .int()"
            )
        return value.reshape(1).to(device)
    if abs(value) > ZERO_POINT_LIMIT:
        raise ValueError(
            f"zero_point = {value} is beyond 2^22 - 128, where fp32 no longer rounds to integers"
        )
    return torch.full((1,), value, dtype=torch.int32, device=device)


@qbench.provider("triton", needs_cuda=True)
def quantize_int8(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Static or per token, symmetric or not, as the format and the given scale say."""
    require(options, "the Triton INT8 quantizer", TAKES)
    return lambda: int8_quantize(
        x, options.scale, zero_point=options.zero_point, symmetric=options.format.symmetric
    )

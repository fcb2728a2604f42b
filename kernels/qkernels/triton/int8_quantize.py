"""x [M, K] -> INT8 with fp32 scales: static per tensor or dynamic per token, symmetric or with a zero point.

    static               q = sat(rne(x/s))                                     s given; -128 is reachable
    static, zero point   q = sat(rne(x/s) + zp)                                s and zp given
    per token            q = sat(rne(x * (127/amax))), s = amax/127
    per token, asymm.    q = sat(rne(x/s) + zp), s = (max - min)/255, zp = rne(-128 - min/s)
value = (q - zp)*s. rne is to nearest even, sat to [-128, 127]. A zero row gives zeros (its reciprocal is capped
at the largest fp32). A constant row has max = min and gets s = |x|; a nearly constant one gets s >= amax*2^-20,
or its zero point would need more than fp32's 24 bits.

Layout: q int8 [M, K]; s float32 and zp int32 [1] or [M, 1]. Under a given scale a program takes a tile, of rows with
gaps between them, or (flat.py) of one long row where there are none; otherwise a row: sixteen-bit x by words
(token_words.py), held packed in registers up to 32768 elements; other x as fp32, up to 16384, and read twice beyond.
Launches overlap from sm_90 (early.py).
Tolerance: none. fp32 in the order written, with correctly rounded division: the bits equal the reference's.

Non-finite input: a row with a computed scale and inf or NaN has the scale NaN and codes 0. Under a static
scale inf saturates and NaN becomes code 0: INT8 has no place for it.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
24.4 / 92.4 / 1.3 us (97% of the copy's rate), with a zero point 25.7 / 94.4 / 1.3, per token 24.8 / 93.6 / 1.7,
asymmetric 25.9 / 94.7 / 2.2. Tiles of 2048 to 16384 elements differ by 4%; programs that share the tiles in turn are
slower.

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
from qkernels.triton.early import after_previous, early_launches
from qkernels.triton.expected import widths
from qkernels.triton.flat import Flat, is_flat, load_tile, own_tile, store_tile
from qkernels.triton.fp4 import divide_by_scale, magnitude_bits
from qkernels.triton.launch import as_scale, check_matrix, choose_row, choose_tile
from qkernels.triton.outputs import output
from qkernels.triton.scaled_codes import asymmetric_scale, round_even, symmetric_codes, to_int8
from qkernels.triton.token_words import Row, choose_words, int8_token_words_kernel, row_fits

TAKES = {INT8: ("scale",), INT8_TOKEN: (), INT8_ASYM: ("scale", "zero_point")}
"""The formats of these kernels and the options of each."""

STATIC = {True: Flat(block=2048, warps=4), False: Flat(block=4096, warps=4)}
"""How tensors without gaps are cut under a given scale, symmetric or not (25.7 us for 26.7 at 4096 x 8192)."""


def expected(k: int, m: int = 4096, store_bits: int = 128) -> qbench.Expectation:
    """What the kernels must be compiled to."""
    return qbench.Expectation(load_bits=widths(k, 128), store_bits=widths(k, store_bits if m >= 1024 else 64))


_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def static_codes(x, scale_ptr, zero_ptr, SYMMETRIC: tl.constexpr):
    """Codes of x, of any dtype, under the given scale and zero point."""
    x = x.to(tl.float32)
    scale = tl.load(scale_ptr)
    if SYMMETRIC:
        codes = symmetric_codes(x, scale)
    else:
        zero_point = tl.load(zero_ptr)
        codes = to_int8(divide_by_scale(x, scale), zero_point)
    return codes


@triton.jit(do_not_specialize=["m"])
def int8_static_kernel(
    x_ptr, out_ptr, scale_ptr, zero_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SYMMETRIC: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile under one given scale."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None] & (column < k)[None, :]
    at = row.to(tl.int64)[:, None]
    after_previous(EARLY)
    x = tl.load(x_ptr + at * stride + column[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + at * k + column[None, :], static_codes(x, scale_ptr, zero_ptr, SYMMETRIC), mask=inside)


@triton.jit
def int8_flat_kernel(
    x_ptr, out_ptr, scale_ptr, zero_ptr, n,
    BLOCK: tl.constexpr, EVEN: tl.constexpr, SYMMETRIC: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The same of n elements without gaps."""
    after_previous(EARLY)
    tile = own_tile(False)
    x = load_tile(x_ptr, tile, n, BLOCK, EVEN)
    store_tile(out_ptr, tile, n, static_codes(x, scale_ptr, zero_ptr, SYMMETRIC), BLOCK, EVEN)


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
    LENGTH: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, SYMMETRIC: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One row, in one piece (WHOLE) or in pieces of LENGTH, of which the last is whole if EVEN."""
    after_previous(EARLY)
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
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    zero_point_out: Tensor | None = None,
    flat: Flat | None = None,
    row: Row | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32 -> INT8 (static scale), INT8_TOKEN or INT8_ASYM.

    scale           one fp32, finite and > 0, for the whole tensor; then `per_token` does not apply
    zero_point      one int32 of magnitude at most 2^22 - 128, needed with a scale when not symmetric
    out, scale_out, zero_point_out  int8 [M, K] and, where computed, float32 and int32 [M, 1] to write into; contiguous
    flat, row       how x is cut (None: as chosen for its shape); early: launches may overlap
    Values of tensors are not checked. Raises TypeError or ValueError for input the kernel does not take.
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
    if scale is not None and scale_out is not None:
        raise ValueError("scale_out is given but the scale is static and not computed; leave scale_out out")
    if zero_point_out is not None and (symmetric or scale is not None):
        raise ValueError("zero_point_out is given but no zero point is computed; leave zero_point_out out")
    m, k = check_matrix(x)
    codes = output(out, "out", (m, k), torch.int8, x)
    early = early and early_launches(x.device)
    if scale is not None:
        scales, zeros = as_scale(scale, "scale", x.device), _as_zero_point(zero_point, x.device)
        if m > 0:
            _launch_static(x, codes, scales, zeros, flat, early)
        return QTensor(codes, scales, INT8 if symmetric else INT8_ASYM, (m, k), zero_point=zeros)
    scales = output(scale_out, "scale_out", (m, 1), torch.float32, x)
    zeros = None if symmetric else output(zero_point_out, "zero_point_out", (m, 1), torch.int32, x)
    if m > 0:
        _launch_token(x, codes, scales, zeros, row, early)
    return QTensor(codes, scales, INT8_TOKEN if symmetric else INT8_ASYM, (m, k), zero_point=zeros)


def _launch_static(
    x: Tensor, out: Tensor, scale: Tensor, zero: Tensor | None, flat: Flat | None, early: bool
) -> None:
    m, k = x.shape
    with torch.cuda.device_of(x):
        if is_flat(x):
            n = m * k
            flat = (flat or STATIC[zero is None]).fit(n)
            int8_flat_kernel[(triton.cdiv(n, flat.block),)](
                x, out, scale, zero, n, BLOCK=flat.block, EVEN=n % flat.block == 0, SYMMETRIC=zero is None,
                EARLY=early, num_warps=flat.warps, enable_fp_fusion=False, launch_pdl=early,
            )  # fmt: skip
            return
        tile = choose_tile(m, k)
        int8_static_kernel[(tile.down, tile.across)](
            x, out, scale, zero, m, k, x.stride(0), ROWS=tile.rows, COLUMNS=tile.columns, SYMMETRIC=zero is None,
            EARLY=early, num_warps=4, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip


def _launch_token(
    x: Tensor, out: Tensor, scales: Tensor, zeros: Tensor | None, row: Row | None, early: bool
) -> None:
    m, k = x.shape
    with torch.cuda.device_of(x):
        if row_fits(x):
            row = (row or choose_words(k)).fit(k)
            int8_token_words_kernel[(m,)](
                x, out, scales, zeros, k, x.stride(0), THREADS=32 * row.warps, WIDTH=row.width, PARTS=row.parts(k),
                EVEN=row.even(k), SYMMETRIC=zeros is None, EARLY=early,
                num_warps=row.warps, enable_fp_fusion=False, launch_pdl=early,
            )  # fmt: skip
            return
        length, warps = choose_row(k)
        int8_token_kernel[(m,)](
            x, out, scales, zeros, k, x.stride(0), LENGTH=length, WHOLE=k <= length, EVEN=k % length == 0,
            SYMMETRIC=zeros is None, EARLY=early, num_warps=warps, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip


def _as_zero_point(value: Tensor | int | None, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.dtype != torch.int32 or value.numel() != 1:
            raise TypeError(
                f"zero_point must be one int32 value, got {value.dtype} {list(value.shape)}; use .int()"
            )
        return value.reshape(1).to(device)
    if not isinstance(value, int):
        raise TypeError(f"zero_point = {value!r} must be a whole number")
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

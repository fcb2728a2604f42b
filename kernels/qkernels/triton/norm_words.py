"""RMSNorm [+ residual] and FP4 of sixteen-bit x, a row in a program, in words: fp4_rows.py says what is computed.

    s = x + residual, rounded to x's dtype and written (x itself without one);  r = rsqrt(sum(s^2)/k + eps), fp32
    codes and scales of s * weight * r, whose r goes into the blocks' factors (fp16) or the elements (bf16)

A thread holds units of 8 or 16 consecutive elements, a whole block or a part of one (`NormPlan.unit`):
    8   what a warp reads and writes at once is 512 neighbouring bytes, and its codes are 128: whole sectors. A block is
        2 or 4 threads, whose maxima meet by shuffles, and each of them computes the block's scale.
    16  a scale is computed by fewer threads, 2 instructions an element less for NVFP4; but 16 bytes of a thread lie 32
        from its neighbour's. Reads do not mind, for L1 keeps the rest of a line; a store of the sum with the residual
        does: half a sector for each thread, twice the requests to L2. Of 32, MXFP4 with a residual took 251 us for 207.
The sum with the residual stays packed: fp32 has more than twice the bits of fp16 and two to spare, so that adding in
fp16 is adding in fp32 and rounding (Figueroa 1995), to the bit. bf16 is added in fp32.

`norm_plan` cuts a row by K, the residual and the format, never by M: a row's sum of squares, and so its codes, are the
same in any number of rows. A row beyond 8192 is too many registers for enough programs a processor: it is read twice,
the second time from L1, and nothing is kept in between but the sum; of 16 rows of 8192 that took 2.5 to 3 us for 2.
Not so MXFP4 with a residual, where units of 8 in twice the warps were quicker.

H200, torch 2.11, Triton 3.6, fp16, graph replay, L2 cold, us; predicted for 4096 x 8192: 25 to 27, with a residual 55
to 60 (210 MB take 49). Before: fp4_rows_kernel, a block or more a thread, which still takes what is not words.
                                     4096x8192  8192x16384  1024x8192  16x8192
    nvfp4_quantize static, no norm      22.0        81.8        6.93      1.29
    NVFP4                               25.4        97.7        8.36      2.04      before 29.2  112.6   9.27  2.08
    MXFP4                               26.2        95.3        8.55      2.00      before 26.8  104.9   9.56  2.11
    NVFP4, residual                     54.5       213.8       16.8       2.44      before 70.9  281    21.9   2.69
    MXFP4, residual                     54.6       207.1       16.7       2.44      before 107.7 393.6  32.2   3.45
A norm costs NVFP4 1.157 times the quantizer alone; 1.15 was the aim. Formats that need more registers (a global scale
for each row, four-over-six) and K beyond 16384 follow these by what spills, untimed.

Tried at 4096 x 8192 / 8192 x 16384 (NVFP4 without a residual): no hints to the caches 26.7 / 105; 4 or 16 warps 27.1 /
105 and 31.4 / 131; units of 8 34.2 / 188; weights after the row's sum 27.5 / 121; at most 48 registers 28.8 / 117; x
kept packed and converted twice 27.6 / 110; read twice at 8192 28.5 to 31.9. A program that takes rows in turn, weights
in registers: the next row in registers 27.3 / 105 (2 programs of 16 warps a processor), through shared memory 43.5 /
158. With a residual (NVFP4): hints 60.4 / 247, 8 warps 62.7 / 237, read twice at 8192 54.8 to 62.2, in turn 58.9 to
68.0. MXFP4 with a residual: units of 16 and 8 or 16 warps 62.3 / 237 and 54.7 / 249, read twice 57.6 / 213.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FLOAT32_MAX, Format
from qkernels.triton.early import after_previous
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_launch import begins
from qkernels.triton.fp4_parts import finite_amax, largest_of_group, nvfp4_block_scale, store_scales
from qkernels.triton.fp4_words import (
    _LOW_HALVES,
    both_halves,
    join_words,
    part_magnitudes,
    values,
)
from qkernels.triton.mxfp4_quantize import inverse_of, shared_exponent
from qkernels.triton.nvfp4_codes import encode_scale_of

_LARGEST = tl.constexpr(FLOAT32_MAX)
_SUM_F16 = tl.constexpr("add.rn.f16x2 $0, $1, $2;")
_PAIR_BF16 = tl.constexpr("cvt.rn.bf16x2.f32 $0, $2, $1;")  # the upper half comes first
_ZERO = tl.constexpr("mov.b32 $0, 0; // after $1")
# in one line, so that the compiler makes two instructions of it (VIMNMX, VIMNMX3): apart, it made three behind a norm
_LEAST_CODE = tl.constexpr("{ .reg .s32 t; min.s32 t, $1, $2; min.s32 t, t, $3; min.s32 $0, t, 0x4AC00007; }")


def _halves_added(a: Any, b: Any) -> Any:
    first, second = (np.ascontiguousarray(each).view(np.float16).astype(np.float32) for each in (a, b))
    with np.errstate(over="ignore", invalid="ignore"):
        return (first + second).astype(np.float16).view(np.int32).reshape(a.shape)


def _bf16_pair(low: Any, high: Any) -> Any:
    halves = []
    for each in (low, high):
        bits = np.ascontiguousarray(each, dtype=np.float32).view(np.uint32).astype(np.uint64)
        nearest = bits + 0x7FFF + (bits >> 16 & 1) >> 16
        halves.append(np.where(np.isnan(each), 0x7FFF, nearest).astype(np.uint32))
    return (halves[0] | halves[1] << 16).astype(np.uint32).view(np.int32)


def _least_code(a: Any, b: Any, c: Any) -> Any:
    return np.minimum(np.minimum(a, b), np.minimum(c, np.int32(0x4AC00007)))


qbench.register_inline_asm(_SUM_F16.value, _halves_added)
qbench.register_inline_asm(_PAIR_BF16.value, _bf16_pair)
qbench.register_inline_asm(_ZERO.value, lambda rest: np.zeros(rest.shape, np.int32))
qbench.register_inline_asm(_LEAST_CODE.value, _least_code)


@dataclass(frozen=True)
class NormPlan:
    """How a row is cut.

    warps      of a program, fewer where a row has no unit for each thread
    unit       consecutive elements of a thread: 8 or 16, no more than a block
    hint       the caches are told to keep the weights and not x
    reread     nothing is kept but the sum of squares: x is read again, from L1, and weights only then; not with hint
    registers  a limit for a thread; 0: none
    """

    warps: int
    unit: int
    hint: bool = False
    reread: bool = False
    registers: int = 0


def norm_plan(k: int, fmt: Format, residual: bool) -> NormPlan:
    """The quickest of those in the file's docstring; their figures are for K = 8192 and 16384."""
    wide = 2 if k > 16384 else 1
    if k > 8192 and (fmt.select or fmt.global_granularity == "row"):  # 64 elements of a thread would spill
        return NormPlan(32, 16) if residual else NormPlan(16 * wide, 16, hint=True)
    if not residual:
        return NormPlan(8, 16, hint=True) if k <= 8192 else NormPlan(8 * wide, 16, reread=True, registers=64)
    if fmt.block == 16:
        return NormPlan(16, 16) if k <= 8192 else NormPlan(16 * wide, 16, reread=True, registers=48)
    return NormPlan(8 if k <= 8192 else 16 * wide, 8)


@triton.jit
def added_words(a, b, HALF: tl.constexpr):
    """Words of the sums of both halves, rounded once."""
    if HALF:
        word = tl.inline_asm_elementwise(_SUM_F16, "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1)
    else:
        low_a, high_a = both_halves(a, HALF)
        low_b, high_b = both_halves(b, HALF)
        word = tl.inline_asm_elementwise(
            _PAIR_BF16, "=r,f,f", [low_a + low_b, high_a + high_b], dtype=tl.int32, is_pure=True, pack=1
        )
    return word


@triton.jit
def load_units(x_ptr, inside, PARTS: tl.constexpr, HINT: tl.constexpr):
    """`fp4_words.load_parts`, with a hint to the caches."""
    at = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)[:, None] + tl.arange(0, 4)[None, :]
    words = ()
    for i in tl.static_range(PARTS):
        words += (tl.load(at + i * 4, mask=inside[:, None], other=0, eviction_policy=HINT),)
    return words


@triton.jit
def added_parts(
    words, beside, out_ptr, inside, PARTS: tl.constexpr, HALF: tl.constexpr, STORED: tl.constexpr
):
    """Sums of the parts, as words, and (STORED) stored to the units that begin at out_ptr [UNITS] of sixteen bits."""
    out_ptr = out_ptr.to(tl.pointer_type(tl.int32), bitcast=True)[:, None] + tl.arange(0, 4)[None, :]
    sums = ()
    for i in tl.static_range(PARTS):
        word = added_words(words[i], beside[i], HALF)
        if STORED:
            tl.store(out_ptr + i * 4, word, mask=inside[:, None])
        sums += (word,)
    return sums


@triton.jit
def sum_of_squares(words, PARTS: tl.constexpr, HALF: tl.constexpr):
    """fp32, of all words."""
    squares = tl.zeros((words[0].shape[0], 4), tl.float32)
    for i in tl.static_range(PARTS):
        low, high = both_halves(words[i], HALF)
        squares = tl.fma(high, high, tl.fma(low, low, squares))
    return tl.sum(tl.sum(squares, axis=1), axis=0)


@triton.jit
def weighted(words, weights, PARTS: tl.constexpr, HALF: tl.constexpr, LIKE_HALF: tl.constexpr):
    """(magnitudes of x*weight, sign words, amax) of a row's words, as `part_magnitudes`."""
    products = ()
    for i in tl.static_range(PARTS):
        products += (values(words[i], HALF) * values(weights[i], LIKE_HALF),)
    return part_magnitudes(products, PARTS)


@triton.jit
def unit_code_word(sizes, factor):
    """`fp4_words.code_word`, the least of the four in one line."""
    steep = tl.fma(sizes, factor, 6291456.0).to(tl.int32, bitcast=True)
    middle = tl.fma(sizes, factor * 0.5, 6291457.0).to(tl.int32, bitcast=True)
    flat = tl.fma(sizes, factor * 0.25, 6291458.0).to(tl.int32, bitcast=True)
    codes = tl.inline_asm_elementwise(
        _LEAST_CODE, "=r,r,r,r", [steep, middle, flat], dtype=tl.int32, is_pure=True, pack=1
    )
    low, high = tl.split(tl.reshape(codes, (codes.shape[0], 4, 2)))
    low, high = tl.split(tl.reshape(low + (high << 4), (codes.shape[0], 2, 2)))
    low, high = tl.split(low + (high << 8))
    return join_words(low, high, _LOW_HALVES)


@triton.jit
def store_unit(out_ptr, sizes, signs, gain, factor, kept, inside, PARTS: tl.constexpr):
    """`fp4_words.store_codes` of units of one part or two."""
    codes = ()
    for i in tl.static_range(PARTS):
        size = sizes[i] if gain is None else sizes[i] * gain
        codes += (tl.where(kept, unit_code_word(size, factor[:, None]) | signs[i], 0),)
    out_ptr = out_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    if PARTS == 1:
        tl.store(out_ptr, codes[0], mask=inside)
    else:
        words = tl.join(codes[0], codes[1])
        tl.store(out_ptr[:, None] + tl.arange(0, 2)[None, :], words, mask=inside[:, None])


@triton.jit
def row_of_words(x_ptr, row, stride, unit, inside, UNIT: tl.constexpr, HINT: tl.constexpr):
    """The words of a row."""
    x_ptr += tl.cast(row, tl.int64) * stride + unit * UNIT
    return load_units(x_ptr, inside, UNIT // 8, "evict_first" if HINT else "")


@triton.jit
def root_read_ahead(
    x_ptr, residual_ptr, sum_ptr, row, m, k, stride, residual_stride, eps, EIGHTHS: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """(1/sqrt of a row's mean square, a zero known only after it); the sum with the residual is written."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    eighth = tl.arange(0, EIGHTHS)
    there = tl.full((EIGHTHS,), True, tl.int1) if WHOLE else (eighth < k // 8) & (row < m)
    tile = row_of_words(x_ptr, row, stride, eighth, there, 8, False)
    if residual_ptr is not None:
        beside = row_of_words(residual_ptr, row, residual_stride, eighth, there, 8, False)
        tile = added_parts(
            tile, beside, sum_ptr + tl.cast(row, tl.int64) * k + eighth * 8, there, 1, HALF, True
        )
    rest = tl.rsqrt(sum_of_squares(tile, 1, HALF) / k + eps)
    zero = tl.inline_asm_elementwise(_ZERO, "=r,f", [rest], dtype=tl.int32, is_pure=False, pack=1)
    return rest, tl.multiple_of(zero, 16)


@triton.jit(do_not_specialize=["m", "eps"])
def norm_words_kernel(
    x_ptr, residual_ptr, sum_ptr, weight_ptr, data_ptr, scale_ptr, global_ptr, m, eps, k, stride, residual_stride,
    LENGTH: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr, RULE: tl.constexpr, TOKEN: tl.constexpr,
    ONE_GLOBAL: tl.constexpr, TOP: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr, BLOCKED: tl.constexpr,
    WHOLE: tl.constexpr, HINT: tl.constexpr, REREAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row, or one of padding, whose scales are zero, by units. RULE, ONE_GLOBAL, TOKEN: as in fp4_rows_kernel.

    eps stands before k: where m alone did, which parts k and stride, MXFP4 with a residual took 71 registers for 64
    (Triton 3.6, sm_90, K = 16384), and a processor held one program for two.
    """
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    LIKE_HALF: tl.constexpr = weight_ptr.dtype.element_ty == tl.float16
    PARTS: tl.constexpr = UNIT // 8
    SPLIT: tl.constexpr = BLOCK // UNIT
    after_previous(EARLY)
    unit = tl.arange(0, LENGTH)
    across = tl.full((LENGTH,), True, tl.int1) if WHOLE else unit < k // UNIT
    encode_scale = tl.load(global_ptr) if ONE_GLOBAL else 1.0
    if not REREAD:
        weights = load_units(weight_ptr + unit * UNIT, across, PARTS, "evict_last" if HINT else "")
    row = tl.program_id(0)
    inside = across if WHOLE else across & (row < m)
    zero = 0
    if REREAD:
        rest, zero = root_read_ahead(
            x_ptr, residual_ptr, sum_ptr, row, m, k, stride, residual_stride, eps, LENGTH * PARTS, WHOLE
        )
    words = row_of_words(x_ptr + zero, row, stride, unit, inside, UNIT, HINT)
    if residual_ptr is not None:
        beside = row_of_words(residual_ptr + zero, row, residual_stride, unit, inside, UNIT, HINT)
    blocks = k // BLOCK
    wide = tl.cast(row, tl.int64)
    if residual_ptr is not None:
        out_ptr = sum_ptr + wide * k + unit * UNIT
        words = added_parts(words, beside, out_ptr, inside, PARTS, HALF, not REREAD)
    if REREAD:
        weights = load_units(weight_ptr + unit * UNIT, across, PARTS, "")
    else:
        rest = tl.rsqrt(sum_of_squares(words, PARTS, HALF) / k + eps)
    sizes, signs, amax = weighted(words, weights, PARTS, HALF, LIKE_HALF)
    if SPLIT > 1:
        amax = largest_of_group(amax, SPLIT, 1)
    amax = amax * rest
    if not HALF:  # gs/s * rest can overflow
        scaled = ()
        for i in tl.static_range(PARTS):
            scaled += (sizes[i] * rest,)
        sizes = scaled
        rest = 1.0
    if TOKEN:
        finite = magnitude_bits(finite_amax(words, sizes, PARTS, False, HALF) * rest)
        encode_scale = encode_scale_of(tl.max(finite, axis=0).to(tl.float32, bitcast=True), TOP)
        tl.store(global_ptr + row, encode_scale, mask=row < m)
    gain = None
    if RULE == "":
        byte, inverse, kept = nvfp4_block_scale(
            sizes, amax, encode_scale, encode_scale * rest, PARTS, LEAST, SELECT
        )
        if HALF:
            factor = encode_scale * inverse * rest
        else:
            gain = encode_scale
            factor = inverse * rest
    else:
        amax_bits = magnitude_bits(amax)
        byte = shared_exponent(sizes[0], amax_bits, RULE)
        kept = amax_bits < 0x7F800000
        inverse = inverse_of(byte)
        if RULE == "abs_max":
            inverse = inverse * 3.0
        byte = tl.where(kept, byte, 0xFF)
        factor = tl.minimum(inverse * rest, _LARGEST)  # see store_mxfp4
    places = tl.zeros((LENGTH,), tl.int64) + wide
    # where scales are blocked all threads of a block write its byte, which is zero outside
    first = inside if BLOCKED or SPLIT == 1 else inside & (unit % SPLIT == 0)
    store_scales(scale_ptr, byte, places, unit // SPLIT, first, blocks, BLOCKED)
    out_ptr = data_ptr + (wide * (blocks * SPLIT) + unit) * (UNIT // 2)
    store_unit(out_ptr, sizes, signs, gain, factor, kept, inside, PARTS)


def launch_norm_words(
    x: Tensor,
    fmt: Format,
    data: Tensor,
    scale: Tensor,
    gs: Tensor | None,
    plan: NormPlan,
    *,
    token: bool,
    weight: Tensor,
    residual: Tensor | None,
    total: Tensor | None,
    eps: float,
    blocked: bool,
    early: bool,
) -> None:
    """x, weight and residual are words (`words_fit`); plan.unit is the block where the format's scales are selected."""
    m, k = x.shape
    unit = plan.unit
    length = max(32, triton.next_power_of_2(k // unit))
    rows = triton.cdiv(m, 128) * 128 if blocked else m
    limit = {"maxnreg": plan.registers} if plan.registers else {}
    with torch.cuda.device_of(x):
        norm_words_kernel[(rows,)](
            x, residual, total, weight, data, scale, gs, m, eps, k, x.stride(0),
            0 if residual is None else residual.stride(0), LENGTH=length, UNIT=unit, BLOCK=fmt.block,
            RULE=fmt.rule, TOKEN=token, ONE_GLOBAL=fmt.levels == 2 and fmt.global_granularity == "tensor",
            TOP=fmt.scale_max * 6.0, LEAST=fmt.min_scale, SELECT=fmt.select, BLOCKED=blocked,
            WHOLE=length * unit == k and rows == m, HINT=plan.hint, REREAD=plan.reread,
            num_warps=max(1, min(plan.warps, length // 32)), enable_fp_fusion=False, **limit,
            **begins(early, x.device),
        )  # fmt: skip

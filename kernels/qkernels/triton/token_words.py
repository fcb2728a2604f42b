"""FP8 and INT8 per token of sixteen-bit x by words: a row stays packed in registers between its maximum and its codes.

A program takes a row. A thread holds PARTS times WIDTH consecutive elements of it, as WIDTH/2 words of 32 bits each,
and reads them at once (128-bit loads). Extremes are compared two at a time, in max.NaN.f16x2 or .bf16x2, which are
exact and keep NaN; only the codes are computed in fp32, of words that are unpacked then. So a row of 16384 elements
takes a thread of 512 sixteen registers instead of 32, and an SM holds three such rows and not one: the reason for
which FP8 per token took 154 us at 8192 x 16384 where 96 would do (H200, measured before this path).
Nothing depends on K's being a power of two: parts beyond the row do not exist, and the last is masked.

Formulas and the treatment of non-finite rows are those of fp8_quantize.py and int8_quantize.py, to the bit. The words
of a row that is not finite are set to zero, from which the codes 0 follow.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FLOAT32_MAX, MIN_TOKEN_SCALE
from qkernels.triton.early import after_previous
from qkernels.triton.fp4 import correct_quotient, magnitude_bits, scale_factor
from qkernels.triton.fp4_words import (
    _MAX_BF16,
    _MAX_F16,
    both_halves,
    join_words,
    largest_value,
    values,
    words_fit,
)
from qkernels.triton.scaled_codes import asymmetric_scale, round_even, to_e4m3

MOST_ELEMENTS = 32768  # of a row: 64 of each of 512 threads, in 32 registers

_LARGEST = tl.constexpr(FLOAT32_MAX)
_LEAST_SCALE = tl.constexpr(MIN_TOKEN_SCALE)
_MIN_F16 = tl.constexpr("min.NaN.f16x2 $0, $1, $2;")
_MIN_BF16 = tl.constexpr("min.NaN.bf16x2 $0, $1, $2;")
_TOP_F16 = tl.constexpr("max.NaN.f16x2 $0, $1, $2; // of signed numbers")
_TOP_BF16 = tl.constexpr("max.NaN.bf16x2 $0, $1, $2; // of signed numbers")


def _extreme(infinity: int, largest: bool) -> Any:
    """Of both halves, whose numbers order as sign-magnitude integers do; NaN is the canonical one of the hardware."""

    def meaning(a: Any, b: Any) -> Any:
        bits = np.stack([np.ascontiguousarray(each).view(np.uint16) for each in (a, b)]).astype(np.int32)
        size = bits & 0x7FFF
        order = np.where(bits & 0x8000, -size - 1, size)  # -0 below +0, as the hardware has it
        chosen = order.max(0) if largest else order.min(0)
        found = np.where(chosen < 0, 0x8000 | (-chosen - 1), chosen)
        found = np.where((size > infinity).any(0), 0x7FFF, found).astype(np.uint16)
        return found.view(np.int32).reshape(a.shape)

    return meaning


for _infinity, _low, _top in ((0x7C00, _MIN_F16, _TOP_F16), (0x7F80, _MIN_BF16, _TOP_BF16)):
    qbench.register_inline_asm(_low.value, _extreme(_infinity, False))
    qbench.register_inline_asm(_top.value, _extreme(_infinity, True))


@dataclass(frozen=True)
class Row:
    """How a row is cut: `warps` to a program, `width` elements (8 or 16) at a time to a thread."""

    warps: int
    width: int = 8

    def fit(self, k: int) -> Row:
        """Narrower where K is no multiple of the width."""
        return self if k % self.width == 0 else replace(self, width=8)

    def parts(self, k: int) -> int:
        """Pieces of 32*warps*width elements that a row of k has."""
        return -(-k // (32 * self.warps * self.width))

    def even(self, k: int) -> bool:
        """Is the last of them whole?"""
        return k % (32 * self.warps * self.width) == 0


def row_fits(x: Tensor) -> bool:
    """Can the rows of x [M, K] be read by words and kept in registers?"""
    return words_fit(x) and x.shape[1] % 8 == 0 and x.shape[1] <= MOST_ELEMENTS


def choose_words(k: int) -> Row:
    """Eight warps, each thread with up to 64 elements; as many as there is work for below, 16 beyond 16384.

    Of 4, 8, 16 and 32 warps the quickest for few rows and for many (H200, 16, 4096 and 8192 rows of 8192 and 16384).
    """
    return Row(min(8 if k <= 16384 else 16, max(1, triton.next_power_of_2(triton.cdiv(k, 256)))))


@triton.jit
def load_row(
    x_ptr, k, other, THREADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """A row of k elements as PARTS int32 tensors [THREADS, WIDTH/2], `other` in the words beyond it."""
    SPAN: tl.constexpr = THREADS * WIDTH
    group = tl.arange(0, THREADS)[:, None]
    x_ptr = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    x_ptr += group * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :]
    words = ()
    for i in tl.static_range(PARTS):
        if EVEN or i < PARTS - 1:
            part = tl.load(x_ptr + i * (SPAN // 2))
        else:
            inside = group * WIDTH < k - i * SPAN
            part = tl.load(x_ptr + i * (SPAN // 2), mask=inside, other=other)
        words += (part,)
    return words


@triton.jit
def store_part(
    out_ptr, codes, k, i: tl.constexpr, THREADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Codes [THREADS, WIDTH] of part i, a byte each."""
    SPAN: tl.constexpr = THREADS * WIDTH
    group = tl.arange(0, THREADS)[:, None]
    out_ptr += i * SPAN + group * WIDTH + tl.arange(0, WIDTH)[None, :]
    if EVEN or i < PARTS - 1:
        tl.store(out_ptr, codes)
    else:
        tl.store(out_ptr, codes, mask=group * WIDTH < k - i * SPAN)


@triton.jit
def halved(words, ASM: tl.constexpr):
    """int32 [THREADS, W] -> [THREADS, W/2] by an instruction from two words to one."""
    first, second = tl.split(tl.reshape(words, (words.shape[0], words.shape[1] // 2, 2)))
    return join_words(first, second, ASM)


@triton.jit
def extreme_word(words, ASM: tl.constexpr):
    """int32 [THREADS, 4 or 8] -> [THREADS]."""
    if words.shape[1] == 8:
        words = halved(words, ASM)
    first, second = tl.split(halved(words, ASM))
    return join_words(first, second, ASM)


@triton.jit
def row_bits(words, PARTS: tl.constexpr, HALF: tl.constexpr):
    """fp32 bits of the row's largest magnitude; those of NaN, or of inf, if it has any."""
    ASM: tl.constexpr = _MAX_F16 if HALF else _MAX_BF16
    best = words[0] & 0x7FFF7FFF
    for i in tl.static_range(1, PARTS):
        best = join_words(best, words[i] & 0x7FFF7FFF, ASM)
    return tl.max(magnitude_bits(largest_value(extreme_word(best, ASM), HALF)), axis=0)


@triton.jit
def row_extremes(words, PARTS: tl.constexpr, HALF: tl.constexpr):
    """(least and largest number in fp32, bits of the largest magnitude); only the bits mean anything if not finite."""
    LOW: tl.constexpr = _MIN_F16 if HALF else _MIN_BF16
    TOP: tl.constexpr = _TOP_F16 if HALF else _TOP_BF16
    low, high = words[0], words[0]
    for i in tl.static_range(1, PARTS):
        low, high = join_words(low, words[i], LOW), join_words(high, words[i], TOP)
    first, second = both_halves(extreme_word(low, LOW), HALF)
    third, fourth = both_halves(extreme_word(high, TOP), HALF)
    bits = tl.maximum(magnitude_bits(first), magnitude_bits(second))
    bits = tl.maximum(bits, tl.maximum(magnitude_bits(third), magnitude_bits(fourth)))
    low, high = tl.minimum(first, second), tl.maximum(third, fourth)
    return tl.min(low, axis=0), tl.max(high, axis=0), tl.max(bits, axis=0)


@triton.jit
def fp8_token_words_kernel(
    x_ptr, out_ptr, scale_ptr, k, stride,
    THREADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, EVEN: tl.constexpr, HARDWARE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One row; |x/s| <= 448 but for roundings, which the cast takes back."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    words = load_row(x_ptr + row * stride, k, 0, THREADS, WIDTH, PARTS, EVEN)
    amax_bits = row_bits(words, PARTS, HALF)
    finite = amax_bits < 0x7F800000
    kept = tl.where(finite, -1, 0)
    amax = (amax_bits & kept).to(tl.float32, bitcast=True)
    scale = tl.maximum(tl.div_rn(amax, 448.0), _LEAST_SCALE)
    inverse = tl.div_rn(1.0, scale)
    tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))
    out_ptr += row * k
    for i in tl.static_range(PARTS):
        codes = to_e4m3(correct_quotient(values(words[i] & kept, HALF), scale, inverse), HARDWARE)
        store_part(out_ptr, codes, k, i, THREADS, WIDTH, PARTS, EVEN)


@triton.jit
def row_codes(x, factor, inverse, zero_point, HALF: tl.constexpr, SYMMETRIC: tl.constexpr):
    """INT8 codes of finite x: times the factor, or divided by it and moved by the zero point."""
    if SYMMETRIC:  # fl(127/amax)*amax is 127 but for two roundings: nothing saturates
        codes = round_even(x * factor)
    else:
        if not HALF:  # fp16's scales are normal numbers, and so are their reciprocals
            power = scale_factor(factor)
            x, factor = x * power, factor * power
        shift = zero_point.to(tl.float32)
        y = correct_quotient(x, factor, inverse)
        codes = round_even(tl.maximum(tl.minimum(y, 127.0 - shift), -128.0 - shift)) + zero_point
    return codes.to(tl.int8)


@triton.jit
def int8_token_words_kernel(
    x_ptr, out_ptr, scale_ptr, zero_ptr, k, stride,
    THREADS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, EVEN: tl.constexpr, SYMMETRIC: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One row, symmetric or with a zero point."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    other = 0
    if not (SYMMETRIC or EVEN):  # absent elements repeat the row's first, which changes no extreme
        first = tl.load(x_ptr.to(tl.pointer_type(tl.int16), bitcast=True)).to(tl.int32) & 0xFFFF
        other = first | (first << 16)
    words = load_row(x_ptr, k, other, THREADS, WIDTH, PARTS, EVEN)
    zero_point = tl.full((), 0, tl.int32)
    if SYMMETRIC:
        amax_bits = row_bits(words, PARTS, HALF)
    else:
        low, high, amax_bits = row_extremes(words, PARTS, HALF)
    finite = amax_bits < 0x7F800000
    kept = tl.where(finite, -1, 0)
    amax = (amax_bits & kept).to(tl.float32, bitcast=True)
    if SYMMETRIC:
        scale = tl.div_rn(amax, 127.0)
        factor = tl.minimum(tl.div_rn(127.0, amax), _LARGEST)
        inverse = factor
    else:
        scale, zero_point = asymmetric_scale(tl.where(finite, low, 0.0), tl.where(finite, high, 0.0), amax)
        zero_point = zero_point & kept
        factor = scale
        inverse = tl.div_rn(1.0, scale if HALF else scale * scale_factor(scale))
        tl.store(zero_ptr + row, zero_point)
    tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))
    out_ptr += row * k
    for i in tl.static_range(PARTS):
        codes = row_codes(values(words[i] & kept, HALF), factor, inverse, zero_point, HALF, SYMMETRIC)
        store_part(out_ptr, codes, k, i, THREADS, WIDTH, PARTS, EVEN)

"""FP4 from sixteen-bit x with one thread to a block: packed where it is exact, in registers from load to store.

A program's tile is [BLOCKS] blocks; a part is a block's eight consecutive elements, loaded as four 32-bit words (one
128-bit load), and becomes one 32-bit word of codes. Every dimension but the first lives in a thread's registers, so
the block's maximum, the rotation within a block and the packing need no shuffle, shared memory or barrier, and the
scale is computed once. Words of x are read through 32-bit pointers: x and its row stride must be multiples of 4
bytes (`words_fit`); other x, and fp32, are loaded by values (fp4_parts.load_values).

Bytes are permuted by `prmt`, and magnitudes compared two at a time (max.NaN.f16x2 or .bf16x2, exact), in inline
assembly; each line is elementwise on words, so that its result does not depend on the layout.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.fp4 import magnitude_bits

_HALVES = tl.constexpr("{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }")
_MAX_F16 = tl.constexpr("max.NaN.f16x2 $0, $1, $2;")
_MAX_BF16 = tl.constexpr("max.NaN.bf16x2 $0, $1, $2;")
# inf * 0 + inf is NaN, and a maximum without .NaN takes the other operand
_FINITE = "{ .reg .b32 z, v; mov.b32 z, 0; fma.rn.TYPE v, $2, z, $2; max.TYPE $0, $1, v; }"
_FINITE_F16 = tl.constexpr(_FINITE.replace("TYPE", "f16x2"))
_FINITE_BF16 = tl.constexpr(_FINITE.replace("TYPE", "bf16x2"))
# bytes are counted from the lowest, 4 to 7 are those of the second word; 8 more repeats a byte's sign bit
_SIGNS = tl.constexpr("prmt.b32 $0, $1, $2, 0xfbd9;")  # of both words' halves: low, low, high, high
_TOP_SIGNS = tl.constexpr("prmt.b32 $0, $1, $2, 0xfbfb;")  # of both words
_LOW_HALVES = tl.constexpr("prmt.b32 $0, $1, $2, 0x5410;")
_HIGH_HALVES = tl.constexpr("prmt.b32 $0, $1, $2, 0x7632;")


def _permuted(selector: int) -> Any:
    def meaning(a: Any, b: Any) -> Any:
        both = np.stack([a, b], axis=-1).astype("<i4").view(np.uint8)
        chosen = [both[..., selector >> 4 * i & 7] for i in range(4)]
        signs = [selector >> 4 * i & 8 for i in range(4)]
        bytes_ = [np.where(c >= 128, 255, 0) if s else c for c, s in zip(chosen, signs, strict=True)]
        word = np.stack(bytes_, axis=-1).astype(np.uint8)
        return np.ascontiguousarray(word).view("<i4")[..., 0]

    return meaning


def _largest_halves(a: Any, b: Any) -> Any:
    """Of magnitudes, whose bits order as they do; a NaN's payload is not kept by the hardware and not looked at."""
    pairs = (np.ascontiguousarray(each).view(np.uint16).reshape(*each.shape, 2) for each in (a, b))
    return np.maximum(*pairs).view(np.int32)[..., 0]


def _larger_if_finite(infinity: int) -> Any:
    def meaning(best: Any, word: Any) -> Any:
        halves = np.ascontiguousarray(word).view(np.uint16)
        finite = np.where(halves < infinity, halves, 0).astype(np.uint16).view(np.int32)
        return _largest_halves(best, finite.reshape(word.shape))

    return meaning


def _as_floats(word: Any) -> Any:
    pair = np.ascontiguousarray(word).view(np.float16).reshape(*word.shape, 2).astype(np.float32)
    return pair[..., 0], pair[..., 1]


qbench.register_inline_asm(_HALVES.value, _as_floats)
qbench.register_inline_asm(_MAX_F16.value, _largest_halves)
qbench.register_inline_asm(_MAX_BF16.value, _largest_halves)
qbench.register_inline_asm(_FINITE_F16.value, _larger_if_finite(0x7C00))
qbench.register_inline_asm(_FINITE_BF16.value, _larger_if_finite(0x7F80))
for _asm in (_SIGNS, _TOP_SIGNS, _LOW_HALVES, _HIGH_HALVES):
    qbench.register_inline_asm(_asm.value, _permuted(int(_asm.value.split("0x")[1].rstrip(";"), 16)))


def words_fit(x: Tensor) -> bool:
    """May the rows of x [M, K] be read as 32-bit words?"""
    return x.element_size() == 2 and x.data_ptr() % 4 == 0 and (x.stride(0) % 2 == 0 or x.shape[0] == 1)


@triton.jit
def join_words(a, b, ASM: tl.constexpr):
    """An instruction from two words to one."""
    return tl.inline_asm_elementwise(ASM, "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def both_halves(words, HALF: tl.constexpr):
    """int32 words -> their lower and upper halves, fp16 (HALF) or bf16, in fp32."""
    if HALF:
        low, high = tl.inline_asm_elementwise(
            _HALVES, "=f,=f,r", [words], dtype=(tl.float32, tl.float32), is_pure=True, pack=1
        )
    else:
        low = (words << 16).to(tl.float32, bitcast=True)
        high = (words & -65536).to(tl.float32, bitcast=True)
    return low, high


@triton.jit
def values(words, HALF: tl.constexpr):
    """int32 [ROWS, W] -> fp32 [ROWS, 2*W], from fp16 (HALF) or bf16."""
    low, high = both_halves(words, HALF)
    return tl.reshape(tl.join(low, high), (words.shape[0], 2 * words.shape[1]))


@triton.jit
def largest_words(a, b, HALF: tl.constexpr, FINITE: tl.constexpr):
    """The larger of each half of two words of magnitudes: NaN if either is, or (FINITE) b only where it is finite."""
    if FINITE:
        word = join_words(a, b, _FINITE_F16 if HALF else _FINITE_BF16)
    else:
        word = join_words(a, b, _MAX_F16 if HALF else _MAX_BF16)
    return word


@triton.jit
def largest_word(sizes, HALF: tl.constexpr):
    """Words of magnitudes [BLOCKS, 4] -> [BLOCKS], the larger of each half."""
    even, odd = tl.split(tl.reshape(sizes, (sizes.shape[0], 2, 2)))
    first, second = tl.split(largest_words(even, odd, HALF, False))
    return largest_words(first, second, HALF, False)


@triton.jit
def largest_value(word, HALF: tl.constexpr):
    """The larger half of a word of magnitudes, in fp32; NaN if either is."""
    bits = tl.maximum((word >> 16) & 0xFFFF, word & 0xFFFF)
    if HALF:
        value = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        value = (bits << 16).to(tl.float32, bitcast=True)
    return value


@triton.jit
def code_word(sizes, factor):
    """e2m1(sizes*factor) of fp32 [BLOCKS, 8] >= 0 and fp32 [BLOCKS] -> int32 [BLOCKS], eight codes of four bits."""
    return codes_of(sizes, factor[:, None])


@triton.jit
def codes_of(sizes, factor):
    """The same, of a factor for all or of [BLOCKS, 1]."""
    codes = raised_codes(sizes, factor)
    low, high = tl.split(tl.reshape(codes, (codes.shape[0], 4, 2)))
    low, high = tl.split(tl.reshape(low + (high << 4), (codes.shape[0], 2, 2)))
    low, high = tl.split(low + (high << 8))
    return join_words(low, high, _LOW_HALVES)


@triton.jit
def raised_codes(sizes, factor):
    """e2m1(sizes*factor), 0 to 7, of fp32 [BLOCKS, 8] >= 0, in the low 22 bits of int32: those above are of M.

    The code of y is rne(g(y)), g(y) = min(2y, y + 2, y/2 + 4, 7): its three slopes are the spacings .5, 1 and 2, and
    even codes are even numbers. Here all of it is halved, to keep factor finite: M is 1.5*2^22, whose spacing is .5,
    and each fused multiply-add rounds its exact sum once, to M + code/2. Rounding is monotone, so that the least of
    the rounded is the rounded least: the code is that of the exact product, which is nowhere rounded.
    Positive floats order as their bits do; the low 22 bits of M's are zero and the code is added to them.
    """
    steep = tl.fma(sizes, factor, 6291456.0).to(tl.int32, bitcast=True)
    middle = tl.fma(sizes, factor * 0.5, 6291457.0).to(tl.int32, bitcast=True)
    flat = tl.fma(sizes, factor * 0.25, 6291458.0).to(tl.int32, bitcast=True)
    return tl.minimum(tl.minimum(tl.minimum(steep, middle), flat), 0x4AC00007)


@triton.jit
def sign_word(words):
    """int32 [BLOCKS, 4] of sixteen-bit floats -> [BLOCKS], the sign of element j in bit 4j + 3."""
    even, odd = tl.split(tl.reshape(words, (words.shape[0], 2, 2)))
    first, second = tl.split(join_words(even, odd, _SIGNS))
    low = join_words(first, second, _LOW_HALVES)
    high = join_words(first, second, _HIGH_HALVES)
    return (low & 0x08080808) | (high & -2139062144)  # 0x80808080


@triton.jit
def top_sign_word(y):
    """The same of fp32 [BLOCKS, 8]."""
    even, odd = tl.split(tl.reshape(y.to(tl.int32, bitcast=True), (y.shape[0], 4, 2)))
    first, second = tl.split(tl.reshape(even, (y.shape[0], 2, 2)))
    first, second = tl.split(join_words(first, second, _TOP_SIGNS))
    low = join_words(first, second, _LOW_HALVES)
    first, second = tl.split(tl.reshape(odd, (y.shape[0], 2, 2)))
    first, second = tl.split(join_words(first, second, _TOP_SIGNS))
    high = join_words(first, second, _LOW_HALVES)
    return (low & 0x08080808) | (high & -2139062144)


@triton.jit
def load_part(x_ptr, inside):
    """Four words from each of the sixteen-bit pointers [BLOCKS]; 0 outside."""
    words = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)[:, None] + tl.arange(0, 4)[None, :]
    return tl.load(words, mask=inside[:, None], other=0)


@triton.jit
def load_parts(x_ptr, inside, PARTS: tl.constexpr):
    """All parts of the blocks that begin at x_ptr [BLOCKS]."""
    words = ()
    for i in tl.static_range(PARTS):
        words += (load_part(x_ptr + i * 8, inside),)
    return words


@triton.jit
def word_values(words, PARTS: tl.constexpr, HALF: tl.constexpr):
    """Words of a block -> PARTS times fp32 [BLOCKS, 8]."""
    parts = ()
    for i in tl.static_range(PARTS):
        parts += (values(words[i], HALF),)
    return parts


@triton.jit
def part_magnitudes(parts, PARTS: tl.constexpr):
    """PARTS times fp32 [BLOCKS, 8] -> (magnitudes, sign words [BLOCKS], the largest fp32 [BLOCKS], NaN if one is)."""
    sizes = ()
    signs = ()
    for i in tl.static_range(PARTS):
        sizes += (tl.abs(parts[i]),)
        signs += (top_sign_word(parts[i]),)
    best = sizes[0]
    for i in tl.static_range(1, PARTS):
        best = tl.maximum(best, sizes[i], propagate_nan=tl.PropagateNan.ALL)
    return sizes, signs, tl.max(magnitude_bits(best), axis=1).to(tl.float32, bitcast=True)


@triton.jit
def word_magnitudes(words, PARTS: tl.constexpr, HALF: tl.constexpr):
    """The same of words, two elements at a time."""
    sizes = ()
    signs = ()
    best = words[0] & 0x7FFF7FFF
    for i in tl.static_range(PARTS):
        size = words[i] & 0x7FFF7FFF
        best = largest_words(best, size, HALF, False)
        sizes += (values(size, HALF),)
        signs += (sign_word(words[i]),)
    return sizes, signs, largest_value(largest_word(best, HALF), HALF)


@triton.jit
def magnitudes_and_signs(words, PARTS: tl.constexpr, HALF: tl.constexpr, HADAMARD: tl.constexpr):
    """Words of a block -> (PARTS magnitudes fp32 [BLOCKS, 8], sign words [BLOCKS], bits of the maxima [BLOCKS])."""
    if HADAMARD:
        root: tl.constexpr = HADAMARD**-0.5
        found, signs, amax = part_magnitudes(
            rotate_parts(word_values(words, PARTS, HALF), PARTS, HADAMARD), PARTS
        )
        sizes = ()
        for i in tl.static_range(PARTS):
            sizes += (found[i] * root,)
        amax = amax * root
    else:
        sizes, signs, amax = word_magnitudes(words, PARTS, HALF)
    return sizes, signs, magnitude_bits(amax)


@triton.jit
def store_codes(out_ptr, sizes, signs, gain, factor, kept, inside, PARTS: tl.constexpr):
    """A block's codes e2m1(size*gain*factor) with their signs, or zeros where not kept, in one store.

    gain is a number for all or None; out_ptr is of bytes [BLOCKS], multiples of 4 * PARTS apart.
    """
    codes = ()
    for i in tl.static_range(PARTS):
        size = sizes[i] if gain is None else sizes[i] * gain
        codes += (tl.where(kept, code_word(size, factor) | signs[i], 0),)
    if PARTS == 2:
        words = tl.join(codes[0], codes[1])
    else:
        words = tl.join(tl.join(codes[0], codes[2]), tl.join(codes[1], codes[3]))
        words = tl.reshape(words, (words.shape[0], 4))
    out_ptr = out_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    tl.store(out_ptr[:, None] + tl.arange(0, PARTS)[None, :], words, mask=inside[:, None])

"""A block of FP4 in one thread, from x of any dtype: where a tile's blocks lie, their values, and where scales go.

A tile is ROWS x ACROSS blocks, as a list [ROWS * ACROSS] whose order decides what a warp reads and writes at once:
    rows      linear scales: along the row. 32 lanes read 1 or 2 KB of it and write 32 neighbouring scales.
    squares   blocked scales (128 x 4 bytes, see qkernels.swizzle): a warp takes 4 blocks of rows r, r + 1, and of those
              32, 64 and 96 below: their 32 scales are 32 neighbouring bytes, a whole sector, and x is still read in
              whole lines of 128 bytes. Rows are counted to a multiple of 128, blocks to one of 4, so that what lies
              beyond x is written too: as zero.
    groups    16 x 16 blocks (nvfp4_2d): 16 rows stand beside each other, so that the largest of 16 threads is theirs.

Sixteen-bit x whose rows are whole words is read by words (fp4_words); any other x element by element, as wide as the
compiler can prove.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

import triton
import triton.language as tl

from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.fp4 import magnitude_bits, nvfp4_scale, nvfp4_scale_of, round_e2m1
from qkernels.triton.fp4_words import (
    largest_value,
    largest_word,
    largest_words,
    load_parts,
    part_magnitudes,
    word_magnitudes,
    word_values,
)


@triton.jit
def place_of_blocks(
    down, along, ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr
):
    """(rows int32, blocks int32) [ROWS * ACROSS] of tile (down, along), in the ORDER "rows", "squares" or "groups".

    squares: ROWS is 4 to 128, ACROSS a multiple of BESIDE, down counts 128 / ROWS tiles for each 128 rows.
    BESIDE: neighbours of a row that stand beside each other in squares, at least 4, and in groups: all blocks of a
    rotation, which meet by their distance (butterflies.across_blocks).
    """
    index = tl.arange(0, ROWS * ACROSS)
    beside = index % BESIDE
    if ORDER == "squares":
        STEP: tl.constexpr = ROWS // 4
        row = index // (4 * BESIDE) % STEP + index // BESIDE % 4 * 32
        row += down // (32 // STEP) * 128 + down % (32 // STEP) * STEP
        block = index // (BESIDE * ROWS) * BESIDE + beside
    elif ORDER == "groups":
        row = index // (16 * ACROSS) * 16 + index // BESIDE % 16 + down * ROWS
        block = index // (16 * BESIDE) % (ACROSS // BESIDE) * BESIDE + beside
    else:
        tl.static_assert(ORDER == "rows", "unknown order")
        row = index // ACROSS + down * ROWS
        block = index % ACROSS
    return row, block + along * ACROSS


@triton.jit
def place_of_scales(row, block, blocks, BLOCKED: tl.constexpr):
    """Offsets of the scales of rows (int64) and blocks among rows of `blocks`."""
    if BLOCKED:
        # rows and blocks are not negative; shifts and masks are fewer instructions than division, which rounds to zero
        tile = (row >> 7) * ((blocks + 3) >> 2) + (block >> 2)
        at = (tile << 9) + ((row & 31) << 4) + ((row & 96) >> 3) + (block & 3)
    else:
        at = row * blocks + block
    return at


@triton.jit
def store_scales(scale_ptr, byte, row, block, inside, blocks, BLOCKED: tl.constexpr):
    """Scale bytes of the blocks inside; BLOCKED: zeros for the rest of the tile, which a multiple of 128 rows holds."""
    at = scale_ptr + place_of_scales(row, block, blocks, BLOCKED)
    if BLOCKED:
        tl.store(at, tl.where(inside, byte, 0).to(tl.uint8), mask=block < (blocks + 3) // 4 * 4)
    else:
        tl.store(at, byte.to(tl.uint8), mask=inside)


@triton.jit
def load_values(x_ptr, inside, PARTS: tl.constexpr):
    """fp32 values of the blocks that begin at x_ptr [BLOCKS], of any dtype: PARTS times [BLOCKS, 8]; 0 outside.

    Four at a time, 16 bytes of fp32: of more, the compiler gives a row to two threads.
    """
    parts = ()
    for i in tl.static_range(PARTS):
        at = (x_ptr + i * 8)[:, None] + tl.arange(0, 4)[None, :]
        low = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32)
        high = tl.load(at + 4, mask=inside[:, None], other=0.0).to(tl.float32)
        parts += (tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (low.shape[0], 8)),)
    return parts


@triton.jit
def load_block(x_ptr, inside, PARTS: tl.constexpr, WORDS: tl.constexpr):
    """The blocks that begin at x_ptr [BLOCKS]: PARTS words (WORDS) or values, see `block_values`."""
    if WORDS:
        found = load_parts(x_ptr, inside, PARTS)
    else:
        found = load_values(x_ptr, inside, PARTS)
    return found


@triton.jit
def block_values(loaded, PARTS: tl.constexpr, WORDS: tl.constexpr, HALF: tl.constexpr):
    """fp32 values of what `load_block` gave."""
    if WORDS:
        parts = word_values(loaded, PARTS, HALF)
    else:
        parts = loaded
    return parts


@triton.jit
def rotated_magnitudes(
    loaded, PARTS: tl.constexpr, WORDS: tl.constexpr, HALF: tl.constexpr, HADAMARD: tl.constexpr
):
    """(magnitudes, sign words, amax fp32), rotated; of these only amax is divided by sqrt(HADAMARD).

    For the others that factor belongs to the block's scale (`root_of`): a multiplication and a rounding less for each.
    """
    if HADAMARD:
        parts = rotate_parts(block_values(loaded, PARTS, WORDS, HALF), PARTS, HADAMARD)
        sizes, signs, amax = part_magnitudes(parts, PARTS)
        amax = amax * root_of(HADAMARD)
    elif WORDS:
        sizes, signs, amax = word_magnitudes(loaded, PARTS, HALF)
    else:
        sizes, signs, amax = part_magnitudes(loaded, PARTS)
    return sizes, signs, amax


@triton.jit
def finite_amax(loaded, sizes, PARTS: tl.constexpr, PACKED: tl.constexpr, HALF: tl.constexpr):
    """The largest finite magnitude of each block, fp32 [BLOCKS]: of words as loaded (PACKED), or of sizes."""
    if PACKED:
        word = tl.zeros(loaded[0].shape, tl.int32)
        for i in tl.static_range(PARTS):
            word = largest_words(word, loaded[i] & 0x7FFF7FFF, HALF, True)
        amax = largest_value(largest_word(word, HALF), HALF)
    else:
        best = tl.zeros(sizes[0].shape, tl.int32)
        for i in tl.static_range(PARTS):
            bits = magnitude_bits(sizes[i])
            best = tl.maximum(best, tl.where(bits < 0x7F800000, bits, 0))
        amax = tl.max(best, axis=1).to(tl.float32, bitcast=True)
    return amax


@triton.jit
def root_of(HADAMARD: tl.constexpr):
    """1/sqrt of a rotation's size; 1 without one."""
    root: tl.constexpr = HADAMARD**-0.5 if HADAMARD else 1.0
    return root


@triton.jit
def largest_of_group(amax, GROUP: tl.constexpr, BESIDE: tl.constexpr):
    """fp32 [BLOCKS] -> the largest of each GROUP that stand BESIDE apart, for each of them; NaN if one is."""
    blocks: tl.constexpr = amax.shape[0]
    bits = tl.reshape(magnitude_bits(amax), (blocks // (GROUP * BESIDE), GROUP, BESIDE))
    best = tl.max(bits, axis=1, keep_dims=True)
    return tl.reshape(tl.broadcast_to(best, bits.shape), (blocks,)).to(tl.float32, bitcast=True)


@triton.jit
def selection_error(sizes, gain, scale, PARTS: tl.constexpr, SQUARED: tl.constexpr):
    """fp32 [BLOCKS]: the sum of (code*scale - size*gain)^2, or of magnitudes, with the codes nearest under scale."""
    inverse = 1.0 / tl.where(scale > 0.0, scale, 1.0)
    total = tl.zeros((sizes[0].shape[0],), tl.float32)
    for i in tl.static_range(PARTS):
        wanted = sizes[i] * gain
        off = tl.fma(round_e2m1(wanted * inverse[:, None]), scale[:, None], wanted * -1.0)
        if SQUARED:
            total += tl.sum(off * off, axis=1)
        else:
            total += tl.sum(tl.abs(off), axis=1)
    return total


@triton.jit
def nvfp4_block_scale(
    sizes, amax, encode_scale, gain, PARTS: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr
):
    """(E4M3 bytes, about 1/s or 1, is the block encoded) of maxima fp32 [BLOCKS], as `nvfp4_scale`.

    SELECT "mse" or "mae": four-over-six, of e4m3(t) and e4m3(1.5*t) the one whose codes of sizes*gain err less; gain is
    encode_scale, and what is left to do of a rotation.
    """
    bits = magnitude_bits(amax)
    if SELECT == "":
        byte, inverse, coded = nvfp4_scale(bits, encode_scale, LEAST)
    else:
        byte, scale, finite = nvfp4_scale_of(bits, encode_scale, 1.0, LEAST)
        byte_4, scale_4, _finite = nvfp4_scale_of(bits, encode_scale, 1.5, LEAST)
        error = selection_error(sizes, gain, scale, PARTS, SELECT == "mse")
        better = selection_error(sizes, gain, scale_4, PARTS, SELECT == "mse") < error
        byte = tl.where(better, byte_4, byte)
        scale = tl.where(better, scale_4, scale)
        coded = finite & (scale > 0.0)
        byte = tl.where(finite, byte, 0x7F)
        inverse = 1.0 / tl.where(coded, scale, 1.0)
    return byte, inverse, coded

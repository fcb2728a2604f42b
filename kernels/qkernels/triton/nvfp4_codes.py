"""Device functions of the NVFP4 quantizers: the global scale from maxima, and blocks in threads to scales and codes."""

from __future__ import annotations

import triton
import triton.language as tl

from qkernels.format import FLOAT32_MAX
from qkernels.triton.amax import largest
from qkernels.triton.fp4_parts import nvfp4_block_scale, store_scales
from qkernels.triton.fp4_words import store_codes

_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def encode_scale_of(amax, TOP: tl.constexpr = 2688.0):
    """TOP/amax (448*6): it overflows for amax < 7.9e-36, and a zero tensor has no scale of its own."""
    return tl.where(amax > 0.0, tl.minimum(tl.div_rn(TOP, amax), _LARGEST), 1.0)


@triton.jit
def global_scale_of(
    global_ptr, partial_ptr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr, TOP: tl.constexpr = 2688.0
):
    """gs; the first program writes it where it is dynamic (PARTIALS > 0)."""
    if LEVELS == 1:
        encode_scale = 1.0
    elif PARTIALS > 0:
        amax = largest(partial_ptr, PARTIALS)
        encode_scale = encode_scale_of(amax, TOP)
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(global_ptr, encode_scale)
    else:
        encode_scale = tl.load(global_ptr)
    return encode_scale


@triton.jit
def store_nvfp4(
    data_ptr, scale_ptr, sizes, signs, amax, encode_scale, rest, row, block, inside, blocks,
    ORDER: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Scales and codes of blocks in threads: magnitudes sizes*rest, signs, and amax, the largest of sizes*rest.

    rest is what is left to do of a rotation or a norm. HALF: gs/s*rest is a normal number wherever s > 0, as it is for
    magnitudes in [2^-28, 2^23], rotated or not; otherwise it can overflow, and gs is multiplied first.
    """
    byte, inverse, coded = nvfp4_block_scale(sizes, amax, encode_scale, encode_scale * rest, 2, LEAST, SELECT)
    if ORDER == "groups":  # one of the 16 rows that share it
        store_scales(scale_ptr, byte, row // 16, block, inside & (row % 16 == 0), blocks, False)
    else:
        store_scales(scale_ptr, byte, row, block, inside, blocks, ORDER == "squares")
    out_ptr = data_ptr + (row * blocks + block) * 8
    if HALF:
        store_codes(out_ptr, sizes, signs, None, encode_scale * inverse * rest, coded, inside, 2)
    else:
        store_codes(out_ptr, sizes, signs, encode_scale, inverse * rest, coded, inside, 2)

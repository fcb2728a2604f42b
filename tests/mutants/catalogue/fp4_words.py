"""Bugs in the FP4 quantizers of sixteen-bit x, which hold a block in a thread: codes, signs, maxima, butterflies."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_w = partial(Mutant, file="qkernels/triton/fp4_words.py")
_b = partial(Mutant, file="qkernels/triton/butterflies.py")

MUTANTS = (
    _w(
        "words-coarsest-spacing-missing",
        "tl.minimum(tl.minimum(steep, middle), flat)",
        "tl.minimum(steep, middle)",
        "numbers between 4 and 6 are rounded as if their spacing were 1",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-no-saturation",
        ", 0x4AC00007)",
        ", 0x4AC0000F)",
        "a code above 7 spills into its neighbour",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-middle-line-shifted",
        "factor * 0.5, 6291457.0",
        "factor * 0.5, 6291456.5",
        "codes from 2 up are one too small",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-signs-lost",
        "code_word(size, factor) | signs[i]",
        "code_word(size, factor)",
        "negative numbers become positive",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-signs-of-odd-elements-from-even",
        "(high & -2139062144)  # 0x80808080",
        "((low << 4) & -2139062144)",
        "an odd element takes the sign of the even one before it",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-maximum-of-low-halves",
        "tl.maximum((word >> 16) & 0xFFFF, word & 0xFFFF)",
        "word & 0xFFFF",
        "the maximum of a block is that of its even elements",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-parts-exchanged",
        "load_part(x_ptr + i * 8,",
        "load_part(x_ptr + (i ^ 1) * 8,",
        "eight elements of a block change places with their neighbours",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-of-a-nan-block-kept",
        "tl.where(kept, code_word",
        "tl.where(kept | True, code_word",
        "the codes of a block that holds NaN are not 0",
        "quantizer:nonfinite",
        "mxfp4 floor",
    ),
    _w(
        "words-maximum-of-last-part-missing",
        "        best = largest_words(best, size, HALF, False)\n",
        "        best = largest_words(best, size, HALF, False) if i < PARTS - 1 else best\n",
        "the last eight elements do not count for the maximum of a block",
        "quantizer:values",
        "mxfp4 floor",
    ),
    _w(
        "words-not-odd",
        "        sizes += (values(size, HALF),)\n",
        "        sizes += (values(size, HALF) * tl.where(values(words[i], HALF) > 0, 1.05, 1.0),)\n",
        "positive and negative numbers are not rounded alike",
        "quantizer:properties",
        "nvfp4_1l",
    ),
    _w(
        "words-gain-forgotten",
        "sizes[i] * gain",
        "sizes[i]",
        "the codes of bfloat16 ignore the global scale",
        "quantizer:values",
        "nvfp4 static",
    ),
    _b(
        "butterfly-difference-turned",
        "tl.join(even + odd, even - odd)",
        "tl.join(even + odd, odd - even)",
        "the rotation within a block is not the Sylvester matrix",
        "quantizer:values",
        "nvfp4 hadamard 32",
    ),
    _b(
        "butterfly-across-blocks-halved",
        "1.0 - 2.0 * (place",
        "1.0 - 1.0 * (place",
        "the difference between two blocks is only the first of them",
        "quantizer:values",
        "nvfp4_1l hadamard 128",
    ),
    _b(
        "butterfly-one-stage-too-few",
        "(8 * PARTS) << stage < N",
        "(16 * PARTS) << stage < N",
        "a rotation stops at half its size",
        "quantizer:values",
        "mxfp4 floor hadamard 64",
    ),
)

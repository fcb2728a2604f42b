"""Bugs in where blocks lie in a tile, in blocked scales, in rows as a whole, and in what is fused with a quantizer."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_p = partial(Mutant, file="qkernels/triton/fp4_parts.py")
_r = partial(Mutant, file="qkernels/triton/fp4_rows.py")
_n = partial(Mutant, file="qkernels/triton/norm_words.py")
_s = partial(Mutant, file="qkernels/triton/fp4_silu.py")
_l = partial(Mutant, file="qkernels/triton/fp4_launch.py")

MUTANTS = (
    _p(
        "tiles-padding-unwritten",
        "mask=block < (blocks + 3) // 4 * 4)",
        "mask=inside)",
        "padding of the blocked scales stays what was in memory",
        "layouts",
    ),
    _p(
        "tiles-padding-not-zero",
        "tl.where(inside, byte, 0).to(tl.uint8), mask=block",
        "byte.to(tl.uint8), mask=block",
        "padding of the blocked scales is the scale of a block of zeros, which is not always 0",
        "layouts",
    ),
    _p(
        "tiles-rows-by-four",
        "((row & 31) << 4) + ((row & 96) >> 3)",
        "row % 128 // 4 * 16 + row % 4 * 4",
        "rows of blocked scales lie in another order",
        "layouts",
    ),
    _p(
        "tiles-too-narrow",
        "(row >> 7) * ((blocks + 3) >> 2)",
        "row // 128 * (blocks // 4)",
        "where blocks are no multiple of four, the next 128 rows overwrite the end of these",
        "layouts",
    ),
    _p(
        "tiles-squares-of-the-same-rows",
        "index // BESIDE % 4 * 32",
        "index // BESIDE % 4 * 0",
        "rows 32, 64 and 96 below are never written",
        "layouts",
    ),
    _p(
        "tiles-values-in-another-order",
        "tl.permute(tl.join(low, high), (0, 2, 1))",
        "tl.join(low, high)",
        "fp32 elements of a block are out of order",
        "quantizer:values",
        "nvfp4_1l",
    ),
    _p(
        "tiles-rotation-not-normalised",
        "amax = amax * root_of(HADAMARD)",
        "amax = amax * 1.0",
        "the scale of a rotated block lacks 1/sqrt(n), its codes have it",
        "quantizer:values",
        "nvfp4 hadamard 32",
    ),
    _p(
        "four-over-six-turned",
        'PARTS, SELECT == "mse") < error',
        'PARTS, SELECT == "mse") > error',
        "of two scales the worse is taken",
        "quantizer:values",
        "nvfp4_4over6",
    ),
    _p(
        "four-over-six-always-squared",
        'error = selection_error(sizes, gain, scale, PARTS, SELECT == "mse")',
        "error = selection_error(sizes, gain, scale, PARTS, True)",
        "the errors of two scales are compared, one squared and one not",
        "quantizer:values",
        "nvfp4_4over6_mae",
    ),
    _p(
        "token-bad-block-left-out",
        "word = largest_words(word, loaded[i] & 0x7FFF7FFF, HALF, True)",
        "word = largest_words(word, loaded[i] & 0x7FFF7FFF, HALF, False)",
        "one infinity takes the global scale of its row",
        "quantizer:nonfinite",
        "nvfp4_token",
    ),
    _p(
        "token-bad-element-of-values",
        "tl.where(bits < 0x7F800000, bits, 0)",
        "bits",
        "one infinity of fp32 takes the global scale of its row",
        "quantizer:nonfinite",
        "nvfp4_token",
    ),
    _r(
        "token-scale-unwritten",
        "        tl.store(global_ptr + row, encode_scale, mask=row < m)\n",
        "",
        "the rows' global scales stay what was in memory",
        "quantizer:stale",
        "nvfp4_token",
    ),
    Mutant(
        "norm-values-of-zeros-overflow",
        "tl.minimum(inverse * rest, _LARGEST)",
        "inverse * rest",
        "a row of zeros is multiplied by infinity, and its codes are those of NaN",
        "norms",
        file="qkernels/triton/mxfp4_quantize.py",
    ),
    _r(
        "norm-values-mean-of-the-padded-row",
        "tl.sum(tl.sum(squares, axis=1), axis=0) / k + eps",
        "tl.sum(tl.sum(squares, axis=1), axis=0) / (squares.shape[0] * 8 * PARTS) + eps",
        "the mean is taken over as many elements as the program has places",
        "norms",
    ),
    _r(
        "norm-values-residual-not-rounded",
        "(parts[i] + residual[i]).to(DTYPE).to(tl.float32)",
        "(parts[i] + residual[i])",
        "what is normed is not the sum that is written",
        "norms",
    ),
    _n(
        "norm-of-zeros-overflows",
        "tl.minimum(inverse * rest, _LARGEST)",
        "inverse * rest",
        "a row of zeros is multiplied by infinity, and its codes are those of NaN",
        "norms",
    ),
    _n(
        "norm-mean-of-the-padded-row",
        "sum_of_squares(words, PARTS, HALF) / k + eps",
        "sum_of_squares(words, PARTS, HALF) / (LENGTH * UNIT) + eps",
        "the mean is taken over as many elements as the program has places",
        "norms",
    ),
    _n(
        "norm-eps-outside-the-root",
        "tl.rsqrt(sum_of_squares(words, PARTS, HALF) / k + eps)",
        "tl.rsqrt(sum_of_squares(words, PARTS, HALF) / k) + eps",
        "eps is added after the root",
        "norms",
    ),
    _n(
        "norm-rounded-in-between",
        "products += (values(words[i], HALF) * values(weights[i], LIKE_HALF),)",
        "products += ((values(words[i], HALF) * values(weights[i], LIKE_HALF)).to(tl.float16).to(tl.float32),)",
        "the norm is rounded to sixteen bits before it is quantized",
        "norms",
    ),
    _n(
        "norm-weight-of-the-wrong-type",
        "HALF: tl.constexpr = weight_ptr.dtype.element_ty == tl.float16",
        "HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16",
        "a weight of another sixteen-bit type than x is read as x's",
        "norms",
    ),
    _n(
        "norm-sum-of-exchanged-halves",
        "[low_a + low_b, high_a + high_b]",
        "[high_a + high_b, low_a + low_b]",
        "neighbours of a bf16 sum with the residual change places",
        "norms",
    ),
    _n(
        "norm-sum-written-by-the-wrong-plan",
        "inside, PARTS, HALF, not REREAD)",
        "inside, PARTS, HALF, REREAD)",
        "a row that is read once leaves its sum with the residual unwritten",
        "norms",
    ),
    _n(
        "norm-reread-of-x-alone",
        "        tile = added_parts(",
        "        _ = added_parts(",
        "a row that is read twice is divided by the root of x, not of the sum with the residual",
        "norms",
    ),
    _n(
        "norm-scale-of-a-part",
        "amax = largest_of_group(amax, SPLIT, 1)",
        "amax = amax",
        "a block in two threads takes the scale of its first part",
        "norms",
    ),
    _s(
        "silu-halves-exchanged",
        "block_values(gates, PARTS, WORDS, HALF), block_values(ups, PARTS, WORDS, HALF)",
        "block_values(ups, PARTS, WORDS, HALF), block_values(gates, PARTS, WORDS, HALF)",
        "gate and up change places",
        "norms",
    ),
    _s(
        "silu-up-of-the-next-block",
        "load_block(x_ptr + k, inside",
        "load_block(x_ptr + BLOCK, inside",
        "up is taken from the block after the gate's",
        "norms",
    ),
    _l(
        "layout-of-linear-size",
        '(blocked_bytes(m, shape[-1]),) if layout == "blocked" else shape',
        "shape",
        "blocked scales are given a linear tensor",
        "layouts",
        dies="ValueError",
    ),
)

"""Bugs in the FP8 quantizer: formulas, clamps, the second pass over long rows."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp8_quantize.py")
_c = partial(Mutant, file="qkernels/triton/scaled_codes.py")
_h = partial(Mutant, file="qkernels/triton/fp8_held_sm90.py")
_SECOND = """            y = tl.where(finite, correct_quotient(more, scale, inverse), 0.0)
            tl.store(out_ptr + start + column, to_e4m3(y, HARDWARE), mask=(start + column < k) | EVEN)
"""

MUTANTS = (
    _c(
        "fp8-clamp-loses-nan",
        "return y.to(tl.float8e4nv)",
        "return tl.maximum(tl.minimum(y, 448.0), -448.0).to(tl.float8e4nv)",
        "a clamp turns NaN into a finite number",
        "quantizer:nonfinite",
        "fp8 static",
    ),
    _c(
        "fp8-clamp-at-half",
        "return y.to(tl.float8e4nv)",
        "return tl.clamp(y, -240.0, 240.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)",
        "codes saturate at 240, the largest of another FP8 type",
        "quantizer:values",
        "fp8 static",
    ),
    _c(
        "fp8-static-divides",
        "to_e4m3(x * inverse, HARDWARE)",
        "to_e4m3(tl.div_rn(x, tl.div_rn(1.0, inverse)), HARDWARE)",
        "x/s where the formula says x*(1/s)",
        "quantizer:ties",
        "fp8 static",
    ),
    _c(
        "fp8-static-scale-inverted",
        "tl.div_rn(1.0, tl.load(scale_ptr))",
        "tl.load(scale_ptr)",
        "a static scale is read as its reciprocal",
        "quantizer:values",
        "fp8 static",
    ),
    _c(
        "fp8-static-scale-ignored",
        "tl.div_rn(1.0, tl.load(scale_ptr))",
        "1.0",
        "a static scale is ignored",
        "quantizer:values",
        "fp8 static",
    ),
    _c(
        "fp8-scale-of-447",
        "tl.div_rn(amax, 448.0)",
        "tl.div_rn(amax, 447.0)",
        "the scale is amax/447",
        "quantizer:values",
        "fp8",
    ),
    _c(
        "fp8-zero-tensor-nan",
        "return scale, tl.minimum(tl.div_rn(1.0, scale), _LARGEST), finite",
        "return scale, tl.div_rn(1.0, scale), finite",
        "0*inf: a zero tensor becomes NaN",
        "quantizer:boundaries",
        "fp8",
    ),
    _c(
        "fp8-nonfinite-tensor-silently-finite",
        'scale = tl.where(finite, tl.div_rn(amax, 448.0), float("nan"))',
        "scale = tl.where(finite, tl.div_rn(amax, 448.0), 1.0)",
        "a tensor with NaN gets the scale 1 and zeros",
        "quantizer:nonfinite",
        "fp8",
    ),
    _c(
        "fp8-scale-never-written",
        "if tl.program_id(0) + tl.program_id(1) == 0:",
        "if tl.program_id(0) + tl.program_id(1) == 1:",
        "the dynamic scale of a matrix of one tile is never written",
        "exact",
        "fp8",
    ),
    _m(
        "fp8-mask-off-by-one",
        "inside = (row < m)[:, None] & (column < k)[None, :]",
        "inside = (row < m)[:, None] & (column <= k)[None, :]",
        "one element after each row is read and written",
        "quantizer:layouts",
        "fp8 static",
    ),
    _m(
        "fp8-last-row-unwritten",
        "inside = (row < m)[:, None] & (column < k)[None, :]",
        "inside = (row < m - 1)[:, None] & (column < k)[None, :]",
        "the last row is never written",
        "quantizer:layouts",
        "fp8 static",
    ),
    _m(
        "fp8-stride-ignored",
        "x_ptr + at * stride + column",
        "x_ptr + at * k + column",
        "a column slice is read as if it were contiguous",
        "quantizer:layouts",
        "fp8 static",
    ),
    _m(
        "fp8-output-at-input-stride",
        "out_ptr + at * k + column",
        "out_ptr + at * stride + column",
        "the result is written with the stride of the input",
        "quantizer:layouts",
        "fp8 static",
    ),
    _m(
        "fp8-offset-in-int32",
        "    at = row.to(tl.int64)[:, None]\n",
        "    at = row[:, None]\n",
        "offsets overflow beyond 2^31 elements",
        "offsets",
    ),
    _m(
        "fp8-tensor-scale-of-one-tile",
        "    partial = partial_amax(x, early=early) if dynamic else None\n",
        "    partial = partial_amax(x[:, :1024], early=early) if dynamic else None\n",
        "the dynamic maximum misses the columns after the first 1024",
        "quantizer:shapes",
        "fp8",
    ),
    # --- per token
    _m(
        "fp8-token-least-scale-dropped",
        "scale = tl.maximum(tl.div_rn(amax_bits.to(tl.float32, bitcast=True), 448.0), _LEAST_SCALE)",
        "scale = tl.div_rn(amax_bits.to(tl.float32, bitcast=True), 448.0)",
        "the least scale of a row is missing: zero rows are NaN",
        "quantizer:boundaries",
        "fp8_token",
    ),
    _m(
        "fp8-token-least-scale-inverted",
        "_LEAST_SCALE = tl.constexpr(MIN_TOKEN_SCALE)",
        "_LEAST_SCALE = tl.constexpr(1.0 / 448.0)",
        "rows below 1 are quantized with the scale of 1",
        "quantizer:values",
        "fp8_token",
    ),
    _m(
        "fp8-token-nonfinite-silently-finite",
        'tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))',
        "tl.store(scale_ptr + row, tl.where(finite, scale, 1.0))",
        "a row with NaN decodes to zeros",
        "quantizer:nonfinite",
        "fp8_token",
    ),
    _m(
        "fp8-token-scale-of-one-row",
        'tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))',
        'tl.store(scale_ptr, tl.where(finite, scale, float("nan")))',
        "every row writes its scale to the first place",
        "quantizer:stale",
        "fp8_token",
    ),
    _m(
        "fp8-token-maximum-of-first-piece",
        "            bits = tl.maximum(bits, magnitude_bits(more))\n",
        "            bits = tl.maximum(bits, 0)\n",
        "the scale of a long row is that of its first 8192 elements",
        "quantizer:shapes",
        "fp8_token",
    ),
    _m(
        "fp8-token-second-pass-divides-by-one",
        _SECOND,
        _SECOND.replace("correct_quotient(more, scale, inverse)", "more"),
        "the second pass over a long row forgets the scale",
        "quantizer:shapes",
        "fp8_token",
    ),
    _m(
        "fp8-token-second-pass-misses-a-piece",
        "        for start in range(LENGTH, k, LENGTH):\n"
        "            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0)"
        ".to(tl.float32)\n"
        "            y =",
        "        for start in range(LENGTH, k - LENGTH + 1, LENGTH):\n"
        "            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0)"
        ".to(tl.float32)\n"
        "            y =",
        "the last, short piece of a long row is never written",
        "quantizer:shapes",
        "fp8_token",
    ),
    _m(
        "fp8-token-mask-off-by-one",
        "x = tl.load(x_ptr + column, mask=inside, other=0.0).to(tl.float32)\n    bits",
        "x = tl.load(x_ptr + column, mask=column <= k, other=0.0).to(tl.float32)\n    bits",
        "the element after each row is part of its maximum",
        "quantizer:layouts",
        "fp8_token",
    ),
    _m(
        "fp8-token-stride-ignored",
        "    x_ptr += row * stride\n",
        "    x_ptr += row * k\n",
        "a column slice is read as if it were contiguous",
        "quantizer:layouts",
        "fp8_token",
    ),
    _m(
        "fp8-token-offset-in-int32",
        "row = tl.program_id(0).to(tl.int64)",
        "row = tl.program_id(0)",
        "offsets overflow beyond 2^31 elements",
        "offsets",
    ),
    Mutant(
        "held-tiles-missing-from-the-maximum",
        "    for i in tl.static_range(HELD):\n        best = largest_words(best, held[i]",
        "    for i in tl.static_range(1, HELD):\n        best = largest_words(best, held[i]",
        "what the first held tile of each program has is not in the maximum",
        "held",
        file="qkernels/triton/fp8_held.py",
    ),
    Mutant(
        "held-last-turn-missing",
        "tl.maximum(rest + programs - 1, 0)",
        "tl.maximum(rest, 0)",
        "the last tiles are neither looked at nor written",
        "held",
        file="qkernels/triton/fp8_held.py",
    ),
    Mutant(
        "held-tile-unmasked",
        "inside = there & (unit < units)",
        "inside = there & (unit < units + 1)",
        "elements after the tensor are looked at, and written",
        "held",
        count=2,
        file="qkernels/triton/fp8_held.py",
    ),
    Mutant(
        "fp8-held-tiles-begin-one-turn-early",
        "last = program + (HELD + turns - 1) * programs",
        "last = program + (HELD + turns - 2) * programs",
        "the last tile of each program is not written",
        "held",
        file="qkernels/triton/fp8_held.py",
    ),
    _h(
        "held-sm90-stages-missing-from-the-maximum",
        "for t in range(s, count):",
        "for t in range(s + 1, count):",
        "a stage of shared memory is not in the maximum where registers take few rounds",
        "held-sm90",
    ),
    _h(
        "held-sm90-last-tile-unmasked",
        "limit = beyond - round * (R * PIECES) if i == R - 1 else None",
        "limit = None",
        "elements after the tensor are looked at",
        "held-sm90",
    ),
    _h(
        "held-sm90-first-tile-not-read-again",
        "limit = gl.where(first + round * R - 1 - n >= 0, PIECES, 0)",
        "limit = gl.where(first + round * R - 1 - n > 0, PIECES, 0)",
        "the first tile of each program that is read a second time has codes of zeros",
        "held-sm90",
    ),
    _h(
        "held-sm90-tiles-of-a-stage-in-the-place-of-the-first",
        "words = memory.index(s * STAGE + i).load(L)",
        "words = memory.index(s * STAGE).load(L)",
        "all tiles of a stage get the codes of its first",
        "held-sm90",
    ),
    _h(
        "held-sm90-stage-larger-than-what-is-left",
        "held = min(pieces // (stage * tile), stages * programs)",
        "held = min(triton.cdiv(pieces, stage * tile), stages * programs)",
        "a stage reaches beyond the tensor",
        "held-sm90",
    ),
)

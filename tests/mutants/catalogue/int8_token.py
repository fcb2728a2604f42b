"""Bugs in INT8 per token: scales and zero points of rows, constant rows, the second pass over long ones."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/int8_quantize.py")
_c = partial(Mutant, file="qkernels/triton/scaled_codes.py")

MUTANTS = (
    # --- per token
    _m(
        "int8-token-scale-of-128",
        "scale = tl.div_rn(amax, 127.0)",
        "scale = tl.div_rn(amax, 128.0)",
        "the scale is amax/128, the codes are those of amax/127",
        "quantizer:values",
        "int8_token",
    ),
    _m(
        "int8-token-reciprocal-of-scale",
        "factor = tl.minimum(tl.div_rn(127.0, amax), _LARGEST)",
        "factor = tl.minimum(tl.div_rn(1.0, scale), _LARGEST)",
        "1/s for 127/amax: rounded twice",
        "exact",
        "int8_token",
    ),
    _m(
        "int8-token-nonfinite-silently-finite",
        'tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))',
        "tl.store(scale_ptr + row, tl.where(finite, scale, 0.0))",
        "a row with NaN decodes to zeros",
        "quantizer:nonfinite",
        "int8_token",
    ),
    _m(
        "int8-token-nonfinite-codes-left",
        'tl.where(finite, divide_by_scale(x, factor), float("nan"))',
        "divide_by_scale(x, factor)",
        "codes of a row with a NaN scale are not 0",
        "quantizer:nonfinite",
        "int8_asym",
    ),
    _m(
        "int8-token-maximum-of-first-piece",
        "            bits = tl.maximum(bits, magnitude_bits(more))\n",
        "            bits = tl.maximum(bits, 0)\n",
        "the scale of a long row is that of its first 8192 elements",
        "quantizer:shapes",
        "int8_token",
    ),
    _m(
        "int8-token-second-pass-unscaled",
        "codes = scaled_codes(more, factor, zero_point, finite, SYMMETRIC)",
        "codes = scaled_codes(more, 1.0, zero_point, finite, SYMMETRIC)",
        "the second pass over a long row forgets the scale",
        "quantizer:shapes",
        "int8_token",
    ),
    _m(
        "int8-token-second-pass-starts-late",
        "        for start in range(LENGTH, k, LENGTH):\n"
        "            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0)",
        "        for start in range(2 * LENGTH, k, LENGTH):\n"
        "            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0)",
        "the second piece of a long row is never written",
        "quantizer:shapes",
        "int8_token",
    ),
    _m(
        "int8-token-scale-of-one-row",
        "tl.store(scale_ptr + row,",
        "tl.store(scale_ptr,",
        "every row writes its scale to the first place",
        "quantizer:stale",
        "int8_token",
    ),
    _m(
        "int8-token-stride-ignored",
        "    x_ptr += row * stride\n",
        "    x_ptr += row * k\n",
        "a column slice is read as if it were contiguous",
        "quantizer:layouts",
        "int8_token",
    ),
    _m(
        "int8-token-offset-in-int32",
        "row = tl.program_id(0).to(tl.int64)",
        "row = tl.program_id(0)",
        "offsets overflow beyond 2^31 elements",
        "offsets",
    ),
    # --- asymmetric
    _m(
        "int8-asym-absent-elements-are-zero",
        "x = tl.load(x_ptr + column, mask=inside, other=first).to(tl.float32)",
        "x = tl.load(x_ptr + column, mask=inside, other=0.0).to(tl.float32)",
        "the padding of a row counts as zeros: a row of positive numbers has the minimum 0",
        "quantizer:shapes",
        "int8_asym",
    ),
    _c(
        "int8-asym-scale-of-256",
        "scale = tl.div_rn(spread, 255.0)",
        "scale = tl.div_rn(spread, 256.0)",
        "the scale is (max - min)/256",
        "quantizer:values",
        "int8_asym",
    ),
    _c(
        "int8-asym-zero-point-of-maximum",
        "round_even(-128.0 - tl.div_rn(low, scale))",
        "round_even(-128.0 + tl.div_rn(low, scale))",
        "the zero point has the wrong sign",
        "quantizer:values",
        "int8_asym",
    ),
    _c(
        "int8-asym-constant-row-lost",
        "    scale = tl.where((spread == 0.0) | (scale == 0.0), amax, scale)\n",
        "    scale = tl.where((spread == 0.0) | (scale == 0.0), 1.0, scale)\n",
        "a constant row is quantized with the scale 1 and lost",
        "quantizer:boundaries",
        "int8_asym",
    ),
    _c(
        "int8-asym-zero-row-divides-by-zero",
        "    scale = tl.where(amax == 0.0, 1.0, scale)\n",
        "",
        "a zero row has the scale 0 and a zero point of 0/0",
        "quantizer:boundaries",
        "int8_asym",
    ),
    _c(
        "int8-asym-nearly-constant-row-lost",
        "    scale = tl.maximum(scale, amax * 9.5367431640625e-07)  # 2^-20\n",
        "",
        "the zero point of a nearly constant row leaves fp32's 24 bits",
        "exact",
        "int8_asym",
    ),
    _c(
        "int8-asym-spread-overflows",
        '    if spread == float("inf"):  # max - min beyond fp32: both ends near 3e38\n'
        "        scale = ((high.to(tl.float64) - low.to(tl.float64)) / 255.0).to(tl.float32)\n",
        "",
        "max - min of a row near both ends of fp32 is inf",
        "exact",
        "int8_asym",
    ),
    _m(
        "int8-asym-minimum-of-first-piece",
        "low, high = tl.minimum(low, more), tl.maximum(high, more)",
        "low, high = tl.minimum(low, low), tl.maximum(high, more)",
        "the minimum of a long row is that of its first piece",
        "quantizer:shapes",
        "int8_asym",
    ),
    _m(
        "int8-asym-zero-point-of-one-row",
        "tl.store(zero_ptr + row, zero_point)",
        "tl.store(zero_ptr, zero_point)",
        "every row writes its zero point to the first place",
        "quantizer:stale",
        "int8_asym",
    ),
    _m(
        "int8-static-zero-point-not-checked",
        "    if abs(value) > ZERO_POINT_LIMIT:\n",
        "    if abs(value) > 1 << 31:\n",
        "a zero point that fp32 cannot add is taken",
        "refusals",
    ),
)

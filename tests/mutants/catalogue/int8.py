"""Bugs in the INT8 quantizer: rounding, saturation, static scales and zero points."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/int8_quantize.py")
_c = partial(Mutant, file="qkernels/triton/scaled_codes.py")
_ROUND = "return (y + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000"
_CLAMP = "round_even(tl.maximum(tl.minimum(y, 127.0 - shift), -128.0 - shift))"

MUTANTS = (
    _c(
        "int8-truncates",
        _ROUND,
        "return y.to(tl.int32)",
        "codes are truncated toward zero",
        "quantizer:values",
        "int8 static",
    ),
    _c(
        "int8-ties-half-up",
        _ROUND,
        "return tl.floor(y + 0.5).to(tl.int32)",
        "ties go up: floor(y + 0.5)",
        "quantizer:ties",
        "int8 static",
    ),
    _c(
        "int8-ties-away",
        _ROUND,
        "return tl.where(y < 0, -tl.floor(0.5 - y), tl.floor(y + 0.5)).to(tl.int32)",
        "ties are rounded away from zero",
        "quantizer:ties",
        "int8 static",
    ),
    _c(
        "int8-minus-128-unreachable",
        "divisor * -128.25",
        "divisor * -127.25",
        "-128 is never given",
        "quantizer:values",
        "int8 static",
    ),
    _c(
        "int8-wraps",
        "tl.maximum(tl.minimum(x * factor, divisor * 127.25), divisor * -128.25)",
        "x * factor",
        "codes beyond 127 wrap around",
        "quantizer:values",
        "int8 static",
    ),
    _c(
        "int8-clamp-before-zero-point",
        _CLAMP,
        "round_even(tl.maximum(tl.minimum(y, 127.0), -128.0))",
        "saturation forgets the zero point: codes wrap",
        "quantizer:values",
        "int8_asym static",
    ),
    _c(
        "int8-zero-point-sign",
        "-128.0 - shift)) + zero_point",
        "-128.0 - shift)) - zero_point",
        "the zero point is subtracted from the code",
        "quantizer:values",
        "int8_asym static",
    ),
    _c(
        "int8-nan-not-zero",
        "return tl.where(y == y, code, 0).to(tl.int8)",
        "return code.to(tl.int8)",
        "NaN under a static scale gives some code",
        "quantizer:nonfinite",
        "int8_asym static",
    ),
    _c(
        "int8-symmetric-nan-not-zero",
        "return tl.where(x == x, code, 0).to(tl.int8)",
        "return code.to(tl.int8)",
        "NaN under a static scale without a zero point gives some code",
        "quantizer:nonfinite",
        "int8 static",
    ),
    _c(
        "int8-static-reciprocal",
        "correct_quotient(bounded, divisor, tl.div_rn(1.0, divisor))",
        "bounded * tl.div_rn(1.0, divisor)",
        "x*(1/s) where the formula says x/s",
        "quantizer:ties",
        "int8 static",
    ),
    _m(
        "int8-static-zero-point-ignored",
        "        zero_point = tl.load(zero_ptr)\n",
        "        zero_point = tl.load(zero_ptr) * 0\n",
        "a static zero point is ignored",
        "quantizer:values",
        "int8_asym static",
    ),
    _m(
        "int8-static-mask-off-by-one",
        "inside = (row < m)[:, None] & (column < k)[None, :]",
        "inside = (row < m)[:, None] & (column <= k)[None, :]",
        "one element after each row is read and written",
        "quantizer:layouts",
        "int8 static",
    ),
    _m(
        "int8-static-stride-ignored",
        "x_ptr + at * stride + column",
        "x_ptr + at * k + column",
        "a column slice is read as if it were contiguous",
        "quantizer:layouts",
        "int8 static",
    ),
    _m(
        "int8-static-offset-in-int32",
        "    at = row.to(tl.int64)[:, None]\n",
        "    at = row[:, None]\n",
        "offsets overflow beyond 2^31 elements",
        "offsets",
    ),
)

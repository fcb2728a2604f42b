"""Bugs in the device functions that round to E4M3 and divide."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4.py")
_BYTE = "byte = (total.to(tl.int32, bitcast=True) & 31) + (binade >> 20) - 968"

MUTANTS = (
    # --- E4M3 scales and codes
    _m(
        "e4m3-scale-truncated",
        "    total = t + magic\n",
        "    total = (t - binade.to(tl.float32, bitcast=True) * 0.0624999) + magic\n",
        "the block scale is rounded down instead of to nearest",
        "quantizer:values",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-scale-ties-away",
        "    total = t + magic\n",
        "    total = tl.where(t > 0, t.to(tl.int32, bitcast=True) + 1, 0).to(tl.float32, bitcast=True) + magic\n",
        "ties of the block scale are rounded away, where the quotient is exact",
        "exact",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-subnormal-scale-flushed",
        "return byte, total - magic",
        "return tl.where(byte < 8, 0, byte), tl.where(byte < 8, 0.0, total - magic)",
        "a subnormal block scale is flushed to zero",
        "quantizer:ties",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-subnormal-quantum",
        "binade = tl.maximum(t.to(tl.int32, bitcast=True) & 0x7F800000, 0x3C800000)",
        "binade = tl.maximum(t.to(tl.int32, bitcast=True) & 0x7F800000, 0x3C000000)",
        "subnormal block scales are rounded with a finer quantum than they have",
        "quantizer:ties",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-scale-byte-off-by-an-exponent",
        _BYTE,
        _BYTE.replace("968", "960"),
        "the scale byte is one exponent too large",
        "quantizer:values",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-codes-of-unrounded-scale",
        "return byte, total - magic",
        "return byte, t",
        "x is divided by the scale before it was rounded to E4M3",
        "quantizer:values",
        "nvfp4_1l",
    ),
    _m(
        "e4m3-code-not-clamped",
        "round_e4m3(tl.minimum(tl.abs(y), 448.0))",
        "round_e4m3(tl.abs(y))",
        "codes beyond 448 are not clamped: NaN, or they wrap",
        "quantizer:boundaries",
        "fp8 by arithmetic",
    ),
    _m(
        "e4m3-code-ties-away",
        "round_e4m3(tl.minimum(tl.abs(y), 448.0))",
        "round_e4m3(tl.minimum(tl.abs(y), 448.0) * 1.00000012)",
        "ties of FP8 codes are rounded away",
        "quantizer:ties",
        "fp8 by arithmetic",
    ),
    _m(
        "e4m3-code-sign-lost",
        "    byte = byte | ((y_bits >> 24) & 0x80)\n",
        "",
        "the sign of FP8 codes is lost",
        "quantizer:values",
        "fp8_token by arithmetic",
    ),
    _m(
        "e4m3-code-of-nan-finite",
        "return tl.where((y_bits & 0x7FFFFFFF) > 0x7F800000, 0x7F, byte).to(tl.uint8)",
        "return byte.to(tl.uint8)",
        "NaN under a static FP8 scale becomes a finite number",
        "quantizer:nonfinite",
        "fp8 by arithmetic",
    ),
    _m(
        "e4m3-code-of-inf-is-nan",
        "(y_bits & 0x7FFFFFFF) > 0x7F800000, 0x7F",
        "(y_bits & 0x7FFFFFFF) >= 0x7F800000, 0x7F",
        "inf under a static FP8 scale becomes NaN instead of saturating",
        "quantizer:nonfinite",
        "fp8 by arithmetic",
    ),
    # --- division
    _m(
        "quotient-of-reciprocal",
        "return tl.fma(tl.fma(quotient, divisor, x * -1.0), -inverse, quotient)",
        "return quotient",
        "x*(1/s) for x/s: rounded twice",
        "exact",
        "fp8_token",
    ),
    _m(
        "quotient-remainder-not-fused",
        "tl.fma(tl.fma(quotient, divisor, x * -1.0), -inverse, quotient)",
        "(x - quotient * divisor) * inverse + quotient",
        "the remainder of the quotient is rounded: the correction corrects nothing",
        "exact",
        "fp8_token",
    ),
    _m(
        "quotient-negative-zero-lost",
        "tl.fma(tl.fma(quotient, divisor, x * -1.0), -inverse, quotient)",
        "tl.fma(tl.fma(-quotient, divisor, x), inverse, quotient)",
        "-0 becomes +0 in the corrected quotient",
        "exact",
        "fp8_token",
    ),
    _m(
        "division-by-tiny-scale",
        "factor = tl.where(scale < 8.673617379884035e-19, 1.2089258196146292e24, 1.0)",
        "factor = tl.where(scale < 0.0, 1.2089258196146292e24, 1.0)",
        "the reciprocal of a tiny INT8 scale overflows",
        "exact",
        "int8_asym",
    ),
    _m(
        "division-saturates-early",
        "limit = divisor * 8388608.0",
        "limit = divisor * 64.0",
        "quotients saturate at 64 instead of 2^23",
        "quantizer:values",
        "int8_asym static",
    ),
    _m(
        "division-loses-nan",
        "bounded = tl.clamp(x * factor, -limit, limit, propagate_nan=tl.PropagateNan.ALL)",
        "bounded = tl.minimum(tl.maximum(x * factor, -limit), limit)",
        "NaN is clamped to the lower limit: -128 where the documented code is 0",
        "quantizer:nonfinite",
        "int8_asym static",
    ),
)

"""Bugs in the device functions that encode and pack E2M1."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4.py")
_SIZE = "size = tl.minimum(tl.abs(y), 6.0 / GAIN)\n"

MUTANTS = (
    _m(
        "e2m1-ties-toward-zero",
        _SIZE,
        _SIZE
        + "    size = tl.maximum(size.to(tl.int32, bitcast=True) - 1, 0).to(tl.float32, bitcast=True)\n",
        "ties of E2M1 are rounded down",
        "e2m1",
    ),
    _m(
        "e2m1-ties-away",
        _SIZE,
        _SIZE + "    size = (size.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)\n",
        "ties of E2M1 are rounded away from zero",
        "e2m1",
    ),
    _m(
        "e2m1-ties-half-up",
        _SIZE,
        _SIZE
        + "    size = tl.maximum(size.to(tl.int32, bitcast=True) + tl.where(y > 0, 1, -1), 0)"
        + ".to(tl.float32, bitcast=True)\n",
        "ties of E2M1 are rounded toward +inf, as floor(y + 0.5) does",
        "e2m1",
    ),
    _m(
        "e2m1-truncates",
        "total = size + (binade",
        "total = size - binade.to(tl.float32, bitcast=True) * 0.2499999 + (binade",
        "codes of E2M1 are truncated",
        "e2m1",
    ),
    _m(
        "e2m1-tie-of-half-alone",
        _SIZE,
        _SIZE + "    size = tl.where(size == 2.5, 2.6, size)\n",
        "the tie 2.5 alone goes up: a threshold with >= for >",
        "e2m1",
    ),
    _m(
        "e2m1-double-rounding",
        _SIZE,
        _SIZE + "    size = size.to(tl.float16).to(tl.float32)\n",
        "x/s is rounded to fp16 before it is rounded to E2M1",
        "e2m1",
    ),
    _m(
        "e2m1-gain-double-rounding",
        "total = tl.fma(size, GAIN, (binade + (22 << 23)).to(tl.float32, bitcast=True))",
        "total = size * GAIN + (binade + (22 << 23)).to(tl.float32, bitcast=True)",
        "3*x is rounded to fp32 before it is rounded to E2M1",
        "fold-ties",
    ),
    _m(
        "e2m1-no-subnormal",
        "binade = tl.maximum(size.to(tl.int32, bitcast=True) & 0x7F800000, 0x3F800000)",
        "binade = tl.maximum(size.to(tl.int32, bitcast=True) & 0x7F800000, 0x3F000000)",
        "E2M1's subnormal 0.5 is encoded with a finer quantum",
        "e2m1",
    ),
    _m(
        "e2m1-no-saturation",
        _SIZE,
        "size = tl.abs(y)\n",
        "a value beyond 6 wraps around instead of saturating",
        "e2m1",
    ),
    _m(
        "e2m1-saturates-at-4",
        _SIZE,
        "size = tl.minimum(tl.abs(y), 4.0 / GAIN)\n",
        "the code of 6 is never given",
        "e2m1",
    ),
    _m(
        "e2m1-sign-lost",
        "return (code & 7) | ((y_bits >> 28) & 8)",
        "return code & 7",
        "the sign bit is lost",
        "e2m1",
    ),
    _m(
        "e2m1-negative-zero-lost",
        "return (code & 7) | ((y_bits >> 28) & 8)",
        "return (code & 7) | tl.where((code & 7) == 0, 0, (y_bits >> 28) & 8)",
        "-0, and what rounds to it, becomes +0",
        "e2m1",
    ),
    _m(
        "nibbles-swapped",
        "return (low | (high << 4)).to(tl.uint8)",
        "return (high | (low << 4)).to(tl.uint8)",
        "the even element is put in the high nibble",
        "gemm-quantize",
    ),
    _m(
        "e2m1-number-beyond-six",
        "bounded = tl.minimum(y, 6.0)",
        "bounded = y",
        "the folded rows hold 8 where E2M1 ends at 6",
        "fold-ties",
    ),
    _m(
        "e2m1-number-of-a-finer-quantum",
        "magic = (power + (22 << 23)).to(tl.float32, bitcast=True)\n    return (bounded",
        "magic = (power + (21 << 23)).to(tl.float32, bitcast=True)\n    return (bounded",
        "folded rows hold numbers that E2M1 has not",
        "fold-ties",
    ),
)

"""Bugs in the exact quantizers: MX exponent rules, FP8 and INT8 formulas."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_x = partial(Mutant, file="qkernels/quantize_mx.py", check="reference")
_s = partial(Mutant, file="qkernels/quantize_scaled.py", check="reference")

MUTANTS = (
    # --- MX rules
    _x(
        name="ref-mx-floor-exponent",
        old="return exponent - element.emax +",
        new="return exponent - element.emax - 1 +",
        bug="every MX scale is one exponent too small",
    ),
    _x(
        name="ref-mx-emax-of-e2m1",
        old="return exponent - element.emax +",
        new="return exponent - 2 +",
        bug="every MX element has the largest exponent of E2M1",
        check="blocks",
    ),
    _x(
        name="ref-mx-ceil-inclusive",
        old='"ceil": (1.0, False)',
        new='"ceil": (1.0, True)',
        bug="ceil adds one to a power of two",
    ),
    _x(
        name="ref-mx-even-exclusive",
        old='"even": (2.0 - 2.0 ** -(element.mantissa + 1), True)',
        new='"even": (2.0 - 2.0 ** -(element.mantissa + 1), False)',
        bug="even misses its threshold itself",
    ),
    _x(
        name="ref-mx-rceil-inclusive",
        old='"rceil": (element.max / 2.0**element.emax, False)',
        new='"rceil": (element.max / 2.0**element.emax, True)',
        bug="rceil adds one at 1.5 itself",
    ),
    _x(
        name="ref-mx-abs-max-in-float64",
        old="floor_log2(amax.to(torch.float32) + 1e-8)",
        new="floor_log2(amax)",
        bug="abs_max forgets its 1e-8",
    ),
    _x(
        name="ref-mx-quest-negative-variance",
        old="exponent = torch.where(variance >= 0, floor_log2(scale), 0)",
        new="exponent = floor_log2(scale)",
        bug="quest forgets that a negative variance means the scale 1",
    ),
    _x(
        name="ref-mx-quest-gain",
        old="QUEST_GAIN = 2.92247856 / 6.0",
        new="QUEST_GAIN = 2.92247856 / 8.0",
        bug="quest divides by 8 instead of 6",
    ),
    # --- FP8 and INT8
    _s(
        name="ref-division-by-reciprocal",
        old="return torch.full_like(denominator, numerator) / denominator",
        new="return numerator / denominator",
        bug="a number over a tensor is reciprocal times number: rounded twice",
    ),
    _s(
        name="ref-fp8-token-least-scale",
        old="divide(amax, 448.0).clamp(min=MIN_TOKEN_SCALE)",
        new="divide(amax, 448.0)",
        bug="the least per-token scale is missing",
    ),
    _s(
        name="ref-fp8-token-reciprocal",
        old='y = x / scale if fmt.granularity == "row"',
        new='y = x * (1.0 / scale) if fmt.granularity == "row"',
        bug="per-token FP8 multiplies by the reciprocal",
    ),
    _s(
        name="ref-fp8-static-divides",
        old="else x * divide(1.0, scale).clamp(max=FLOAT32_MAX)\n        return encode_float",
        new="else x / scale\n        return encode_float",
        bug="per-tensor FP8 divides where the formula multiplies by the reciprocal",
    ),
    _s(
        name="ref-zero-tensor-nan",
        old="x * divide(1.0, scale).clamp(max=FLOAT32_MAX)",
        new="x * divide(1.0, scale)",
        bug="0*inf: a zero tensor becomes NaN",
    ),
    _s(
        name="ref-int8-minus-128",
        old=".clamp(-128, 127).to(torch.int8)",
        new=".clamp(-127, 127).to(torch.int8)",
        bug="-128 is never given",
    ),
    _s(
        name="ref-int8-reciprocal-of-scale",
        old="divide(127.0, x.abs().amax(-1, keepdim=True))",
        new="divide(1.0, scale)",
        bug="per-token INT8 multiplies by 1/s instead of 127/amax",
    ),
    _s(
        name="ref-int8-zero-point-ignored",
        old="        q = q + zero_point\n",
        new="        q = q - zero_point\n",
        bug="the zero point is subtracted",
    ),
    _s(
        name="ref-int8-constant-row",
        old="scale = torch.where((spread == 0) | (scale == 0), amax, scale)",
        new="scale = torch.where(scale == 0, 1.0, scale)",
        bug="a constant row is lost",
    ),
    _s(
        name="ref-nonfinite-row-finite",
        old="return torch.where(torch.isfinite(amax), scale, torch.nan)",
        new="return torch.where(torch.isfinite(amax), scale, 1.0)",
        bug="a row with NaN or inf decodes to finite numbers",
    ),
    _s(
        name="ref-tensor-scale-of-last-part",
        old="amax = torch.maximum(amax, part.abs().amax().to(torch.float32))",
        new="amax = part.abs().amax().to(torch.float32).reshape(1)",
        bug="the scale of a tensor is that of its last rows",
    ),
    _s(
        name="ref-stochastic-seed-ignored",
        old="device=like.device, generator=generator)",
        new="device=like.device)",
        bug="stochastic rounding ignores the generator: nothing can be repeated",
        check="blocks",
    ),
    _s(
        name="ref-static-scale-not-checked",
        old="if not (bool(torch.isfinite(scale)) and float(scale) > 0):",
        new="if not bool(torch.isfinite(scale)):",
        bug="a static scale may be negative",
        check="refusals",
    ),
)

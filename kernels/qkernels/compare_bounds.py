"""Which scales and codes a correct quantizer may give: intervals, because honest fp32 orders of operations differ.

True ties exist, so two correct fp32 orders disagree in about 1e-3 of NVFP4 codes. Allowed is what some point of
y*(1 ± 2^-21) rounds to; given the scale that was stored, each code is judged under that scale. MX arithmetic is exact
and gets no slack. A rotated input adds `slack`, the absolute error of an fp32 rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import E4M3_NAN, decode_e4m3, decode_e8m0, encode_e2m1, encode_e4m3, encode_e8m0, floor_log2
from .format import FLOAT32_MAX, Format
from .quantize_mx import QUEST_GAIN, amax_exponents, quest_moments
from .quantize_scaled import LEAST_SPREAD, divide, encode_rows, row_scale
from .tensor import QTensor

EPS = 2.0**-21
LEAST_FLOAT32 = 2.0**-149


@dataclass(frozen=True)
class Bounds:
    """Allowed scales and codes of some rows. Codes and their bounds are ordinals (see `ordinal`), -0 below +0."""

    scale_bad: Tensor  # bool, shape of the scale
    scale_low: Tensor
    scale_high: Tensor
    code: Tensor  # [r, K] int16
    code_low: Tensor
    code_high: Tensor
    code_bad: Tensor  # bool [r, K]
    y: Tensor  # [r, K] float64, what was rounded to the code


def ordinal(codes: Tensor, bits: int) -> Tensor:
    """Sign-magnitude codes as int16 in the order of their values: -max .. -0 → -1, +0 → 0 .. max."""
    sign = 1 << (bits - 1)
    magnitude = (codes & (sign - 1)).to(torch.int16)
    return torch.where(codes >= sign, -1 - magnitude, magnitude)


def block_bounds(part: QTensor, y: Tensor, slack: Tensor | None, fmt: Format, input_dtype: torch.dtype) -> Bounds:
    """Bounds of block formats. y: float64 [r, K], rotated; slack: float64 [r, K/block] or None."""
    assert fmt.block is not None
    blocks = y.unflatten(-1, (part.scale.shape[-1], fmt.block))
    amax = blocks.abs().amax(-1)
    room = torch.zeros_like(amax) if slack is None else slack
    finite = torch.isfinite(amax)
    byte = part.scale
    if fmt.scale == "e4m3":
        encode = 1.0 if part.global_scale is None else part.global_scale.to(torch.float64)
        unit = LEAST_FLOAT32 * encode  # amax/6 may be subnormal in fp32
        t_low = divide((amax - room) * encode, 6.0) * (1 - EPS) - unit
        t_high = divide((amax + room) * encode, 6.0) * (1 + EPS) + torch.where(amax > 0, unit, 0.0)
        low, high = (encode_e4m3(t.clamp(min=fmt.min_scale)) for t in (t_low, t_high))
        scale_bad = torch.where(finite, (byte < low) | (byte > high), (byte & 0x7F) != E4M3_NAN)
        nan_low = E4M3_NAN
        decoded = decode_e4m3(byte).to(torch.float64)
        factor, eps = encode, EPS
    else:
        low, high, extra = _mx_scale_bounds(blocks, amax, room, fmt.rule, rotated=slack is not None)
        scale_bad = torch.where(finite, ((byte < low) | (byte > high)) & ((byte != 127) | ~extra), byte != 255)
        nan_low = 255
        decoded = decode_e8m0(byte).to(torch.float64)
        # 3*x needs two bits more than x: only an fp32 x makes it inexact
        factor, eps = fmt.gain, EPS if fmt.gain != 1 and input_dtype == torch.float32 else 0.0
    low, high = low.masked_fill(~finite, nan_low), high.masked_fill(~finite, nan_low)
    compared = (finite & (decoded > 0) & ~scale_bad).unsqueeze(-1)  # a wrong scale is reported as such
    scale = torch.where(compared, decoded.unsqueeze(-1), 1.0)
    exact = torch.where(compared, blocks * factor / scale, 0.0)
    near, far = exact * (1 - eps), exact * (1 + eps)
    y_low, y_high = torch.minimum(near, far), torch.maximum(near, far)
    if slack is not None:
        absolute = torch.where(compared, room.unsqueeze(-1) * factor / scale, 0.0)
        y_low, y_high = y_low - absolute, y_high + absolute
        y_low = torch.where(y_low == 0, -0.0, y_low)  # the sign of a cancelled sum is not defined
    code_low = ordinal(encode_e2m1(y_low), 4)
    code_high = ordinal(encode_e2m1(y_high), 4) if eps or slack is not None else code_low
    code = ordinal(part.codes(), 4)
    code_low, code_high = code_low.flatten(-2), code_high.flatten(-2)
    wrong = ((code < code_low) | (code > code_high)) & compared.expand_as(exact).flatten(-2)
    return Bounds(scale_bad, low, high, code, code_low, code_high, wrong, exact.flatten(-2))


def _mx_scale_bounds(
    blocks: Tensor, amax: Tensor, room: Tensor, rule: str, *, rotated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Least and greatest byte, and where byte 127 (scale 1) is allowed besides: quest with a variance around zero."""
    never = torch.zeros_like(amax, dtype=torch.bool)
    if rule != "quest":
        low = encode_e8m0(amax_exponents((amax - room).clamp(min=0), rule))
        return low, encode_e8m0(amax_exponents(amax + room, rule)) if rotated else low, never
    # The order of the fp32 sums over 32 elements is free: each term of the difference is good to 2^-18 of E[x²].
    variance, square = (m.to(torch.float64) for m in quest_moments(blocks))
    spread = 2.0**-18 * square + 4 * room * (blocks.abs().mean(-1) + room)
    ends = []
    for value, eps in ((variance - spread, -EPS), (variance + spread, EPS)):
        scale = torch.sqrt(value.clamp(min=0)) * QUEST_GAIN + 1e-8
        ends.append(encode_e8m0(floor_log2(scale * (1 + eps))))
    overflow = ~torch.isfinite(square)  # E[x²] beyond fp32: the rule has no value, any finite scale will do
    low, high = ends[0].masked_fill(overflow, 0), ends[1].masked_fill(overflow, 254)
    return low, high, variance - spread < 0


def row_bounds(part: QTensor, x: Tensor, fmt: Format, scale: Tensor | None, *, static: bool) -> Bounds:
    """Bounds of FP8 and INT8. x: float32 [r, K]; scale: the expected per-tensor scale [1], None if per row."""
    wide, amax = x.to(torch.float64), x.abs().amax(-1, keepdim=True)
    expected = row_scale(x, fmt)[0] if scale is None else scale
    found, nan = part.scale, torch.isnan(expected)
    low, high = (expected, expected) if static else _within_one_ulp(expected, zero=amax == 0 if scale is None else scale == 0)
    # Rows whose spread drowns in their offset: only their value is defined, not how scale and zero point share it.
    flat_rows = torch.zeros_like(nan)
    if not fmt.symmetric and not static:
        spread = wide.amax(-1, keepdim=True) - wide.amin(-1, keepdim=True)
        flat_rows = (divide(spread, 255.0) < amax * LEAST_SPREAD) & ~nan
    in_range = torch.isfinite(found) & (flat_rows | ((found >= low) & (found <= high)))
    scale_bad = torch.where(nan, ~torch.isnan(found), ~in_range)
    code = ordinal(part.codes(), 8) if fmt.element.name == "e4m3" else part.data.to(torch.int16)
    y = torch.where(x == 0, wide, wide / found.to(torch.float64))
    if static:
        raw = encode_rows(x, fmt, expected, part.zero_point, static=True)
        code_low = code_high = ordinal(raw, 8) if fmt.element.name == "e4m3" else raw.to(torch.int16)
        compared = torch.ones_like(x, dtype=torch.bool) if fmt.element.name == "e4m3" else ~torch.isnan(x)
    else:
        code_low, code_high = _dynamic_codes(y, found, part.zero_point, fmt, zero_row=amax == 0)
        if part.zero_point is not None:
            scale_bad = scale_bad | (~nan & ~flat_rows & _zero_point_bad(x, found, part.zero_point))
        compared = ~nan & ~scale_bad & ((found > 0) | (amax == 0))  # nothing is defined under a scale of 0
    wrong = ((code < code_low) | (code > code_high)) & compared
    if bool(flat_rows.any()):
        lost = ~((part.exact_values() - wide).abs() <= amax.to(torch.float64) * LEAST_SPREAD)
        wrong = torch.where(flat_rows, lost, wrong)
    return Bounds(scale_bad, low, high, code, code_low, code_high, wrong, y)


def _within_one_ulp(scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """The fp32 neighbours of a scale >= 0; zeros decode to zero under any finite scale."""
    bits = scale.view(torch.int32)
    low, high = (bits - 1).clamp(min=0).view(torch.float32), (bits + 1).view(torch.float32)
    return torch.where(zero, 0.0, low), torch.where(zero, FLOAT32_MAX, high)


def _dynamic_codes(
    y: Tensor, scale: Tensor, zero_point: Tensor | None, fmt: Format, *, zero_row: Tensor
) -> tuple[Tensor, Tensor]:
    near, far = y * (1 - EPS), y * (1 + EPS)
    low, high = torch.minimum(near, far), torch.maximum(near, far)
    capped = scale < 2.0**-125  # the reciprocal reaches the end of fp32: anything from zero to y
    low, high = torch.where(capped & (low > 0), 0.0, low), torch.where(capped & (high < 0), -0.0, high)
    if fmt.element.name == "e4m3":
        low = torch.where(zero_row, -0.0, low)
        high = torch.where(zero_row, 0.0, high)
        return ordinal(encode_e4m3(low), 8), ordinal(encode_e4m3(high), 8)
    shift = 0 if zero_point is None else zero_point.to(torch.float64)
    ends = [(torch.round(end) + shift).nan_to_num(0.0).clamp(-128, 127).to(torch.int16) for end in (low, high)]
    return ends[0], ends[1]


def _zero_point_bad(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    least = x.amin(-1, keepdim=True).to(torch.float64) / scale.to(torch.float64)
    ends = torch.stack([torch.round(-128.0 - least * (1 + eps)) for eps in (-EPS, EPS)])
    return (zero_point < ends.amin(0)) | (zero_point > ends.amax(0))

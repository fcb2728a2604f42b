"""Bounds for FP8 and INT8. Static: the stated fp32 formula, bit for bit. Dynamic: the scale to one unit in the last
place (division), then the codes that some point of x/s*(1 ± 2^-21) rounds to under the scale that was stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import encode_e4m3
from .compare_bounds import EPS, Bounds, ordinal
from .format import FLOAT32_MAX, Format
from .quantize_scaled import LEAST_SPREAD, divide, encode_rows, row_scale
from .tensor import QTensor


def row_bounds(part: QTensor, x: Tensor, fmt: Format, scale: Tensor | None, *, static: bool) -> Bounds:
    """Bounds of FP8 and INT8. x: float32 [r, K]; scale: the expected per-tensor scale [1], None if per row."""
    wide, amax = x.to(torch.float64), x.abs().amax(-1, keepdim=True)
    expected = row_scale(x, fmt)[0] if scale is None else scale
    found, nan = part.scale, torch.isnan(expected)
    low, high = (
        (expected, expected)
        if static
        else _within_one_ulp(expected, zero=amax == 0 if scale is None else scale == 0)
    )
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
    ends = [
        (torch.round(end) + shift).nan_to_num(0.0).clamp(-128, 127).to(torch.int16) for end in (low, high)
    ]
    return ends[0], ends[1]


def _zero_point_bad(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    least = x.amin(-1, keepdim=True).to(torch.float64) / scale.to(torch.float64)
    ends = torch.stack([torch.round(-128.0 - least * (1 + eps)) for eps in (-EPS, EPS)])
    return (zero_point < ends.amin(0)) | (zero_point > ends.amax(0))

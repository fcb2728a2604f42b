"""Bounds for FP8 and INT8. Static: the stated fp32 formula, bit for bit. Dynamic: the scale to one unit in the last
place (division), then the codes that some point of x/s*(1 ± 2^-21) rounds to under the scale that was stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..format import Format
from ..quantize_scaled import LEAST_SPREAD, divide, encode_rows, row_scale
from ..tensor import QTensor
from .bounds import Bounds, code_ends, open_ends, ordinals
from .scales import EPS, within_one_ulp


def row_bounds(
    part: QTensor, x: Tensor, fmt: Format, scale: Tensor | None, *, static: bool, rounding: str = "nearest"
) -> Bounds:
    """Bounds of FP8 and INT8. x: float32 [r, K]; scale: the expected per-tensor scale [1], None if per row."""
    wide, amax = x.to(torch.float64), x.abs().amax(-1, keepdim=True)
    expected = row_scale(x, fmt)[0] if scale is None else scale
    found, nan = part.scale, torch.isnan(expected)
    low, high = (
        (expected, expected)
        if static
        else within_one_ulp(expected, expected, zero=amax == 0 if scale is None else scale == 0)
    )
    # Rows whose spread drowns in their offset: only their value is defined, not how scale and zero point share it.
    flat_rows = torch.zeros_like(nan)
    if not fmt.symmetric and not static:
        spread = wide.amax(-1, keepdim=True) - wide.amin(-1, keepdim=True)
        flat_rows = (divide(spread, 255.0) < amax * LEAST_SPREAD) & ~nan
    in_range = torch.isfinite(found) & (flat_rows | ((found >= low) & (found <= high)))
    scale_bad = torch.where(nan, ~torch.isnan(found), ~in_range)
    code = ordinals(part.codes(), fmt.element)
    y = torch.where(x == 0, wide, wide / found.to(torch.float64))
    if static:
        code_low, code_high = _static_codes(x, fmt, expected, part.zero_point, rounding)
        if not fmt.element.integer:  # E4M3 has two NaN, and a cast may keep the sign
            nan_code = (part.codes() & 0x7F) == 0x7F
            code = torch.where(nan_code & torch.isnan(x), code_low, code)
        compared = torch.ones_like(x, dtype=torch.bool) if not fmt.element.integer else ~torch.isnan(x)
    else:
        code_low, code_high = _dynamic_codes(
            y, found, part.zero_point, fmt, zero_row=amax == 0, rounding=rounding
        )
        if part.zero_point is not None:
            scale_bad = scale_bad | (~nan & ~flat_rows & _zero_point_bad(x, found, part.zero_point))
        compared = ~nan & ~scale_bad & ((found > 0) | (amax == 0))  # nothing is defined under a scale of 0
    wrong = ((code < code_low) | (code > code_high)) & compared
    if bool(flat_rows.any()):
        steps = 2 if rounding == "stochastic" else 1
        lost = ~((part.exact_values() - wide).abs() <= amax.to(torch.float64) * LEAST_SPREAD * steps)
        wrong = torch.where(flat_rows, lost, wrong)
    return Bounds(scale_bad, low, high, code, code_low, code_high, wrong, y)


def _static_codes(
    x: Tensor, fmt: Format, scale: Tensor, zero_point: Tensor | None, rounding: str
) -> tuple[Tensor, Tensor]:
    """The stated fp32 formula; stochastic: both neighbours, which noise of 0 and (never below a fraction) 1 give."""
    ends = []
    for fill in (None,) if rounding == "nearest" else (0.0, 1.0):
        noise = None if fill is None else torch.full_like(x, fill, dtype=torch.float64)
        raw = encode_rows(x, fmt, scale, zero_point, static=True, noise=noise)
        ends.append(ordinals(raw.view(torch.uint8), fmt.element))
    return torch.minimum(ends[0], ends[-1]), torch.maximum(ends[0], ends[-1])


def _dynamic_codes(
    y: Tensor, scale: Tensor, zero_point: Tensor | None, fmt: Format, *, zero_row: Tensor, rounding: str
) -> tuple[Tensor, Tensor]:
    near, far = y * (1 - EPS), y * (1 + EPS)
    low, high = open_ends(torch.minimum(near, far), torch.maximum(near, far), scale, zero_row)
    return code_ends(low, high, zero_point, fmt.element, rounding)


def _zero_point_bad(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    least = x.amin(-1, keepdim=True).to(torch.float64) / scale.to(torch.float64)
    ends = torch.stack([torch.round(-128.0 - least * (1 + eps)) for eps in (-EPS, EPS)])
    return (zero_point < ends.amin(0)) | (zero_point > ends.amax(0))

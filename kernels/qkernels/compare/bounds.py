"""Which scales and codes a correct quantizer may give: intervals, because honest fp32 orders of operations differ.

True ties exist, so two correct fp32 orders disagree in about 1e-3 of NVFP4 codes. Allowed is what some point of
y*(1 ± 2^-21) rounds to; given the scale that was stored, each code is judged under that scale. MX arithmetic is exact
and gets no slack. A rotated input adds `slack`, the absolute error of an fp32 rotation. Stochastic rounding may give
either neighbour of a point of that interval. Scales: scales.py; FP8 and INT8 without blocks: rows.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec import encode_e2m1, encode_float, round_steps
from ..format import E2M1, Element, Format
from ..quantize_block import decode_scale, from_blocks, scaled, to_blocks
from ..tensor import QTensor
from .scales import EPS as EPS
from .scales import scale_bounds


@dataclass(frozen=True)
class Bounds:
    """Allowed scales and codes of some rows. Codes and their bounds are ordinals (see `ordinals`), -0 below +0."""

    scale_bad: Tensor  # bool, shape of the scale: a row for each group of block_rows rows
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


def ordinals(codes: Tensor, element: Element) -> Tensor:
    """Raw codes (uint8) as int16 in the order of their values; those of integers are the integers."""
    if not element.integer:
        return ordinal(codes, element.bits)
    sign = 1 << (element.bits - 1) if element.least < 0 else 0
    return (codes.to(torch.int16) ^ sign) - sign


def code_ends(
    low: Tensor, high: Tensor, zero_point: Tensor | None, element: Element, rounding: str
) -> tuple[Tensor, Tensor]:
    """Ordinals of the least and greatest code that float64 numbers from `low` to `high` may round to."""
    ends = []
    for y, below in ((low, True), (high, False)):
        if element.integer:
            noise = torch.full_like(y, below) if rounding == "stochastic" else None
            code = round_steps(y, noise) + (0 if zero_point is None else zero_point)
            ends.append(code.nan_to_num(0.0).clamp(element.least, element.greatest).to(torch.int16))
            continue
        noise = None
        if rounding == "stochastic":  # 1 is less than no fraction: towards zero; 0 than all: away from it
            noise = ((y >= 0) == below).to(torch.float64)
        codes = encode_e2m1(y) if element is E2M1 and noise is None else encode_float(y, element, noise)
        ends.append(ordinal(codes, element.bits))
    return ends[0], ends[1]


def block_bounds(
    part: QTensor,
    y: Tensor,
    slack: Tensor | None,
    fmt: Format,
    input_dtype: torch.dtype,
    rounding: str = "nearest",
) -> Bounds:
    """Bounds of block formats. y: float64 [r, K], rotated; slack: float64 [r, K/block] or None."""
    assert fmt.block is not None
    blocks = to_blocks(y, fmt)
    amax = blocks.abs().amax(-1)
    room = torch.zeros_like(amax) if slack is None else _by_group(slack, fmt)
    gs = None if part.global_scale is None else part.global_scale.reshape(-1, 1)
    scales = scale_bounds(part, blocks, room, gs, slack is not None)
    decoded = decode_scale(part.scale, fmt)
    if fmt.scale == "e8m0":
        # 3*x needs two bits more than x: only an fp32 x makes it inexact
        eps = EPS if fmt.gain != 1 and input_dtype == torch.float32 else 0.0
    else:
        eps = EPS
    zero = amax == 0
    meant = decoded > 0 if fmt.scale != "fp32" or not fmt.symmetric else (decoded > 0) | zero
    compared = (torch.isfinite(amax) & meant & ~scales.bad).unsqueeze(-1)  # a wrong scale is reported as such
    exact = torch.where(compared, scaled(blocks, part.scale, fmt, gs), 0.0)
    near, far = exact * (1 - eps), exact * (1 + eps)
    low, high = torch.minimum(near, far), torch.maximum(near, far)
    if slack is not None:
        absolute = torch.where(compared, scaled(room.unsqueeze(-1), part.scale, fmt, gs), 0.0)
        low, high = low - absolute, high + absolute
        low = torch.where(low == 0, -0.0, low)  # the sign of a cancelled sum is not defined
    if part.zero_point is not None:  # x/s + zp may be one fp32 sum, as in compressed-tensors
        sum_error = (fmt.element.greatest + 1) * 2.0**-24
        low, high = low - sum_error, high + sum_error
    if fmt.scale == "fp32":
        low, high = open_ends(low, high, part.scale.unsqueeze(-1), zero.unsqueeze(-1))
    shift = None if part.zero_point is None else part.zero_point.unsqueeze(-1)
    code_low, code_high = (
        from_blocks(end, fmt, len(y)) for end in code_ends(low, high, shift, fmt.element, rounding)
    )
    code = ordinals(part.codes(), fmt.element)
    judged = from_blocks(compared.expand_as(exact), fmt, len(y))
    wrong = ((code < code_low) | (code > code_high)) & judged
    return Bounds(
        scales.bad, scales.low, scales.high, code, code_low, code_high, wrong, from_blocks(exact, fmt, len(y))
    )


def open_ends(low: Tensor, high: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """x/s where an fp32 kernel has more freedom: x*(1/s) under a tiny s, and either zero for zeros."""
    capped = scale < 2.0**-125  # the reciprocal reaches the end of fp32: anything from zero to y
    low, high = torch.where(capped & (low > 0), 0.0, low), torch.where(capped & (high < 0), -0.0, high)
    return torch.where(zero, -0.0, low), torch.where(zero, 0.0, high)


def _by_group(slack: Tensor, fmt: Format) -> Tensor:
    """[r, C] → [ceil(r/block_rows), C], the greatest of each group."""
    if fmt.block_rows == 1:
        return slack
    padded = torch.nn.functional.pad(slack, (0, 0, 0, -len(slack) % fmt.block_rows))
    return padded.reshape(len(padded) // fmt.block_rows, fmt.block_rows, slack.shape[-1]).amax(1)

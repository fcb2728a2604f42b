"""Which scales and codes a correct quantizer may give: intervals, because honest fp32 orders of operations differ.

True ties exist, so two correct fp32 orders disagree in about 1e-3 of NVFP4 codes. Allowed is what some point of
y*(1 ± 2^-21) rounds to; given the scale that was stored, each code is judged under that scale. MX arithmetic is exact
and gets no slack. A rotated input adds `slack`, the absolute error of an fp32 rotation. FP8 and INT8: compare_rows.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import E4M3_NAN, decode_e4m3, decode_e8m0, encode_e2m1, encode_e4m3, encode_e8m0, floor_log2
from .format import Format
from .quantize_mx import QUEST_GAIN, amax_exponents, quest_moments
from .quantize_scaled import divide
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


def block_bounds(
    part: QTensor, y: Tensor, slack: Tensor | None, fmt: Format, input_dtype: torch.dtype
) -> Bounds:
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
        scale_bad = torch.where(
            finite, ((byte < low) | (byte > high)) & ((byte != 127) | ~extra), byte != 255
        )
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

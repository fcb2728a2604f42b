"""Which block scales a correct quantizer may store: intervals of bytes or fp32 numbers, and four-over-six's choice.

Given the global scale that was stored, an e4m3 scale may be what any point of t*(1 ± 2^-21) rounds to; MX scales are
exact; an fp32 scale may be the neighbour of the correctly rounded one, and anything for a block of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec import E4M3_NAN, E8M0_NAN, encode_e4m3, encode_e8m0, floor_log2
from ..format import FLOAT32_MAX, Format
from ..quantize_block import FOUR_OVER_SIX, distance, encoded
from ..quantize_mx import QUEST_GAIN, amax_exponents, quest_moments
from ..quantize_scaled import divide
from ..tensor import QTensor

EPS = 2.0**-21
LEAST_FLOAT32 = 2.0**-149


@dataclass(frozen=True)
class ScaleBounds:
    """[R, C]: stored scales outside low .. high are bad, and so may be one within: four-over-six, zero points."""

    low: Tensor
    high: Tensor
    bad: Tensor


def scale_bounds(
    part: QTensor, blocks: Tensor, room: Tensor, gs: Tensor | None, rotated: bool
) -> ScaleBounds:
    """Bounds of part.scale for float64 blocks [R, C, n], known to within room [R, C]."""
    fmt = part.format
    if fmt.scale == "fp32":
        return _fp32_scales(part, blocks, room)
    amax, byte = blocks.abs().amax(-1), part.scale
    finite = torch.isfinite(amax)
    if fmt.scale == "e8m0":
        low, high, extra = _mx_bytes(blocks, amax, room, fmt, rotated=rotated)
        wrong, nan = ((byte < low) | (byte > high)) & ((byte != 127) | ~extra), E8M0_NAN
        lost = byte != E8M0_NAN
    else:
        low, high = _e4m3_bytes(amax, room, gs, fmt, 1.0)
        wrong, nan = (byte < low) | (byte > high), E4M3_NAN
        lost = (byte & 0x7F) != E4M3_NAN
        if fmt.select:
            low, high, wrong = _four_over_six(byte, blocks, room, gs, fmt)
    low, high = low.masked_fill(~finite, nan), high.masked_fill(~finite, nan)
    return ScaleBounds(low, high, torch.where(finite, wrong, lost))


def within_one_ulp(least: Tensor, most: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """From the fp32 number below `least` to the one above `most`, both >= 0; zeros decode to zero under any scale."""
    low = (least.view(torch.int32) - 1).clamp(min=0).view(torch.float32)
    high = (most.view(torch.int32) + 1).view(torch.float32)
    return torch.where(zero, 0.0, low), torch.where(zero, FLOAT32_MAX, high)


def _fp32_scales(part: QTensor, blocks: Tensor, room: Tensor) -> ScaleBounds:
    """max|x|/max, or (high - low)/15 with a zero point, judged under the scale that was stored."""
    fmt, found = part.format, part.scale
    least, most = blocks.amin(-1), blocks.amax(-1)
    zero, finite = (least == 0) & (most == 0), torch.isfinite(most - least)
    if fmt.symmetric:
        span, slack = torch.maximum(-least, most), room
    else:
        span, slack = most.clamp(min=0) - least.clamp(max=0), 2 * room
    least_scale, most_scale = (
        divide(end.nan_to_num(0.0), fmt.element.max).to(torch.float32)
        for end in ((span - slack).clamp(min=0), span + slack)
    )
    low, high = within_one_ulp(least_scale, most_scale, zero)
    wrong = ~(torch.isfinite(found) & (found >= low) & (found <= high))
    if part.zero_point is not None:
        wrong |= _zero_point_bad(part.zero_point, found, (-least).clamp(min=0), room, fmt) & ~zero
    nan = torch.full_like(low, torch.nan)
    low, high = torch.where(finite, low, nan), torch.where(finite, high, nan)
    return ScaleBounds(low, high, torch.where(finite, wrong, ~torch.isnan(found)))


def _zero_point_bad(zero_point: Tensor, scale: Tensor, depth: Tensor, room: Tensor, fmt: Format) -> Tensor:
    """Not rne(depth/s), depth = max(-x), for any point of ±2^-21; under a scale of 0 every one of 0..15 will do."""
    wide, top = scale.to(torch.float64), fmt.element.greatest
    ends = [torch.round((depth + shift) / wide * (1 + eps)) for shift, eps in ((-room, -EPS), (room, EPS))]
    low, high = ends[0].nan_to_num(0.0).clamp(0, top), ends[1].nan_to_num(float(top)).clamp(0, top)
    low = torch.where(scale > 0, low, 0.0)
    return (zero_point < low) | (zero_point > high)


def _e4m3_bytes(
    amax: Tensor, room: Tensor, gs: Tensor | None, fmt: Format, factor: float
) -> tuple[Tensor, Tensor]:
    """Least and greatest byte of e4m3(factor*amax/6*gs)."""
    encode = 1.0 if gs is None else gs.to(torch.float64)
    unit = LEAST_FLOAT32 * encode  # amax/6 may be subnormal in fp32
    t_low = divide((amax - room) * encode, fmt.element.max) * (1 - EPS) - unit
    t_high = divide((amax + room) * encode, fmt.element.max) * (1 + EPS) + torch.where(amax > 0, unit, 0.0)
    low, high = (encode_e4m3((t * factor).clamp(min=fmt.min_scale)) for t in (t_low, t_high))
    return low, high


def _four_over_six(
    byte: Tensor, blocks: Tensor, room: Tensor, gs: Tensor | None, fmt: Format
) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, wrong): a byte must be a candidate's, and that candidate's error not clearly the larger one."""
    amax = blocks.abs().amax(-1)
    six, four = (_e4m3_bytes(amax, room, gs, fmt, factor) for factor in (1.0, FOUR_OVER_SIX))
    six_least, six_most = _error_range(blocks, six, room, gs, fmt)
    four_least, four_most = _error_range(blocks, four, room, gs, fmt)
    take_six, take_four = six_least <= four_most, four_least <= six_most
    right = take_six & (byte >= six[0]) & (byte <= six[1]) | take_four & (byte >= four[0]) & (byte <= four[1])
    return torch.where(take_six, six[0], four[0]), torch.where(take_four, four[1], six[1]), ~right


def _error_range(
    blocks: Tensor, ends: tuple[Tensor, Tensor], room: Tensor, gs: Tensor | None, fmt: Format
) -> tuple[Tensor, Tensor]:
    """[R, C] the least and greatest error that honest fp32 arithmetic may find for a candidate, by its possible bytes.

    A product, a quotient and a difference in fp32, and a code next to a tie, put each distance within 2^-19 of |x*gs|.
    """
    wanted = encoded(blocks, gs).abs()
    absolute = room.unsqueeze(-1) if gs is None else (room * gs.to(torch.float64)).unsqueeze(-1)
    off_by = 4 * EPS * wanted + 2 * absolute
    ranges = []
    for byte in ends[:1] if torch.equal(*ends) else ends:
        off = distance(blocks, byte, fmt, gs)
        if fmt.select == "mse":
            error, slack = off.square().sum(-1), (off_by * (2 * off + off_by)).sum(-1)
        else:
            error, slack = off.sum(-1), off_by.sum(-1)
        slack = slack + 4 * EPS * error  # of the fp32 sum
        ranges.append((error - slack, error + slack))
    least, most = (torch.stack(each) for each in zip(*ranges, strict=True))
    far = ends[1] - ends[0] > 1  # a rotation that cancels: bytes between the ends were not tried
    return torch.where(far, 0.0, least.amin(0)), torch.where(far, torch.inf, most.amax(0))


def _mx_bytes(
    blocks: Tensor, amax: Tensor, room: Tensor, fmt: Format, *, rotated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Least and greatest byte, and where byte 127 (scale 1) is allowed besides: quest with a variance around zero."""
    never = torch.zeros_like(amax, dtype=torch.bool)
    if fmt.rule != "quest":
        low = encode_e8m0(amax_exponents((amax - room).clamp(min=0), fmt.rule, fmt.element))
        if not rotated:
            return low, low, never
        return low, encode_e8m0(amax_exponents(amax + room, fmt.rule, fmt.element)), never
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

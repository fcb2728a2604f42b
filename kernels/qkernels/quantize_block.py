"""Block formats: how blocks get their scales, and what is rounded to their codes. All in float64 on [R, C, n] blocks.

A block is 1 x block elements, or block_rows x block (NVFP4 of weights 16x16, DeepSeek's weights 128x128): n elements.
    e4m3 (NVFP4)      t = amax/6*gs, s = e4m3(max(t, min_scale)) saturating at 448, code = e2m1(x*gs/s)
    e8m0 (MX)         s = 2^exponent of quantize_mx.py, code = element(x/s)
    fp32, FP8         s = fl32(amax/448), code = e4m3(x/s), value = code*s: activations in 1x128 and weights in 128x128
                      blocks, DeepSeek-V3 report (arXiv 2412.19437) section 3.3. DeepGEMM's helpers raise amax to 1e-4.
    fp32, INT4        s = fl32(amax/7.5), code = sat(rne(x/s)) in -8..7: GPTQ and compressed-tensors, symmetric
    fp32, asymmetric  s = fl32((high - low)/15) with low <= 0 <= high, zp = rne(-low/s), code = sat(rne(x/s) + zp) in
                      0..15, value (code - zp)*s: GPTQ. (AWQ does not widen the range to 0 and loses constant groups.)

Four-over-six (arXiv 2512.02010 and its code): E2M1 has no number between 4 and 6, so each block takes the better of
two scales, A = e4m3(t), which maps amax to 6, and B = e4m3(1.5*t), rounded once, which maps it to 4. The error is the
sum over the block of (code*s - x*gs)² or |code*s - x*gs|; B is taken only if its error is strictly smaller. The sum is
in float64 here, in fp32 in the authors' code. It is always the error of codes rounded to nearest: a choice by
stochastically rounded codes would prefer lucky draws and bias the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import (
    E4M3_NAN,
    E8M0_NAN,
    decode_e4m3,
    decode_e8m0,
    decode_float,
    encode_e2m1,
    encode_e4m3,
    encode_e8m0,
    encode_float,
    pow2,
    round_steps,
)
from .format import E2M1, Format
from .quantize_mx import shared_exponents
from .quantize_scaled import divide

_NAN_SCALE = {"e4m3": E4M3_NAN, "e8m0": E8M0_NAN, "fp32": torch.nan}
FOUR_OVER_SIX = 1.5


def to_blocks(y: Tensor, fmt: Format) -> Tensor:
    """[r, K] → [ceil(r/block_rows), K/block, block_rows*block]; a short last group is filled with zeros."""
    assert fmt.block is not None
    columns = y.shape[-1] // fmt.block
    if fmt.block_rows == 1:
        return y.reshape(len(y), columns, fmt.block)
    y = torch.nn.functional.pad(y, (0, 0, 0, -len(y) % fmt.block_rows))
    tiles = y.reshape(len(y) // fmt.block_rows, fmt.block_rows, columns, fmt.block).transpose(1, 2)
    return tiles.reshape(len(tiles), columns, fmt.block_rows * fmt.block)


def from_blocks(blocks: Tensor, fmt: Format, rows: int) -> Tensor:
    """The inverse of `to_blocks` for `rows` rows."""
    assert fmt.block is not None
    groups, columns, _ = blocks.shape
    tiles = blocks.reshape(groups, columns, fmt.block_rows, fmt.block).transpose(1, 2)
    return tiles.reshape(groups * fmt.block_rows, columns * fmt.block)[:rows]


def quantize_blocks(
    blocks: Tensor, fmt: Format, gs: Tensor | None, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """float64 [R, C, n] → codes uint8 [R, C, n], stored scales and int32 zero points [R, C].

    gs: float32 encode scale, [1] or [R, 1]; noise: float64 [R, C, n] in [0, 1) for stochastic rounding.
    """
    bad = ~torch.isfinite(blocks).all(-1)
    scale, zero = block_scales(blocks, fmt, gs)
    codes = encode_scaled(scaled(blocks, scale, fmt, gs), zero, fmt, noise).masked_fill(bad.unsqueeze(-1), 0)
    zero = None if zero is None else zero.masked_fill(bad, 0)
    return codes, scale.masked_fill(bad, _NAN_SCALE[fmt.scale]), zero


def block_scales(blocks: Tensor, fmt: Format, gs: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Stored scales (uint8 bits or float32) and zero points [R, C]; those of blocks with NaN or inf mean nothing."""
    if fmt.scale == "e8m0":
        return encode_e8m0(shared_exponents(blocks, fmt.rule, fmt.element)), None
    if fmt.scale == "e4m3":
        # Products of two fp32 numbers are exact in float64 and followed by one division, so a tie stays a tie.
        t = divide(encoded(blocks, gs).abs().amax(-1), fmt.element.max)
        six, four = (encode_e4m3((t * factor).clamp(min=fmt.min_scale)) for factor in (1.0, FOUR_OVER_SIX))
        if not fmt.select:
            return six, None
        better = selection_error(blocks, four, fmt, gs) < selection_error(blocks, six, fmt, gs)
        return torch.where(better, four, six), None
    if fmt.symmetric:
        return divide(blocks.abs().amax(-1), fmt.element.max).to(torch.float32), None
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scale = divide(high - low, fmt.element.max).to(torch.float32)
    zero = torch.round(torch.where(scale > 0, -low / scale, 0.0)).clamp(0, fmt.element.greatest)
    return scale, zero.nan_to_num(0.0).to(torch.int32)


def encoded(blocks: Tensor, gs: Tensor | None) -> Tensor:
    """float64 blocks [R, C, n] times gs: exact for an input of 24 bits."""
    return blocks if gs is None else blocks * gs.to(torch.float64).unsqueeze(-1)


def scaled(blocks: Tensor, scale: Tensor, fmt: Format, gs: Tensor | None) -> Tensor:
    """float64 [R, C, n]: what is rounded to the codes under these stored scales; 0 under a scale of 0."""
    if fmt.scale == "e8m0":
        return blocks * (fmt.gain * pow2(127 - scale.to(torch.int64))).unsqueeze(-1)
    decoded = decode_scale(scale, fmt).unsqueeze(-1)
    return torch.where(decoded > 0, encoded(blocks, gs) / decoded, 0.0)


def decode_scale(scale: Tensor, fmt: Format) -> Tensor:
    """float64 values of stored scales."""
    if fmt.scale == "fp32":
        return scale.to(torch.float64)
    return (decode_e4m3 if fmt.scale == "e4m3" else decode_e8m0)(scale).to(torch.float64)


def encode_scaled(y: Tensor, zero: Tensor | None, fmt: Format, noise: Tensor | None = None) -> Tensor:
    """float64 [R, C, n] → codes uint8: floats sign-magnitude, symmetric INT4 two's complement, asymmetric 0..15."""
    element = fmt.element
    if not element.integer:
        return encode_e2m1(y) if element is E2M1 and noise is None else encode_float(y, element, noise)
    code = round_steps(y, noise)
    if zero is not None:
        code = code + zero.unsqueeze(-1)
    code = code.nan_to_num(0.0).clamp(element.least, element.greatest)
    return (code.to(torch.int16) & ((1 << element.bits) - 1)).to(torch.uint8)


def selection_error(blocks: Tensor, scale: Tensor, fmt: Format, gs: Tensor | None) -> Tensor:
    """float64 [R, C]: four-over-six's error of the blocks under these scales, in units of 1/gs (or its square)."""
    off = distance(blocks, scale, fmt, gs)
    return (off.square() if fmt.select == "mse" else off).sum(-1)


def distance(blocks: Tensor, scale: Tensor, fmt: Format, gs: Tensor | None) -> Tensor:
    """float64 [R, C, n] |code*s - x*gs| with codes rounded to nearest."""
    codes = encode_scaled(scaled(blocks, scale, fmt, gs), None, fmt)
    value = decode_float(codes, fmt.element) * decode_scale(scale, fmt).unsqueeze(-1)
    return (value - encoded(blocks, gs)).abs()

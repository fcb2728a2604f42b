"""Operands that products are tried on: on a coarse grid, random, with every scale byte, laid out oddly, not finite.

All are made on the CPU from small arguments and a seed, and are small enough that one wrong element's row and column
can be printed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from qkernels.format import Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.testing.inputs import drawn

Operand = Tensor | QTensor
ONE = {"e4m3": 0x38, "e8m0": 127}  # the scale byte of 1.0
OCTAVE = {"e4m3": 8, "e8m0": 1}  # from it to that of 2.0
LIFT = 2.0**15  # brings the least e8m0 scale to results that are normal numbers


def quantized(x: Tensor, fmt: Format) -> QTensor:
    """quantize(x, fmt); a format without dynamic scales gets amax/max of x."""
    if fmt.element.integer and fmt.granularity == "tensor":
        return quantize(x, fmt, scale=float(x.abs().amax()) / fmt.element.max or 1.0)
    return quantize(x, fmt)


def coarse(
    rows: int, k: int, fmt: Format, seed: int, *, octaves: int = 2, global_scale: float = 4.0
) -> QTensor:
    """Random codes of few bits under scales 1, 2 .. 2^(octaves-1), so that sums of products are exact in any order."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-12, 13, (max(rows, 1), k), generator=g) / 2
    x[:, :: fmt.block or k] = 6.0 if fmt.symmetric else -6.0
    q = quantized(x, fmt).rows(0, rows) if rows else quantized(x, fmt).rows(0, 0)
    powers = torch.randint(0, octaves, q.scale.shape, generator=g)
    if fmt.scale == "fp32":
        scale = torch.exp2(powers.float())
    else:
        scale = (ONE[fmt.scale] + OCTAVE[fmt.scale] * powers).to(torch.uint8)
    gs = None if q.global_scale is None else torch.full_like(q.global_scale, global_scale)
    return dataclasses.replace(q, scale=scale, global_scale=gs)


def cancelling(a: Operand, b: QTensor) -> tuple[Operand, QTensor] | None:
    """Operands of twice the K: the products of the second half undo all but those of the last block.

    Partial sums grow far beyond the result, so that a narrow accumulator shows in a result rounded to 8 bits.
    None where the codes of a have no negatives (zero points, packed integers).
    """
    k = b.shape[1]
    block = max(b.format.block or 16, (a.format.block or 16) if isinstance(a, QTensor) else 16)
    kept = k - block if k > block else 0
    if isinstance(a, Tensor):
        return torch.cat([a, torch.cat([-a[:, :kept], a[:, kept:]], dim=1)], dim=1), _beside(b, b)
    codes, fmt = a.data.view(torch.uint8).clone(), a.format
    if fmt.element.name == "int8" and fmt.symmetric:
        codes[:, :kept] = (-a.data[:, :kept]).view(torch.uint8)
    elif not fmt.element.integer:
        sign = 1 << (fmt.element.bits - 1)
        codes[:, : kept // 2 if fmt.packed else kept] ^= sign | sign << 4 if fmt.packed else sign
    else:
        return None
    return _beside(a, dataclasses.replace(a, data=codes.view(a.data.dtype))), _beside(b, b)


def _beside(left: QTensor, right: QTensor) -> QTensor:
    def join(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([one.view(torch.uint8), other.view(torch.uint8)], dim=1).view(one.dtype)

    blocks = left.format.block is not None
    scale = torch.cat([left.scale, right.scale], dim=1) if blocks else left.scale
    zero = left.zero_point
    if blocks and zero is not None and right.zero_point is not None:
        zero = torch.cat([zero, right.zero_point], dim=1)
    shape = (left.shape[0], 2 * left.shape[1])
    return dataclasses.replace(
        left, data=join(left.data, right.data), scale=scale, shape=shape, zero_point=zero
    )


def every_scale(fmt: Format) -> Iterator[tuple[float, QTensor]]:
    """(the one-hot activation, weights [scales, block]): codes under each scale byte, as far as bf16 holds the values.

    Codes whose value would be subnormal in bf16, which matrix units may take for zero, are 0; 6 * 2^-127 is not.
    """
    assert fmt.block is not None
    first = 0x20 if fmt.element.bits == 8 else 0  # no NaN among them
    codes = (first + torch.arange(fmt.block) % (1 << min(fmt.element.bits, 6))).to(torch.uint8)
    ranges = [(1.0, 0, 0x7E)] if fmt.scale == "e4m3" else [(LIFT, 0, 90), (1.0, 91, 250 - fmt.element.emax)]
    for hot, least, greatest in ranges:
        scale = torch.arange(least, greatest + 1, dtype=torch.uint8).reshape(-1, 1)
        rows = len(scale) * fmt.block_rows
        gs = None if fmt.levels == 1 else torch.ones((rows, 1) if fmt.global_granularity == "row" else ())
        whole = _of_codes(codes.expand(rows, -1), scale, fmt, gs)
        normal = whole.exact_values().abs() >= 2.0**-126
        yield hot, _of_codes(codes.where(normal, torch.zeros_like(codes)), scale, fmt, gs)


def _of_codes(codes: Tensor, scale: Tensor, fmt: Format, global_scale: Tensor | None) -> QTensor:
    kind = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}.get(fmt.element.name, torch.uint8)
    data = codes[:, 0::2] | codes[:, 1::2] << 4 if fmt.packed else codes.contiguous()
    return QTensor(data.view(kind), scale, fmt, tuple(codes.shape), global_scale)


def random_operand(
    rows: int, k: int, fmt: Format | None, dtype: torch.dtype, kind: str, seed: int
) -> Operand:
    """A distribution of `inputs.DISTRIBUTIONS`, quantized unless fmt is None."""
    x = drawn(kind, rows, k, seed=seed, dtype=torch.float32 if fmt is not None else dtype)
    return x if fmt is None else quantized(x, fmt)


def scaled(q: QTensor, size: float) -> QTensor:
    """q with a global scale of 1/size if it has one, else with its scales `size` times as large, as far as they go."""
    if q.global_scale is not None:
        return dataclasses.replace(q, global_scale=torch.full_like(q.global_scale, 1 / size))
    if q.format.scale == "fp32":
        return dataclasses.replace(q, scale=q.scale * size)
    octaves = round(math.log2(size))
    top = 0x7E if q.format.scale == "e4m3" else 240 - q.format.element.emax
    moved = (q.scale.int() + OCTAVE[q.format.scale] * octaves).clamp(1, top)
    return dataclasses.replace(q, scale=moved.to(torch.uint8))


def embedded(t: Tensor, *, above: int = 0, left: int = 0, right: int = 0, every: int = 1) -> Tensor:
    """t [rows, k] as a part of a larger matrix whose other bytes are 0xff, NaN in every float type."""
    rows, k = t.shape
    whole = torch.empty(above + rows * every, left + k + right, dtype=t.dtype, device=t.device)
    whole.view(torch.uint8).fill_(0xFF)
    part = whole[above::every, left : left + k]
    part.view(torch.uint8).copy_(t.view(torch.uint8))
    return part


def laid_out(q: QTensor, **place: int) -> QTensor:
    """q with its codes and block scales embedded in larger matrices."""
    scale = embedded(q.scale, **place) if q.format.block is not None else q.scale
    return dataclasses.replace(q, data=embedded(q.data, **place), scale=scale)


def poisoned_scale(q: QTensor, row: int, column: int) -> QTensor:
    """q with a NaN for the scale that element [row, column] is under."""
    scale = q.scale.clone()
    at = (row // q.format.block_rows, column // q.format.block if q.format.block else 0)
    nan = {"e4m3": 0x7F, "e8m0": 255}.get(q.format.scale, torch.nan)
    scale[at if scale.ndim == 2 else 0] = nan
    return dataclasses.replace(q, scale=scale)

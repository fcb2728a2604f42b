"""Which known mistake gives these very bytes? Each candidate is what a quantizer with that mistake makes of x.

A candidate is named if it has at least 99% of the scales and codes that were found, and 99% of the wrong ones:
honest fp32 orders of operations differ in about one code of a thousand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..format import FORMATS, Format
from ..hadamard import rotate
from ..quantize import quantize
from ..tensor import QTensor
from .bounds import Bounds

WINDOW = 1 << 18  # elements looked at
_ALIKE = 0.99


@dataclass(frozen=True)
class Window:
    """Rows of x and what was found for them: from the first wrong group of rows on."""

    x: Tensor  # a dtype that can be quantized
    output: QTensor
    scale_bad: Tensor
    code_bad: Tensor
    options: dict[str, Any]  # that x is to be quantized with

    def quantize(self, x: Tensor | None = None, fmt: Format | None = None, **changed: Any) -> QTensor:
        """With the options, some of them changed; None takes one away."""
        options = {name: value for name, value in {**self.options, **changed}.items() if value is not None}
        return quantize(self.x if x is None else x, fmt or self.output.format, **options)


def window(output: QTensor, x: Tensor, start: int, bounds: Bounds, static: Tensor | None) -> Window:
    """Of at most WINDOW elements; `start` is the row of the whole output at which the bounds begin."""
    fmt = output.format
    group = fmt.block_rows
    wrong = bounds.code_bad.any(1).nonzero().flatten()
    first = int(wrong[0]) // group * group if len(wrong) else 0
    if bounds.scale_bad.ndim == 2 and bool(bounds.scale_bad.any()):
        scales = int(bounds.scale_bad.any(1).nonzero()[0]) * group
        first = min(first, scales) if len(wrong) else scales
    count = max(1, WINDOW // x.shape[1] // group) * group
    first = min(first, max(0, (len(bounds.code) - count) // group * group))
    part = output.rows(start + first, start + min(len(bounds.code), first + count))
    rows = x[start + first : start + first + len(part.data)]
    rows = rows.to(torch.float32) if rows.dtype == torch.float64 else rows
    options: dict[str, Any] = {"hadamard": output.hadamard, "global_scale": part.global_scale}
    if fmt.block is None and (static is not None or fmt.granularity == "tensor"):
        given = bounds.scale_low.reshape(-1)[:1] if static is None else static.reshape(1)
        options["scale"] = given if bool(torch.isfinite(given) & (given > 0)) else None
        zero = part.zero_point
        options["zero_point"] = None if zero is None or options["scale"] is None else zero.reshape(-1)[:1]
    groups = slice(first // group, first // group + fmt.scale_shape(part.shape)[0])
    scale_bad = bounds.scale_bad[groups] if bounds.scale_bad.ndim == 2 else bounds.scale_bad
    return Window(rows, part, scale_bad, bounds.code_bad[first : first + len(rows)], options)


def candidate_cause(w: Window) -> str:
    """The words of the first candidate that fits, or ""."""
    found_scale, found_codes = w.output.scale, w.output.codes()
    for words, made in _candidates(w):
        same_scale = _equal(made.scale, found_scale)
        same_codes = (made.codes() == found_codes) | _zeros(made.codes(), found_codes, w.output.format)
        if _fits(same_scale, w.scale_bad) and _fits(same_codes, w.code_bad):
            return words
    return _of_scales_alone(w)


def _candidates(w: Window) -> Iterator[tuple[str, QTensor]]:
    fmt, gs, n = w.output.format, w.output.global_scale, w.output.hadamard
    if fmt.levels == 2 and gs is not None:
        for words, other in (
            ("was not applied", gs * 0 + 1),
            ("is inverted", 1 / gs),
            ("was applied twice", gs * gs),
        ):
            if bool((torch.isfinite(other) & (other > 0)).all()):
                yield f"likely the global scale {words}", w.quantize(global_scale=other)
    for other_format in FORMATS.values():
        if other_format != fmt and _stored_alike(fmt, other_format):
            top = gs if other_format.levels == 2 else None
            rule = f", the rule {other_format.rule!r}" if other_format.rule != fmt.rule else ""
            yield (
                f"these are the bytes of {other_format.name}{rule}",
                w.quantize(fmt=other_format, global_scale=top),
            )
    wide = w.x.to(torch.float32)
    if n is not None:
        yield "likely the rotation is missing", w.quantize(hadamard=None)
        yield f"likely 1/sqrt({n}) was applied twice", w.quantize(wide / n**0.5)
        yield f"likely 1/sqrt({n}) was not applied", w.quantize(wide * n**0.5)
        for dtype in (torch.bfloat16, torch.float16):
            rounded = rotate(wide, n, torch.float64).to(dtype)
            yield (
                f"likely the rotated values were rounded to {str(dtype)[6:]} first",
                w.quantize(rounded, hadamard=None),
            )
    for size in fmt.hadamard:
        if size != n and w.x.shape[1] % size == 0:
            yield f"likely the input was rotated by {size}", w.quantize(hadamard=size)
    if fmt.block_rows == 1 and len(w.x) > 2:
        yield from _shifted(w)


def _shifted(w: Window) -> Iterator[tuple[str, QTensor]]:
    right = w.quantize()
    for step, words in (
        (1, "row i holds the result of row i + 1"),
        (-1, "row i holds the result of row i - 1"),
    ):
        index = (torch.arange(len(w.x), device=w.x.device) + step).clamp(0, len(w.x) - 1)
        scale = right.scale if right.scale.ndim < 2 else right.scale[index]
        data = right.data.view(torch.uint8)[index].view(right.data.dtype)
        edge = -1 if step == 1 else 0  # has its neighbour outside the window
        data.view(torch.uint8)[edge] = w.output.data.view(torch.uint8)[edge]
        if scale.ndim == 2:
            scale = scale.clone()
            scale[edge] = w.output.scale[edge]
        moved = dataclasses.replace(right, data=data, scale=scale)
        yield f"{words}: likely a wrong stride or offset", moved


def _of_scales_alone(w: Window) -> str:
    """Mistakes that show in the scales; codes under wrong scales were not judged."""
    fmt, found = w.output.format, w.output.scale
    if fmt.block is None or not bool(w.scale_bad.any()):
        return ""
    positive = w.quantize(w.x.clamp(min=0)) if w.output.hadamard is None else None
    if positive is not None and _fits(_equal(positive.scale, found), w.scale_bad):
        return "these are the scales of the largest x, not of the largest |x|: likely amax without abs"
    rows, columns = len(w.x), w.x.shape[1]
    plain = fmt.block_rows == 1 and w.output.hadamard is None and fmt.global_granularity == "tensor"
    if plain and rows % fmt.block == 0:
        across = w.quantize(w.x.T.contiguous()).scale  # [K, M/block]
        shapes = (
            across.T.reshape(found.shape),
            across.reshape(found.shape),
            _tiles_of(across, rows, columns, fmt),
        )
        if any(_fits(_equal(each, found), w.scale_bad) for each in shapes):
            return f"these are the scales of blocks of {fmt.block} x 1: likely rows and columns of the blocks exchanged"
    return ""


def _tiles_of(across: Tensor, rows: int, columns: int, fmt: Format) -> Tensor:
    """Scale [r, c] of the column c*block + r % block of the tile that element [r, c*block] lies in."""
    assert fmt.block is not None
    r = torch.arange(rows, device=across.device)[:, None]
    c = torch.arange(columns // fmt.block, device=across.device)
    return across[c * fmt.block + r % fmt.block, r // fmt.block]


def _stored_alike(fmt: Format, other: Format) -> bool:
    """The same bytes in the same shapes, so that only their values can tell the formats apart."""
    facts = ("element", "granularity", "block", "scale", "block_rows", "symmetric", "global_granularity")
    return fmt.block is not None and all(getattr(fmt, name) == getattr(other, name) for name in facts)


def _equal(one: Tensor, other: Tensor) -> Tensor:
    same = one == other
    if one.dtype.is_floating_point:  # correctly rounded or its neighbour
        same = ((one - other).abs() <= 2.0**-22 * one.abs()) | (one.isnan() & other.isnan())
    return same


def _zeros(one: Tensor, other: Tensor, fmt: Format) -> Tensor:
    """Either sign of zero: which of them is no part of what a candidate says."""
    if fmt.element.integer:
        return torch.zeros_like(one, dtype=torch.bool)
    low = (1 << (fmt.element.bits - 1)) - 1
    return ((one | other) & low) == 0


def _fits(same: Tensor, bad: Tensor) -> bool:
    if not bool((same.to(torch.float32).mean() >= _ALIKE).item()):
        return False
    return not bool(bad.any()) or float(same[bad].to(torch.float32).mean()) >= _ALIKE

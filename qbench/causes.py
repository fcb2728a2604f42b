"""What a wrong [M, N] output looks like: the errors that show in the numbers alone, without the operands.

A cause is named only where it explains every wrong element and, where it is a relation to the reference, every
element of the output; two elements can agree with anything, so at least four are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ENOUGH = 4


def likely_causes(
    bad: Tensor,
    found: Tensor,
    expected: Tensor,
    low: Tensor,
    high: Tensor,
    dtype: torch.dtype,
    first_row: int,
    rows: int,
) -> list[str]:
    """Lines for 2-D tensors of which some are bad; found .. high are float64, found was rounded to `dtype`.

    `first_row` is the number of the first row in the whole output, which has `rows`.
    """
    lines = [*_place(bad, first_row, rows), *_excess(bad, found, expected, low, high)]
    if not dtype.is_floating_point or int(bad.sum()) < _ENOUGH or bool((bad & ~found.isfinite()).any()):
        return lines + _overflow(bad, found, expected)
    ulp = _ulp(found, dtype)
    known = _ulp(expected, dtype) + (high - low)  # how well an honest result would be known
    near = ulp + known
    for cause in (
        _rounding(bad, found, expected, ulp, high - low),
        _shifted(bad, found, expected, near),
        _factor(bad, found, expected, ulp, known),
        _offset(bad, found, expected, near),
    ):
        if cause:
            return [*lines, cause]
    return lines


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """x * 2^exponent. torch's own (2.11) launches on the current device, whatever that of x is: an illegal access."""
    import torch

    with torch.cuda.device_of(x):
        return torch.ldexp(x, exponent)


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Spacing of `dtype` at |values|, float64; that of the largest number for what is not finite."""
    import torch

    info = torch.finfo(dtype)
    size = values.abs().nan_to_num(info.max, info.max, info.max).clamp(info.smallest_normal, info.max)
    return ldexp(torch.full_like(size, info.eps), torch.frexp(size).exponent - 1)


def _place(bad: Tensor, first_row: int, rows: int) -> list[str]:
    """Rows or columns that hold every wrong element, if they are few, and whether they are the last ones."""
    lines = []
    for axis, name, first, all_of_them in ((1, "rows", first_row, rows), (0, "columns", 0, bad.shape[1])):
        hit, size = bad.any(axis).nonzero().flatten(), bad.shape[1 - axis]
        if len(hit) > max(4, size // 4) or len(hit) == size:
            continue
        share = float(bad.index_select(1 - axis, hit).double().mean())
        span = int(hit[-1] - hit[0]) + 1
        names = f"{int(hit[0]) + first}..{int(hit[-1]) + first}" if len(hit) == span else ""
        text = f"  only in {name} {names if span > 4 and names else [int(i) + first for i in hit]}"
        if span == len(hit) and int(hit[-1]) + first == all_of_them - 1 and share > 0.5:
            text += f", the last of {all_of_them}: likely a mask or a grid that stops short"
        lines.append(text)
    return lines


def _excess(bad: Tensor, found: Tensor, expected: Tensor, low: Tensor, high: Tensor) -> list[str]:
    finite = bad & found.isfinite() & expected.isfinite() & (high > low)
    if not bool(finite.any()):
        return []
    worst = (2 * (found - expected).abs()[finite] / (high - low)[finite]).max()
    return [f"  the largest error is {float(worst):.3g} times its bound"]


def _overflow(bad: Tensor, found: Tensor, expected: Tensor) -> list[str]:
    if not bool((bad & found.isinf() & expected.isfinite()).any()):
        return []
    least = float(expected.abs()[bad & found.isinf()].min())
    return [
        f"  infinite where the reference is finite (from |{least:.3g}| on): likely an overflow on the way"
    ]


def _shifted(bad: Tensor, found: Tensor, expected: Tensor, near: Tensor) -> str:
    """Is every wrong element its neighbour's, or the transposed one's, right value?"""
    for axis, name in ((0, "row"), (1, "column")):
        for step in (1, -1):
            size = bad.shape[axis] - 1
            if size < 1:
                continue
            here = bad.narrow(axis, 0 if step == 1 else 1, size)
            there = expected.narrow(axis, 1 if step == 1 else 0, size)
            mine, room = (each.narrow(axis, 0 if step == 1 else 1, size) for each in (found, near))
            if int(here.sum()) >= _ENOUGH and bool(((mine - there).abs() <= room)[here].all()):
                other = f"{name} i {'+' if step == 1 else '-'} 1"
                return f"  {name} i holds the result of {other}: likely a wrong stride or offset"
    if bad.shape[0] == bad.shape[1] and bool(((found - expected.T).abs() <= near)[bad].all()):
        return "  the output is the transposed product: likely rows and columns exchanged"
    return ""


def _factor(bad: Tensor, found: Tensor, expected: Tensor, ulp: Tensor, known: Tensor) -> str:
    """One factor for the whole output, or one for each row or column."""
    import torch

    if bool(((found - expected).abs() <= 2 * (ulp + known)).all()):
        return ""  # so near to one that it cannot be told from rounding
    safe = torch.where(expected == 0, 1.0, expected)
    strong = (expected.abs() > 8 * known) & (found.abs() > 8 * ulp) & bad  # where a ratio means something
    for axis, words in (
        (None, "everywhere: likely a wrong alpha or global scale"),
        (1, "or so, another one in each row: likely the scales of the rows"),
        (0, "or so, another one in each column: likely the scales of the columns"),
    ):
        ratio = torch.where(strong, found / safe, torch.nan)
        middle = ratio.flatten().nanmedian() if axis is None else ratio.nanmedian(axis, keepdim=True).values
        enough = strong.sum() if axis is None else strong.sum(axis, keepdim=True)[~middle.isnan()]
        if enough.numel() == 0 or int(enough.min()) < 2 or (axis is not None and bad.shape[1 - axis] < 2):
            continue
        told = ~middle.isnan().expand_as(bad)
        close = (found - expected * middle).abs() <= 2 * (ulp + known * middle.abs())
        if bool(close[told].all()) and not bool((bad & ~told).any()):
            shown = float(middle.flatten().nanmedian())
            return f"  found/expected is {shown:.6g} {words}"
    return ""


def _offset(bad: Tensor, found: Tensor, expected: Tensor, near: Tensor) -> str:
    """The same difference down each column: a bias."""
    if bad.shape[0] < 3:
        return ""
    difference = found - expected
    middle = difference.median(0, keepdim=True).values
    if bool(((difference - middle).abs() <= 2 * near).all()) and bool((middle.abs() > 4 * near)[bad].any()):
        return (
            "  found - expected is the same down each column: likely a bias left out, wrong, or added twice"
        )
    return ""


def _rounding(bad: Tensor, found: Tensor, expected: Tensor, ulp: Tensor, room: Tensor) -> str:
    """Off by less than one unit in the last place, always to one side."""
    error = (found.abs() - expected.abs())[bad]
    if bool((error.abs() > (ulp + room)[bad]).any()):
        return ""
    if bool((error < 0).all()):
        return "  every wrong element is less than one unit in the last place too small: likely truncated, not rounded"
    if bool((error > 0).all()):
        return "  every wrong element is less than one unit in the last place too large: likely rounded up or away"
    return ""

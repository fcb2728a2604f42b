"""What wrong scales and codes look like: places, patterns, steps and roundings that show in the bounds themselves.

A cause must explain every wrong value of the chunk. Four are asked for where fewer could agree by chance; a code that
is wrong exactly at a tie tells its rule alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..codec import decode_float
from ..format import Element, Format
from ..swizzle import from_blocked, to_blocked
from ..tensor import QTensor
from .bounds import Bounds, ordinals

_ENOUGH = 4


def place_hints(
    bad: Tensor, start: int, rows: int, *, group: int = 1, columns_are: str = "columns"
) -> list[str]:
    """Few rows, or the last columns: bad [r, C] of scales (a row for each `group` rows) or codes, of `rows` in all."""
    if bad.ndim != 2:
        return []
    lines, hit = [], bad.any(1).nonzero().flatten()
    if len(bad) > 1 and 0 < len(hit) <= max(1, len(bad) // 4) and float(bad[hit].double().mean()) >= 0.25:
        first, last = start + int(hit[0]) * group, min(rows, start + (int(hit[-1]) + 1) * group) - 1
        joined = len(hit) == int(hit[-1] - hit[0]) + 1
        end = " (the last rows)" if joined and last == rows - 1 else ""
        return [f"  only in rows {first}..{last}: likely never written, or beyond a mask{end}"]
    columns = bad.any(0).nonzero().flatten()
    tail = bad.shape[1] - int(columns[0])
    if 2 * tail <= bad.shape[1] and len(columns) == tail and float(bad[:, -tail:].double().mean()) >= 0.25:
        lines.append(
            f"  only in the last {tail} {columns_are} of each row: likely the mask or the grid of the tail"
        )
    return lines


def poison_hint(found: Tensor, bad: Tensor, wanted: Tensor) -> list[str]:
    """One value in every wrong place, where several are wanted: found, wanted [..] uint8, int16 or fp32."""
    values = found[bad].unique()
    if int(bad.sum()) < _ENOUGH or len(values) != 1 or len(wanted[bad].unique()) < 2:
        return []
    shown = f"0x{int(values):02x}" if found.dtype == torch.uint8 else f"{float(values)!r}"
    return [f"  every wrong value is {shown}: likely never written (stale or poisoned memory)"]


def scale_hints(output: QTensor, x: Tensor, fmt: Format, start: int, bounds: Bounds) -> list[str]:
    """The first cause that explains every wrong block scale."""
    bad, low, high = bounds.scale_bad, bounds.scale_low, bounds.scale_high
    if fmt.block is None:
        found = output.scale.reshape(-1)[:1] if bad.ndim == 1 else output.scale[start : start + len(bad)]
        return _ratio_hint(found, bounds)
    first = start // fmt.block_rows
    found = output.scale[first : first + len(bad)]
    if (
        start == 0
        and len(bad) == len(output.scale)
        and fmt.scale != "fp32"
        and (words := _swizzled(found, low, high))
    ):
        return [words]
    for step, words in ((1, "next block"), (-1, "block before")):
        ends = (low.roll(-step, 1), high.roll(-step, 1))
        if int(bad.sum()) >= _ENOUGH and bool(((found >= ends[0]) & (found <= ends[1]))[bad].all()):
            return [f"  each wrong scale is that of the {words}: likely an offset of one"]
    if fmt.scale == "fp32":
        return _ratio_hint(found, bounds)
    nan = {"e4m3": 0x7F, "e8m0": 255}[fmt.scale]
    if bool((low[bad] == nan).all()):
        return ["  x holds NaN or inf there, and must not become numbers: the scale has to be NaN"]
    if bool((found[bad] == nan).all()):
        return ["  the scale is NaN where x is finite: likely 0/0, inf*0, or a cast that does not saturate"]
    wide = found.to(torch.int16)
    middle = torch.where(found > high, high, low).to(torch.int16)
    steps = (wide - middle)[bad].unique()
    if len(steps) != 1:
        return []
    step = int(steps)
    octave = step if fmt.scale == "e8m0" else step / 8
    what = f" ({2.0**octave:g} times the scale)" if octave == int(octave) and abs(octave) < 100 else ""
    return [f"  every wrong scale byte is {step:+d} off{what}: likely the exponent or rounding of the scale"]


def _swizzled(found: Tensor, low: Tensor, high: Tensor) -> str:
    """Is the matrix the 128x4 layout of the right one, cut to its size, or the inverse of that?"""
    rows, columns = found.shape

    def swizzle(t: Tensor) -> Tensor:
        return to_blocked(t.contiguous())[: t.numel()].view(rows, columns)

    padding = swizzle(torch.ones_like(low)) == 0
    told = ~padding & (
        (found < low) | (found > high)
    )  # wrong as they lie; what is padding after all says nothing
    if int(told.sum()) >= _ENOUGH and bool(
        (((found >= swizzle(low)) & (found <= swizzle(high))) | padding).all()
    ):
        return "  the scales are to_blocked (128x4) of the right ones: likely swizzled where a linear layout is meant"
    if rows % 128 or columns % 4:
        return ""
    least, most = (from_blocked(t.flatten(), rows, columns) for t in (low, high))
    if bool(((found >= least) & (found <= most)).all()):
        return "  the scales are from_blocked (128x4) of the right ones: likely taken for swizzled, and are linear"
    return ""


def _ratio_hint(found: Tensor, bounds: Bounds) -> list[str]:
    """fp32 scales: their reciprocal, or off by one factor."""
    bad = bounds.scale_bad
    value = found.reshape(bad.shape)
    if bool(((value >= bounds.scale_low) & (value <= bounds.scale_high))[bad].all()):
        return ["  the scale itself is right: its zero point is wrong"]
    middle = (bounds.scale_low.double() + bounds.scale_high.double())[bad] / 2
    value = value.double()[bad]
    if bool(value.isnan().all()) and not bool(middle.isnan().any()):
        return ["  the scale is NaN where x is finite: likely 0/0 or inf*0"]
    if bool(middle.isnan().all()):
        return ["  x holds NaN or inf there, and must not become numbers: the scale has to be NaN"]
    if not bool((torch.isfinite(middle) & (middle > 0) & torch.isfinite(value)).all()):
        return []
    if bool(((value * middle - 1).abs() < 1e-5).all()):
        return ["  the stored scale is the reciprocal of the right one"]
    ratio = value / middle
    if float(ratio.max() - ratio.min()) < 1e-5 * float(ratio.max()) and abs(float(ratio[0]) - 1) > 1e-5:
        return [f"  the stored scale is {float(ratio[0]):.6g} times the right one"]
    return []


def code_hints(output: QTensor, fmt: Format, start: int, bounds: Bounds) -> list[str]:
    """The first cause that explains every wrong code of the chunk."""
    bad, low, high = bounds.code_bad, bounds.code_low, bounds.code_high
    count = int(bad.sum())
    if fmt.packed and count >= _ENOUGH:
        pairs = output.data[start : start + len(bad)]
        swapped = torch.stack([pairs >> 4, pairs & 0xF], dim=-1).flatten(-2)
        order = ordinals(swapped, fmt.element)
        if bool(((order >= low) & (order <= high))[bad].all()):
            return ["  swapping the two codes of a byte mends it: likely nibble order"]
    code = bounds.code[bad]
    wanted = torch.where(code < low[bad], low[bad], high[bad])
    found, right, y = rank(code, fmt.element), rank(wanted, fmt.element), bounds.y[bad]
    if fmt.symmetric and bool((found == right).all()):
        return ["  the sign of zero is lost: -0 keeps its sign, as rounding does"]
    least, most = rank(low[bad], fmt.element), rank(high[bad], fmt.element)
    if fmt.symmetric and count >= _ENOUGH and bool(((-found >= least) & (-found <= most)).all()):
        return ["  the sign is wrong: likely a lost sign bit"]
    return _rounding(found - right, y, _at_ties(code, wanted, y, fmt.element))


def rank(order: Tensor, element: Element) -> Tensor:
    """Ordinals with both zeros at 0."""
    return order if element.integer else torch.where(order < 0, order + 1, order)


def code_value(order: Tensor, element: Element) -> Tensor:
    """float64 values of ordinals, zero points not taken off."""
    if element.integer:
        return order.to(torch.float64)
    sign = 1 << (element.bits - 1)
    bits = torch.where(order < 0, sign + (-1 - order), order).to(torch.uint8)
    return decode_float(bits, element).to(torch.float64)


def _at_ties(code: Tensor, wanted: Tensor, y: Tensor, element: Element) -> Tensor:
    """Where y lies halfway between the two, to 2^-20."""
    if element.integer:  # a zero point shifts codes by whole steps
        return ((y - torch.floor(y) - 0.5).abs() <= 2.0**-20 * y.abs().clamp(min=1.0)) & (
            (code - wanted).abs() == 1
        )
    middle = (code_value(code, element) + code_value(wanted, element)) / 2
    return (y - middle).abs() <= 2.0**-20 * y.abs()


def _rounding(steps: Tensor, y: Tensor, tie: Tensor) -> list[str]:
    """steps: by how many codes the found ones are too large."""
    if bool((steps.abs() != 1).any()):
        return []
    outward = steps * torch.where(y < 0, -1, 1)
    directions = (
        (
            "toward zero",
            outward == -1,
            "every wrong code is one step too small: likely truncation instead of rounding",
        ),
        (
            "away from zero",
            outward == 1,
            "every wrong code is one step too large: likely rounded away from zero",
        ),
        ("up (half up)", steps == 1, "every wrong code is one step above: likely rounded up (ceil)"),
        ("down (half down)", steps == -1, "every wrong code is one step below: likely rounded down (floor)"),
    )
    if bool(tie.all()):
        rules = [name for name, fits, _ in directions if bool(fits.all())]
        words = " or ".join(rules) if rules else "to odd, or by chance"
        return [f"  all wrong codes lie exactly at ties: likely ties rounded {words}; even is right"]
    if len(steps) >= _ENOUGH:
        for _, fits, words in directions:
            if bool(fits.all()):
                return [f"  {words}"]
    return []

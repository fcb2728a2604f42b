"""From a failed comparison to words: where, what was stored, what was allowed, and the bug it looks like."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch

from .codec import E2M1_VALUES, decode_e4m3, encode_e4m3
from .compare_bounds import Bounds, ordinal
from .format import Format
from .tensor import QTensor


def describe(
    output: QTensor,
    x: Tensor,
    fmt: Format,
    start: int,
    bounds: Bounds,
    *,
    wrong_scales: int,
    wrong_codes: int,
) -> Mismatch:
    """Mismatch for 2-D output and x, from the bounds of the first wrong chunk, whose first row is `start`.

    Scales are reported before codes: codes under a wrong scale were not judged.
    """
    if bool(bounds.scale_bad.any()):
        at = tuple(bounds.scale_bad.nonzero()[0].tolist())
        row, where = (
            (start + at[0], f"row {start + at[0]}, block {at[1]}") if len(at) == 2 else (0, "the tensor")
        )
        found = output.scale[row, at[1]] if output.scale.ndim == 2 else output.scale[0]
        lines = [f"  scale of {where}: found {_show(found, fmt)}, "
                 f"allowed {_show(bounds.scale_low[at], fmt)} .. {_show(bounds.scale_high[at], fmt)}"]  # fmt: skip
        if fmt.block is not None:
            lines.append(f"  amax of x there: {float(x[row, at[1] * fmt.block :][: fmt.block].abs().amax())!r}"
                         + (" (before the rotation)" if output.hadamard else ""))  # fmt: skip
        lines += _rows_hint(bounds.scale_bad, start) + _scale_hint(output, x, fmt, start, bounds)
        return Mismatch(
            f"{fmt.name}: wrong scale",
            min(wrong_scales, output.scale.numel()),
            output.scale.numel(),
            "\n".join(lines),
        )
    r, column = bounds.code_bad.nonzero()[0].tolist()
    block = "" if fmt.block is None else f", block {column // fmt.block}"
    byte = int(output.data[start + r, column // 2 if fmt.packed else column].view(torch.uint8))
    lines = [
        f"  at row {start + r}, column {column}{block}: found code {_code(bounds.code[r, column], fmt)} "
        f"(byte 0x{byte:02x}), allowed {_code(bounds.code_low[r, column], fmt)} .. "
        f"{_code(bounds.code_high[r, column], fmt)}",
        f"  x = {float(x[start + r, column])!r}, x over the stored scale = {float(bounds.y[r, column])!r}",
    ]
    lines += _code_hint(output, fmt, start, bounds) or _rows_hint(bounds.code_bad, start)
    return Mismatch(
        f"{fmt.name}: wrong code",
        wrong_codes,
        output.data.numel() * (2 if fmt.packed else 1),
        "\n".join(lines),
    )


def _show(scale: Tensor, fmt: Format) -> str:
    return repr(float(scale)) if fmt.scale == "fp32" else f"0x{int(scale):02x}"


def _code(order: Tensor, fmt: Format) -> str:
    value = int(order)
    if fmt.element.name == "int8":
        return str(value)
    magnitude, sign = (value, "") if value >= 0 else (-1 - value, "-")
    if fmt.packed:
        return f"{sign}{E2M1_VALUES[magnitude]:g}"
    return f"{sign}{float(decode_e4m3(torch.tensor(magnitude))):g}"


def _rows_hint(bad: Tensor, start: int) -> list[str]:
    if bad.ndim != 2 or len(bad) < 2:
        return []
    share = bad.to(torch.float32).mean(-1)
    rows = (share > 0).nonzero().flatten()
    if len(rows) > max(1, len(bad) // 4) or float(share[rows].mean()) < 0.25:
        return []
    first, last = start + int(rows[0]), start + int(rows[-1])
    return [f"  only in rows {first}..{last}: likely never written, or beyond a mask"]


def _scale_hint(output: QTensor, x: Tensor, fmt: Format, start: int, bounds: Bounds) -> list[str]:
    bad = bounds.scale_bad
    if fmt.block is None:
        return []
    found = output.scale[start : start + len(bad)].to(torch.int16)
    middle = torch.where(found > bounds.scale_high, bounds.scale_high, bounds.scale_low).to(torch.int16)
    steps = (found - middle)[bad].unique()
    if len(steps) == 1 and abs(int(steps)) == 1:
        return [
            f"  every wrong scale byte is {int(steps):+d} off: likely the exponent or rounding of the scale"
        ]
    if fmt.levels == 2 and output.hadamard is None:
        amax = x[start : start + len(bad)].to(torch.float64).unflatten(-1, (-1, fmt.block)).abs().amax(-1)
        plain = encode_e4m3(amax / fmt.element.max)
        if bool((plain == found)[bad].all()):
            return ["  the stored bytes are e4m3(amax/6): likely the global scale was not applied"]
    return []


def _code_hint(output: QTensor, fmt: Format, start: int, bounds: Bounds) -> list[str]:
    """A cause that explains every wrong code of the chunk."""
    bad, code, low, high = bounds.code_bad, bounds.code, bounds.code_low, bounds.code_high
    if fmt.packed:
        pairs = output.data[start : start + len(code)]
        swapped = torch.stack([ordinal(pairs >> 4, 4), ordinal(pairs & 0xF, 4)], dim=-1).flatten(-2)
        if bool(((swapped >= low) & (swapped <= high))[bad].all()) and int(bad.sum()) >= 4:
            return ["  swapping the two codes of a byte mends it: likely nibble order"]
    if fmt.element.name == "int8":
        magnitude, limit = code.abs(), torch.minimum(low.abs(), high.abs())
    else:
        magnitude, limit = _size(code), torch.minimum(_size(low), _size(high))
    if int(bad.sum()) < 4:
        return []  # too few to tell a cause from chance
    off, same_sign = (magnitude - limit)[bad], ((code < 0) == (low < 0))[bad]
    if not bool(same_sign.all()):
        return ["  the sign is wrong: likely a lost sign bit"] if bool((off == 0).all()) else []
    if bool((off == -1).all()):
        return ["  every wrong code is one step too small: likely truncation instead of rounding"]
    if bool((off == 1).all()):
        return [
            "  every wrong code is one step too large: likely ties rounded away from zero, or rounding up"
        ]
    return []


def _size(order: Tensor) -> Tensor:
    return torch.where(order < 0, -1 - order, order)

"""From a failed comparison to words: where, what was stored, what was allowed, the bug it looks like, and lines of
Python that show it again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch

from ..format import Format
from ..tensor import QTensor
from .bounds import Bounds
from .candidates import candidate_cause, window
from .causes import code_hints, code_value, place_hints, poison_hint, scale_hints
from .reproduce import indent
from .source import cut


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
    static = _static_scale(fmt, bounds)
    if bool(bounds.scale_bad.any()):
        row, column, lines = _scale_lines(output, x, fmt, start, bounds)
        causes = scale_hints(output, x, fmt, start, bounds)
        code = False
        summary, count, total = f"{fmt.name}: wrong scale", wrong_scales, output.scale.numel()
    else:
        row, column, lines = _code_lines(output, x, fmt, start, bounds)
        causes = code_hints(output, fmt, start, bounds)
        code = True
        summary, count, total = (
            f"{fmt.name}: wrong code",
            wrong_codes,
            output.data.numel() * (2 if fmt.packed else 1),
        )
    lines += _pattern(output, fmt, start, bounds)
    candidate = candidate_cause(window(output, x, start, bounds, static))
    lines += [f"  {candidate}"] if candidate else []
    lines += causes
    small = cut(output, x, row, column, static, code=code)
    if small is None:
        assert fmt.block is not None
        group = row // fmt.block_rows * fmt.block_rows
        lines.append(f"  its block is too large to print: x[{group}:{group + fmt.block_rows}] of this call")
    else:
        lines += [f"  {line}" for line in small.differences()]
        lines.append(indent(small.source()))
    return Mismatch(summary, min(count, total), total, "\n".join(lines))


def _static_scale(fmt: Format, bounds: Bounds) -> Tensor | None:
    """The scale that a format without blocks was given: it is allowed no neighbour. None if it is dynamic."""
    by_row = fmt.granularity == "row" and bounds.scale_low.ndim == 2
    if fmt.block is not None or by_row or bounds.scale_low.numel() != 1:
        return None
    low, high = bounds.scale_low.reshape(1), bounds.scale_high.reshape(1)
    return low if bool((low == high) & (low > 0)) else None


def _scale_lines(
    output: QTensor, x: Tensor, fmt: Format, start: int, bounds: Bounds
) -> tuple[int, int, list[str]]:
    """(row and column of the first element under the first wrong scale, lines about it)."""
    at = tuple(bounds.scale_bad.nonzero()[0].tolist())
    group, block = (at[0], at[1]) if len(at) == 2 else (0, 0)
    row, column = start + group * fmt.block_rows, block * (fmt.block or 1)
    found = output.scale[row // fmt.block_rows, block] if output.scale.ndim == 2 else output.scale[0]
    where = f"row {row}, block {block}"
    if fmt.block_rows > 1:
        where = f"rows {row}..{min(row + fmt.block_rows, len(x)) - 1}, block {block}"
    if output.scale.ndim < 2:
        where = "the tensor"
    lines = [f"  scale of {where}: found {_show(found)}, "
             f"allowed {_show(bounds.scale_low[at])} .. {_show(bounds.scale_high[at])}"]  # fmt: skip
    if fmt.block is not None:
        part = x[row : row + fmt.block_rows, column : column + fmt.block]
        lines.append(f"  amax of x there: {float(part.abs().amax())!r}"
                     + (" (before the rotation)" if output.hadamard else ""))  # fmt: skip
    return row, column, lines


def _code_lines(
    output: QTensor, x: Tensor, fmt: Format, start: int, bounds: Bounds
) -> tuple[int, int, list[str]]:
    """(row and column of the first wrong code, lines about it)."""
    r, column = bounds.code_bad.nonzero()[0].tolist()
    block = "" if fmt.block is None else f", block {column // fmt.block}"
    byte = int(output.data[start + r].view(torch.uint8)[column // 2 if fmt.packed else column])
    scale = output.scale.reshape(-1)[0]
    if output.scale.ndim == 2:
        scale = output.scale[(start + r) // fmt.block_rows, column // fmt.block if fmt.block else 0]
    element = fmt.element
    low, high = (code_value(end[r, column], element) for end in (bounds.code_low, bounds.code_high))
    allowed = f"{_number(low)} .. {_number(high)}"
    found, y = _number(code_value(bounds.code[r, column], element)), float(bounds.y[r, column])
    lines = [
        f"  at row {start + r}, column {column}{block}: found code {found} (byte 0x{byte:02x}), allowed {allowed}",
        f"  x = {float(x[start + r, column])!r}, x over the stored scale {_show(scale)} = {y!r}",
    ]
    return start + r, column, lines


def _pattern(output: QTensor, fmt: Format, start: int, bounds: Bounds) -> list[str]:
    """Where the wrong ones lie, and whether they are all one byte."""
    rows = len(output.data)
    if bool(bounds.scale_bad.any()):
        bad, first = bounds.scale_bad, start // fmt.block_rows
        found = output.scale[first : first + len(bad)] if bad.ndim == 2 == output.scale.ndim else output.scale
        lines = place_hints(bad, start, rows, group=fmt.block_rows, columns_are="blocks")
        return lines + (poison_hint(found, bad, bounds.scale_low) if found.shape == bad.shape else [])
    bad, wanted = bounds.code_bad, bounds.code_low
    lines = place_hints(bad, start, rows)
    if fmt.packed:
        bad, pairs = bad.unflatten(1, (-1, 2)).any(2), wanted.unflatten(1, (-1, 2))
        wanted = pairs[..., 0] * 32 + pairs[..., 1]
    return lines + poison_hint(output.data[start : start + len(bad)].view(torch.uint8), bad, wanted)


def _show(scale: Tensor) -> str:
    return repr(float(scale)) if scale.dtype.is_floating_point else f"0x{int(scale):02x}"


def _number(value: Tensor) -> str:
    return f"{float(value):g}"

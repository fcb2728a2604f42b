"""A wrong scale or code as a few lines of Python: the least input that shows it, what is right, and what was found.

The input is cut down to what decides the place: its block (or the rotation around it), or, where the largest element
alone sets the scale, that element and the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..format import Format
from ..quantize import quantize
from ..tensor import QTensor
from .reproduce import format_source, tensor_source

LINE_BYTES = 64  # of a block, that one line shows


@dataclass(frozen=True)
class Small:
    """An input [1, k] with the options it is quantized with, and what was found for it."""

    x: Tensor
    format: Format
    scale: list[Any]
    data: list[int] | None  # bytes; None: other elements than the wrong one are not those of the tensor
    zero_point: list[int] | None = None
    code: int | None = None  # then its own code, at `column` of x
    column: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> QTensor:
        """The reference's."""
        return quantize(self.x, self.format, **self.options)

    def differences(self) -> list[str]:
        """The bytes of the block, found and expected; the zero points."""
        right, lines = self.expected(), []
        if self.data is not None and len(self.data) <= LINE_BYTES:
            wanted = right.data.view(torch.uint8).flatten().tolist()
            lines.append(f"bytes there: found {bytes(self.data).hex(' ')}, expected {bytes(wanted).hex(' ')}")
        if right.zero_point is not None:
            lines.append(
                f"zero point: found {self.zero_point}, expected {right.zero_point.flatten().tolist()}"
            )
        return lines

    def source(self) -> list[str]:
        """Lines that can be pasted; they leave the right result in `q`."""
        options = ["x", format_source(self.format)]
        for name, value in self.options.items():
            options.append(f"{name}={tensor_source(value) if isinstance(value, Tensor) else value}")
        shown = [("scale", "q.scale.flatten().tolist()", _plain(self.scale))]
        if self.zero_point is not None:
            shown.append(("zero point", "q.zero_point.flatten().tolist()", repr(self.zero_point)))
        if self.data is not None:
            read = "bytes(q.data.view(torch.uint8).flatten().tolist()).hex(' ')"
            shown.append(("data", read, repr(bytes(self.data).hex(" "))))
        elif self.code is not None:
            shown.append(("code", f"q.codes()[0, {self.column}].item()", repr(self.code)))
        return [
            "import torch, qkernels",
            f"x = {tensor_source(self.x)}",
            f"q = qkernels.quantize({', '.join(options)})",
            *(f"print('{name}: expected', {right}, 'found', {found})" for name, right, found in shown),
        ]


def _plain(values: list[Any]) -> str:
    return repr(values).replace("nan", "float('nan')").replace("inf", "float('inf')")


def cut(
    output: QTensor, x: Tensor, row: int, column: int, static: Tensor | None, *, code: bool
) -> Small | None:
    """The least input for element [row, column] of x [M, K], or for the scale it is under (code=False).

    static: the scale a format without blocks was given. None where the rows that share a rotated block are too many.
    """
    fmt = output.format
    x = x.to(torch.float32) if x.dtype == torch.float64 else x
    if fmt.block is None:
        return _without_blocks(output, x, row, column, static, code=code)
    options: dict[str, Any] = {}
    if output.global_scale is not None:
        by_row = fmt.global_granularity == "row"
        options["global_scale"] = (
            output.global_scale[row : row + 1] if by_row else output.global_scale.reshape(())
        )
    if output.hadamard is not None:
        options["hadamard"] = output.hadamard
    if fmt.block_rows > 1:
        return _one_of_many_rows(output, x, row, column, options, code=code)
    span = max(fmt.block, output.hadamard or 0)
    first = column // span * span
    per = 2 if fmt.packed else 1
    data = output.data[row : row + 1].view(torch.uint8)[0, first // per : (first + span) // per]
    blocks = slice(first // fmt.block, (first + span) // fmt.block)
    scale = output.scale[row, blocks].tolist()
    zero = None if output.zero_point is None else output.zero_point[row, blocks].tolist()
    return Small(
        x[row : row + 1, first : first + span].cpu(), fmt, scale, data.tolist(), zero, options=options
    )


def _without_blocks(
    output: QTensor, x: Tensor, row: int, column: int, static: Tensor | None, *, code: bool
) -> Small:
    """The wrong element and those that set the scale of the row or the tensor."""
    fmt, places, options = output.format, [], {}
    if static is not None:
        options = {"scale": static.reshape(1)}
        if output.zero_point is not None:
            options["zero_point"] = output.zero_point.reshape(-1)[:1]
        places = [(row, column)]
    else:
        part, first = (x, 0) if fmt.granularity == "tensor" else (x[row : row + 1], row)
        extremes = (part.argmin(), part.argmax()) if not fmt.symmetric else (part.abs().argmax(),)
        places = [(first + int(at) // x.shape[1], int(at) % x.shape[1]) for at in extremes]
        places = sorted({*places, (row, column)} if code else set(places))
    where = torch.tensor(places, device=x.device).T
    data = output.data.view(torch.uint8)[where[0], where[1]]
    scale = output.scale.reshape(-1)[row if output.scale.numel() > 1 else 0].item()
    zero = None
    if output.zero_point is not None:
        zero = [int(output.zero_point.reshape(-1)[row if output.zero_point.numel() > 1 else 0])]
    return Small(x[where[0], where[1]][None].cpu(), fmt, [scale], data.tolist(), zero, options=options)


def _one_of_many_rows(
    output: QTensor, x: Tensor, row: int, column: int, options: dict[str, Any], *, code: bool
) -> Small | None:
    """A row of zeros but for the wrong element and the largest one of the group."""
    fmt = output.format
    assert fmt.block is not None
    if output.hadamard is not None or fmt.select or not fmt.symmetric:
        return None
    group, block = row // fmt.block_rows, column // fmt.block
    rows = slice(group * fmt.block_rows, (group + 1) * fmt.block_rows)
    part = x[rows, block * fmt.block : (block + 1) * fmt.block]
    top, here = int(part.abs().argmax()), column % fmt.block
    small = torch.zeros(1, fmt.block, dtype=x.dtype)
    largest, place = part.flatten()[top], top % fmt.block
    mine = top == (row - group * fmt.block_rows) * fmt.block + here
    small[0, (here + 1) % fmt.block if code and place == here and not mine else place] = largest
    found = None
    if code:
        small[0, here] = x[row, column]
        found = _code(output, row, column)
    scale = [output.scale[group, block].item()]
    return Small(small, fmt, scale, None, None, found, here, options)


def _code(output: QTensor, row: int, column: int) -> int:
    if not output.format.packed:
        return int(output.data.view(torch.uint8)[row, column])
    return int(output.data[row, column // 2]) >> (4 * (column % 2)) & 0xF

"""Words for a wrong product: the cause that its operands show, and a few lines that reproduce one element."""

from __future__ import annotations

from torch import Tensor

from .product_causes import Operand, product_cause, take_row
from .reproduce import indent, operand_source, tensor_source

SHORT = 512  # K up to which operands are printed


def explain(output: Tensor, wrong: Tensor, a: Operand, b: Operand, bias: Tensor | None = None) -> str:
    """For output [M, N] wrong at `wrong` [n, 2]: a likely cause, if one is certain, and how to reproduce the first."""
    row, column = wrong[0].tolist()
    source = indent(_source(output, row, column, a, b, bias))
    cause = product_cause(output, wrong, a, b, bias)
    return f"  {cause}\n{source}" if cause else source


def _source(output: Tensor, row: int, column: int, a: Operand, b: Operand, bias: Tensor | None) -> list[str]:
    end = f"print('expected', float(expected), 'found', {output[row, column].item()!r})"
    if a.shape[1] > SHORT:
        names = "a, b" if bias is None else "a, b, bias"
        (left, i), (right, j) = _cut("a", a, row), _cut("b", b, column)
        cut = f", bias[{column}]" if bias is not None else ""
        return [
            "import qkernels",
            f"# {names}: the operands of this call; K = {a.shape[1]} is too long to print",
            f"expected = qkernels.reference.matmul({left}, {right})[{i}, {j}]{cut.replace(', ', ' + ')}",
            end,
        ]
    lines = ["import torch, qkernels"]
    lines += [*operand_source("a", take_row(a, row)), *operand_source("b", take_row(b, column))]
    if bias is not None:
        lines.append(f"bias = {tensor_source(bias[column : column + 1])}")
    names = "a, b" if bias is None else "a, b, bias"
    return [*lines, f"expected = qkernels.reference.matmul({names})", end]


def _cut(name: str, t: Operand, row: int) -> tuple[str, int]:
    """An expression for the least rows of t that hold `row`, and its place there."""
    if isinstance(t, Tensor):
        return f"{name}[{row}:{row + 1}]", 0
    group = t.format.block_rows
    first = row // group * group
    return f"{name}.rows({first}, {first + group})", row - first

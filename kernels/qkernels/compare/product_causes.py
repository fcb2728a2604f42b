"""Which mistake with these operands gives the wrong elements of a product? Each candidate is a product of its own.

A candidate must give every wrong element looked at (4 to 64 of them) to half a unit in the last place of the output
and the room of fp32 sums. Where the errors are so small that chance could do that, 16 elements are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec import floor_log2, pow2, round_to
from ..swizzle import from_blocked, to_blocked
from ..tensor import QTensor

Operand = Tensor | QTensor
_ENOUGH, _SURE = 4, 16


@dataclass(frozen=True)
class _Wrong:
    """n wrong elements: their values [n], rows and columns [n], and the operands with values a, b [n, K]."""

    found: Tensor
    rows: Tensor
    columns: Tensor
    left: Operand
    right: Operand
    a: Tensor  # exact values
    b: Tensor
    alpha: float
    bias: Tensor  # [n], zeros without one
    dtype: torch.dtype  # of the output


def product_cause(output: Tensor, wrong: Tensor, a: Operand, b: Operand, bias: Tensor | None) -> str:
    """The cause in words, "" if none is certain. wrong: [n, 2] indices into output [M, N]."""
    finite = output[wrong[:, 0], wrong[:, 1]].isfinite()
    wrong = wrong[finite]
    if len(wrong) < _ENOUGH:
        return ""
    rows, columns = wrong[:, 0], wrong[:, 1]
    added = (
        torch.zeros(len(wrong), dtype=torch.float64) if bias is None else bias.cpu().double()[columns.cpu()]
    )
    alpha = _alpha(a) * _alpha(b)
    found = output[rows, columns].double().cpu()
    w = _Wrong(found, rows, columns, a, b, _values(a, rows), _values(b, columns), alpha, added, output.dtype)
    right = (w.a * w.b).sum(1) * alpha + added
    if not bool(right.isfinite().all()) or _agrees(w, right):  # nothing but the last rounding is wrong
        return ""
    if bool(((found - right).abs() < 4 * _ulp(w)).any()) and len(wrong) < _SURE:
        return _narrow(w, right)
    for words, candidate in _candidates(w):
        if _agrees(w, candidate):
            return words
    return _narrow(w, right)


def _candidates(w: _Wrong) -> Iterator[tuple[str, Tensor]]:
    """(the cause, the products [n] it would give)."""
    sums = (w.a * w.b).sum(1)
    if bool((w.bias != 0).any()):
        yield "likely the bias was left out", sums * w.alpha
        late = round_to(sums * w.alpha, w.dtype).double() + w.bias
        yield (
            "likely the bias was added after rounding to the output's dtype",
            round_to(late, w.dtype).double(),
        )
        yield "likely the bias was added before alpha", (sums + w.bias) * w.alpha
    yield from _factors(w, sums)
    packed = [
        name for name, t in (("a", w.left), ("b", w.right)) if isinstance(t, QTensor) and t.format.packed
    ]
    if packed:  # swapped in one operand or the other, the products are the same
        yield (
            f"likely the nibbles of {' or '.join(packed)} are swapped",
            (w.a * _swapped(w.b)).sum(1) * w.alpha + w.bias,
        )
    for name, operand, rows, other in (("a", w.left, w.rows, w.b), ("b", w.right, w.columns, w.a)):
        if isinstance(operand, QTensor):
            for words, changed in _misread(name, operand):
                yield words, (_values(changed, rows) * other).sum(1) * w.alpha + w.bias
        yield (
            f"likely the signs of {name} are lost",
            (_values(operand, rows).abs() * other).sum(1) * w.alpha + w.bias,
        )
        values = _values(operand, rows)
        normal = values.where(values.abs() >= 2.0**-126, torch.zeros_like(values))
        yield (
            f"likely subnormal values of {name} were taken for 0",
            (normal * other).sum(1) * w.alpha + w.bias,
        )
        for dtype in (torch.float16, torch.bfloat16):
            rounded = round_to(values * _alpha(operand), dtype).double() / _alpha(operand)
            yield (
                f"likely {name} was rounded to {str(dtype)[6:]}",
                (rounded * other).sum(1) * w.alpha + w.bias,
            )
    for dtype in (torch.float16, torch.bfloat16):
        pair = [round_to(values * _alpha(t), dtype).double() for values, t in ((w.a, w.left), (w.b, w.right))]
        yield f"likely a and b were rounded to {str(dtype)[6:]}", (pair[0] * pair[1]).sum(1) + w.bias
    yield from _off_by_a_factor(w, sums * w.alpha)
    prefix, k = (w.a * w.b).cumsum(1) * w.alpha + w.bias[:, None], w.a.shape[1]
    fitting = ((prefix - w.found[:, None]).abs() <= _room(w)[:, None]).all(0).nonzero().flatten()
    if len(fitting):
        depth = int(fitting[-1]) + 1
        yield (
            f"likely only the first {depth} of K = {k} were summed: a tail of K is lost",
            prefix[:, depth - 1],
        )


def _factors(w: _Wrong, sums: Tensor) -> Iterator[tuple[str, Tensor]]:
    scales = {name: _global(t) for name, t in (("a", w.left), ("b", w.right))}
    both = scales["a"] * scales["b"]
    for name, gs in (*scales.items(), ("a and b", both)):
        if gs != 1:
            yield f"likely the global scale of {name} was not applied", sums * w.alpha * gs + w.bias
            yield f"likely the global scale of {name} is inverted", sums * w.alpha * gs * gs + w.bias
            yield f"likely the global scale of {name} was applied twice", sums * w.alpha / gs + w.bias
    gain = _gain(w.left) * _gain(w.right)
    if gain != 1:
        yield f"likely alpha lacks the format's 1/{gain:g}", sums * w.alpha * gain + w.bias


def _off_by_a_factor(w: _Wrong, products: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The one factor that fits the elements best in the sense of least squares, if it is not one."""
    size = float((products * products).sum())
    factor = float(((w.found - w.bias) * products).sum()) / size if size else 1.0
    if abs(factor - 1.0) > 2.0**-10:
        words = f"every element is {factor:.6g} times what it should be: likely a wrong alpha or global scale"
        yield words, products * factor + w.bias


def _misread(name: str, q: QTensor) -> Iterator[tuple[str, QTensor]]:
    """q with its bytes read wrongly."""
    if q.zero_point is not None:
        yield (
            f"likely the zero points of {name} were ignored",
            dataclasses.replace(q, zero_point=0 * q.zero_point),
        )
    if q.format.block is None:
        return
    scale = q.scale
    one = {"e4m3": 0x38, "e8m0": 127, "fp32": 1.0}[q.format.scale]
    yield (
        f"likely the block scales of {name} were ignored",
        dataclasses.replace(q, scale=torch.full_like(scale, one)),
    )
    for words, columns in (("the one before", 1), ("the next one", -1)):
        rolled = dataclasses.replace(q, scale=scale.roll(columns, dims=1))
        yield f"likely each block of {name} got the scale of {words}", rolled
    if q.format.scale != "fp32":
        count, (rows, columns) = scale.numel(), scale.shape
        if rows % 128 == 0 and columns % 4 == 0:
            plain = dataclasses.replace(q, scale=from_blocked(scale.flatten(), rows, columns))
            yield f"likely the scales of {name} were read as swizzled (128x4), and are linear", plain
        blocked = dataclasses.replace(q, scale=to_blocked(scale)[:count].view(rows, columns))
        yield f"likely the scales of {name} were swizzled (128x4) and read as linear", blocked
    if q.format.scale == "e4m3" and bool((scale < 8).any()):
        flushed = dataclasses.replace(q, scale=scale.where(scale >= 8, torch.zeros_like(scale)))
        yield f"likely subnormal scales of {name} were read as 0", flushed


def _narrow(w: _Wrong, right: Tensor) -> str:
    """Errors to both sides that grow with the size of the terms: sums of too few bits."""
    size = (w.a * w.b).abs().sum(1) * abs(w.alpha)
    error = w.found - right
    if len(error) < 8 or bool((size == 0).any()) or bool((error > 0).all()) or bool((error < 0).all()):
        return ""
    worst = float((error.abs() / size).max())
    if not 2.0**-16 < worst < 2.0**-5:
        return ""
    bits = torch.log2(torch.tensor(worst)).item()
    return (
        f"errors reach 2^{bits:.1f} of the sum of |a*b|, to both sides: likely sums kept in less than fp32 "
        "(fp16 rounds to 2^-11, bf16 to 2^-8), or operands rounded"
    )


def _agrees(w: _Wrong, candidate: Tensor) -> bool:
    return bool(((candidate - w.found).abs() <= _room(w)).all())


def _room(w: _Wrong) -> Tensor:
    return 0.5001 * _ulp(w) + 2.0**-20 * (w.a * w.b).abs().sum(1) * abs(w.alpha)


def _ulp(w: _Wrong) -> Tensor:
    info = torch.finfo(w.dtype)
    return info.eps * pow2(floor_log2(w.found.abs().clamp(min=info.smallest_normal)))


def _values(t: Operand, rows: Tensor) -> Tensor:
    """float64 [n, K] on the CPU: the exact values of these rows, each row's decoded once."""
    distinct, where = rows.unique(return_inverse=True)
    parts = [take_row(t, int(row)) for row in distinct]
    values = [(p.exact_values() if isinstance(p, QTensor) else p.to(torch.float64)).cpu() for p in parts]
    return torch.cat(values)[where.cpu()]


def take_row(t: Operand, row: int) -> Operand:
    """Row `row` of t as an operand of its own, whatever rows share its scales."""
    if isinstance(t, Tensor):
        return t[row : row + 1]
    first = row // t.format.block_rows * t.format.block_rows
    return dataclasses.replace(t.rows(first, first + 1), data=t.data[row : row + 1])


def _swapped(values: Tensor) -> Tensor:
    return values.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if values.shape[-1] % 2 == 0 else values


def _alpha(t: Operand) -> float:
    return float(t.alpha) if isinstance(t, QTensor) else 1.0


def _gain(t: Operand) -> float:
    return t.format.gain if isinstance(t, QTensor) else 1.0


def _global(t: Operand) -> float:
    if not isinstance(t, QTensor) or t.global_scale is None or t.global_scale.numel() != 1:
        return 1.0
    return float(t.global_scale)

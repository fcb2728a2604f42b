"""A failing input made small: fewer rows, fewer columns, zeros for values, plain numbers for odd ones.

Greedy and bounded: hypothesis shrinks what was drawn (rows, blocks, distribution), this the values themselves, for the
named inputs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qkernels.codec import ldexp
from qkernels.testing.inputs import Sample


def shrink(sample: Sample, fails: Callable[[Sample], bool], *, rows: int, step: int, runs: int) -> Sample:
    """The smallest sample found within so many runs for which `fails` holds still; rows, step: multiples kept."""
    best = sample
    while runs > 0:
        for candidate in _candidates(best.x, rows, step):
            runs -= 1
            tried = replace(best, x=candidate, code="")
            if fails(tried):
                best = tried
                break
            if runs <= 0:
                return best
        else:
            return best
    return best


def _candidates(x: Tensor, rows: int, step: int) -> Iterator[Tensor]:
    """Simpler inputs, the largest steps first."""
    m, k = x.shape
    groups = m // rows
    if 1 < groups <= 8:
        for start in range(0, m - rows + 1, rows):
            yield x[start : start + rows].clone()
    for size in {rows, groups // 2 * rows}:
        if 0 < size < m:
            yield x[:size].clone()
            yield x[m - size :].clone()
    for size in {step, k // 2 // step * step}:
        if 0 < size < k:
            yield x[:, :size].clone()
            yield x[:, k - size :].clone()
    flat = x.flatten()
    places = (flat != 0).nonzero().flatten()
    if len(places) > 1:
        parts = 2
        while parts <= 16 and parts <= len(places):
            for part in places.chunk(parts):
                yield _with(x, part, torch.zeros(len(part), dtype=x.dtype))
            parts *= 2
    values = flat[places]
    for plain in (torch.ones_like(values), torch.round(values.float()).to(x.dtype), _one_bit(values)):
        different = (plain != values) & (plain != 0)
        if bool(different.any()):
            yield _with(x, places[different], plain[different])
    for place in places[:8].tolist():
        plain = _one_bit(flat[place : place + 1])
        if float(plain) != float(flat[place]):
            yield _with(x, torch.tensor([place]), plain)


def _with(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    made = x.clone().flatten()
    made[places] = values
    return made.view(x.shape)


def _one_bit(values: Tensor) -> Tensor:
    """The power of two toward zero, sign kept; what is not finite stays."""
    fraction, exponent = torch.frexp(values.float())
    plain = ldexp(torch.sign(fraction) * 0.5, exponent)
    return torch.where(values.isfinite(), plain, values.float()).to(values.dtype)

"""Hypothesis strategies for the inputs of quantizers, and the named inputs they come after.

Numbers are drawn as (rows, blocks, distribution, seed) or as short lists of values, so that what fails shrinks to one
row, one block and a few plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from qkernels.testing.inputs import (
    DISTRIBUTIONS,
    DTYPES,
    LAYOUTS,
    Sample,
    arranged,
    boundaries,
    draw,
    drawn,
    from_bits,
    nonfinite,
)
from qkernels.testing.ties import ties

__all__ = [
    "DISTRIBUTIONS",
    "DTYPES",
    "LAYOUTS",
    "arranged",
    "boundaries",
    "drawn",
    "from_bits",
    "layouts",
    "nonfinite",
    "raw_bits",
    "samples",
    "shapes",
    "tensors",
    "ties",
]

PLAIN = (0.0, 1.0, -1.0, 0.5, 6.0, -6.0, 3.0, 4.0, 2.0, -0.0, 0.25, -0.75, 1.25, 1.75, 2.5, 3.5, -5.0, 7.0,
         1.9921875, 0.1, -0.3, 2.0**-6, 3 * 2.0**-10, 2.0**-14, 2.0**-24, 2.0**-126, 2.0**-133, 126.5, 448.0,
         1000.0, -2688.0, 1e4)  # fmt: skip
"""Values for short lists: codes, ties, ends of ranges, and numbers that no format holds."""


def shapes(
    *, rows: int = 1, step: int = 1, max_rows: int = 6, max_steps: int = 5
) -> st.SearchStrategy[tuple[int, int]]:
    """(M, K): multiples of `rows` and of `step`, small ones first."""
    height = st.integers(1, max(1, max_rows // rows)).map(lambda n: n * rows)
    return st.tuples(height, st.integers(1, max_steps).map(lambda n: n * step))


def layouts() -> st.SearchStrategy[str]:
    """A name of `LAYOUTS`, "contiguous" first."""
    return st.sampled_from(list(LAYOUTS))


def distributions() -> st.SearchStrategy[str]:
    return st.sampled_from(list(DISTRIBUTIONS))


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31)


@st.composite
def tensors(
    draw_: st.DrawFn, block: int = 32, dtypes: Sequence[torch.dtype] = DTYPES, max_rows: int = 6
) -> Tensor:
    """[1..max_rows, block*1..5] finite, of a random distribution and dtype; magnitudes of 2^-24 .. 2^14 about."""
    rows, k = draw_(shapes(step=block, max_rows=max_rows))
    dtype = draw_(st.sampled_from(list(dtypes)))
    return drawn(draw_(distributions()), rows, k, seed=draw_(seeds()), dtype=dtype)


def raw_bits(block: int = 32, dtype: torch.dtype = torch.bfloat16) -> st.SearchStrategy[Tensor]:
    """[1, block*1..3] of any bit patterns that are finite: subnormals, both zeros and the largest numbers included."""
    return _raw(block, (dtype,)).map(lambda sample: sample.x)


@st.composite
def _raw(draw_: st.DrawFn, block: int, dtypes: Sequence[torch.dtype]) -> Sample:
    dtype = draw_(st.sampled_from(list(dtypes)))
    size = block * draw_(st.integers(1, 3)) * dtype.itemsize
    raw = draw_(st.binary(min_size=size, max_size=size)).hex()
    return Sample(from_bits(raw, dtype), f'from_bits("{raw}", {dtype})')


@st.composite
def _listed(draw_: st.DrawFn, block: int, dtypes: Sequence[torch.dtype]) -> Sample:
    """One row of one value, but for up to six others."""
    k = block * draw_(st.integers(1, 2))
    x = torch.full((1, k), draw_(st.sampled_from((0.0, 1.0, -0.5, 6.0))))
    for place, number in draw_(
        st.dictionaries(st.integers(0, k - 1), st.sampled_from(PLAIN), max_size=6)
    ).items():
        x[0, place] = number
    x = x.to(draw_(st.sampled_from(list(dtypes))))
    raw = x.view(torch.uint8).flatten().numpy().tobytes().hex()
    return Sample(x, f'from_bits("{raw}", {x.dtype})')


@st.composite
def _drawn(
    draw_: st.DrawFn, rows: int, step: int, dtypes: Sequence[torch.dtype], aspects: Sequence[str]
) -> Sample:
    m, k = draw_(shapes(rows=rows, step=step))
    dtype = draw_(st.sampled_from(list(dtypes)))
    aspect = draw_(st.sampled_from(list(aspects)))
    return draw(draw_(distributions()), m, k, draw_(seeds()), dtype, aspect=aspect)


def samples(
    *,
    rows: int = 1,
    step: int = 16,
    dtypes: Sequence[torch.dtype] = DTYPES,
    aspects: Sequence[str] = ("",),
    any_bits: bool = True,
) -> st.SearchStrategy[Sample]:
    """Inputs with the expression that makes each; any_bits: also short lists and raw bit patterns, of one row."""
    plain = _drawn(rows, step, dtypes, aspects)
    if not any_bits or rows > 1:
        return plain
    return st.one_of(_listed(step, dtypes), plain, plain, _raw(step, dtypes))

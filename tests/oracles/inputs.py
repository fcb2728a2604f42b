"""Inputs of the comparisons with other libraries: every bf16 number, thresholds, ties, exact cases, random tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def every_bfloat16() -> Tensor:
    """float32 [65536]: all bit patterns, NaN and inf included."""
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).to(torch.float32)


def every_bfloat16_amax(block: int) -> Tensor:
    """bf16 [32640, block]: row i holds the i-th finite number >= 0 as its amax, else smaller random ones."""
    top = torch.arange(0x7F80, dtype=torch.int16).view(torch.bfloat16)
    g = torch.Generator().manual_seed(block)
    x = (torch.rand(len(top), block, generator=g) * 2 - 1).double() * top.double()[:, None]
    x = x.to(torch.float32).to(torch.bfloat16)
    row = torch.arange(len(top))
    x[row, row % block] = torch.where(row % 2 == 0, top, -top)
    return x


def neighbours(x: Tensor) -> Tensor:
    """float32 [3n]: x, and the next float32 on both sides."""
    infinity = torch.tensor(float("inf"))
    return torch.cat([x, torch.nextafter(x, infinity), torch.nextafter(x, -infinity)])


def threshold_amax(significands: Sequence[float], block: int) -> Tensor:
    """float32 [n, block]: amax = 2^e * significand and its neighbours for every e from -126 to 126, rest random."""
    powers = torch.exp2(torch.arange(-126, 127, dtype=torch.float64)).float()
    top = neighbours((powers[:, None] * torch.tensor(significands)).flatten())
    x = (torch.rand(len(top), block, generator=torch.Generator().manual_seed(block)) * 2 - 1) * top[:, None]
    x[torch.arange(len(top)), torch.arange(len(top)) % block] = -top
    return x


def rows_of_ties(codes: Sequence[float], rows: int = 200) -> Tensor:
    """float32 [rows, 6*(n-1) + 1]: the halfway points between these ascending magnitudes, under a scale of each row.

    The last magnitude is that of amax. Both signs and both float32 neighbours: where orders of fp32 operations differ.
    """
    values = torch.tensor(codes, dtype=torch.float64)
    amax = torch.randn(rows, 1, generator=torch.Generator().manual_seed(len(codes))).abs() + 0.5
    ties = ((values[:-1] + values[1:]) / 2 * (amax.double() / values[-1])).float()
    near = neighbours(ties.flatten()).view(3, rows, -1).transpose(0, 1).flatten(1)
    return torch.cat([near, -near, amax], dim=1)


def exact_groups(least: float, most: float, group: int, rows: int = 256) -> Tensor:
    """float32 [rows, 2*group]: multiples of 2^k/8 between least*2^k and most*2^k, both in each group, a k for each row.

    Scales come out as powers of two, so no order of fp32 operations rounds before the codes do, ties included.
    """
    g = torch.Generator().manual_seed(group)
    x = torch.randint(int(8 * least), int(8 * most) + 1, (rows, 2 * group), generator=g) / 8.0
    x[:, ::group], x[:, 1::group] = least, most
    return x * torch.exp2(torch.randint(-20, 21, (rows, 1), generator=g).float())


@st.composite
def tensors(draw: st.DrawFn, k: int, dtypes: Sequence[torch.dtype] = DTYPES) -> Tensor:
    """[1..5, k*1..4]: normal, over many magnitudes, multiples of 1/4, constant rows, outliers, a row of zeros."""
    rows, wide = draw(st.integers(1, 5)), k * draw(st.integers(1, 4))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(rows, wide, generator=g)
    match draw(st.sampled_from(["normal", "range", "quarters", "constant", "outliers", "zero row"])):
        case "range":
            x = x * torch.exp2(torch.randint(-12, 13, (rows, 1), generator=g).float())
        case "quarters":
            x = torch.randint(-32, 33, (rows, wide), generator=g) / 4.0
        case "constant":
            x = x[:, :1].expand(rows, wide).clone()
        case "outliers":
            x = x * torch.where(torch.rand(rows, wide, generator=g) < 0.02, 64.0, 1.0)
        case "zero row":
            x[0] = 0.0
    return x.to(draw(st.sampled_from(list(dtypes))))


@st.composite
def bits32(draw: st.DrawFn, k: int, least: float = 0.0) -> Tensor:
    """float32 [1..3, k] of any bit pattern but inf and NaN (zero instead), magnitudes from `least` on or zero."""
    rows = draw(st.integers(1, 3))
    raw = draw(st.binary(min_size=4 * rows * k, max_size=4 * rows * k))
    x = torch.from_numpy(np.frombuffer(raw, np.float32).copy()).view(rows, k)
    return torch.where(x.isfinite() & (x.abs() >= least), x, 0.0)

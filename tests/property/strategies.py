"""Inputs for properties of quantizers: distributions, raw bit patterns, and boundaries by name."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def normal(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g)


def outliers(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g) * torch.where(torch.rand(rows, k, generator=g) < 0.02, 50.0, 1.0)


def sparse(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g) * (torch.rand(rows, k, generator=g) < 0.1)


def spread(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Magnitudes over 2^-14 .. 2^14, so that scales turn subnormal."""
    return torch.randn(rows, k, generator=g) * torch.exp2(
        torch.randint(-14, 15, (rows, 1), generator=g).float()
    )


def ties(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Multiples of 1/4 up to 8: every E2M1 tie, powers of two, saturation."""
    return torch.randint(-32, 33, (rows, k), generator=g) / 4.0


def constant(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, 1, generator=g).expand(rows, k).clone()


DISTRIBUTIONS = [normal, outliers, sparse, spread, ties, constant]


@st.composite
def tensors(
    draw: st.DrawFn, block: int = 32, dtypes: list[torch.dtype] = DTYPES, max_rows: int = 6
) -> Tensor:
    """[1..max_rows, block*1..5] finite, normal range (2^-14 .. 2^10 about), of a random distribution and dtype."""
    rows, blocks = draw(st.integers(1, max_rows)), draw(st.integers(1, 5))
    make = draw(st.sampled_from(DISTRIBUTIONS))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = make(rows, blocks * block, g).to(draw(st.sampled_from(dtypes)))
    return x.clamp(-60000.0, 60000.0)


@st.composite
def raw_bits(draw: st.DrawFn, block: int = 32) -> Tensor:
    """bf16 bit patterns, finite: subnormals, both zeros and the largest numbers included."""
    count = block * draw(st.integers(1, 3))
    raw = draw(st.binary(min_size=2 * count, max_size=2 * count))
    x = torch.frombuffer(bytearray(raw), dtype=torch.bfloat16)
    return torch.where(x.isfinite(), x, 0).view(1, count)


def boundaries(k: int) -> dict[str, Tensor]:
    """[rows, k] fp32 tensors by name, tried before anything random; all representable in bf16."""
    half = torch.arange(k) % 2 == 0
    ramp = torch.arange(k).float().remainder(16) - 8
    one_hot = torch.zeros(1, k)
    one_hot[0, 0] = 6.0
    return {
        "zero": torch.zeros(2, k),
        "negative zero": torch.full((1, k), -0.0),
        "zero row among others": torch.stack([torch.zeros(k), ramp, torch.zeros(k)]),
        "one hot": one_hot,
        "constant": torch.full((2, k), -1.5),
        "negative only": -(ramp.abs() + 1)[None],
        "alternating sign": torch.where(half, 7.0, -7.0)[None],
        "smallest subnormal": torch.where(half, 2.0**-133, 0.0)[None],
        "smallest normal": torch.where(half, 2.0**-126, -(2.0**-126))[None],
        "just below a power of two": torch.full((1, k), 1.9921875),
        "power of two": torch.where(half, 4.0, 1.0)[None],
        "largest bf16": torch.where(half, 3.3895313892515355e38, -1.0)[None],
        "wide range": torch.where(half, 2.0**100, 2.0**-100)[None],
        "ramp": ramp[None],
    }

"""What quantizers are tried on: boundary values by name, distributions by name and seed, layouts by name.

Everything here is made on the CPU from small arguments alone, so that a failing input can be written down as the
call that makes it and be made again anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, eq=False)
class Sample:
    """One input: x [M, K], contiguous, on the CPU, and the expression that makes it.

    layout  how x lies in memory when the quantizer gets it: a name of `LAYOUTS`
    aspect  for checks that ask several questions: which one
    """

    x: Tensor
    code: str
    layout: str = "contiguous"
    aspect: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.code, self.layout, self.aspect


# Distributions: float32 [rows, k] ---------------------------------------------------------------------------


def _normal(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g)


def _outliers(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g) * torch.where(torch.rand(rows, k, generator=g) < 0.02, 50.0, 1.0)


def _sparse(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, k, generator=g) * (torch.rand(rows, k, generator=g) < 0.1)


def _spread(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Rows of magnitudes 2^-14 .. 2^14, so that scales turn subnormal."""
    return torch.randn(rows, k, generator=g) * torch.exp2(
        torch.randint(-14, 15, (rows, 1), generator=g).float()
    )


def _wide(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Elements of magnitudes 2^-20 .. 2^12 side by side."""
    return torch.randn(rows, k, generator=g) * torch.exp2(
        torch.randint(-20, 13, (rows, k), generator=g).float()
    )


def _ties(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Multiples of 1/4 up to 8: every E2M1 tie, powers of two, saturation."""
    return torch.randint(-32, 33, (rows, k), generator=g) / 4.0


def _constant(rows: int, k: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, 1, generator=g).expand(rows, k).clone()


def _positive(rows: int, k: int, g: torch.Generator) -> Tensor:
    """Around 3, all of one sign: rows whose mean is far from zero."""
    return torch.randn(rows, k, generator=g).abs() + 2.5


def _one_hot(rows: int, k: int, g: torch.Generator) -> Tensor:
    x = torch.zeros(rows, k)
    x[torch.arange(rows), torch.randint(0, k, (rows,), generator=g)] = torch.randn(rows, generator=g)
    return x


DISTRIBUTIONS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "ties": _ties,
    "constant": _constant,
    "one hot": _one_hot,
    "normal": _normal,
    "positive": _positive,
    "sparse": _sparse,
    "outliers": _outliers,
    "spread": _spread,
    "wide": _wide,
}


def drawn(
    distribution: str, rows: int, k: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[rows, k] of a distribution of `DISTRIBUTIONS`, finite in `dtype` (fp16: at most 2^14, room to grow by half)."""
    x = DISTRIBUTIONS[distribution](rows, k, torch.Generator().manual_seed(seed))
    return x.clamp(-(2.0**14), 2.0**14).to(dtype)


def draw(
    distribution: str,
    rows: int,
    k: int,
    seed: int,
    dtype: torch.dtype,
    *,
    layout: str = "contiguous",
    aspect: str = "",
) -> Sample:
    """`drawn` with the expression that does it again."""
    code = f'drawn("{distribution}", {rows}, {k}, seed={seed}, dtype={dtype})'
    return Sample(drawn(distribution, rows, k, seed=seed, dtype=dtype), code, layout, aspect)


def from_bits(raw: str, dtype: torch.dtype) -> Tensor:
    """[1, k] of the bytes that the hexadecimal digits write; NaN and inf become 0."""
    x = torch.frombuffer(bytearray.fromhex(raw), dtype=dtype)
    return torch.where(x.isfinite(), x, 0).view(1, -1)


# Boundaries by name -----------------------------------------------------------------------------------------


def boundaries(k: int) -> dict[str, Tensor]:
    """[rows, k] fp32 tensors by name, tried before anything random; all representable in bf16."""
    half = torch.arange(k) % 2 == 0
    ramp = torch.arange(k).float().remainder(16) - 8
    one_hot = torch.zeros(1, k)
    one_hot[0, 0] = 6.0
    last = torch.full((1, k), 0.25)
    last[0, -1] = -6.0
    return {
        "zero": torch.zeros(2, k),
        "negative zero": torch.full((1, k), -0.0),
        "zero row among others": torch.stack([torch.zeros(k), ramp, torch.zeros(k)]),
        "one hot": one_hot,
        "largest is last and negative": last,
        "constant": torch.full((2, k), -1.5),
        "negative only": -(ramp.abs() + 1)[None],
        "alternating sign": torch.where(half, 7.0, -7.0)[None],
        "smallest subnormal": torch.where(half, 2.0**-133, 0.0)[None],
        "smallest normal": torch.where(half, 2.0**-126, -(2.0**-126))[None],
        "just below a power of two": torch.full((1, k), 1.9921875),
        "power of two": torch.where(half, 4.0, 1.0)[None],
        "largest bf16": torch.where(half, 3.3895313892515355e38, -1.0)[None],
        "wide range": torch.where(half, 2.0**100, 2.0**-100)[None],
        "large, of mean zero": torch.where(half, 2.0**100, -(2.0**100))[None],
        "ramp": ramp[None],
        "all sixteen codes": torch.tensor(
            [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
        ).repeat(1, -(-k // 16))[:, :k],
    }


# Layouts by name --------------------------------------------------------------------------------------------


def _within(x: Tensor, rows: slice, columns: slice, shape: tuple[int, int]) -> Tensor:
    """x as a part of a larger matrix that is NaN everywhere else."""
    whole = x.new_full(shape, torch.nan)
    whole[rows, columns] = x
    return whole[rows, columns]


def _misaligned(x: Tensor) -> Tensor:
    """Contiguous, but its first element is the second of its storage."""
    return x.new_full((x.numel() + 2,), torch.nan)[1:-1].view(x.shape).copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "misaligned": _misaligned,
    "column slice": lambda x: _within(x, slice(None), slice(16, 16 + x.shape[1]), (len(x), x.shape[1] + 48)),
    "odd column slice": lambda x: _within(x, slice(None), slice(3, 3 + x.shape[1]), (len(x), x.shape[1] + 5)),
    "every third row": lambda x: _within(x, slice(None, None, 3), slice(None), (3 * len(x), x.shape[1])),
    "every second column": lambda x: _within(x, slice(None), slice(None, None, 2), (len(x), 2 * x.shape[1])),
    "transposed": lambda x: x.T.contiguous().T,
    "broadcast row": lambda x: x[:1].clone().expand(len(x), -1),
    "three axes": lambda x: x.clone().unflatten(0, (2, -1) if len(x) % 2 == 0 else (1, -1)),
}


def arranged(x: Tensor, layout: str) -> Tensor:
    """A copy of x [M, K] that lies in memory as the layout says; "broadcast row" repeats its first row."""
    return LAYOUTS[layout](x)


# Non-finite values ------------------------------------------------------------------------------------------


def nonfinite(k: int) -> Iterator[tuple[str, Tensor]]:
    """(name, fp32 [rows, k]): NaN and inf of either sign in an element, a row, everywhere, and beside each other."""
    plain = drawn("normal", 3, k, seed=1)
    for name, bad in (("nan", torch.nan), ("inf", torch.inf), ("-inf", -torch.inf)):
        for place in ((1, k // 2), (0, 0), (2, k - 1)):
            x = plain.clone()
            x[place] = bad
            yield f"{name} at {place}", x
    row, pair, static = plain.clone(), plain.clone(), plain.clone()
    row[1] = torch.nan
    pair[1, :2] = torch.tensor([torch.inf, -torch.inf])
    static[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    static[1] = 0.0
    static[1, 5] = torch.nan
    yield "a row of nan", row
    yield "inf and -inf in one block", pair
    yield "nan, inf and -inf, and nan among zeros", static
    yield "nothing but nan", torch.full((2, k), torch.nan)

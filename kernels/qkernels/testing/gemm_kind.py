"""What products take and what is tried on them: a case is data, made from a few sizes and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qkernels import reference
from qkernels.codec import ldexp
from qkernels.compare.product_causes import take_row
from qkernels.format import Format
from qkernels.tensor import QTensor
from qkernels.testing.gemm_inputs import Operand, coarse, quantized, random_operand
from qkernels.testing.inputs import drawn


@dataclass(frozen=True, eq=False)
class GemmCase:
    """One product: operands on the CPU, and what is special about it. refusable: a clear error is as good as right."""

    what: str
    a: Operand
    b: QTensor
    bias: Tensor | None = None
    refusable: bool = False

    @property
    def operands(self) -> tuple[Operand | Tensor, ...]:
        return (self.a, self.b) if self.bias is None else (self.a, self.b, self.bias)

    def __str__(self) -> str:
        kind = self.a.format.name if isinstance(self.a, QTensor) else str(self.a.dtype)[6:]
        (m, k), n = self.a.shape, self.b.shape[0]
        return f"{self.what}; a {kind} [{m}, {k}], b {self.b.format.name} [{n}, {k}]"


@dataclass(frozen=True)
class Kind:
    """What the products take: formats, dtypes of a plain a, of the output (None: that of a, or bf16), bias.

    rows, columns, step: least multiples of M, N and K that the provider takes.
    """

    weight: Format
    activation: Format | None
    dtypes: tuple[torch.dtype, ...]
    out_dtype: torch.dtype | None
    bias: bool
    rows: int = 1
    columns: int = 1
    step: int = 1

    @property
    def block(self) -> int:
        """The least K that both formats take."""
        wide = (self.activation.block or 1) if self.activation is not None else 1
        return math.lcm(self.weight.block or 16, wide)

    def sizes(self, m: int, n: int, k: int) -> tuple[int, int, int]:
        """m, n, k rounded up to what is taken."""
        units = (self.rows, self.columns, math.lcm(self.step, self.block))
        rounded = [-(-size // unit) * unit for size, unit in zip((m, n, k), units, strict=True)]
        return rounded[0], rounded[1], rounded[2]

    def dtype(self, index: int) -> torch.dtype:
        """The dtypes in turn."""
        return self.dtypes[index % len(self.dtypes)]

    def output(self, a: Operand) -> torch.dtype:
        if self.out_dtype is not None:
            return self.out_dtype
        return a.dtype if isinstance(a, Tensor) else torch.bfloat16

    def case(
        self, what: str, a: Operand, b: QTensor, bias: Tensor | None = None, *, refusable: bool = False
    ) -> GemmCase:
        """With the bias if it is taken; by default one that the product's grid holds and that undoes most of row 0."""
        if self.bias and bias is None:
            bias = _bias(a, b, self.output(a))
        return GemmCase(what, a, b, bias if self.bias else None, refusable)


def _bias(a: Operand, b: QTensor, dtype: torch.dtype) -> Tensor:
    """[N] in the output's dtype: minus row 0 of the product, rounded down to three bits; 1 where that says nothing.

    Added to a product that was rounded before, it leaves that rounding to be seen.
    """
    if a.shape[0] == 0:
        return torch.ones(b.shape[0], dtype=dtype)
    first = reference.matmul(take_row(a, 0), b)[0].nan_to_num(1.0, 1.0, 1.0)
    fraction, exponent = torch.frexp(first.clamp(-(2.0**100), 2.0**100))
    return -ldexp(torch.trunc(fraction * 8) / 8, exponent).to(dtype)


def operand(kind: Kind, m: int, k: int, index: int, distribution: str, seed: int) -> Operand:
    return random_operand(m, k, kind.activation, kind.dtype(index), distribution, seed)


def weight(kind: Kind, n: int, k: int, distribution: str, seed: int) -> QTensor:
    return quantized(drawn(distribution, n, k, seed=seed), kind.weight)


def on_a_grid(kind: Kind, m: int, n: int, k: int, index: int, *, octaves: int = 2) -> tuple[Operand, QTensor]:
    """Operands whose products are exact in any order (alpha = 1/9 of two abs_max operands apart)."""
    m, n, k = kind.sizes(m, n, k)
    b = coarse(n, k, kind.weight, 2 * index + 1, octaves=octaves, global_scale=0.5)
    if kind.activation is not None:
        return coarse(m, k, kind.activation, 2 * index, octaves=octaves), b
    g = torch.Generator().manual_seed(2 * index)
    return (torch.randint(-127, 128, (m, k), generator=g) / 64).to(kind.dtype(index)), b

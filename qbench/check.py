"""Is the output right? Bounds on a product, exact equality, and the words for a mismatch.

A GEMM is judged element by element against a float64 reference: the output must lie in the interval of
values that some honest order of fp32 sums can give, rounded once to the output's dtype. The bound is
    E = 4 * sqrt(K) * 2^-24 * (|A| |B|^T) + 3 * 2^-24 * |ref|
(a probabilistic form of Higham & Mary 2019, "A new approach to probabilistic rounding error analysis").
Fixed tolerances such as rtol = atol = 1e-2 accept truncation and a wrong scale factor; this does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Relative to |A||B|^T. Hopper's FP8 tensor cores keep 13 fraction bits inside one accumulation; promotion
# to fp32 every 128 of K leaves less of it. Both measured on an H200, not derived.
_COARSE = {"fp8-fast": 2.0**-10, "fp8-promoted": 2.0**-12}
ACCUMULATORS = ("fp32", "int32", *_COARSE)


class WrongResult(AssertionError):
    """An output that is not right. Never timed, never a baseline."""


@dataclass(frozen=True)
class Mismatch:
    """What is wrong: a sentence, how many elements of how many, and where."""

    summary: str
    count: int
    total: int
    details: str = ""

    def __str__(self) -> str:
        head = f"{self.summary}: {self.count} of {self.total} elements"
        return f"{head}\n{self.details}" if self.details else head


def exact(
    output: Any, inputs: tuple[Any, ...], reference: Callable[..., Any], accumulator: str = "fp32"
) -> Mismatch | None:
    """Shape, dtype and every element equal the reference's, NaN where it is NaN."""
    import torch

    expected = reference(*inputs)
    if problem := _form_mismatch(output, tuple(expected.shape), expected.dtype):
        return problem
    found, wanted = output.to(torch.float64), expected.to(torch.float64)
    bad = ~((found == wanted) | (found.isnan() & wanted.isnan()))
    return _describe(bad, found, wanted, wanted, wanted) if bool(bad.any()) else None


@dataclass(frozen=True)
class GemmBound:
    """Tolerance for [M, N] products whose row i depends on row i of the first operand alone.

    magnitude(*inputs) gives |A| |B|^T, to 1%; sizes(*inputs) M, N and K; dtype(*inputs) what the output must be:
    a narrower one would set its own, wider bound. take_rows(inputs, start, stop) cuts the operands, so that a
    float64 reference of any size fits in memory.
    """

    magnitude: Callable[..., Tensor]
    sizes: Callable[..., tuple[int, int, int]]
    dtype: Callable[..., torch.dtype]
    take_rows: Callable[[tuple[Any, ...], int, int], tuple[Any, ...]]

    def __call__(
        self,
        output: Tensor,
        inputs: tuple[Any, ...],
        reference: Callable[..., Any],
        accumulator: str = "fp32",
    ) -> Mismatch | None:
        if accumulator not in ACCUMULATORS:
            raise ValueError(f"unknown accumulator {accumulator!r}; known: {', '.join(ACCUMULATORS)}")
        rows, columns, depth = self.sizes(*inputs)
        if problem := _form_mismatch(output, (rows, columns), self.dtype(*inputs)):
            return problem
        step = max(1, _elements_at_once(output) // max(1, columns))
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            part = self.take_rows(inputs, start, stop)
            expected = reference(*part)
            bound = gemm_error(expected, self.magnitude(*part), depth, accumulator)
            if problem := within(output[start:stop], expected, bound, first_row=start):
                return problem
        return None


def _elements_at_once(output: Tensor) -> int:
    """How much of the output to judge at a time: about 20 float64 temporaries of it are alive at once."""
    import torch

    if not output.is_cuda:
        return 1 << 24
    free = (
        torch.cuda.mem_get_info(output.device)[0]
        + torch.cuda.memory_reserved()
        - torch.cuda.memory_allocated()
    )
    return max(1 << 22, min(1 << 28, free // (2 * 20 * 8)))


def gemm_error(expected: Tensor, magnitude: Tensor, depth: int, accumulator: str = "fp32") -> Tensor:
    """E of the module's docstring: the largest honest error of a product of depth K, float64 [M, N]."""
    unit = 2.0**-24
    size = magnitude.to(expected.dtype)
    coarse = _COARSE.get(accumulator, 0.0)
    error: Tensor = size * max(4 * depth**0.5 * unit, coarse) + expected.abs() * (3 * unit)
    return error


def within(output: Tensor, expected: Tensor, error: Tensor, *, first_row: int = 0) -> Mismatch | None:
    """Is `output` in [round(expected - error), round(expected + error)], rounded to its own dtype?

    `expected` and `error` are float64. Rounding a bound to the output's dtype is widened by half a unit in
    the last place on each side instead of being rounded, which avoids torch's double rounding of float64.
    """
    import torch

    found = output.to(torch.float64)
    # Every value that rounds to `found` lies within half an ulp of it; so compare against that interval.
    toward_infinity, toward_zero = _half_gaps(found, output.dtype)
    above = torch.where(found >= 0, toward_infinity, toward_zero)
    below = torch.where(found >= 0, toward_zero, toward_infinity)
    low, high = expected - error, expected + error
    inside = (found + above >= low) & (found - below <= high)
    overflow = found.isinf() & (high.abs().maximum(low.abs()) >= torch.finfo(output.dtype).max)
    bad = ~(inside | overflow & (found.sign() == expected.sign()) | (found.isnan() & expected.isnan()))
    bad |= found.isnan() & ~expected.isnan()
    if not bool(bad.any()):
        return None
    return _describe(bad, found, expected, low, high, first_row)


def _half_gaps(values: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    """Half the spacing of `dtype` at |values|, away from zero and toward it (half as wide at powers of two)."""
    import torch

    info = torch.finfo(dtype)
    fraction, exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal, max=info.max))
    gap = torch.ldexp(torch.full_like(values, 0.5 * info.eps), exponent - 1)
    narrow = (fraction == 0.5) & (values.abs() > info.smallest_normal)
    return gap, torch.where(narrow, 0.5 * gap, gap)


def _form_mismatch(output: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Mismatch | None:
    found = f"output is {output.dtype} {list(output.shape)}, expected {dtype} {list(shape)}"
    same = tuple(output.shape) == tuple(shape) and output.dtype == dtype
    return None if same else Mismatch(found, output.numel(), output.numel())


def _describe(
    bad: Tensor, found: Tensor, expected: Tensor, low: Tensor, high: Tensor, first_row: int = 0
) -> Mismatch:
    import torch

    count = int(bad.sum())
    where = bad.nonzero()[:3]
    lines = []
    for index in where:
        at = tuple(index.tolist())
        shown = (at[0] + first_row, *at[1:]) if at else at
        lines.append(
            f"  at {shown}: found {found[at].item():.9g}, expected {expected[at].item():.9g}, "
            f"allowed [{low[at].item():.9g}, {high[at].item():.9g}]"
        )
    unwritten = int((bad & found.isnan()).sum())
    summary = "output is outside its error bound"
    if unwritten:
        summary = (
            f"output is NaN where the reference is not ({unwritten} times: never written, or computed so)"
        )
    if bad.dim() == 2:
        rows = torch.unique(bad.nonzero()[:, 0])
        if rows.numel() <= 4:
            lines.append(f"  only in rows {[int(r) + first_row for r in rows]}")
    return Mismatch(summary, count, bad.numel(), "\n".join(lines))

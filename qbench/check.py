"""Is the output right? Bounds on a product, exact equality, and the words for a mismatch.

A GEMM is judged element by element against a float64 reference: the output must lie in the interval of
values that some honest order of fp32 sums can give, rounded once to the output's dtype. The bound is
    E = 4 * sqrt(K) * 2^-24 * (|A| |B|^T) + 3 * 2^-24 * |ref|
(a probabilistic form of Higham & Mary 2019, "A new approach to probabilistic rounding error analysis").
Fixed tolerances such as rtol = atol = 1e-2 accept truncation and a wrong scale factor; this does not.

Certificate: where no order of fp32 sums can round, E is 0 and the output must equal the reference rounded once,
ties to even. Where that holds is for the operation to say (`GemmBound.certified`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

from qbench.causes import ldexp, likely_causes

# Relative to |A||B|^T. Hopper's FP8 tensor cores keep 13 fraction bits inside one accumulation; promotion
# to fp32 every 128 of K leaves less of it. Both measured on an H200, not derived. bf16-parts: up to 16 parts of K,
# added one after the other in bf16; simulated at K = 8192 and 28672 (activations with outliers): at most 2^-10.3.
_COARSE = {"fp8-fast": 2.0**-10, "fp8-promoted": 2.0**-12, "bf16-parts": 2.0**-9}
_GROUP = 128
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
    return _describe(_Judged(bad, found, wanted, wanted, wanted, expected.dtype)) if bool(bad.any()) else None


@dataclass(frozen=True)
class GemmBound:
    """Tolerance for [M, N] products whose row i depends on row i of the first operand alone.

    magnitude(*inputs) gives |A| |B|^T, to 1%; sizes(*inputs) M, N and K; dtype(*inputs) what the output must be:
    a narrower one would set its own, wider bound. take_rows(inputs, start, stop) cuts the operands, so that a
    float64 reference of any size fits in memory.
    certified(magnitude, *inputs) says, bool [M, N], where every order of fp32 sums is exact; `roundings` is how many
    fp32 operations (each 2^-24 of the result) may follow such a sum: 0 demands bit equality.
    explain(output, wrong, *inputs) puts wrong elements ([n, 2] indices, at most 64) into words: the cause that the
    operands show, and how to reproduce one of them.
    """

    magnitude: Callable[..., Tensor]
    sizes: Callable[..., tuple[int, int, int]]
    dtype: Callable[..., torch.dtype]
    take_rows: Callable[[tuple[Any, ...], int, int], tuple[Any, ...]]
    certified: Callable[..., Tensor] | None = None
    roundings: int = 0
    explain: Callable[..., str] | None = None

    def __call__(
        self,
        output: Tensor,
        inputs: tuple[Any, ...],
        reference: Callable[..., Any],
        accumulator: str = "fp32",
    ) -> Mismatch | None:
        _check_accumulator(accumulator)
        rows, columns, _ = self.sizes(*inputs)
        if problem := _form_mismatch(output, (rows, columns), self.dtype(*inputs)):
            return problem
        # whole groups of rows, for operands whose rows share something
        step = max(1, _elements_at_once(output) // max(1, columns) // _GROUP) * _GROUP
        for start in range(0, rows, step):
            part = self.take_rows(inputs, start, start + step)
            expected, found = reference(*part), output[start : start + step]
            judged = _judge(found, expected, self.error(expected, part, accumulator))
            if bool(judged.bad.any()):
                problem = _describe(judged, start, rows)
                more = "" if self.explain is None else self.explain(found, judged.bad.nonzero()[:64], *part)
                return replace(problem, details=f"{problem.details}\n{more}") if more else problem
        return None

    def error(self, expected: Tensor, inputs: tuple[Any, ...], accumulator: str = "fp32") -> Tensor:
        """float64 [M, N]: how far an honest fp32 result of these operands may lie from `expected`."""
        size, depth = self.magnitude(*inputs), self.sizes(*inputs)[2]
        error = gemm_error(expected, size, depth, accumulator)
        if self.certified is None or accumulator in _COARSE:
            return error
        error[self.certified(size, *inputs)] = 0.0
        return error if self.roundings == 0 else error.maximum(expected.abs() * (self.roundings * 2.0**-24))


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
    """E of the module's docstring: the largest honest error of a product of depth K, float64 [M, N].

    An int32 sum is exact at any depth; what is left is converting and scaling it.
    """
    _check_accumulator(accumulator)
    unit = 2.0**-24
    size = magnitude.to(expected.dtype)
    sums = 4 * unit if accumulator == "int32" else 4 * depth**0.5 * unit
    error: Tensor = size * max(sums, _COARSE.get(accumulator, 0.0)) + expected.abs() * (3 * unit)
    return error


def within(output: Tensor, expected: Tensor, error: Tensor, *, first_row: int = 0) -> Mismatch | None:
    """Is `output` in [round(expected - error), round(expected + error)], rounded to its own dtype?

    `expected` and `error` are float64. Rounding a bound to the output's dtype is widened by half a unit in
    the last place on each side instead of being rounded, which avoids torch's double rounding of float64.
    Where the error is 0 and `expected` a float32, ties go to even.
    """
    judged = _judge(output, expected, error)
    return _describe(judged, first_row) if bool(judged.bad.any()) else None


@dataclass(frozen=True)
class _Judged:
    """Outputs beside what was allowed; all [M, N], float64 but for `bad`."""

    bad: Tensor
    found: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor
    dtype: torch.dtype


def _judge(output: Tensor, expected: Tensor, error: Tensor) -> _Judged:
    import torch

    found = output.to(torch.float64)
    # Every value that rounds to `found` lies within half an ulp of it; so compare against that interval.
    toward_infinity, toward_zero = _half_gaps(found, output.dtype)
    above = torch.where(found >= 0, toward_infinity, toward_zero)
    below = torch.where(found >= 0, toward_zero, toward_infinity)
    low, high = expected - error, expected + error
    inside = (found + above >= low) & (found - below <= high)
    single = expected.to(torch.float32)
    exact = (error == 0) & (single == expected)  # then one rounding to nearest even decides
    inside = torch.where(exact, single.to(output.dtype) == output, inside)
    overflow = found.isinf() & (high.abs().maximum(low.abs()) >= torch.finfo(output.dtype).max)
    inside |= (overflow & (found.sign() == expected.sign())) | (found == expected)  # equal: infinities
    nan = expected.isnan()
    return _Judged(torch.where(nan, ~found.isnan(), ~inside), found, expected, low, high, output.dtype)


def _half_gaps(values: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    """Half the spacing of `dtype` at |values|, away from zero and toward it (half as wide at powers of two)."""
    import torch

    info = torch.finfo(dtype)
    fraction, exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal, max=info.max))
    gap = ldexp(torch.full_like(values, 0.5 * info.eps), exponent - 1)
    narrow = (fraction == 0.5) & (values.abs() > info.smallest_normal)
    return gap, torch.where(narrow, 0.5 * gap, gap)


def _form_mismatch(output: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Mismatch | None:
    found = f"output is {output.dtype} {list(output.shape)}, expected {dtype} {list(shape)}"
    same = tuple(output.shape) == tuple(shape) and output.dtype == dtype
    return None if same else Mismatch(found, output.numel(), output.numel())


def _check_accumulator(accumulator: str) -> None:
    if accumulator not in ACCUMULATORS:
        raise ValueError(f"unknown accumulator {accumulator!r}; known: {', '.join(ACCUMULATORS)}")


def _describe(judged: _Judged, first_row: int = 0, rows: int = 0) -> Mismatch:
    """first_row: of this part of the output, which has `rows` (0: this is all of it, or its end)."""
    bad, found, expected, low, high = judged.bad, judged.found, judged.expected, judged.low, judged.high
    lines = []
    for index in bad.nonzero()[:3]:
        at = tuple(index.tolist())
        shown = (at[0] + first_row, *at[1:]) if at else at
        lines.append(
            f"  at {shown}: found {found[at].item():.9g}, expected {expected[at].item():.9g}, "
            f"allowed [{low[at].item():.9g}, {high[at].item():.9g}] rounded to {judged.dtype}"
        )
    unwritten = int((bad & found.isnan()).sum())
    summary = "output is outside its error bound"
    if unwritten:
        summary = (
            f"output is NaN where the reference is not ({unwritten} times: never written, or computed so)"
        )
    if bad.dim() == 2:
        after = first_row + len(bad)
        lines += likely_causes(bad, found, expected, low, high, judged.dtype, first_row, max(rows, after))
        if len(bad) < rows:
            summary += f", in rows {first_row} to {after - 1} of {rows}: the first part of them that is wrong"
    return Mismatch(summary, int(bad.sum()), bad.numel(), "\n".join(lines))

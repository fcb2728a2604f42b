"""Reductions, scans, clamp and integers of the interpreter, in every dtype by value."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from qbench.interpreter import interpreted


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with interpreted(sys.modules[__name__]):
        yield


@triton.jit
def larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def extremes_kernel(x_ptr, out_ptr, running_ptr, index_ptr, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Rows of out: maximum, minimum, sum, sum by a function, maximum by a function; then all of x's sum."""
    rows, at = tl.arange(0, ROWS), tl.arange(0, COUNT)
    x = tl.load(x_ptr + rows[:, None] * COUNT + at[None, :])
    most, index = tl.max(x, 1, return_indices=True)
    tl.store(out_ptr + rows, most)
    tl.store(index_ptr + rows, index)
    tl.store(out_ptr + ROWS + rows, tl.min(x, 1))
    tl.store(out_ptr + 2 * ROWS + rows, tl.sum(x, 1))
    tl.store(out_ptr + 3 * ROWS + rows, tl.sum(x, 1, keep_dims=True).reshape(ROWS))
    tl.store(out_ptr + 4 * ROWS + rows, tl.reduce(x, 1, plus))
    tl.store(out_ptr + 5 * ROWS + rows, tl.reduce(x, 1, larger))
    tl.store(out_ptr + 6 * ROWS, tl.sum(x))
    tl.store(running_ptr + rows[:, None] * COUNT + at[None, :], tl.associative_scan(x, 1, plus))


@triton.jit
def integer_kernel(x_ptr, y_ptr, high_ptr, odd_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    tl.store(high_ptr + at, tl.umulhi(x, y))
    tl.store(odd_ptr + at, ((x > 0) + (y > 0)).to(tl.int32))


@triton.jit
def clamp_kernel(x_ptr, out_ptr, all_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.clamp(x, -1.0, 2.0))
    tl.store(all_ptr + at, tl.clamp(x, -1.0, 2.0, propagate_nan=tl.PropagateNan.ALL))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_reductions_are_of_values(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.5, -3.0, 0.25, 2.0, -0.5, 4.0, 1.0, -2.0], [-1.0] * 7 + [-0.5]]).to(dtype)
    out, running, index = torch.zeros(13, dtype=dtype), torch.empty_like(x), torch.empty(2, dtype=torch.int32)
    extremes_kernel[(1,)](x, out, running, index, ROWS=2, COUNT=8)
    sums = [3.25, -7.5]
    assert out.tolist() == [4.0, -0.5, -3.0, -1.0, *sums, *sums, *sums, 4.0, -0.5, -4.25]
    assert index.tolist() == [5, 7]
    assert torch.equal(running, x.cumsum(1))


def test_a_sum_of_bf16_rounds_each_addition() -> None:
    """256 + 1 is a tie that goes to 256: 128 of them stay 256 one by one, and are 384 in fp32."""
    x = torch.ones(2, 128, dtype=torch.bfloat16)
    x[:, 0] = 256.0
    out, running, index = (
        torch.zeros(13, dtype=x.dtype),
        torch.empty_like(x),
        torch.empty(2, dtype=torch.int32),
    )
    extremes_kernel[(1,)](x, out, running, index, ROWS=2, COUNT=128)
    assert torch.equal(running, torch.full_like(x, 256.0))
    assert out[8:10].tolist() == [256.0, 256.0]
    assert 256.0 < float(out[4]) < 384.0  # halves first: most of the ones meet each other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_clamp_drops_nan_unless_told_to_keep_it(dtype: torch.dtype) -> None:
    x = torch.tensor([-5.0, torch.nan, 0.5, torch.inf]).to(dtype)
    out, kept = torch.empty(4, dtype=dtype), torch.empty(4, dtype=dtype)
    clamp_kernel[(1,)](x, out, kept, BLOCK=4)
    assert out.tolist() == [-1.0, -1.0, 0.5, 2.0]
    assert kept[1].isnan()
    assert kept[[0, 2, 3]].tolist() == [-1.0, 0.5, 2.0]


def test_umulhi_and_sums_of_truth_values_wrap_as_on_a_gpu() -> None:
    x = torch.tensor([-1, 5, -7, 2**31 - 1], dtype=torch.int32)
    y = torch.tensor([3, -5, -9, 2**31 - 1], dtype=torch.int32)
    high, odd = torch.empty_like(x), torch.empty_like(x)
    integer_kernel[(1,)](x, y, high, odd, BLOCK=4)
    unsigned = [((int(a) % 2**32) * (int(b) % 2**32)) >> 32 for a, b in zip(x, y, strict=True)]
    assert [int(value) % 2**32 for value in high] == unsigned
    assert odd.tolist() == [1, 1, 0, 0]

"""fp8_few equals the float64 product of the same codes: however work is divided, at any shape that is taken.

Run by threads of Python where there is no GPU (tests/gluon_threads.py), as it is on a Hopper GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from qbench import gemm_error, within
from qkernels.triton import fp8_few_plan
from qkernels.triton.fp8_few import fp8_few
from qkernels.triton.fp8_few_plan import Few8, choose, share
from tests.gluon_threads import on_threads

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = [
    Few8(1, 64, 1, 2), Few8(2, 64, 1, 3), Few8(4, 64, 2, 2), Few8(8, 64, 1, 2), Few8(4, 128, 1, 2),
    Few8(1, 64, 1, 2, 1, True), Few8(1, 128, 2, 2, 1, True), Few8(2, 64, 1, 2, 2, True), Few8(1, 64, 2, 3, 1, True),
]  # fmt: skip


def codes(rows: int, k: int, seed: int) -> torch.Tensor:
    made = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)) * 20
    return made.to(torch.float8_e4m3fn).to(DEVICE)


def scales(rows: int, each: bool, seed: int) -> torch.Tensor:
    made = torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed)) * 0.01 + 1e-3
    return (made if each else made[0]).to(DEVICE)


def run(processors: int = 5, backwards: bool = False) -> Any:
    return nullcontext() if DEVICE == "cuda" else on_threads(processors, backwards)


def check(
    m: int, n: int, k: int, plan: Few8 | None = None, *, bias: bool = False, each: bool = True, early: bool = True,
    backwards: bool = False,
) -> None:  # fmt: skip
    x, w, xs, ws = codes(m, k, 0), codes(n, k, 1), scales(m, each, 2), scales(n, each, 3)
    b = scales(n, True, 4).reshape(-1).bfloat16() * 100 if bias else None
    with run(backwards=backwards) as counters:
        out = fp8_few(x, w, xs, ws, b, plan, early)
    assert counters is None or not counters.any()
    wide_x, wide_w = x.double() * xs.double(), w.double() * ws.double()
    expected = wide_x @ wide_w.T + (0 if b is None else b.double())
    size = wide_x.abs() @ wide_w.abs().T
    assert within(out, expected, gemm_error(expected, size, k, "fp8-fast")) is None
    if DEVICE == "cpu":  # exact sums there: a wrong place would not be within this
        assert within(out, expected, gemm_error(expected, size, k)) is None


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_however_the_work_is_divided(plan: Few8, backwards: bool) -> None:
    check(3, 100, 2048, plan, bias=True, backwards=backwards, early=not backwards)


@pytest.mark.parametrize("plan", [Few8(1, 64, 1, 2), Few8(1, 64, 2, 3, 1, True)], ids=str)
@pytest.mark.parametrize(("n", "k"), [(16, 16), (70, 144), (129, 1040), (64, 384)])
def test_rows_and_depth_of_any_number_of_tiles(n: int, k: int, plan: Few8) -> None:
    check(5, n, k, plan)


@pytest.mark.parametrize("each", [False, True], ids=["a scale a tensor", "a scale a row"])
@pytest.mark.parametrize("m", [1, 3, 8, 9, 17, 33, 64])
def test_every_row_count(m: int, each: bool) -> None:
    check(m, 70, 1024, each=each)


def test_no_rows_give_no_rows() -> None:
    x, w = codes(0, 64, 0), codes(16, 64, 1)
    with run():
        assert fp8_few(x, w, scales(1, False, 0), scales(16, True, 0)).shape == (0, 16)


def test_what_is_not_taken_is_named() -> None:
    x, w, xs, ws = codes(2, 64, 0), codes(16, 64, 1), scales(2, True, 0), scales(16, True, 0)
    for arguments, kind, words in (
        ((x.float(), w, xs, ws), TypeError, "x_codes is torch.float32"),
        ((x[:, :32], w, xs, ws), ValueError, "K = 32"),
        ((codes(65, 64, 0), w, xs[:1], ws), ValueError, "M = 65"),
        ((x, codes(16, 128, 1)[:, :64], xs, ws), ValueError, "without gaps"),
        ((x, w, ws, ws), ValueError, "x_scale is"),
        ((x, w, xs, ws.double()), ValueError, "w_scale is"),
        ((x, w, xs, ws, torch.zeros(3)), ValueError, r"bias is \[3\]"),
        ((x, w, xs, ws, None, Few8(8, 64, 1, 2)), ValueError, "does not fit"),
    ):
        with pytest.raises(kind, match=words), run():
            fp8_few(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [1, 8, 16, 32, 64])
@pytest.mark.parametrize(
    ("n", "k"),
    [(4096, 4096), (1024, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (128, 16), (8000, 144)],
)
def test_chosen_plans_fit_and_cover_all_steps(m: int, n: int, k: int) -> None:
    few = choose(m, n, k)
    assert few.fits(fp8_few_plan.width(m), k)
    work = share(few, n, k, 132, 512)
    assert work.grains * work.grain == work.steps * -(-n // few.rows)
    assert work.steps * few.depth * 128 * few.parts >= k
    assert few.split or n < 1024 or -(-n // few.rows) >= 0.7 * 132


@pytest.mark.gpu
@pytest.mark.parametrize("plan", [None, *PLANS], ids=str)
def test_repeats_bit_for_bit_on_streams_and_in_graphs(plan: Few8 | None) -> None:
    x, w, xs, ws = codes(4, 2048, 0), codes(5000, 2048, 1), scales(4, True, 2), scales(5000, True, 3)
    expected = fp8_few(x, w, xs, ws, plan=plan)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = [fp8_few(x, w, xs, ws, plan=plan) for _ in range(4)]
    for _ in range(5):
        graph.replay()
        outs.append(fp8_few(x, w, xs, ws, plan=plan, early=False))
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected) for out in outs)

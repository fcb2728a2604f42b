"""mxfp4_few_sm90 equals the float64 product of what folded operands hold, however a program's rows and K are made up.

Run by threads of Python where there is no GPU (tests/gluon_threads_fp4.py), as it is on a Hopper GPU: there also beside
mxfp4_gemm_sm90, and where results are quantized.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch

import qkernels
from qbench import gemm_error, poisoned_allocations, within
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, Format
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.folded_product import product
from qkernels.triton.fp4_few_plan import Few
from qkernels.triton.mxfp4_few_plan import MAX_ROWS, choose
from qkernels.triton.mxfp4_few_sm90 import mxfp4_few_sm90
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights, dense, fold_rows, fold_weights
from qkernels.triton.mxfp4_gemm_sm90 import SHAPES, mxfp4_gemm_sm90
from qkernels.triton.quantized_result import Quantized
from qkernels.triton.stream_plan import Plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = [
    Few(2, 1, 2, 4), Few(1, 2, 1, 3), Few(1, 4, 2, 2), Few(2, 1, 1, 2, 2, 2), Few(2, 1, 2, 4, 1, 2),
    Few(1, 2, 2, 2, 1, 2), Few(2, 2, 1, 4, 1, 2), Few(4, 1, 1, 4, 1, 2), Few(2, 1, 1, 4, 1, 4), Few(1, 2, 1, 2, 1, 4),
    Few(2, 2, 1, 2, 1, 4), Few(1, 4, 2, 1, 1, 4),
]  # fmt: skip
# every one that choose takes, and others beside them; what a GPU runs
SHIPPED = [
    Few(2, 1, 4, 4), Few(2, 1, 4, 6), Few(2, 1, 2, 4), Few(2, 1, 2, 6), Few(2, 1, 2, 4, 2), Few(1, 2, 2, 4),
    Few(1, 4, 2, 3), Few(2, 2, 2, 6), Few(2, 1, 2, 6, 1, 2), Few(2, 1, 1, 8, 2, 2), Few(2, 1, 2, 4, 1, 4),
    Few(2, 1, 2, 4, 2, 2), Few(2, 2, 1, 4, 1, 2), Few(4, 1, 1, 8),
]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def operands(m: int, n: int, k: int, fmt: Format = MXFP4) -> tuple[QTensor, QTensor]:
    """Rows of factors far apart."""
    spread = [torch.exp2(torch.arange(float(rows)) % 60 - 30)[:, None] for rows in (m, n)]
    x, w = normal(m, k) * spread[0], normal(n, k, seed=1) * spread[1].flip(0)
    return tuple(qkernels.quantize(each.bfloat16(), fmt).to(DEVICE) for each in (x, w))  # type: ignore[return-value]


def values(x: FoldedRows) -> torch.Tensor:
    return x.elements.double() * x.factor.double()[:, None] / x.gain


def check(
    m: int, n: int, k: int, plan: Few | None, *, bias: bool = False, early: bool = True, backwards: bool = False,
    processors: int = 3, fmt: Format = MXFP4,
) -> None:  # fmt: skip
    left, right = operands(m, n, k, fmt)
    x, w = fold_rows(left), fold_weights(right)
    b = normal(n, seed=2).bfloat16().to(DEVICE) if bias else None
    threads: Any = nullcontext() if DEVICE == "cuda" else on_threads(w, processors, backwards)
    with threads as counters:
        out = mxfp4_few_sm90(x, w, bias=b, few=plan, early=early)
    assert counters is None or not counters.any()
    expected = values(x) @ dense(w).T
    size = values(x).abs() @ dense(w).abs().T
    accumulator = "fp8-fast" if DEVICE == "cuda" else "fp32"
    assert (
        within(out, expected + (0 if b is None else b.double()), gemm_error(expected, size, k, accumulator))
        is None
    )


def on_threads(w: FoldedWeights, processors: int, backwards: bool) -> Any:
    from tests.gluon_threads_fp4 import on_threads

    return on_threads(w, processors, backwards)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_however_a_program_is_made_up(plan: Few, backwards: bool) -> None:
    check(3, 136, 1536, plan, bias=True, backwards=backwards, early=not backwards)


@pytest.mark.parametrize("plan", [Few(2, 1, 2, 2), Few(2, 1, 2, 2, 1, 2)], ids=str)
@pytest.mark.parametrize(("n", "k"), [(8, 128), (70, 512), (130, 416), (64, 32), (33, 1280)])
def test_rows_and_depth_of_any_number_of_units(n: int, k: int, plan: Few) -> None:
    check(5, n, k, plan)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("m", [1, 8, 9, 17, 33, 64])
def test_every_row_count(m: int, parts: int) -> None:
    check(m, 70, 512, Few(2, 1, 1, 2, 1, parts), bias=True)


def test_gains_of_both_operands() -> None:
    check(3, 70, 256, Few(2, 1, 1, 2), fmt=MXFP4_ABS_MAX)


def test_rows_that_do_not_lie_as_tma_reads_them() -> None:
    left, right = operands(6, 64, 256)
    x, w = fold_rows(left), fold_weights(right)
    apart = torch.zeros(6, 300, dtype=torch.uint8, device=DEVICE)[:, 3:259].view(x.elements.dtype)
    apart.copy_(x.elements)
    with nullcontext() if DEVICE == "cuda" else on_threads(w, 3, False):
        out = [
            mxfp4_few_sm90(FoldedRows(each, x.factor, x.gain), w, few=Few(2, 1, 1, 2))
            for each in (x.elements, apart)
        ]
    assert torch.equal(out[0], out[1])


def test_what_it_does_not_take_is_refused() -> None:
    left, right = operands(65, 16, 128)
    x, w = fold_rows(left), fold_weights(right)
    with pytest.raises(ValueError, match="M = 65; this kernel takes up to 64 rows"):
        mxfp4_few_sm90(x, w)
    with pytest.raises(ValueError, match="K = 64"):
        mxfp4_few_sm90(FoldedRows(x.elements[:8, :64], x.factor[:8], 1.0), w)
    assert mxfp4_few_sm90(FoldedRows(x.elements[:0], x.factor[:0], 1.0), w).shape == (0, 16)


def test_few_rows_are_of_this_kernel_and_more_of_the_other() -> None:
    left, right = operands(65, 16, 128)
    x, w = fold_rows(left), fold_weights(right)
    bias, into = torch.zeros(16), Quantized.empty(65, 16, NVFP4, None, torch.device("cpu"))
    for m in (1, MAX_ROWS, MAX_ROWS + 1):
        with (
            mock.patch("qkernels.triton.mxfp4_few_sm90.mxfp4_few_sm90") as few,
            mock.patch("qkernels.triton.mxfp4_gemm_sm90.mxfp4_gemm_sm90") as many,
        ):
            rows = FoldedRows(x.elements[:m], x.factor[:m], x.gain)
            product(rows, w, bias=bias, into=into)
        taken, other = (few, many) if m <= MAX_ROWS else (many, few)
        taken.assert_called_once_with(rows, w, bias=bias, into=into)
        other.assert_not_called()


@pytest.mark.parametrize("m", [1, 8, 9, 16, 17, 32, 33, 64])
@pytest.mark.parametrize("tiles", [1, 64, 256, 384, 512, 1792, 3584])
@pytest.mark.parametrize("chunks", [1, 2, 3, 32, 64, 65, 112])
def test_what_is_chosen_fits(m: int, tiles: int, chunks: int) -> None:
    rows = max(8, 1 << (m - 1).bit_length())
    for whole in (False, True):
        few = choose(m, tiles, chunks, whole=whole)
        assert few.wk * few.wr in (2, 4) and few.stages % few.wk == 0 and few.depth >= 1
        assert chunks % few.parts == 0 and (few.parts == 1 or not whole)
        assert few.resident * (few.shared_memory(rows, 2, 256) + 1024) <= 227 * 1024


@pytest.mark.parametrize(
    ("m", "n", "k", "few"),
    [
        (1, 6144, 4096, Few(2, 1, 2, 4, 2, 2)),
        (16, 6144, 4096, Few(2, 1, 2, 4, 2, 2)),
        (8, 4096, 4096, Few(2, 1, 2, 6, 1, 2)),
        (32, 4096, 4096, Few(2, 1, 2, 6, 1, 2)),
        (64, 4096, 4096, Few(2, 1, 2, 4)),
        (1, 28672, 4096, Few(1, 4, 2, 3)),
        (32, 28672, 4096, Few(1, 4, 2, 3)),
    ],
)
def test_the_fastest_measured_is_chosen(m: int, n: int, k: int, few: Few) -> None:
    assert choose(m, n // 16, k // 128) == few


@pytest.mark.gpu
@pytest.mark.parametrize("few", [None, *SHIPPED], ids=str)
@pytest.mark.parametrize(
    ("n", "k"),
    [(20000, 128), (1000, 1056), (33, 8192), (10240, 384), (4096, 4096), (6144, 1920), (57344, 512)],
)
def test_on_hopper_beside_the_other_kernel(n: int, k: int, few: Few | None) -> None:
    w = fold_weights(qkernels.quantize(normal(n, k, seed=1).bfloat16(), MXFP4).to(DEVICE))
    bias = normal(n, seed=2).bfloat16().to(DEVICE)
    for m in (1, 2, 7, 16, 17, 33, 64):
        x = fold_rows(qkernels.quantize(normal(m, k).bfloat16(), MXFP4).to(DEVICE))
        expected, size = values(x) @ dense(w).T, values(x).abs() @ dense(w).abs().T
        rows = max(8, 1 << (m - 1).bit_length())
        if few and few.resident * (few.shared_memory(rows, 2, 256) + 1024) > 227 * 1024:
            continue
        b = bias if m in (2, 16, 33) else None  # one of each that is compiled takes it
        with poisoned_allocations():
            out = mxfp4_few_sm90(x, w, bias=b, few=few)
        wanted = expected + (0 if b is None else b.double())
        assert within(out, wanted, gemm_error(expected, size, k, "fp8-fast")) is None, m
        for early in (True, b is None, True, True):
            assert torch.equal(out, mxfp4_few_sm90(x, w, bias=b, few=few, early=early)), m
        if n % 8 == 0:
            other = mxfp4_gemm_sm90(x, w, bias=b)
            assert float((out.double() - other.double()).norm() / wanted.norm()) < 3e-3, m


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 16, 64])
def test_on_hopper_sums_in_one_order_are_those_of_the_other_kernel(m: int) -> None:
    """One warpgroup has all of K, in one step, and so has a program of the other kernel."""
    k = 512
    x = fold_rows(qkernels.quantize(normal(m, k).bfloat16(), MXFP4).to(DEVICE))
    w = fold_weights(qkernels.quantize(normal(8192, k, seed=1).bfloat16(), MXFP4).to(DEVICE))
    whole = mxfp4_gemm_sm90(x, w, shape=SHAPES[0], plan=Plan(64))
    assert torch.equal(whole, mxfp4_few_sm90(x, w, few=Few(1, 4, 4, 2)))


@pytest.mark.gpu
@pytest.mark.parametrize("few", [None, SHIPPED[0], SHIPPED[4], SHIPPED[6]], ids=str)
@pytest.mark.parametrize("result", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("n", "k"), [(416, 1056), (8224, 384), (4096, 4096)])
def test_on_hopper_results_are_quantized(n: int, k: int, result: Format, few: Few | None) -> None:
    right = quantize_exactly(normal(n, k, seed=1), MXFP4).to(DEVICE)
    w, bias = fold_weights(right), normal(n, seed=2).bfloat16().to(DEVICE)
    for m in (1, 2, 7, 16, 17, 33, 64):
        rows = max(8, 1 << (m - 1).bit_length())
        if few and few.resident * (few.shared_memory(rows, 2, 256) + few.wr * 2048 + 1024) > 227 * 1024:
            continue
        left = quantize_exactly(normal(m, k), MXFP4).to(DEVICE)
        y = reference.matmul(left, right, bias=bias)
        gs = (2688 / y.abs().amax()).float() if result.levels == 2 else None
        error = gemm_error(y, reference.magnitude(left, right), k, "fp8-fast")
        found = []
        for early in (True, m != 16):
            with poisoned_allocations():
                into = Quantized.empty(m, n, result, gs, torch.device(DEVICE))
                mxfp4_few_sm90(fold_rows(left), w, bias=bias, few=few, into=into, early=early)
            found.append(QTensor(into.codes, into.scales, result, (m, n), global_scale=gs))
            wrong = compare_quantized(found[-1], y, result, global_scale=gs, error=error)
            assert wrong is None, f"{m}: {wrong}"
        assert torch.equal(found[0].data, found[1].data) and torch.equal(found[0].scale, found[1].scale)

"""fp4_few_sm90 equals the float64 product of the decoded weights, however a program's rows and K are made up.

Run by threads of Python where there is no GPU (tests/gluon_threads_fp4.py), as it is on a Hopper GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

import qkernels
from qbench import gemm_error, within
from qkernels.triton.fp4_few_plan import TILES, Few, share
from qkernels.triton.fp4_few_sm90 import SHARED, fp4_few_sm90
from qkernels.triton.fp4_fragments import Fragments, dense, fragments
from tests.gluon_threads_fp4 import on_threads

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = [
    Few(2, 1, 2, 4), Few(1, 2, 1, 3), Few(2, 1, 1, 2, 2, 2), Few(2, 1, 2, 4, 1, 2), Few(1, 2, 2, 2, 1, 2),
    Few(2, 2, 1, 4, 1, 2), Few(1, 4, 1, 2, 1, 2), Few(4, 1, 1, 4, 1, 2), Few(2, 1, 1, 4, 1, 4), Few(1, 2, 1, 2, 1, 4),
    Few(4, 1, 1, 4, 1, 4), Few(2, 2, 2, 2, 1, 4), Few(1, 4, 2, 1, 1, 4),
]  # fmt: skip


def weights(n: int, k: int, fmt: str) -> Fragments:
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(1)).bfloat16()
    return fragments(qkernels.quantize(w.to(DEVICE), fmt))


def check(
    m: int, n: int, k: int, plan: Few | None, fmt: str = "nvfp4", *, bias: bool = False, early: bool = True,
    backwards: bool = False, processors: int = 3, scales: int = 0, least: int = -40,
) -> None:  # fmt: skip
    """scales: of x, none, one for all (1), or one a row (2), the smallest 1.37 * 2^least."""
    w = weights(n, k, fmt)
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(2)).bfloat16().to(DEVICE)
    b = torch.randn(n, generator=torch.Generator().manual_seed(3)).bfloat16().to(DEVICE) if bias else None
    rows = (m, 1) if scales == 2 else (1,)
    tops = 1.37 * torch.exp2(torch.arange(float(m if scales == 2 else 1)) % 80 + least).to(DEVICE).view(rows)
    threads: Any = nullcontext() if DEVICE == "cuda" else on_threads(w, processors, backwards)
    with threads as counters:
        out = fp4_few_sm90(x, w, x_global_scale=tops if scales else None, bias=b, few=plan, early=early,
                           out_dtype=torch.float32)  # fmt: skip
    assert counters is None or not counters.any()
    values = dense(w) / (1 if w.global_scale is None else w.global_scale.double())
    x = x.double() / tops.double() if scales else x
    expected = x.double() @ values.T + (0 if b is None else b.double())
    size = x.double().abs() @ values.abs().T
    assert within(out, expected, gemm_error(expected, size, k)) is None


def test_rows_that_do_not_lie_as_tma_reads_them() -> None:
    """An odd start, and a K that ends within a unit."""
    w, rows = weights(70, 272, "nvfp4"), torch.randn(3, 272).bfloat16().to(DEVICE)
    apart = torch.full((6, 300), torch.nan, dtype=torch.bfloat16, device=DEVICE)[::2, 3:275].copy_(rows)
    found = []
    for x in (rows, apart):
        threads: Any = nullcontext() if DEVICE == "cuda" else on_threads(w, 3, False)
        with threads:
            found.append(fp4_few_sm90(x, w))
    assert torch.equal(*found) and not found[0].isnan().any()


@pytest.mark.parametrize("scales", [1, 2])
def test_large_rows_of_x_do_not_overflow_before_they_are_divided_by_the_scale_of_w(scales: int) -> None:
    check(3, 136, 768, Few(2, 1, 2, 4), scales=scales, least=-118)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_however_a_program_is_made_up(plan: Few, backwards: bool) -> None:
    check(3, 136, 768, plan, bias=True, backwards=backwards, early=not backwards)


@pytest.mark.parametrize("plan", [Few(2, 1, 2, 2, 1, 2), Few(2, 1, 2, 4, 1, 4)], ids=str)
@pytest.mark.parametrize(("n", "k"), [(16, 256), (70, 512), (130, 320), (64, 336), (33, 1280)])
def test_rows_and_depth_of_any_number_of_units(n: int, k: int, plan: Few) -> None:
    check(5, n, k, plan)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize("m", [1, 8, 9, 16, 17, 33])
def test_every_row_count(m: int, fmt: str, parts: int) -> None:
    check(m, 70, 512, Few(2, 1, 1, 2, 1, parts), fmt)


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("plan", [Few(2, 1, 2, 4), Few(1, 2, 1, 3), Few(1, 4, 1, 2), *PLANS[3::4]], ids=str)
@pytest.mark.parametrize("m", [1, 7, 33, 64])
def test_x_over_its_global_scale_or_each_row_over_its_own(m: int, plan: Few, scales: int) -> None:
    check(m, 136, 512, plan, bias=True, scales=scales)


@pytest.mark.parametrize("m", [65, 128])
def test_more_rows_over_their_own_global_scales(m: int) -> None:
    check(m, 70, 128, Few(2, 1, 1, 2), scales=2)


def test_parts_are_not_split() -> None:
    for parts in (2, 4):
        few = Few(2, 1, 4, 6, 1, parts)
        plan = share(few, 65, 64, 132, 512)
        assert plan.grain == plan.steps == 64 // parts // 4
        assert plan.grains == -(-65 * parts // TILES)
        assert few.shared_memory(16 // parts * 2) < SHARED

"""Plots: names that cannot collide, pictures that say their units."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from qbench.report import (
    make_sheets,
)
from qbench.report.figure import plot_png, spread
from qbench.report.plots import plot_names, write_plots
from qbench.result import Ceilings
from tests.reports import PNG, hadamard, result, run_of, sweep, with_


def test_plot_names_hold_op_and_every_fixed_axis() -> None:
    assert plot_names(make_sheets(sweep().results)) == [
        "nvfp4_hadamard_gemm_n8192_k4096_had16.png",
        "nvfp4_hadamard_gemm_n8192_k4096_had32.png",
    ]


def test_plot_names_cannot_collide() -> None:
    results = []
    for m in (1, 2):
        results += [result("op", "p", 1.0, m=m, n=18), result("op", "p", 1.0, m=m, n1=8)]  # both n18
        results += [
            result("op", "p", 1.0, m=m, kind=kind) for kind in ("γ", "δ", "A", "a", "x" * 300, "x" * 301)
        ]
    names = plot_names(make_sheets(results))
    assert len({name.lower() for name in names}) == len(names) == 8
    assert max(len(name) for name in names) < 255
    assert all(name.isascii() for name in names)


def test_plots_are_written_for_one_point_many_lines_words_and_odd_names(tmp_path: Path) -> None:
    results = [result("single", "p", 2.0, m=16, n=64, k=64)]
    results += [
        result("many", f"provider-{i}", 2.0 + i / 100, m=m, n=64, k=64) for i in range(20) for m in (1, 64)
    ]
    results += [
        result("words", p, 2.0, dtype=dtype) for p in ("_hidden", "$cost$") for dtype in ("γ", "日本", "$a")
    ]
    results += [with_(result("zero", "p", 2.0, m=m), alongside=()) for m in (0, 4)]
    results += [hadamard("partly", None if m == 4 else 5.0, m, 16) for m in (1, 4, 16)]
    paths, note = write_plots(tmp_path, run_of(*results))
    assert note == ""
    assert len(paths) == 5
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_a_sheet_without_times_has_no_plot(tmp_path: Path) -> None:
    paths, note = write_plots(tmp_path, run_of(hadamard("vllm", None, 1, 16)))
    assert paths == []
    assert note == "no plots: nothing was timed"


def test_the_picture_reaches_up_to_the_ceiling_and_says_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **more: (drawn.append(self), save(self, *args, **more))
    )
    words = make_sheets([result("q", "p", 2.0, dtype=word) for word in ("half", "float")])[0]
    partly = [hadamard("p", us, m, 16) for m, us in ((1, 9.0), (4, None), (16, 9.0))]
    for sheet in (words, make_sheets(partly)[0]):
        plot_png(run_of(), sheet)
    first, second = (figure.axes[0] for figure in drawn)
    assert first.get_ylim()[0] == 0
    assert first.get_ylim()[1] > 4000
    assert first.get_ylabel() == "throughput [GB/s], median with p20–p80"
    assert second.get_ylim()[1] > 700
    assert second.get_ylabel() == "throughput [TFLOP/s], median with p20–p80"
    assert (second.get_xscale(), second.get_xlabel()) == ("log", "m")
    assert second.get_title(loc="left") == "NVIDIA H200\nnvfp4_hadamard_gemm  n=8192  k=4096  had=16"
    line = next(each for each in second.get_lines() if list(each.get_xdata()) == [1, 4, 16])
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False], "a failed case is not bridged"
    assert "p" in {text.get_text() for text in second.texts}
    fast = [with_(each, accumulator="fp8-fast") for each in partly]
    ceilings = Ceilings(4000.0, 700.0, by_accumulator={"fp8-fast": 1400.0, "int32": 9000.0})
    plot_png(run_of(ceilings=ceilings), make_sheets(fast)[0])
    assert 1400 < drawn[-1].axes[0].get_ylim()[1] < 9000, "the units that were used, and no others"


def test_labels_are_pushed_apart_but_keep_their_order() -> None:
    assert spread([0.2, 0.5], 0.1) == [0.2, 0.5]
    placed = spread([0.5, 0.5, 0.98, 0.99], 0.1)
    assert placed == sorted(placed)
    assert all(after - before > 0.0999 for before, after in pairwise(placed))
    assert placed[-1] <= 1.0

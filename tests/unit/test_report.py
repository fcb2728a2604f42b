"""Reports: the right results on the right sheet, the right numbers in the right cell, nothing hidden or cut."""

from __future__ import annotations

import csv
import io
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qbench.progress import Progress, duration
from qbench.report import (
    append_step_summary,
    junit_properties,
    make_sheets,
    markdown_report,
    results_csv,
    terminal_report,
    terminal_summary,
    write_report,
)
from qbench.report.cells import number
from qbench.report.figure import plot_png, spread
from qbench.report.markdown import escape
from qbench.report.plots import plot_names, write_plots
from qbench.result import Ceilings, Device, Judgement, Result, Run, Times, Verdict, read_run

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
CEILINGS = Ceilings(4000.0, 700.0)
PNG = b"\x89PNG\r\n\x1a\n"


def times(us: float, **changes: Any) -> Times:
    made = Times(us * 1e3, us * 980, us * 1050, 60, 20, 4, "graph", True, 1200, 1980)
    return msgspec.structs.replace(made, **changes)


def result(op: str, provider: str, us: float | None, *, id_suffix: str = "", **axes: Any) -> Result:
    """A timed result, or an unsupported one where `us` is None. Bytes and flops are those of a GEMM if m, n, k."""
    name = ",".join(f"{key}={value}" for key, value in axes.items())
    gemm = {"m", "n", "k"} <= set(axes)
    return Result(
        case=f"{op}/{provider}[{name}]{id_suffix}",
        op=op,
        provider=provider,
        axes=axes,
        status="unsupported" if us is None else "ok",
        reason=f"{provider} is not installed" if us is None else "",
        bytes=2 * (axes["m"] * axes["k"] + axes["n"] * axes["k"]) if gemm else 3_000_000,
        flops=2 * axes["m"] * axes["n"] * axes["k"] if gemm else 0,
        elements=0 if gemm else 1_000_000,
        times=None if us is None else times(us),
    )


def with_(old: Result, **changes: Any) -> Result:
    return msgspec.structs.replace(old, **changes)


def hadamard(provider: str, us: float | None, m: int, had: int, **changes: Any) -> Result:
    made = result("nvfp4_hadamard_gemm", provider, us, m=m, n=8192, k=4096, had=had)
    return with_(made, alongside=("bf16_gemm",), **changes)


def run_of(*results: Result, device: Device = H200, ceilings: Ceilings | None = CEILINGS) -> Run:
    return Run(1, "2026-01-01T00:00:00+00:00", device, {"torch": "2.13.0"}, results, ceilings)


def verdict(kind: Verdict, reason: str = "", **facts: Any) -> Judgement:
    return Judgement(kind, reason, **facts)


SLOWER = verdict(
    Verdict.SLOWER,
    "+21.3%, more than chance explains",
    ratio=1.213,
    low=1.198,
    high=1.229,
    detectable=0.031,
    baseline_runs=5,
    baseline_ns=123_456.0,
)


def sweep() -> Run:
    results = []
    for m in (1, 16, 256):
        results.append(result("bf16_gemm", "torch-bf16", 20.0, m=m, n=8192, k=4096))
        for had in (16, 32):
            results.append(hadamard("nvfp4", 10.0, m, had))
            results.append(hadamard("vllm", None, m, had))
    return run_of(*results)


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


# Sheets


def test_one_sheet_per_op_and_fixed_axes_with_the_companion_joined_to_each() -> None:
    sheets = make_sheets(sweep().results)
    assert [(sheet.op, sheet.x, dict(sheet.fixed)) for sheet in sheets] == [
        ("nvfp4_hadamard_gemm", "m", {"n": 8192, "k": 4096, "had": had}) for had in (16, 32)
    ]
    for sheet in sheets:
        assert [line.label for line in sheet.lines] == ["bf16_gemm/torch-bf16", "nvfp4", "vllm"]
        assert sheet.reference == "bf16_gemm/torch-bf16"
        assert sheet.xs == (1, 16, 256)


def test_companion_of_another_shape_does_not_join_and_keeps_its_own_sheet() -> None:
    sheets = make_sheets(
        [
            hadamard("nvfp4", 10.0, 1, 16),
            hadamard("nvfp4", 11.0, 2, 16),
            result("bf16_gemm", "torch-bf16", 5.0, m=1, n=64, k=64),
            result("bf16_gemm", "torch-bf16", 6.0, m=2, n=64, k=64),
        ]
    )
    assert [(sheet.op, len(sheet.lines)) for sheet in sheets] == [
        ("nvfp4_hadamard_gemm", 1),
        ("bf16_gemm", 1),
    ]
    assert sheets[0].reference is None


def test_companion_keeps_its_sheet_when_some_of_it_is_shown_nowhere_else() -> None:
    shared = result("bf16_gemm", "torch-bf16", 5.0, m=1, n=8192, k=4096)
    alone = result("bf16_gemm", "torch-bf16", 5.0, m=4, n=8192, k=4096)
    sheets = make_sheets([hadamard("nvfp4", 10.0, 1, 16), shared, alone])
    assert [sheet.op for sheet in sheets] == ["nvfp4_hadamard_gemm", "bf16_gemm"]
    assert sheets[0].xs == (1,), "a companion adds no batch size that the op itself was not run at"


def test_two_ops_alongside_each_other_both_keep_their_sheets() -> None:
    a = with_(result("a", "p", 1.0, m=1), alongside=("b",))
    b = with_(result("b", "p", 2.0, m=1), alongside=("a",))
    assert [sheet.op for sheet in make_sheets([a, b])] == ["a", "b"]


def test_companion_with_more_axes_says_which() -> None:
    results = [with_(result("q", "p", 1.0, m=1), alongside=("c",))]
    results += [result("c", "p", 2.0, m=1, dtype=dtype) for dtype in ("half", "float")]
    sheet = make_sheets(results)[0]
    assert [line.label for line in sheet.lines] == ["c/p dtype=half", "p", "c/p dtype=float"]


def test_first_alongside_op_is_the_reference_and_a_later_one_never_takes_its_place() -> None:
    first, second = result("first", "p", 1.0, m=1), result("second", "p", 1.0, m=1)
    own = with_(result("own", "p", 1.0, m=1), alongside=("first", "second"))
    assert make_sheets([second, own, first])[0].reference == "first/p"
    assert make_sheets([second, own])[0].reference is None


@pytest.mark.parametrize(
    ("axes", "x"),
    [
        ([{"k": 1, "m": 2}], "m"),
        ([{"hidden": 1, "tokens": 2}], "tokens"),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], "b"),
        ([{}], ""),
    ],
)
def test_x_axis_is_m_then_tokens_then_the_axis_of_most_values(axes: list[dict[str, int]], x: str) -> None:
    sheets = make_sheets([result("op", "p", 1.0, **each) for each in axes])
    assert [sheet.x for sheet in sheets] == [x]


def test_numbers_are_ordered_by_size_and_words_as_they_came() -> None:
    assert make_sheets([result("op", "p", 1.0, m=m) for m in (256, 1, 16)])[0].xs == (1, 16, 256)
    words = ("half", "bfloat16", "float")
    assert make_sheets([result("op", "p", 1.0, dtype=word) for word in words])[0].xs == words


def test_sheets_of_one_point_are_folded_into_one_named_by_what_differs() -> None:
    cubes = [with_(result("g", "p", 1.0, m=s, n=s, k=s, bits=4), alongside=("bf16",)) for s in (128, 256)]
    cubes += [result("bf16", "t", 1.0, m=s, n=s, k=s) for s in (128, 256)]
    (sheet,) = make_sheets(cubes)
    assert (sheet.x, sheet.xs, sheet.fixed) == ("m×n×k", ("128×128×128", "256×256×256"), (("bits", 4),))
    assert [line.label for line in sheet.lines] == ["bf16/t", "p"]
    assert sheet.reference == "bf16/t"


def test_folding_over_a_single_number_keeps_it_a_number() -> None:
    (sheet,) = make_sheets([result("g", "p", 1.0, m=16, had=had) for had in (128, 16, 64)])
    assert (sheet.x, sheet.xs, sheet.numeric) == ("had", (16, 64, 128), True)


def test_the_same_case_twice_is_shown_twice() -> None:
    (sheet,) = make_sheets([result("op", "p", us, m=1) for us in (1.0, 2.0)])
    assert [line.label for line in sheet.lines] == ["p", "p #2"]


def test_every_result_is_on_some_sheet() -> None:
    run = sweep()
    shown = {point.case for sheet in make_sheets(run.results) for point in sheet.results}
    assert shown == {each.case for each in run.results}


# Terminal


def test_a_row_holds_time_rates_share_and_speedup() -> None:
    run = run_of(
        result("bf16_gemm", "torch-bf16", 20.0, m=256, n=8192, k=4096), hadamard("nvfp4", 40.0, 256, 16)
    )
    text = terminal_report(run)
    (row,) = lines_with(text, "nvfp4 ", "×")
    # 2·256·8192·4096 flops in 40 µs = 429 TFLOP/s, 61% of 700; 2·(256 + 8192)·4096 bytes = 1730 GB/s, 43% of 4000
    assert row.split() == ["nvfp4", "40.00", "[39.20–42.00]", "429", "1730", "61%", "c", "0.500×"]
    (reference,) = lines_with(text, "bf16_gemm/torch-bf16", "20.00")
    assert reference.split()[0] == "256"
    assert "speedup is over bf16_gemm/torch-bf16" in text
    assert "c of its bfloat16 matmul (700 TFLOP/s), m of its copy (4000 GB/s)" in text


def test_a_memory_bound_op_shows_gigabytes_and_nanoseconds_per_element() -> None:
    text = terminal_report(run_of(result("fp8_quantize", "triton", 2.0, tokens=4096)))
    assert "TFLOP/s " not in text.split("% ceiling is")[0]
    (row,) = lines_with(text, "triton")
    assert row.split() == ["4096", "triton", "2.000", "[1.960–2.100]", "1500", "0.00200", "38%", "m"]
    assert "ns/element" in text


def test_without_ceilings_no_percentage_is_shown_and_that_is_said() -> None:
    text = terminal_report(run_of(result("op", "p", 2.0, m=1), ceilings=None))
    assert "% ceiling" not in text
    assert "not measured, so no percentages" in text


def test_unsupported_is_a_numbered_note_with_its_reason() -> None:
    some = [hadamard("mixed", None if m == 1 else 9.0, m, 16) for m in (1, 16)]
    never = [hadamard("vllm", None, m, 16) for m in (1, 16)]
    text = terminal_report(run_of(*some, *never))
    assert lines_with(text, "1", "mixed", "n/a (2)")
    assert "n/a throughout: vllm (1)" in text
    assert "(1) vllm is not installed" in text
    assert "(2) mixed is not installed" in text
    assert len(lines_with(text, "vllm")) == 2, "a provider that runs nowhere takes no row"


def test_a_sheet_where_nothing_runs_still_says_why() -> None:
    text = terminal_report(run_of(hadamard("vllm", None, 1, 16)))
    assert "nvfp4_hadamard_gemm" in text
    assert "(1) vllm is not installed" in text


def test_wrong_and_failed_results_stand_in_their_row_and_in_the_summary() -> None:
    wrong = hadamard("triton", None, 16, 16, status="wrong", reason="\n3 of 9 elements off\n  at (0, 1)")
    failed = hadamard("other", None, 16, 16, status="error", reason="x" * 5000)
    text = terminal_report(run_of(wrong, failed))
    assert lines_with(text, "16", "triton", "WRONG (1)")
    assert lines_with(text, "other", "ERROR (2)")
    assert lines_with(text, wrong.case, "wrong: 3 of 9 elements off")
    assert max(len(line) for line in text.splitlines()) < 500
    assert "1 wrong, 1 error" in text


def test_summary_names_regressions_with_interval_effect_and_runs() -> None:
    slow = hadamard("triton", 150.0, 16, 16, judgement=SLOWER)
    text = terminal_summary(run_of(slow))
    assert "SLOWER than the baseline" in text
    assert (
        f"{slow.case}: 1.213× [1.198–1.229] the baseline's 123.5 µs, 5 baseline runs, minimum detectable effect 3.1%"
    ) in text
    assert lines_with(terminal_report(run_of(slow)), "16", "triton", "SLOWER")


def test_summary_counts_verdicts_and_says_what_was_compared_with_nothing() -> None:
    kinds = [Verdict.SAME] * 3 + [Verdict.FASTER, Verdict.INCONCLUSIVE] + [Verdict.NO_BASELINE] * 2
    results = [
        hadamard("p", 9.0, m, 16, judgement=verdict(kind, "why so")) for m, kind in enumerate(kinds, 1)
    ]
    text = terminal_summary(run_of(*results, hadamard("p", 9.0, 99, 16)))
    assert "3 same, 1 faster, 1 unclear, 2 no baseline, 1 not judged" in text
    assert "2 of 8 timed cases were compared with nothing; record them with --qbench-update" in text
    assert f"{results[4].case}: why so" in text
    assert "SLOWER" not in text


def test_summary_gives_device_versions_clocks_and_throttled_cases() -> None:
    cool = hadamard("p", 9.0, 1, 16)
    hot = hadamard("p", 9.0, 2, 16, times=times(9.0, clock_after_mhz=990, throttle=("sw_power_cap",)))
    text = terminal_summary(run_of(cool, hot))
    assert "NVIDIA H200, sm_90, 132 SMs, 140 GiB (nvidia-h200_sm90_132sm_140gib)" in text
    assert "torch 2.13.0" in text
    assert "copy 4000 GB/s, bfloat16 matmul 700 TFLOP/s" in text
    assert f"SM 990–1980 MHz; THROTTLED in 1 case (sw_power_cap): {hot.case}" in text
    assert "never throttled" in terminal_summary(run_of(cool))


def test_warm_operands_are_said_on_a_gpu() -> None:
    warm = hadamard("p", 9.0, 1, 16, times=times(9.0, cold=False))
    assert "1 with operands left in the L2 cache" in terminal_summary(run_of(warm))


def test_a_long_run_prints_a_matrix_per_sheet_and_the_regressions() -> None:
    results = [hadamard("triton", 100.0 + m, m, had) for m in range(1, 202) for had in (16, 32)]
    results += [hadamard("vllm", None, 1, 16), hadamard("triton", 150.0, 999, 16, judgement=SLOWER)]
    text = terminal_report(run_of(*results))
    assert len(text.splitlines()) < 40
    assert len(lines_with(text, "nvfp4_hadamard_gemm  n=8192  k=4096  had=", "TFLOP/s")) == 2
    assert f"{results[-1].case}: 1.213×" in text
    matrix = lines_with(text, "triton ")[0].split()
    assert matrix[:2] == ["triton", number(results[0].tflops or 0)]


def test_a_matrix_marks_what_is_missing_unsupported_and_wrong() -> None:
    results = [hadamard("a", 10.0, 1, 16), hadamard("a", None, 2, 16), hadamard("b", 10.0, 2, 16)]
    results.append(hadamard("b", None, 4, 16, status="wrong", reason="off"))
    text = terminal_report(run_of(*results), long=3)
    assert lines_with(text, "a  ")[0].split() == ["a", "6.71", "n/a", "(1)", "-"]
    assert lines_with(text, "b  ")[0].split() == ["b", "-", "13.4", "WRONG", "(2)"]


def test_a_matrix_over_words_stands_upright() -> None:
    results = [result("q", p, 2.0, dtype=f"type{i}") for i in range(20) for p in ("one", "two")]
    text = terminal_report(run_of(*results), long=3)
    assert len(lines_with(text, "type", "1500")) == 20
    assert "GB/s" in text


def test_plain_text_unless_told_and_markup_is_not_obeyed() -> None:
    odd = with_(hadamard("[red]p[/red]", 9.0, 1, 16, judgement=SLOWER), op="op:smile:")
    text = terminal_report(run_of(odd))
    assert "\x1b" not in text
    assert "[red]p[/red]" in text
    assert ":smile:" in text


def test_colour_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in terminal_report(run_of(hadamard("p", 9.0, 1, 16, judgement=SLOWER)), color=True)


def test_unicode_axis_values_keep_the_columns_straight() -> None:
    run = run_of(*(result("op", "p", 2.0, m=1, kind=kind) for kind in ("γ", "日本", "plain")))
    rows = lines_with(terminal_report(run), "2.000")
    assert [row.split()[0] for row in rows] == ["γ", "日本", "plain"]
    assert rows[0].index("2.000") == rows[2].index("2.000")
    assert rows[1].index("2.000") == rows[0].index("2.000") - 2  # two letters, each two columns wide


def test_an_empty_run_is_reported_as_such() -> None:
    text = terminal_report(run_of())
    assert "NVIDIA H200" in text
    assert "SLOWER" not in text
    assert results_csv(run_of()) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.00119, "0.00119"), (9.999, "10.00"), (429.4, "429"), (21_472.0, "21472")]
)
def test_numbers_are_never_written_with_an_exponent(value: float, text: str) -> None:
    assert number(value) == text


# Markdown


def test_markdown_has_the_summary_and_a_foldable_table() -> None:
    run = run_of(
        result("bf16_gemm", "torch-bf16", 20.0, m=256, n=8192, k=4096), hadamard("nvfp4", 40.0, 256, 16)
    )
    text = markdown_report(run)
    assert text.startswith("## qbench on NVIDIA H200\n")
    assert (
        "<details><summary>nvfp4_hadamard_gemm  n=8192  k=4096  had=16 (2 rows)</summary>\n\n|m|provider|µs|"
        in text
    )
    assert "||nvfp4|40.00|[39.20–42.00]|429|1730|61% c|0.500×|" in text


def test_markdown_keeps_case_names_searchable_and_escapes_the_rest() -> None:
    assert escape("nvfp4_gemm/p[m=1,n=2]: 1.2×") == "nvfp4_gemm/p[m=1,n=2]: 1.2×"
    assert escape("a|b *c* `d` _e_ <f> [g](h)\ni") == r"a\|b \*c\* \`d\` \_e\_ &lt;f&gt; [g\](h) i"


def test_markdown_stays_under_its_limit_and_counts_what_it_left_out() -> None:
    results = [hadamard("p", 9.0, m, had) for had in range(1, 41) for m in (1, 2)]
    full = markdown_report(run_of(*results))
    text = markdown_report(run_of(*results), limit_bytes=len(full.encode()) // 2)
    assert full.count("<details>") == 40
    assert len(text.encode()) <= len(full.encode()) // 2
    assert 0 < text.count("<details>") < 40
    assert f"{40 - text.count('<details>')} of 40 tables left out" in text
    assert text.count("<details>") == text.count("</details>")


def test_markdown_cuts_a_summary_that_is_too_long_by_whole_lines() -> None:
    results = [hadamard("p", 9.0, m, 16, judgement=SLOWER) for m in range(1, 200)]
    text = markdown_report(run_of(*results), limit_bytes=4000)
    assert len(text.encode()) <= 4000
    assert "lines of this summary left out" in text
    assert "1 of 1 tables left out" in text
    assert all(line.endswith("3.1%") for line in lines_with(text, "- nvfp4_hadamard_gemm"))


def test_step_summary_is_appended_within_what_is_left(tmp_path: Path) -> None:
    run = run_of(hadamard("p", 9.0, 1, 16))
    path = tmp_path / "summary.md"
    assert append_step_summary(path, run)
    assert append_step_summary(path, run)
    assert path.read_text(encoding="utf-8") == 2 * markdown_report(run)
    path.write_bytes(b"x" * (1 << 20))
    assert not append_step_summary(path, run)
    assert path.stat().st_size == 1 << 20


# Plots


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


def test_labels_are_pushed_apart_but_keep_their_order() -> None:
    assert spread([0.2, 0.5], 0.1) == [0.2, 0.5]
    placed = spread([0.5, 0.5, 0.98, 0.99], 0.1)
    assert placed == sorted(placed)
    assert all(after - before > 0.0999 for before, after in pairwise(placed))
    assert placed[-1] <= 1.0


# Files


def test_report_folder_holds_data_table_and_plots(tmp_path: Path) -> None:
    run = sweep()
    written = write_report(tmp_path / "out", run)
    assert [path.name for path in written.files[:3]] == ["results.json", "results.csv", "report.md"]
    assert read_run(tmp_path / "out" / "results.json") == run
    assert sorted(path.name for path in (tmp_path / "out" / "plots").iterdir()) == sorted(
        path.name for path in written.files[3:]
    )
    assert len(written.files) == 5
    assert written.notes == ()


def test_report_without_matplotlib_says_so_and_writes_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write_report(tmp_path, sweep())
    assert written.notes == ("no plots: matplotlib is not installed; pip install 'pytest-qbench[plots]'",)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.csv", "report.md"}


def test_csv_has_one_row_per_result_with_units_in_its_names() -> None:
    mixed = [hadamard("triton", 40.0, 256, 16, judgement=SLOWER), result("q", "vllm, odd", None, tokens=4)]
    rows = list(csv.DictReader(io.StringIO(results_csv(run_of(*mixed)))))
    assert len(rows) == 2
    assert rows[0]["axis_m"] == "256"
    assert rows[0]["axis_tokens"] == ""
    assert float(rows[0]["median_ns"]) == 40_000
    assert float(rows[0]["tflops"]) == pytest.approx(429.5, rel=1e-3)
    assert float(rows[0]["percent_of_matmul"]) == pytest.approx(61.4, rel=1e-2)
    assert (rows[0]["verdict"], rows[0]["ratio"]) == ("slower", "1.213")
    assert (rows[1]["provider"], rows[1]["status"], rows[1]["median_ns"]) == ("vllm, odd", "unsupported", "")


def test_junit_properties_are_named_facts_and_absent_ones_are_left_out() -> None:
    named = dict(junit_properties(hadamard("triton", 40.0, 256, 16, judgement=SLOWER)))
    assert named["qbench_median_ns"] == 40_000
    assert named["qbench_verdict"] == "slower"
    assert named["qbench_ratio_high"] == 1.229
    assert set(dict(junit_properties(hadamard("vllm", None, 1, 16)))) == {
        "qbench_case",
        "qbench_status",
        "qbench_reason",
    }


# Progress


def test_progress_writes_at_most_a_line_each_interval() -> None:
    clock = [0.0]
    written: list[str] = []
    progress = Progress(960, written.append, now=lambda: clock[0], every_s=10)
    for count in range(1, 121):
        clock[0] = count * 80 / 120
        progress.done(f"op/p[m={count}]", "12.3 µs")
    assert written[-1] == "qbench 120/960  12%  1m20s, about 9m left  last: op/p[m=120] 12.3 µs"
    assert len(written) == 8


def test_progress_of_a_short_run_is_silent_and_of_a_finished_one_has_no_time_left() -> None:
    clock = [0.0]
    written: list[str] = []
    progress = Progress(2, written.append, now=lambda: clock[0])
    progress.done("a", "1 µs")
    assert written == []
    clock[0] = 30.0
    progress.done("b", "skipped")
    progress.done("c", "one more than announced")
    assert written == ["qbench 2/2  100%  30s  last: b skipped"]


@pytest.mark.parametrize(
    ("seconds", "text", "coarse"),
    [
        (0, "0s", "0s"),
        (59.4, "59s", "59s"),
        (59.6, "1m00s", "1m"),
        (3590, "59m50s", "1h00m"),
        (7499, "2h05m", "2h05m"),
    ],
)
def test_durations_are_short(seconds: float, text: str, coarse: str) -> None:
    assert duration(seconds) == text
    assert duration(seconds, coarse=True) == coarse

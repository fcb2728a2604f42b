"""Terminal tables: the right numbers in the right cell, nothing hidden or cut."""

from __future__ import annotations

import pytest

from qbench.report import results_csv, terminal_report
from qbench.report.cells import number
from qbench.report.summary import summarize
from qbench.report.table import render_summary
from qbench.result import Ceilings, Verdict
from tests.reports import SLOWER, hadamard, lines_with, result, run_of, times, verdict, with_


def summary_of(run) -> str:
    return render_summary(summarize(run))


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


def test_a_product_is_compared_with_the_units_that_its_accumulator_names() -> None:
    """FP8 products run at twice the rate of bf16's: of that rate, not 195% of the other."""
    ceilings = Ceilings(4000.0, 700.0, read_gbps=4400.0, by_accumulator={"fp8-fast": 1400.0, "int32": 1300.0})
    fast = with_(result("gemm", "fast", 20.0, m=256, n=8192, k=4096), accumulator="fp8-fast")
    plain = with_(result("gemm", "plain", 40.0, m=256, n=8192, k=4096), accumulator="fp32")
    old = result("gemm", "old", 40.0, m=256, n=8192, k=4096)  # of a file that does not say
    reads = with_(result("gemm", "reads", 10.0, m=1, n=8192, k=4096), accumulator="fp8-fast")
    run = run_of(fast, plain, old, reads, ceilings=ceilings)
    text = terminal_report(run)
    assert lines_with(text, "fast", "859")[0].split()[-2:] == [
        "79%",
        "m",
    ]  # 3460 of 4400 GB/s; 61% of 1400 TFLOP/s
    assert run.percent_of_matmul(fast) == pytest.approx(61.4, abs=0.1)
    for name in ("plain", "old"):
        assert lines_with(text, name, "429")[0].split()[-2:] == ["61%", "c"]
    assert "c of its bfloat16 matmul (700 TFLOP/s; for fp8-fast sums 1400; for int32 sums 1300)" in text
    assert "m of its read (4400 GB/s)" in text
    assert "copy 4000 GB/s, read 4400 GB/s, bfloat16 matmul 700 TFLOP/s, fp8-fast sums 1400" in text


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
    text = summary_of(run_of(slow))
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
    text = summary_of(run_of(*results, hadamard("p", 9.0, 99, 16)))
    assert "3 same, 1 faster, 1 unclear, 2 no baseline, 1 not judged" in text
    assert "2 of 8 timed cases were compared with nothing; record them with --qbench-update" in text
    assert f"{results[4].case}: why so" in text
    assert "SLOWER" not in text


def test_summary_gives_device_versions_clocks_and_throttled_cases() -> None:
    cool = hadamard("p", 9.0, 1, 16)
    hot = hadamard("p", 9.0, 2, 16, times=times(9.0, clock_after_mhz=990, throttle=("sw_power_cap",)))
    text = summary_of(run_of(cool, hot))
    assert "NVIDIA H200, sm_90, 132 SMs, 140 GiB (nvidia-h200_sm90_132sm_140gib)" in text
    assert "torch 2.13.0" in text
    assert "copy 4000 GB/s, bfloat16 matmul 700 TFLOP/s" in text
    assert f"SM 990–1980 MHz; THROTTLED in 1 case (sw_power_cap): {hot.case}" in text
    assert "never throttled" in summary_of(run_of(cool))


def test_a_cpu_that_was_taken_away_is_no_throttled_card() -> None:
    cool, taken = (
        hadamard("p", 9.0, 1, 16),
        hadamard("p", 9.0, 2, 16, times=times(9.0, throttle=("preempted",))),
    )
    text = summary_of(run_of(cool, taken))
    assert f"never throttled; the CPU was TAKEN BY OTHER PROCESSES in 1 case, run again: {taken.case}" in text
    assert "TAKEN" not in summary_of(run_of(cool))


def test_warm_operands_are_said_on_a_gpu() -> None:
    warm = hadamard("p", 9.0, 1, 16, times=times(9.0, cold=False))
    assert "1 with operands left in the L2 cache" in summary_of(run_of(warm))


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

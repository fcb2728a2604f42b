"""Markdown, CSV, JUnit and the report folder."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest

from qbench.report import (
    append_step_summary,
    junit_properties,
    markdown_report,
    results_csv,
    write_report,
)
from qbench.report.markdown import escape
from qbench.result import read_run
from tests.reports import SLOWER, hadamard, lines_with, result, run_of, sweep


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


def test_report_folder_holds_data_table_and_plots(tmp_path: Path) -> None:
    run = sweep()
    written = write_report(tmp_path / "out", run)
    assert [path.name for path in written.files[:3]] == ["results.json", "results.csv", "report.md"]
    assert read_run(tmp_path / "out" / "results.json") == run
    lines = (tmp_path / "out" / "results.json").read_text().splitlines()
    assert all(result.case in line for result, line in zip(run.results, lines[1:-1], strict=True))
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

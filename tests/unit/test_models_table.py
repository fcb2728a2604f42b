"""README's table of whole models is that of the stored run, and says what a case has no figure for."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from qbench.result import read_run, write_run
from tests.models_table import table

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests/data/h200_models"


def row(text: str, begin: str) -> list[str]:
    return next(line.split(" | ") for line in text.splitlines() if line.startswith(f"| {begin} |"))


def test_the_readmes_table_and_plot_are_those_of_the_stored_run() -> None:
    readme = (ROOT / "README.md").read_text()
    assert table(STORED) in readme
    assert "tests/data/h200_models/batch-1.png" in readme and (STORED / "batch-1.png").is_file()


def test_a_row_has_rates_of_every_batch_size_and_their_ratios() -> None:
    results = read_run(STORED / "results.json").results
    mine, theirs = (
        next(
            r.figures["tokens_per_s"] for r in results
            if (r.op, r.provider, r.axes["batch"]) == ("model_decode", recipe, 8)
        )
        for recipe in ("nvfp4-w4a16", "bf16")
    )  # fmt: skip
    cells = row(table(STORED), "nvfp4-w4a16")
    assert cells[2] == f"{mine:.0f} ({mine / theirs:.2f}×)"
    assert "×" not in row(table(STORED), "Llama-3.1-8B, bf16")[1]


def test_a_case_without_a_figure_says_why_and_one_that_was_not_run_nothing(tmp_path: Path) -> None:
    run = read_run(STORED / "results.json")
    results = [
        replace(r, status="unsupported", reason="no GPU", times=None, figures={})
        if r.provider == "int8"
        else r
        for r in run.results
        if (r.provider, r.axes["batch"]) != ("fp8", 32)
    ]
    write_run(tmp_path / "results.json", replace(run, results=results))
    found = table(tmp_path)
    assert row(found, "int8")[1:4] == ["unsupported"] * 3
    assert row(found, "fp8")[3] == "" and row(found, "fp8")[-1].strip(" |") == ""


def test_without_a_baseline_there_is_no_ratio(tmp_path: Path) -> None:
    run = read_run(STORED / "results.json")
    results = [
        replace(r, status="wrong", times=None, figures={}) if r.provider == "bf16" else r for r in run.results
    ]
    write_run(tmp_path / "results.json", replace(run, results=results))
    assert row(table(tmp_path), "fp8")[1].isdigit()


def test_a_run_of_something_else_is_an_error(tmp_path: Path) -> None:
    run = read_run(STORED / "results.json")
    write_run(tmp_path / "results.json", replace(run, results=[]))
    with pytest.raises(ValueError, match="holds no whole models"):
        table(tmp_path)

"""`python -m qbench compare` of whole models: when it is drawn, what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.__main__ import main
from qbench.model.accuracy import write_accuracy
from qbench.model.compare import (
    Inputs,
    compare_models,
    comparison_markdown,
)
from qbench.result import Run, write_run
from tests.model_runs import (
    H200,
    H200_RECIPES,
    Recipe,
    accuracy,
    decode,
    full_run,
    run_of,
    two_gpus,
)
from tests.reports import lines_with, with_

BF16, FP8, *_ = H200_RECIPES


def unequal() -> Inputs:
    """The second recipe stopped early."""
    stopped = decode(FP8, figures={"tokens": 100.0})
    return Inputs((("a.json", run_of(H200, decode(BF16), stopped)),))


def stored(folder: Path, inputs: Inputs) -> list[str]:
    paths = []
    for name, run in inputs.runs:
        write_run(folder / name, run)
        paths.append(str(folder / name))
    for index, (_, each) in enumerate(inputs.accuracies):
        write_accuracy(folder / f"accuracy{index}.json", each)
        paths.append(str(folder / f"accuracy{index}.json"))
    return paths


def test_two_files_of_whole_models_draw_the_model_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = stored(tmp_path, two_gpus())
    assert main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    assert lines_with(out, "nvfp4-w4a16", "weight-only", "2.30×", "2.25×")
    assert lines_with(out, "nvfp4-w4a4", "379/400", "0.0039", "McNemar")
    assert main(["compare", paths[0]]) == 0, "recipes of one GPU"
    assert "B200" not in capsys.readouterr().out


def test_a_limit_asks_for_the_two_runs_case_by_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = with_(decode(BF16), times=with_(decode(BF16).times, median_ns=9e9))
    write_run(tmp_path / "a.json", run_of(H200, decode(BF16)))
    write_run(tmp_path / "b.json", run_of(H200, slow))
    both = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["compare", *both, "--fail-over", "5%"]) == 1
    assert "1 slower by more than 5.0%" in capsys.readouterr().out
    assert main(["compare", *both, both[0], "--fail-over", "5%"]) == 2
    assert "--fail-over takes two results.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (unequal(), "unequal token counts: bf16"),
        (
            Inputs(accuracies=(("", accuracy(H200, "a", 1)), ("", accuracy(H200, "b", 1, of=300)))),
            "different problems",
        ),
    ],
    ids=["tokens", "problems"],
)
def test_what_is_refused_ends_with_2_and_one_line(
    made: Inputs, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *stored(tmp_path, made)]) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and caught.err.startswith(f"qbench: {said}") and caught.err.count("\n") == 1


def test_three_files_without_whole_models_and_none_at_all_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(1, "2026-01-01T00:00:00Z", H200, {}, ())
    for name in "abc":
        write_run(tmp_path / f"{name}.json", run)
    assert main(["compare", *(str(tmp_path / f"{name}.json") for name in "abc")]) == 2
    assert "no model_decode or model_prefill results" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.json")]) == 2
    assert "a.json; compare two runs" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "absent.json")]) == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "give files to compare" in capsys.readouterr().err


def test_the_readmes_section_has_tables_and_escapes_what_a_file_says(tmp_path: Path) -> None:
    odd = Recipe("a|b", 100.0, backend="<b>*x*</b>")
    run = full_run(H200, (BF16, odd))
    text = comparison_markdown(compare_models(Inputs((("a.json", run),))), ("plots/a b.png",))
    assert text.startswith("## Whole models\n")
    assert r"|a\|b|native|&lt;b&gt;\*x\*&lt;/b&gt;|" in text
    assert "![a b](plots/a%20b.png)" in text

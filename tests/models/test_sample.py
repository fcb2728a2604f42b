"""The published table: its numbers, typed in from the source a second time, and what the comparison says of it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from qbench.__main__ import main
from qbench.model.compare import Comparison, Inputs, UnequalTokens, compare_models, comparison_terminal
from qbench.model.compare.rates import of_counts
from qbench.model.sample import PATH, nemotron_nano_9b_v2
from qbench.model.sample.published import read_published
from qbench.result import DataError
from tests.model_runs import H200, H200_RECIPES, decode, run_of
from tests.reports import lines_with

A100, H100, B200 = "A100 40GB (sm_80)", "H100 80GB (sm_90)", "B200 192GB (sm_100)"
# As published: speedup in tokens/s, GSM8K of standard and NVFP4 in percent; then the ratio of the wall times.
PUBLISHED = {
    A100: (1.56, 88.48, 86.73, 25.29 / 18.47),
    H100: (1.45, 88.63, 87.49, 14.82 / 11.70),
    B200: (1.11, 88.55, 86.73, 10.90 / 11.35),
}


def sample() -> Inputs:
    return Inputs(published=(("sample", nemotron_nano_9b_v2()),))


def compared() -> Comparison:
    return compare_models(sample(), allow_unequal_tokens=True)


def test_unequal_token_counts_are_refused_unless_allowed() -> None:
    with pytest.raises(
        UnequalTokens, match=r"bf16 on A100 .* made about 1669 tokens, nvfp4 on A100 .* about 1908"
    ):
        compare_models(sample())
    assert compared().warnings[0].startswith("UNEQUAL TOKEN COUNTS: bf16 on A100")
    assert compare_models(sample(), allow_published=True) == compared()


def test_being_lenient_with_the_published_table_is_not_being_so_with_ones_own_runs() -> None:
    runs = (run_of(H200, decode(H200_RECIPES[0]), decode(H200_RECIPES[1], figures={"tokens": 100.0})),)
    both = Inputs((("mine.json", runs[0]),), published=sample().published)
    with pytest.raises(UnequalTokens, match="fp8 on NVIDIA H200"):
        compare_models(both, allow_published=True)


def test_speedups_are_the_published_ones_in_tokens_and_less_in_wall_time() -> None:
    (group,) = compared().groups
    speedups = {row.entry.gpu: row.speedup for row in group.rows if row.speedup}
    assert list(speedups) == list(PUBLISHED)
    for gpu, (tokens, _, _, wall) in PUBLISHED.items():
        found = speedups[gpu]
        assert found is not None and found.wall is not None
        assert round(found.tokens_per_s, 2) == tokens
        assert found.wall == pytest.approx(wall)
    assert [round(PUBLISHED[gpu][3], 2) for gpu in PUBLISHED] == [1.37, 1.27, 0.96]


def test_counts_of_right_answers_give_the_published_percentages() -> None:
    (group,) = compared().accuracy
    shares = {(row.gpu, row.recipe): round(100 * row.share, 2) for row in group.rows}
    for gpu, (_, standard, nvfp4, _) in PUBLISHED.items():
        assert (shares[gpu, "bf16"], shares[gpu, "nvfp4"]) == (standard, nvfp4)


def test_its_accuracy_drops_are_not_significant_unpaired_and_larger_ones_would_be() -> None:
    (group,) = compared().accuracy
    drops = [row.versus for row in group.rows if row.versus]
    assert len(drops) == 3
    for versus in drops:
        assert not versus.is_paired and 0.1 < versus.p < 0.5
        assert -0.0183 < versus.difference < -0.011 and versus.low < versus.difference < 0 < versus.high
    assert "0 of 3 differences significant at 0.05" in comparison_terminal(compared())
    assert of_counts((1168, 1319), (1168 - 40, 1319)).p < 0.05, "three points would have been"


def test_the_unpaired_test_agrees_with_the_normal_approximation() -> None:
    n, a, b = 1319, 1168, 1144
    pooled = (a + b) / (2 * n)
    z = (a - b) / n / (2 * pooled * (1 - pooled) / n) ** 0.5
    found = of_counts((a, n), (b, n))
    assert found.p == pytest.approx(2 * NormalDist().cdf(-z), abs=0.02)
    margin = 1.96 * sum(x / n * (1 - x / n) / n for x in (a, b)) ** 0.5
    assert (found.low, found.high) == pytest.approx(
        (found.difference - margin, found.difference + margin), abs=5e-4
    )


def test_what_could_not_run_and_which_kernels_are_unknown_is_said() -> None:
    text = comparison_terminal(compared())
    assert len(lines_with(text, "RTX PRO 6000 Ada (sm_89)", "n/a no-kernel (1)")) == 2
    assert lines_with(text, "A100", "bf16", "none") and lines_with(
        text, "mode not stated: native, weight-only"
    )
    assert "one name stands for different kernels" in text


def test_the_command_draws_it_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--sample", "--markdown", "-o", str(tmp_path)]) == 0
    caught = capsys.readouterr()
    assert caught.out.count("UNEQUAL TOKEN COUNTS") == 1 and "|1.11×|0.96×|" in caught.out
    (plot,) = [line for line in caught.out.splitlines() if line.startswith("![")]
    assert plot.split("(")[1].rstrip(")") in {path.as_posix() for path in tmp_path.glob("combined_*.png")}
    assert "4 files in" in caught.err
    page = (tmp_path / "comparison.md").read_text()
    assert f"]({next(tmp_path.glob('combined_*')).name})" in page, "its own page names it beside itself"
    assert main(["compare", str(PATH)]) == 2
    assert "unequal token counts" in capsys.readouterr().err
    assert main(["compare", str(PATH), "--allow-unequal-tokens"]) == 0


@pytest.mark.parametrize(
    ("row", "change", "said"),
    [
        (0, {"tokens_per_s": 0}, r"tokens_per_s"),
        (
            0,
            {"tokens_per_s": None, "wall_s": None, "task": "", "correct": None, "of": None},
            "neither tokens_per_s",
        ),
        (1, {"recipe": "bf16"}, "repeats bf16"),
        (6, {"tokens_per_s": 1.0}, "'unsupported' and has numbers"),
        (6, {"reason": ""}, "without a reason"),
        (0, {"of": None}, "together or not at all"),
        (0, {"correct": 1320}, "1320 correct of 1319"),
        (0, {"mode": "fast"}, "mode"),
        (0, {"surprise": 1}, "surprise"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    row: int, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    table = json.loads(PATH.read_text())
    table["rows"][row].update(change)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=said) as refused:
        read_published(path)
    assert str(refused.value).startswith(f"{path}: ")

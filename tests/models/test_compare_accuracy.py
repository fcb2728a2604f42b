"""Accuracies across GPUs: paired per problem, refused where the problems differ."""

from __future__ import annotations

import pytest

from qbench.compare import CannotCombine
from qbench.model.compare import (
    Inputs,
    compare_models,
    comparison_terminal,
)
from qbench.model.compare.rates import interval, of_counts
from tests.model_runs import (
    B200,
    H200,
    accuracy,
)


def test_different_problems_under_one_task_are_refused() -> None:
    files = (("a.json", accuracy(H200, "bf16", 3)), ("b.json", accuracy(H200, "fp8", 5, digest="cd" * 32)))
    with pytest.raises(
        CannotCombine, match=r"a\.json holds 400 with digest abab.*, b\.json 400 with digest cdcd"
    ):
        compare_models(Inputs(accuracies=files))


def test_one_recipe_measured_twice_on_a_gpu_is_refused() -> None:
    files = (("a.json", accuracy(H200, "bf16", 3)), ("b.json", accuracy(H200, "bf16", 4)))
    with pytest.raises(CannotCombine, match=r"sums of bf16 on .* is in a\.json and in b\.json"):
        compare_models(Inputs(accuracies=files))


def test_pairing_finds_what_counts_alone_do_not() -> None:
    """21 against 12 wrong of 400: nine lost and none gained is no chance, but the counts alone allow for it."""
    files = (("a.json", accuracy(H200, "bf16", 12)), ("b.json", accuracy(H200, "nvfp4-w4a4", 21)))
    (group,) = compare_models(Inputs(accuracies=files)).accuracy
    versus = group.rows[1].versus
    assert versus is not None and versus.is_paired and versus.p < 0.005
    assert of_counts((388, 400), (379, 400)).p > 0.1


def test_accuracy_is_compared_with_the_same_gpus_baseline_only() -> None:
    files = (("a.json", accuracy(H200, "bf16", 3)), ("b.json", accuracy(B200, "fp8", 5)))
    found = compare_models(Inputs(accuracies=files))
    assert found.accuracy[0].rows[1].versus is None
    assert "no bf16" in comparison_terminal(found)


def test_intervals_are_wilsons() -> None:
    low, high = interval(1144, 1319)
    assert (round(low, 4), round(high, 4)) == (0.8479, 0.8846)
    assert interval(400, 400)[1] == 1.0 and interval(400, 400)[0] < 0.995, "all right is not certain"
    with pytest.raises(ValueError, match="5 right of 4"):
        interval(5, 4)

"""Whole models across GPUs: what is joined, what is refused, and that a wrong join would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qbench.compare import CannotCombine
from qbench.model.compare import (
    Comparison,
    Inputs,
    UnequalTokens,
    Workload,
    compare_models,
    comparison_markdown,
    comparison_terminal,
    join,
    tables,
)
from qbench.model.compare import accuracy as accuracy_module
from qbench.result import Device, Result
from tests.model_runs import (
    B200,
    B200_RECIPES,
    H200,
    H200_RECIPES,
    MODEL,
    accuracy,
    decode,
    hot,
    prefill,
    run_of,
    two_gpus,
)
from tests.reports import lines_with, with_

H200_NAME, B200_NAME = "NVIDIA H200 (sm_90)", "NVIDIA B200 (sm_100)"
BF16, FP8, W4A16, EMULATED, ABSENT = H200_RECIPES


def rows(comparison: Comparison) -> dict[tuple[str, str], join.Row]:
    (group,) = comparison.groups
    return {(row.entry.gpu, row.entry.recipe): row for row in group.rows}


def facts(inputs: Inputs) -> None:
    """What must hold of the comparison of `two_gpus`, from the speeds typed into them. Fails on a wrong join."""
    found = compare_models(inputs)
    by = rows(found)
    assert len(by) == 10
    for gpu, recipes in ((H200_NAME, H200_RECIPES), (B200_NAME, B200_RECIPES)):
        base = next(recipe for recipe in recipes if recipe.name == "bf16")
        for recipe in recipes:
            row = by[gpu, recipe.name]
            if recipe.speed is None:
                assert (
                    row.entry.problem is not None and row.entry.tokens_per_s is None and row.speedup is None
                )
                continue
            assert row.entry.tokens_per_s == pytest.approx(recipe.speed * 0.9)
            assert (row.entry.mode, row.entry.backend) == (recipe.mode, recipe.backend)
            if recipe.mode == "emulated" or recipe is base:
                assert row.speedup is None
                continue
            assert row.speedup is not None
            assert row.speedup.tokens_per_s == pytest.approx(recipe.speed / (base.speed or 0))
            assert row.speedup.wall is not None and 1 < row.speedup.wall < row.speedup.tokens_per_s
    (task,) = found.accuracy
    scores = {(row.gpu, row.recipe): row for row in task.rows}
    lost = scores[B200_NAME, "nvfp4-w4a4"].versus
    assert lost is not None and (lost.lost, lost.gained) == (9, 0)
    assert lost.difference == pytest.approx(-9 / 400) and lost.low < lost.difference < lost.high < 0
    assert lost.p == pytest.approx(2 * 0.5**9)
    assert scores[H200_NAME, "bf16"].versus is None
    text = comparison_terminal(found)
    assert "n/a no-native-fp4 (1)" in text
    assert " 0 " not in text.replace(" / 0 ", ""), "a number of zero stands for nothing here"


def test_two_gpus_and_five_recipes_are_joined() -> None:
    facts(two_gpus())


def swapped(real: Callable[..., join.Row]) -> Callable[..., join.Row]:
    def row(entry: Any, base: Any, baseline: str) -> join.Row:
        right = real(entry, base, baseline)
        if right.speedup is None or right.speedup.wall is None:
            return right
        return replace(right, speedup=join.Speedup(1 / right.speedup.tokens_per_s, 1 / right.speedup.wall))

    return row


def ungated(real: Callable[..., join.Row]) -> Callable[..., join.Row]:
    return lambda entry, base, baseline: real(replace(entry, mode="native"), base, baseline)


def elsewhere(real: Callable[..., Any]) -> Callable[..., Any]:
    """The baseline of the first GPU for every one."""
    return lambda entry, entries, baseline, *, allow: real(
        replace(entry, gpu=entries[0].gpu), entries, baseline, allow=allow
    )


def backwards(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda baseline, recipe: real(recipe, baseline)


def zeroed(real: Callable[..., str]) -> Callable[..., str]:
    return lambda self, problem, used: "0"


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (join, "_row", swapped),
        (join, "_row", ungated),
        (join, "_baseline_of", elsewhere),
        (accuracy_module, "per_problem", backwards),
        (tables.Reasons, "cell", zeroed),
    ],
    ids=[
        "sides swapped",
        "emulated gets a speedup",
        "another GPU's baseline",
        "pairs swapped",
        "zero for missing",
    ],
)
def test_a_wrong_join_does_not_pass(
    where: Any, name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    with pytest.raises(AssertionError):
        facts(two_gpus())


def test_a_zero_for_what_was_not_measured_is_refused() -> None:
    run = run_of(H200, decode(BF16, figures={"joules_per_token": 0.0}))
    with pytest.raises(CannotCombine, match=r"bf16 on NVIDIA H200 .* joules_per_token is 0; leave out"):
        compare_models(Inputs((("a.json", run),)))
    nothing = run_of(H200, decode(BF16), decode(FP8, figures={"tokens_per_s": 0.0}))
    with pytest.raises(CannotCombine, match=r"fp8 on NVIDIA H200 .* tokens_per_s is 0"):
        compare_models(Inputs((("a.json", nothing),)))
    listed = with_(
        decode(ABSENT), figures={"tokens_per_s": 100.0}
    )  # a number beside "unsupported" is not believed
    assert (
        rows(compare_models(Inputs((("a.json", run_of(H200, listed)),))))[
            H200_NAME, ABSENT.name
        ].entry.tokens_per_s
        is None
    )


# token counts


def unequal() -> Inputs:
    """The second recipe stopped early: fewer tokens in less time."""
    stopped = decode(FP8, figures={"tokens": 100.0})
    return Inputs((("a.json", run_of(H200, decode(BF16), stopped)),))


def test_unequal_token_counts_are_refused_in_words_that_name_both() -> None:
    with pytest.raises(UnequalTokens) as refused:
        compare_models(unequal())
    said = str(refused.value)
    assert f"bf16 on {H200_NAME} made 128 tokens, fp8 on {H200_NAME} 100" in said
    assert "--allow-unequal-tokens" in said


def test_a_step_that_ran_in_another_way_is_no_other_number_of_tokens() -> None:
    eager = decode(FP8, axes={"mode": "eager"})
    found = compare_models(Inputs((("a.json", run_of(H200, decode(BF16), eager)),)))
    assert not any("TOKEN" in warning for warning in found.warnings)
    (row,) = [row for group in found.groups for row in group.rows if row.entry.recipe == FP8.name]
    assert row.speedup is None and row.why == "no bf16"


def test_without_the_check_unequal_counts_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "check_tokens", lambda entries, *, allow: [])
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_unequal_token_counts_are_refused_in_words_that_name_both()


def test_unequal_token_counts_can_be_looked_at_with_a_warning_and_the_wall_time_beside() -> None:
    found = compare_models(unequal(), allow_unequal_tokens=True)
    assert any(warning.startswith("UNEQUAL TOKEN COUNTS: bf16") for warning in found.warnings)
    text = comparison_terminal(found)
    assert text.startswith("!! UNEQUAL TOKEN COUNTS") and text.rstrip().splitlines()[-1].startswith(
        "!! UNEQUAL"
    )
    header = next(line for line in text.splitlines() if line.startswith("GPU"))
    assert header.index("× tokens/s") < header.index("× wall")


def test_one_token_more_is_unequal_and_other_gpus_count_too() -> None:
    ours, theirs = run_of(H200, decode(BF16)), run_of(B200, decode(BF16, figures={"tokens": 129.0}))
    with pytest.raises(UnequalTokens, match=r"made 128 tokens, bf16 on NVIDIA B200 \(sm_100\) 129"):
        compare_models(Inputs((("a.json", ours), ("b.json", theirs))))


def test_a_recipe_that_decoded_another_number_of_tokens_than_the_baseline_is_refused() -> None:
    inputs = Inputs((("a.json", run_of(H200, decode(BF16, new=128), decode(FP8, new=256))),))
    with pytest.raises(UnequalTokens, match=r"fp8 decoded 256 tokens, bf16 128 .*batch 1, prompt 512"):
        compare_models(inputs)
    found = compare_models(inputs, allow_unequal_tokens=True)
    assert len(found.groups) == 2 and any("fp8 decoded 256" in warning for warning in found.warnings)
    speedup = found.groups[1].rows[0].speedup
    assert speedup is not None and speedup.wall is not None and speedup.wall < 1 < speedup.tokens_per_s


def test_a_speed_without_a_token_count_is_refused() -> None:
    silent = decode(BF16)
    figures = {name: value for name, value in silent.figures.items() if name != "tokens"}
    inputs = Inputs((("a.json", run_of(H200, with_(silent, figures=figures))),))
    with pytest.raises(UnequalTokens, match="does not say how many tokens it made"):
        compare_models(inputs)
    assert "UNKNOWN TOKEN COUNT" in compare_models(inputs, allow_unequal_tokens=True).warnings[0]


# joining


def test_workloads_are_not_mixed_and_come_in_order() -> None:
    found = compare_models(two_gpus(batches=(64, 1)))
    assert [group.workload for group in found.groups] == [Workload(1, 512, 128), Workload(64, 512, 128)]
    for group in found.groups:
        assert len(group.rows) == 10 and group.gpus == (H200_NAME, B200_NAME)
        fp8 = next(row for row in group.rows if row.entry.recipe == "fp8")
        assert fp8.speedup is not None and fp8.speedup.tokens_per_s == pytest.approx(290 / 178)
    assert str(found.groups[1].workload) == "batch 64, prompt 512, new 128"


def test_wall_time_and_time_to_first_token_take_the_prefill_of_the_same_workload() -> None:
    other = prefill(BF16, prompt=4096, batch=2)
    run = run_of(H200, prefill(BF16), other, decode(BF16), decode(BF16, new=256))
    by = {group.workload: group.rows[0].entry for group in compare_models(Inputs((("a.json", run),))).groups}
    both, alone = by[Workload(1, 512, 128)], by[Workload(2, 4096, 128)]
    assert both.ttft_ms == pytest.approx(30.0)
    assert (both.wall_s, both.whole) == (pytest.approx(0.030 + 128 / 160.2), True)
    assert both.tokens_per_s == pytest.approx(160.2), "the decoding's, not the prefill's"
    assert both.tokens == 128 and both.method == "graph"
    assert both.peak_gib == 17.5, "the larger of both"
    assert alone.ttft_ms == pytest.approx(60.0) and alone.tokens_per_s is None and alone.tokens is None
    unread = by[Workload(1, 512, 256)]
    assert unread.ttft_ms is None and not unread.whole and unread.wall_s == pytest.approx(256 / 160.2)


def test_wall_times_with_and_without_a_prefill_are_not_compared() -> None:
    run = run_of(H200, prefill(BF16), decode(BF16), decode(FP8))
    found = compare_models(Inputs((("a.json", run),)))
    speedup = rows(found)[H200_NAME, "fp8"].speedup
    assert speedup is not None and speedup.wall is None and speedup.tokens_per_s > 1
    text = comparison_terminal(found)
    assert "wall: prefill and decoding together, of decoding alone where no prefill is known" in text
    alone = compare_models(Inputs((("a.json", run_of(H200, decode(BF16), decode(FP8))),)))
    assert "wall: of decoding alone" in comparison_terminal(alone)
    speedup = rows(alone)[H200_NAME, "fp8"].speedup
    assert speedup is not None and speedup.wall == pytest.approx(speedup.tokens_per_s)


def test_an_eager_step_is_another_workload_and_an_unknown_axis_is_refused() -> None:
    eager = decode(BF16, axes={"mode": "eager"})
    found = compare_models(Inputs((("a.json", run_of(H200, decode(BF16), eager)),)))
    assert [str(group.workload) for group in found.groups] == [
        "batch 1, prompt 512, new 128",
        "batch 1, prompt 512, new 128, step eager",
    ]
    odd = decode(BF16, axes={"beams": 4})
    with pytest.raises(CannotCombine, match=r"beams=4\] are one model, recipe and workload; known axes are"):
        compare_models(Inputs((("a.json", run_of(H200, decode(BF16), odd)),)))


def test_a_failed_prefill_and_a_failed_decode_are_named_not_numbered() -> None:
    broken = with_(
        prefill(FP8), status="error", reason="CUDA error: illegal instruction", times=None, figures={}
    )
    wrong = with_(
        decode(W4A16), status="wrong", reason="logits differ by 3.2", times=None, figures={}, labels={}
    )
    run = run_of(H200, prefill(BF16), decode(BF16), broken, decode(FP8), wrong)
    text = comparison_terminal(compare_models(Inputs((("a.json", run),))))
    assert lines_with(text, "fp8", "261.00", "ERROR (")
    assert lines_with(text, "nvfp4-w4a16", "WRONG (")
    assert "logits differ by 3.2" in text and "illegal instruction" in text


def test_unsupported_is_drawn_with_its_code_and_reason() -> None:
    text = comparison_markdown(compare_models(two_gpus()))
    assert len(lines_with(text, "|nvfp4-w4a4|", "|n/a no-native-fp4 (1)|")) == 2, (
        "for its speed and its accuracy"
    )
    assert (
        "(1) no-native-fp4: compute capability 9.0 has no FP4 matrix units; use nvfp4-w4a16 instead" in text
    )


def test_one_name_over_two_kernels_is_said() -> None:
    (said,) = compare_models(two_gpus()).warnings
    assert said == (
        f"DIFFERENT KERNELS UNDER ONE NAME: mxfp4-w4a4 of {MODEL} is emulated on {H200_NAME} and native on {B200_NAME}"
    )


def test_other_methods_and_versions_are_said() -> None:
    a = with_(decode(BF16), labels={**decode(BF16).labels, "method": "graph"})
    b = with_(decode(FP8), labels={**decode(FP8).labels, "method": "eager"})
    runs = (("a.json", run_of(H200, a)), ("b.json", run_of(H200, b, transformers="5.20.0")))
    found = compare_models(Inputs(runs))
    assert found.warnings == (
        f"TIMED DIFFERENTLY: graph (bf16 on {H200_NAME}) and eager (fp8 on {H200_NAME})",
        "DIFFERENT VERSIONS: transformers 5.17.0 and 5.20.0",
    )


def test_a_card_that_was_slowed_down_is_named_with_the_workload() -> None:
    slow = hot(decode(FP8, batch=8))
    found = compare_models(Inputs((("a.json", run_of(H200, decode(BF16), decode(FP8), slow)),)))
    said = f"THROTTLED on {H200_NAME} (thermal, power): fp8"
    assert [group.disturbed for group in found.groups] == [(), (said,)]
    assert found.warnings == () and found.loud == (f"{said} ({MODEL}, batch 8, prompt 512, new 128)",)
    assert comparison_terminal(found).count(found.loud[0]) == 2 and found.loud[0] in comparison_markdown(
        found
    )


def test_a_host_that_lost_its_cpu_is_no_slow_card_and_counts_for_a_prompt_too() -> None:
    run = run_of(
        H200,
        hot(prefill(BF16), "preempted"),
        decode(BF16),
        hot(prefill(W4A16), "power"),
        hot(decode(FP8), "preempted", "power"),
    )
    (group,) = compare_models(Inputs((("a.json", run),))).groups
    assert group.disturbed == (
        f"THROTTLED on {H200_NAME} (power): nvfp4-w4a16, fp8",
        f"THE HOST'S CPU WAS TAKEN by other processes on {H200_NAME}, run again: bf16, fp8",
    )


def test_parts_of_one_gpu_are_one_side_and_two_runs_of_it_are_two() -> None:
    bf16, fp8 = run_of(H200, decode(BF16)), run_of(H200, decode(FP8))
    parts = rows(compare_models(Inputs((("bf16.json", bf16), ("fp8.json", fp8)))))
    assert parts[H200_NAME, "fp8"].speedup is not None
    before, after = "old/results.json", "new/results.json"
    both = run_of(H200, decode(BF16), decode(FP8))
    again = rows(compare_models(Inputs(((before, both), (after, both)))))
    assert list(dict.fromkeys(gpu for gpu, _ in again)) == [
        f"{H200_NAME} [old/results]",
        f"{H200_NAME} [new/results]",
    ]
    with pytest.raises(CannotCombine, match=r"new/results\.json was given twice"):
        compare_models(Inputs(((after, both), (after, both))))


def test_two_chips_of_one_name_are_told_apart_everywhere() -> None:
    other = Device("cuda", "NVIDIA H200", "9.0", 114, 96)
    inputs = Inputs(
        (("a.json", run_of(H200, decode(BF16))), ("b.json", run_of(other, decode(BF16)))),
        (("c.json", accuracy(other, "bf16", 3)),),
    )
    found = compare_models(inputs)
    assert [gpu for gpu, _ in rows(found)] == [
        f"{H200_NAME} (132 SMs, 140 GiB)",
        f"{H200_NAME} (114 SMs, 96 GiB)",
    ]
    assert found.accuracy[0].gpus == (f"{H200_NAME} (114 SMs, 96 GiB)",)


def test_without_a_baseline_there_is_no_speedup_and_another_can_be_chosen() -> None:
    inputs = Inputs((("a.json", run_of(H200, decode(FP8), decode(W4A16))),))
    assert {row.why for row in rows(compare_models(inputs)).values()} == {"no bf16"}
    chosen = rows(compare_models(inputs, baseline="fp8"))
    assert chosen[H200_NAME, "nvfp4-w4a16"].speedup is not None
    with pytest.raises(CannotCombine, match=r"no recipe 'fp9' .*they hold fp8, nvfp4-w4a16"):
        compare_models(inputs, baseline="fp9")


def test_files_without_whole_models_are_named() -> None:
    run = run_of(H200, Result("op/p[m=1]", "op", "p", {"m": 1}, "wrong"))
    with pytest.raises(CannotCombine, match=r"no model_decode or model_prefill results in a\.json, b\.json"):
        compare_models(Inputs((("a.json", run), ("b.json", run))))

"""A session's compilations, with a stand-in for the compiler: what is judged, what fails, what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from qbench.aot.build import Built
from qbench.aot.cases import CompileCase, TargetCase, compile_cases
from qbench.aot.expect import Expectation
from qbench.aot.judge import Outcome
from qbench.aot.launch import Launch
from qbench.aot.metrics import Metrics
from qbench.aot.report import compile_markdown, compile_properties, summary_lines, write_compile_report
from qbench.aot.session import CompileSession
from qbench.aot.store import CompileStore
from qbench.aot.target import get_target
from tests.unit.test_aot_judge import BASE

SPILLS = replace(BASE, spill_bytes=64)


def case(name: str = "toy", **expect: Expectation) -> CompileCase:
    return CompileCase(name, lambda: None, expect or {"kernel": Expectation()})


def built(kernel: str, metrics: Metrics | None, error: str = "", target: str = "sm_90") -> Built:
    launch = Launch(f"module.{kernel}", kernel, get_target(target), (), {"num_warps": 4}, (1, 1, 1), "", None)
    return Built(launch, metrics, error)


def session(root: Path, *found: list[Built] | str, **options: object) -> CompileSession:
    """A session whose compiler gives these, one for each case in order."""
    waiting = list(found)

    def build(cases: Sequence[TargetCase]) -> list[list[Built] | str]:
        return [waiting.pop(0) for _ in cases]

    return CompileSession(root, "3.7.1", build=build, **options)  # type: ignore[arg-type]


def one(made: CompileCase, target: str = "sm_90") -> TargetCase:
    return compile_cases([made], [target])[0]


def store(root: Path) -> CompileStore:
    return CompileStore(root, "sm_90", "3.7.1")


def test_what_is_stored_is_what_the_next_session_compares_with(tmp_path: Path) -> None:
    first = session(tmp_path, [built("kernel", BASE)], update="append")
    (result,) = first.run(one(case()))
    assert result.judged.verdict is Outcome.NO_BASELINE
    assert not first.fails(result)
    assert [change.entry for change in first.write()["sm_90"]] == ["toy/kernel"]
    again = session(tmp_path, [built("kernel", BASE)])
    assert again.run(one(case()))[0].judged.verdict is Outcome.SAME
    slower = session(tmp_path, [built("kernel", replace(BASE, instructions=6000))])
    (result,) = slower.run(one(case()))
    assert result.judged.verdict is Outcome.WORSE
    assert slower.fails(result)


def test_a_missing_baseline_fails_only_when_strict(tmp_path: Path) -> None:
    for strict in (False, True):
        state = session(tmp_path, [built("kernel", BASE)], strict=strict)
        assert state.fails(state.run(one(case()))[0]) is strict


def test_what_is_recorded_because_it_was_missing_does_not_fail(tmp_path: Path) -> None:
    state = session(tmp_path, [built("kernel", BASE)], strict=True, update="missing")
    assert not state.fails(state.run(one(case()))[0])


def test_an_update_accepts_a_difference_and_never_what_is_not_as_declared(tmp_path: Path) -> None:
    store(tmp_path).update({"toy/kernel": BASE}, "append")
    slower = replace(BASE, instructions=6000)
    state = session(tmp_path, [built("kernel", slower)], [built("kernel", SPILLS)], update="append")
    assert not state.fails(state.run(one(case()))[0])
    (spilling,) = state.run(one(case("other")))
    assert state.fails(spilling)
    state.write()
    assert store(tmp_path).entries == {"toy/kernel": slower}


@pytest.mark.parametrize(("mode", "fails"), [("missing", True), ("dry", True), ("replace", False)])
def test_an_update_that_does_not_replace_does_not_accept(mode: str, fails: bool, tmp_path: Path) -> None:
    store(tmp_path).update({"toy/kernel": BASE}, "append")
    state = session(tmp_path, [built("kernel", replace(BASE, instructions=6000))], update=mode)
    assert state.fails(state.run(one(case()))[0]) is fails


def test_a_kernel_that_does_not_compile_breaks_its_case_in_one_line(tmp_path: Path) -> None:
    state = session(tmp_path, [built("kernel", None, "MLIR assertion: no such layout")])
    (result,) = state.run(one(case()))
    assert result.judged.verdict is Outcome.BROKEN
    assert result.judged.words == "MLIR assertion: no such layout"
    assert state.fails(result)


def test_a_launcher_that_raises_breaks_its_case(tmp_path: Path) -> None:
    state = session(tmp_path, "ValueError: K = 3 is not a multiple of 16")
    (result,) = state.run(one(case()))
    assert (result.judged.verdict, result.judged.words) == (
        Outcome.BROKEN,
        "ValueError: K = 3 is not a multiple of 16",
    )


def test_a_refusal_that_is_declared_is_unsupported_and_passes(tmp_path: Path) -> None:
    declared = case(kernel=Expectation(unsupported={"sm_80": "has no FP8"}))
    for found in ("ValueError: no FP8 on sm_80", [built("kernel", None, "no FP8")]):
        state = session(tmp_path, found, strict=True)
        (result,) = state.run(one(declared, "sm_80"))
        assert result.judged.verdict is Outcome.UNSUPPORTED
        assert not state.fails(result)


def test_kernels_that_the_case_does_not_name_or_that_were_not_launched_break_it(tmp_path: Path) -> None:
    state = session(tmp_path, [built("other", BASE)], update="append")
    surprise, absent = state.run(one(case()))
    assert surprise.judged.words == "launches other, of which its case says nothing; add it to `expect`"
    assert absent.judged.words == "kernel was not launched; launched: other"
    assert all(state.fails(each) for each in (surprise, absent))
    state.write()
    assert store(tmp_path).entries == {}
    nothing = session(tmp_path, [])
    assert nothing.run(one(case()))[0].judged.words == "kernel was not launched; launched: nothing"


def test_a_second_launch_of_a_kernel_has_an_entry_of_its_own(tmp_path: Path) -> None:
    state = session(tmp_path, [built("kernel", BASE), built("kernel#2", BASE)])
    assert [result.entry for result in state.run(one(case()))] == ["toy/kernel", "toy/kernel#2"]


def test_all_cases_are_built_at_once_and_once(tmp_path: Path) -> None:
    calls = []

    def build(cases: Sequence[TargetCase]) -> list[list[Built] | str]:
        calls.append([each.id for each in cases])
        return [[built("kernel", BASE)] for _ in cases]

    state = CompileSession(tmp_path, "3.7.1", build=build)
    cases = compile_cases([case("a"), case("b")], ["sm_90", "sm_80"])
    state.prepare(cases)
    for each in (*cases, *cases):
        state.run(each)
    assert calls == [["a-sm_90", "a-sm_80", "b-sm_90", "b-sm_80"]]
    assert len(state.results) == 4


def test_entries_that_nothing_used_are_listed(tmp_path: Path) -> None:
    store(tmp_path).update({"toy/kernel": BASE, "gone/kernel": BASE}, "append")
    state = session(tmp_path, [built("kernel", BASE)])
    state.run(one(case()))
    assert state.unused() == {"sm_90": ["gone/kernel"]}


@pytest.mark.parametrize("name", ["a b", "a/b", "", "a[b]c"])
def test_a_case_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="compile case"):
        case(name)


def test_two_cases_of_one_name_and_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="two compile cases are named 'toy'"):
        compile_cases([case(), case()], ["sm_90"])
    with pytest.raises(ValueError, match="unknown target 'sm_91'"):
        compile_cases([case()], ["sm_91"])
    with pytest.raises(ValueError, match="name the kernels"):
        CompileCase("toy", lambda: None, {})


def test_the_sample_is_of_fast_cases_and_named_targets() -> None:
    cases = [case("slow"), CompileCase("quick", lambda: None, {"kernel": Expectation()}, fast=True)]
    sampled = [each.id for each in compile_cases(cases, ["sm_90", "sm_80"], sample=["sm_90"]) if each.sampled]
    assert sampled == ["quick-sm_90"]
    assert all(each.sampled for each in compile_cases(cases, ["sm_90", "sm_80"]))


def test_the_report_names_what_is_worse_and_writes_its_files(tmp_path: Path) -> None:
    store(tmp_path).update({"toy/kernel": BASE}, "append")
    state = session(tmp_path, [built("kernel", SPILLS)], "ValueError: no")
    state.run(one(case()))
    state.run(one(case("other")))
    lines = summary_lines(state.results, "3.7.1")
    assert lines[0] == "2 kernels compiled by Triton 3.7.1 for sm_90: 1 worse, 1 broken"
    assert any(line.startswith("  toy/kernel for sm_90: spills 64 bytes a thread") for line in lines)
    files = write_compile_report(tmp_path / "report", state.results, "3.7.1")
    assert [file.name for file in files] == ["compile.json", "compile.csv", "compile.md"]
    assert '"verdict": "broken"' in files[0].read_text()
    assert len(files[1].read_text().splitlines()) == 3
    assert "<summary>sm_90 (2 kernels)</summary>" in files[2].read_text()
    assert len(compile_markdown(state.results, "3.7.1", limit_bytes=900).encode()) <= 900
    assert ("qbench_compile_verdict", "worse") in compile_properties(state.results[0])
    assert any("bound by" in str(value) for _name, value in compile_properties(state.results[0]))

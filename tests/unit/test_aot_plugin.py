"""The compile gate from outside: whole pytest sessions, with a stand-in for the compiler."""

from __future__ import annotations

import json

import pytest
import triton  # noqa: F401  # a session in this process forgets what it imported, and Triton is imported once

CONFTEST = """
import json, os
from dataclasses import replace
import qbench.aot.session as session
from qbench.aot.build import Built
from qbench.aot.launch import Launch
from qbench.aot.target import get_target
from tests.unit.test_aot_judge import BASE

def compile_nothing(cases):
    with open("compiled.txt", "a") as file:
        file.write(" ".join(each.id for each in cases) + "\\n")
    changes = json.loads(os.environ.get("CHANGES", "{}"))
    return [
        [Built(Launch("m.kernel", "kernel", get_target(c.target), (), {"num_warps": 4}, (1, 1, 1), "", None),
               replace(BASE, **changes))]
        for c in cases
    ]

session.record_and_build = compile_nothing
"""
SUITE = """
import pytest
import qbench
from qbench import CompileCase, Expectation

CASES = [
    CompileCase("fast", lambda: None, {"kernel": Expectation(unsupported={"sm_80": "no FP8"})}, fast=True),
    CompileCase("slow", lambda: None, {"kernel": Expectation()}),
]

@qbench.parametrize_compiled(CASES, ["sm_90", "sm_100"], sample=["sm_90"])
def test_compiled(compiled, qbench_compile):
    qbench_compile(compiled)

def test_something_else():
    pass

@pytest.mark.qbench_compile
def test_compiles_by_itself():
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def compiled(suite: pytest.Pytester) -> list[str]:
    return (suite.path / "compiled.txt").read_text().splitlines()


def test_without_the_option_the_sample_is_compiled_and_the_rest_deselected(suite: pytest.Pytester) -> None:
    result = run(suite)
    result.assert_outcomes(passed=2, deselected=4)
    assert compiled(suite) == ["fast-sm_90"]
    result.stdout.fnmatch_lines(["*1 kernel compiled by Triton * for sm_90: 1 no-baseline"])


def test_with_it_all_are_compiled_together_and_nothing_else_is_run(suite: pytest.Pytester) -> None:
    run(suite, "--qbench-compile").assert_outcomes(passed=5, deselected=1)
    assert compiled(suite) == ["fast-sm_90 fast-sm_100 slow-sm_90 slow-sm_100"]


def test_targets_select(suite: pytest.Pytester) -> None:
    run(suite, "--qbench-compile", "--qbench-targets=sm_100").assert_outcomes(passed=3, deselected=3)
    result = run(suite, "--qbench-compile", "--qbench-targets=sm_77")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown target 'sm_77'; known: sm_80*"])
    assert run(suite, "--qbench-targets=sm_100").ret == pytest.ExitCode.USAGE_ERROR


def test_record_then_compare_then_accept(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(suite, "--qbench-compile", "--qbench-strict").ret == pytest.ExitCode.TESTS_FAILED
    run(suite, "--qbench-compile", "--qbench-update").assert_outcomes(passed=5, deselected=1)
    files = sorted(path.name.split("-")[0] for path in (suite.path / "baselines" / "compile").iterdir())
    assert files == ["sm_100", "sm_90"]
    run(suite, "--qbench-compile", "--qbench-strict").assert_outcomes(passed=5, deselected=1)

    monkeypatch.setenv("CHANGES", json.dumps({"instructions": 6136}))
    worse = run(suite, "--qbench-compile", "--qbench-report=report", "--junitxml=junit.xml")
    worse.assert_outcomes(passed=1, failed=4, deselected=1)
    worse.stdout.fnmatch_lines(
        [
            "*CompileRegression: fast/kernel for sm_90 is worse: instructions 1,320 -> 6,136 (4.65×)*accept it with*",
            "WORSE than stored, or not as declared",
            "  slow/kernel for sm_100: instructions 1,320 -> 6,136 (4.65×)*",
        ]
    )
    assert (
        json.loads((suite.path / "report" / "compile.json").read_text())["results"][0]["verdict"] == "worse"
    )
    assert 'name="qbench_compile_verdict" value="worse"' in (suite.path / "junit.xml").read_text()

    run(suite, "--qbench-compile", "--qbench-update=dry").assert_outcomes(passed=1, failed=4, deselected=1)
    run(suite, "--qbench-compile", "--qbench-update").assert_outcomes(passed=5, deselected=1)
    run(suite, "--qbench-compile").assert_outcomes(passed=5, deselected=1)


def test_what_is_not_as_declared_fails_even_when_recording(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGES", json.dumps({"spill_bytes": 64}))
    run(suite, "--qbench-compile", "--qbench-update").assert_outcomes(passed=1, failed=4, deselected=1)
    assert not (suite.path / "baselines" / "compile").exists()


def test_a_broken_file_fails_with_its_name(suite: pytest.Pytester) -> None:
    run(suite, "--qbench-compile", "--qbench-update")
    (stored,) = (suite.path / "baselines" / "compile").glob("sm_90-*")
    stored.write_text("{}")
    result = run(suite, "--qbench-compile")
    result.assert_outcomes(passed=3, failed=2, deselected=1)
    result.stdout.fnmatch_lines([f"*{stored.name}: *restore it from version control*"])


def test_one_case_collected_twice_is_refused(suite: pytest.Pytester) -> None:
    (suite.path / "test_again.py").write_text(SUITE)
    result = run(suite, "--qbench-compile")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*compile case fast-sm_90 is collected twice*"])

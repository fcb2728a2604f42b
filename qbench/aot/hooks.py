"""The compile gate as pytest: `--qbench-compile`, the `qbench_compile` fixture, and its part of the closing report.

Loaded with `qbench.plugin`, so nothing here imports torch or Triton before a case is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from qbench.aot.cases import TargetCase
from qbench.aot.target import get_target
from qbench.result import DataError

if TYPE_CHECKING:
    from qbench.aot.session import CompileResult, CompileSession
    from qbench.aot.store import Mode

_SESSION: pytest.StashKey[CompileSession] = pytest.StashKey()
_LINES = pytest.StashKey[list[str]]()
_FIXTURE = _MARKER = "qbench_compile"


class CompileRegression(AssertionError):
    """A kernel that compiles to something worse than stored, or not to what is declared of it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qbench")
    group.addoption(
        "--qbench-compile",
        action="store_true",
        help="run the tests that compile kernels, for every target, and no others; no GPU is needed. "
        "--qbench-update, --qbench-strict and --qbench-report apply",
    )
    group.addoption(
        "--qbench-targets",
        metavar="LIST",
        help="only these targets, as in sm_90,sm_100 (with --qbench-compile)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_MARKER}: compiles kernels in ways of its own; runs with --qbench-compile alone"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --qbench-compile its tests alone; without, those of the sample."""
    wanted = _targets(config.getoption("--qbench-targets"))
    everything = config.getoption("--qbench-compile")
    if wanted and not everything:
        raise pytest.UsageError("--qbench-targets selects among what --qbench-compile runs; give both")
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    seen: dict[str, str] = {}
    for item in items:
        case = _case_of(item)
        if case is None:
            marked = item.get_closest_marker(_MARKER) is not None
            (kept if marked == everything else left).append(item)
            continue
        if seen.setdefault(case.id, item.nodeid) != item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: compile case {case.id} is collected twice; name it once")
        selected = (not wanted or case.target in wanted) if everything else case.sampled
        (kept if selected else left).append(item)
    if left:
        items[:] = kept
        config.hook.pytest_deselected(items=left)


def _targets(text: str | None) -> frozenset[str]:
    try:
        return frozenset(get_target(name).name for name in text.split(",")) if text else frozenset()
    except ValueError as error:
        raise pytest.UsageError(f"--qbench-targets: {error}") from error


def _case_of(item: pytest.Item) -> TargetCase | None:
    if _FIXTURE not in getattr(item, "fixturenames", ()):
        return None
    callspec = getattr(item, "callspec", None)
    found = [value for value in callspec.params.values() if isinstance(value, TargetCase)] if callspec else []
    return found[0] if found else None


def _session(config: pytest.Config) -> CompileSession:
    if _SESSION not in config.stash:
        import triton

        from qbench.aot.session import CompileSession

        folder = config.getoption("--qbench-baselines")
        config.stash[_SESSION] = CompileSession(
            Path(folder) if folder else config.rootpath / "baselines",
            triton.__version__.split("+")[0],
            update=cast("Mode | None", config.getoption("--qbench-update")),
            strict=config.getoption("--qbench-strict"),
        )
    return config.stash[_SESSION]


@pytest.fixture
def qbench_compile(request: pytest.FixtureRequest) -> Callable[[TargetCase], Sequence[CompileResult]]:
    """Compile and judge one case for one target: `qbench_compile(compiled)` returns a result for each kernel.

    The first call compiles the cases of all selected tests, two at a time. Raises CompileRegression in words.
    """
    session = _session(request.config)

    def run(case: TargetCase) -> Sequence[CompileResult]:
        __tracebackhide__ = True
        others = [each for item in request.session.items if (each := _case_of(item)) is not None]
        if any(each.id == case.id for each in others):
            session.prepare(others)
        try:
            results = session.run(case)
        except DataError as error:
            pytest.fail(str(error), pytrace=False)
        from qbench.aot.report import compile_properties

        for result in results:
            request.node.user_properties.extend(compile_properties(result))
        failed = [
            f"{r.name} is {r.judged.verdict}: {r.judged.words}{_remedy(r)}"
            for r in results
            if session.fails(r)
        ]
        if failed:
            raise CompileRegression("\n".join(failed))
        return results

    return run


def _remedy(result: CompileResult) -> str:
    from qbench.aot.judge import Outcome

    if result.judged.verdict is Outcome.NO_BASELINE:
        return "nothing is stored for it; record it with --qbench-compile --qbench-update=missing"
    accept = "; if that is meant, accept it with --qbench-compile --qbench-update"
    return accept if result.judged.as_declared else ""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write what was asked for. An interrupted session stores nothing."""
    state = session.config.stash.get(_SESSION, None)
    if state is None or not state.results:
        return
    from qbench.aot.report import (
        compile_markdown,
        summary_lines,
        unused_lines,
        update_lines,
        write_compile_report,
    )

    lines = summary_lines(state.results, state.triton)
    report = session.config.getoption("--qbench-report")
    try:
        if state.update and exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            lines.append("compile baselines: the session was interrupted; none was written")
        else:
            lines += update_lines(state.write(), state.update, state.baselines / "compile")
        if session.config.getoption("--qbench-compile") and not session.config.option.keyword:
            lines += unused_lines(state.unused())
        if report:
            lines.append(
                f"report: {len(write_compile_report(Path(report), state.results, state.triton))} files in {report}"
            )
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(compile_markdown(state.results, state.triton))
    except (DataError, OSError) as error:
        lines.append(f"ERROR {error}")
        if exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.stash[_LINES] = lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, None)
    if lines is None:
        return
    terminalreporter.section("qbench compile")
    for line in lines:
        terminalreporter.write_line(line, red=line.startswith(("BROKEN", "WORSE", "ERROR")))

"""The pytest plugin: options, the `qbench` fixture, native pytest-benchmark results, and the closing report.

A device-measured sample reaches pytest-benchmark through its public interface alone: each item's `benchmark`
marker carries a clock that the fixture moves by one measured sample a round, so that its table, JSON,
autosave and --benchmark-only/-skip/-disable work as they do for any other benchmark.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.case import Case, Unsupported
from qbench.progress import Progress
from qbench.result import DataError, Result, Verdict
from qbench.session import Options, Session

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from qbench.closing import Closing

pytest_plugins = ["qbench.aot.hooks"]  # the compile gate: options and a fixture of its own
SESSION = pytest.StashKey[Session]()
CLOCK: pytest.StashKey[ReplayClock] = pytest.StashKey()
PROGRESS = pytest.StashKey[Progress]()
MEASURED = pytest.StashKey[str]()
CLOSING: pytest.StashKey[Closing] = pytest.StashKey()
_LONG_RUN = 60  # cases from which progress is shown


class Regression(AssertionError):
    """A case that is slower than its baseline, or not sure to be as fast under --qbench-strict."""


class ReplayClock:
    """A clock in seconds that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qbench", "check, time and judge kernels (qbench)")
    group.addoption(
        "--qbench-update",
        nargs="?",
        const="append",
        choices=("append", "missing", "replace", "dry"),
        help="store this run: append to the baselines (default), only where one is missing, replace them, or "
        "dry: list what append would change",
    )
    group.addoption("--qbench-baselines", metavar="DIR", help="folder of baselines (default: ROOT/baselines)")
    group.addoption(
        "--qbench-strict", action="store_true", help="missing baselines and inconclusive verdicts fail too"
    )
    group.addoption(
        "--qbench-report", metavar="DIR", help="write results.json, results.csv, report.md and plots"
    )
    group.addoption(
        "--qbench-seed", type=int, metavar="N", help="seed of the operands (default: each workload's)"
    )
    group.addoption(
        "--qbench-warmup", type=_natural, metavar="N", help="untimed calls before timing (default: 2)"
    )
    group.addoption(
        "--qbench-iters", type=_positive, metavar="N", help="least number of timed bursts (default: 10)"
    )
    group.addoption(
        "--qbench-profile",
        action="store_true",
        help="one call between profiler start and stop, for ncu and nsys",
    )


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1; give 1 or more")
    return value


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption
    baselines, report = option("--qbench-baselines"), option("--qbench-report")
    for name, folder in (("--qbench-baselines", baselines), ("--qbench-report", report)):
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            raise pytest.UsageError(f"{name} {folder} is a file; name a folder")
    options = Options(
        baselines=Path(baselines) if baselines else config.rootpath / "baselines",
        update=option("--qbench-update"),
        strict=option("--qbench-strict"),
        report=Path(report) if report else None,
        seed=option("--qbench-seed"),
        warmup=option("--qbench-warmup"),
        iters=option("--qbench-iters"),
        profile=option("--qbench-profile"),
    )
    config.stash[SESSION] = Session(options)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each case its clock and group. Only the nearest benchmark marker is read, so it is merged."""
    collected = config.stash[SESSION].collected
    for item in items:
        if "qbench" not in getattr(item, "fixturenames", ()):
            continue
        clock = item.stash[CLOCK] = ReplayClock()
        options: dict[str, Any] = {"timer": clock}
        case = _case_of(item)
        if case is not None:
            if case.id in collected:
                raise pytest.UsageError(f"{item.nodeid}: case {case.id} is collected twice; name it once")
            collected.add(case.id)
            options["group"] = case.op.name
        nearest = item.get_closest_marker("benchmark")
        merged = {**options, **(nearest.kwargs if nearest else {}), "timer": clock}
        item.add_marker(pytest.mark.benchmark(**merged), append=False)
        # a case that is skipped, wrong or fails has not used it, and has its reason
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used at all"))


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None


def pytest_collection_finish(session: pytest.Session) -> None:
    cases = sum(CLOCK in item.stash for item in session.items)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.collectonly:
        return
    session.config.stash[SESSION].say = reporter.write_line
    if cases >= _LONG_RUN:
        session.config.stash[PROGRESS] = Progress(cases, reporter.write_line)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """SIGTERM ends a session as Ctrl-C does, so that what was measured is reported: jobs have time limits."""
    if threading.current_thread() is not threading.main_thread() or not any(
        CLOCK in item.stash for item in session.items
    ):
        return (yield)

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not end the reporting
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        return (yield)
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, before)


@pytest.fixture
def qbench(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture
) -> Iterator[Callable[[Case], Result | None]]:
    """Check, time and judge one case: `qbench(case)` returns its Result, or None when nothing was timed.

    Raises WrongResult for a wrong output, Regression for a slower one; skips what is unsupported.
    """
    session = request.config.stash[SESSION]
    clock = request.node.stash[CLOCK]

    def run(case: Case) -> Result | None:
        __tracebackhide__ = True
        case = session.seeded(case)
        try:
            if benchmark.disabled:
                benchmark.pedantic(
                    session.profile if session.options.profile else session.check, args=(case,)
                )
                return None
            if session.options.profile:
                session.profile(case)
                pytest.skip("profiled: one call between profiler start and stop, nothing was timed")
            result, samples = session.measure(case)
        except Unsupported as error:
            if session.options.strict and case.id in session.lost:
                raise Regression(f"{case.id} has a baseline and cannot run here: {error}") from error
            pytest.skip(str(error))
        except DataError as error:
            pytest.fail(str(error), pytrace=False)
        request.node.stash[MEASURED] = case.id
        _replay(benchmark, clock, samples)
        _attach(request.node, benchmark, result)
        judgement = result.judgement
        assert judgement is not None
        if session.fails(judgement):
            raise Regression(_words(result))
        return result

    yield run
    progress = request.config.stash.get(PROGRESS, None)
    if progress is not None:
        progress.done(request.node.name, _short(session))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails by its own hand after `qbench(case)` says that the case is wrong: it is not stored."""
    report = yield
    case = item.stash.get(MEASURED, None)
    if report.failed and case and call.excinfo and not isinstance(call.excinfo.value, Regression):
        item.config.stash[SESSION].retract(case, f"its test failed: {call.excinfo.exconly()}"[:2000])
    return report


def _short(session: Session) -> str:
    last = session.results[-1] if session.results else None
    return f"{last.times.median_ns / 1e3:.1f} µs" if last and last.times else ""


def _replay(benchmark: BenchmarkFixture, clock: ReplayClock, samples: tuple[float, ...]) -> None:
    """Hand the measured samples to pytest-benchmark, one a round."""
    waiting = iter(samples)

    def advance() -> None:
        clock.now += next(waiting, 0.0) * 1e-9  # --benchmark-cprofile calls once more

    clock.now = 0.0
    benchmark.pedantic(advance, rounds=len(samples), iterations=1)


def _attach(node: pytest.Item, benchmark: BenchmarkFixture, result: Result) -> None:
    """The figures as JUnit properties and in pytest-benchmark's JSON."""
    from qbench.report import junit_properties

    properties = junit_properties(result)
    benchmark.extra_info.update(properties)
    node.user_properties.extend(properties)


def _words(result: Result) -> str:
    judgement = result.judgement
    assert judgement is not None and result.times is not None
    text = f"{result.case} is {judgement.verdict}: {judgement.reason}"
    if judgement.verdict is Verdict.NO_BASELINE:
        return f"{text}; record one with --qbench-update=missing"
    assert judgement.baseline_ns and judgement.low and judgement.high and judgement.detectable
    return (
        f"{text}; {result.times.median_ns / 1e3:.2f} µs against {judgement.baseline_ns / 1e3:.2f} µs "
        f"(ratio between {judgement.low:.3f} and {judgement.high:.3f}, {judgement.baseline_runs} baseline runs, "
        f"changes are sure to be seen from {judgement.detectable:.1%} on); accept it with --qbench-update=append"
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write baselines and reports. An interrupted session writes no baseline: the stored ones stand."""
    state = session.config.stash[SESSION]
    asked = state.options.update or state.options.report or state.options.strict
    compiles = session.config.getoption("qbench_compile", False)  # has a closing of its own
    if session.config.option.collectonly or not (
        state.timing or (asked and state.collected and not compiles)
    ):
        return
    from qbench.closing import close

    interrupted = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
    closing = close(state, interrupted=interrupted)
    session.config.stash[CLOSING] = closing
    if closing.error and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    closing = config.stash.get(CLOSING, None)
    if closing is None:
        return
    terminalreporter.section("qbench")
    for line in closing.lines:
        terminalreporter.write_line(line)
    if closing.error:
        terminalreporter.write_line(closing.error, red=True)

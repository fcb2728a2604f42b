"""Record baselines in several fresh processes, each over all cases in an order of its own."""

from __future__ import annotations

import contextlib
import random
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qbench.baseline import Mode, Store
from qbench.gate.protocol import Outcome
from qbench.gate.run import Say
from qbench.gate.side import CannotMeasure, Side
from qbench.result import SCHEMA, Result, Run, Status

_STATUS: dict[str, Status] = {"ok": "ok", "unsupported": "unsupported", "wrong": "wrong"}


@dataclass(frozen=True)
class Recorded:
    """How many cases got a run, and in words why others did not."""

    cases: int
    problems: tuple[str, ...]


def record(
    root: Path,
    pytest_args: Sequence[str],
    folder: Path,
    runs: int,
    say: Say,
    *,
    replace: bool = False,
    case_s: float = 120.0,
    paths: Sequence[str] = (".", "kernels", "src"),
) -> Recorded:
    """Append `runs` runs of every case to the baselines of this device.

    replace: the first run replaces what is stored of its cases. As in a pytest session, a case that raises
    keeps its op from being stored, from that run on, and a wrong result ends the recording: its whole run is dropped.
    A run is stored when it is complete; one that is interrupted leaves none. Raises CannotMeasure when no case can be
    timed.
    """
    side = Side("tree", root, pytest_args, paths)
    side.start()
    try:
        assert side.facts is not None
        facts, store = side.facts, Store(folder, side.facts.device)
        stored: set[str] = set()
        bad: dict[str, str] = {}
        for number in range(runs):
            order = [case for case in side.places if _op(case) not in bad]
            if not order:
                break
            random.Random(number).shuffle(order)
            results = [_result(each) for each in side.measure(order, case_s, {}).values()]
            for each in results:
                if each.status in ("wrong", "error"):
                    bad.setdefault(each.op, f"{each.op}: {each.case} is {each.status}: {each.reason}")
            at = datetime.now(UTC).isoformat(timespec="seconds")
            run = Run(SCHEMA, at, facts.device, facts.versions, tuple(results))
            mode: Mode = "replace" if replace and number == 0 else "append"
            with _unbroken():
                changes = store.update(run, uuid.uuid4().hex[:12], mode)
            stored |= {change.case for change in changes}
            timed = sum(each.times is not None for each in results)
            say(f"process {number + 1} of {runs}: {timed} of {len(results)} cases timed")
            if any(each.status == "wrong" for each in results):
                break
        if not stored:
            raise CannotMeasure("; ".join(bad.values()) or f"no case could be timed: {results[0].reason}")
        return Recorded(len(stored), tuple(bad.values()))
    finally:
        side.close()


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Hold back the signals that ask to stop while files are written, so that a run is in all of them or in none.

    By handlers and not by a mask: a mask is one thread's, and another thread would take the signal.
    """
    arrived: list[int] = []
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda found, frame: arrived.append(found)) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(arrived):
            signal.raise_signal(late)


def _op(case: str) -> str:
    return case.partition("/")[0]


def _result(outcome: Outcome) -> Result:
    """What a baseline needs of a result; axes and costs are the test's own affair."""
    op, _, rest = outcome.case.partition("/")
    status = _STATUS.get(outcome.status, "error")
    return Result(outcome.case, op, rest.partition("[")[0], {}, status, outcome.reason, times=outcome.times)

"""Record baselines in several fresh processes, each over all cases in an order of its own."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from qbench.baseline import Mode, Store
from qbench.gate.run import Say
from qbench.gate.side import CannotMeasure, Side
from qbench.gate.worker import Outcome
from qbench.result import SCHEMA, Result, Run


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
) -> int:
    """Append `runs` runs of every case to the baselines of this device; the number of cases stored.

    replace: the first run replaces what is stored. A case that is wrong or raises in any process stops the recording of
    its op from there on, as it does in a pytest session. Raises CannotMeasure when nothing can be measured.
    """
    side = Side("tree", root, pytest_args, paths)
    side.start(limit_s=300.0)
    try:
        facts = side.facts
        assert facts is not None
        store = Store(folder, facts.device)
        stored: set[str] = set()
        bad: dict[str, str] = {}
        for number in range(runs):
            order = [case for case in side.places if _op(case) not in bad]
            if not order:
                break
            random.Random(number).shuffle(order)
            found = side.measure(order, case_s, {})
            for outcome in found.values():
                if outcome.status in ("wrong", "error"):
                    bad[_op(outcome.case)] = f"{outcome.case} is {outcome.status}: {outcome.reason}"
            at = datetime.now(UTC).isoformat(timespec="seconds")
            results = tuple(
                _result(each) for each in found.values() if each.times and _op(each.case) not in bad
            )
            mode: Mode = "replace" if replace and number == 0 else "append"
            run = Run(SCHEMA, at, facts.device, facts.versions, results)
            changes = store.update(run, uuid.uuid4().hex[:12], mode)
            stored |= {change.case for change in changes}
            say(f"process {number + 1} of {runs}: {len(results)} cases timed")
        for words in bad.values():
            say(f"not stored: {words}")
        if not stored:
            raise CannotMeasure("no case could be timed; see above")
        return len(stored)
    finally:
        side.close()


def _op(case: str) -> str:
    return case.partition("/")[0]


def _result(outcome: Outcome) -> Result:
    """What a baseline needs of a result; axes and costs are the test's own affair."""
    op, _, rest = outcome.case.partition("/")
    return Result(outcome.case, op, rest.partition("[")[0], {}, "ok", times=outcome.times)

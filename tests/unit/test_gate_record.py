"""Recording: one session a process, whole runs only, and nothing that is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from qbench.baseline import File, Store
from qbench.gate import record as module
from qbench.gate.protocol import Facts, Outcome, Place
from qbench.gate.record import Recorded, record
from qbench.gate.side import CannotMeasure
from qbench.result import Device, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
CASES = ("gemm/p[m=1]", "gemm/q[m=1]", "quantize/p[m=1]")
Answer = Callable[[str, int], Outcome]


def ok(case: str, process: int) -> Outcome:
    ns = 1000.0 + process
    return Outcome(case, "ok", Times(ns, ns, ns, 10, 1, 1, "graph", True))


def but(case: str, process: int, status: str) -> Answer:
    """Everything is well but one case in one process."""
    return lambda each, number: (
        Outcome(each, status, reason="why") if (each, number) == (case, process) else ok(each, number)
    )


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recorded]:
    def play(answer: Answer = ok, runs: int = 3, **options: Any) -> Recorded:
        class Pretender:
            def __init__(self, *words: object) -> None:
                self.places = dict.fromkeys(CASES, Place("test.py", 1, "node"))
                self.facts = Facts(1, H200, {"torch": "2.13"})
                self.processes = 0
                self.closed = False
                made.append(self)

            def start(self) -> None: ...

            def close(self) -> None:
                self.closed = True

            def measure(self, cases: Sequence[str], limit_s: float, inject: object) -> dict[str, Outcome]:
                self.processes += 1
                orders.append(tuple(cases))
                return {case: answer(case, self.processes) for case in cases}

        made: list[Any] = []
        orders.clear()
        monkeypatch.setattr(module, "Side", Pretender)
        try:
            return record(tmp_path, ["tests"], tmp_path / "baselines", runs, said.append, **options)
        finally:
            assert made[0].closed

    return play


said: list[str] = []
orders: list[tuple[str, ...]] = []


def stored(root: Path, op: str) -> File | None:
    return Store(root / "baselines", H200).file(op)


def medians(root: Path, case: str) -> list[float]:
    file = stored(root, case.partition("/")[0])
    return [each.median_ns for each in file.cases.get(case, ())] if file else []


def test_each_process_is_a_session_over_all_cases_in_an_order_of_its_own(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    assert recorded(runs=8) == Recorded(3, ())
    assert all(sorted(order) == sorted(CASES) for order in orders)
    assert len(set(orders)) > 1
    assert medians(tmp_path, CASES[0]) == [1001.0 + index for index in range(8)]
    gemm, quantize = stored(tmp_path, "gemm"), stored(tmp_path, "quantize")
    assert gemm is not None and quantize is not None
    assert list(gemm.sessions) == list(quantize.sessions)
    assert len(gemm.sessions) == 8


def test_runs_add_up_and_replace_begins_anew(tmp_path: Path, recorded: Callable[..., Recorded]) -> None:
    recorded(runs=2)
    recorded(runs=2)
    assert len(medians(tmp_path, CASES[0])) == 4
    recorded(runs=3, replace=True)
    assert medians(tmp_path, CASES[0]) == [1001.0, 1002.0, 1003.0]


def test_a_case_that_raises_keeps_its_op_out_from_there_on(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    found = recorded(but(CASES[0], 2, "error"))
    assert found.problems == (f"gemm: {CASES[0]} is error: why",)
    assert len(medians(tmp_path, CASES[0])) == len(medians(tmp_path, CASES[1])) == 1
    assert len(medians(tmp_path, CASES[2])) == 3


def test_a_wrong_result_drops_its_run_and_ends_the_recording(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    assert recorded(but(CASES[0], 2, "wrong")).problems == (f"gemm: {CASES[0]} is wrong: why",)
    assert [len(medians(tmp_path, case)) for case in CASES] == [1, 1, 1]
    with pytest.raises(CannotMeasure, match="is wrong: why"):
        recorded(but(CASES[0], 1, "wrong"))
    assert [len(medians(tmp_path, case)) for case in CASES] == [1, 1, 1]


def test_what_is_not_supported_here_keeps_nobody_out(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    found = recorded(
        lambda case, number: (
            Outcome(case, "unsupported", reason="x") if case == CASES[0] else ok(case, number)
        )
    )
    assert found == Recorded(2, ())
    assert (medians(tmp_path, CASES[0]), len(medians(tmp_path, CASES[1]))) == ([], 3)
    with pytest.raises(CannotMeasure, match="no case could be timed: no library"):
        recorded(lambda case, number: Outcome(case, "unsupported", reason="no library"))


def test_an_interrupted_recording_keeps_whole_runs_only(
    tmp_path: Path, recorded: Callable[..., Recorded]
) -> None:
    def interrupted(case: str, number: int) -> Outcome:
        if (number, case) == (3, CASES[1]):
            raise KeyboardInterrupt
        return ok(case, number)

    with pytest.raises(KeyboardInterrupt):
        recorded(interrupted, runs=5)
    assert {len(medians(tmp_path, case)) for case in CASES} == {2}


def test_a_signal_while_files_are_written_waits_for_the_last_of_them(
    tmp_path: Path, recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Store.update

    def shot(self: Store, *words: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return update(self, *words, **more)

    monkeypatch.setattr(Store, "update", shot)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            recorded(runs=5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert {len(medians(tmp_path, case)) for case in CASES} == {1}

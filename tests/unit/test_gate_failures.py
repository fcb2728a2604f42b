"""The rounds when something fails or throttles: what is tried again, what is counted, and what is the verdict."""

from __future__ import annotations

import pytest

from qbench.gate.protocol import Outcome
from qbench.gate.result import GateVerdict
from tests.sides import CASES, fails, found, of, pair, play, times


@pytest.mark.parametrize(
    ("base_status", "candidate_status", "verdict", "said"),
    [
        ("ok", "error", GateVerdict.BROKEN, "error on the candidate only: why"),
        ("ok", "wrong", GateVerdict.BROKEN, "wrong on the candidate only: why"),
        ("ok", "unsupported", GateVerdict.LOST, "ran on the base; the candidate does not support it: why"),
        ("error", "ok", GateVerdict.NEW, "error on the base (why)"),
        ("unsupported", "ok", GateVerdict.NEW, "unsupported on the base (why)"),
        ("unsupported", "unsupported", GateVerdict.UNSUPPORTED, "why"),
        ("unsupported", "error", GateVerdict.BROKEN, "error on the candidate, unsupported on the base: why"),
        ("error", "error", GateVerdict.UNMEASURED, "fails on both: why"),
        ("error", "unsupported", GateVerdict.UNMEASURED, "fails on both: why"),
    ],
)
def test_a_case_that_does_not_run_is_said_to_be(
    base_status: str, candidate_status: str, verdict: GateVerdict, said: str
) -> None:
    base, candidate = pair()
    for side, status in ((base, base_status), (candidate, candidate_status)):
        if status != "ok":
            side.answers[CASES[0]] = fails(status, "why", lambda seen: True)
    tally = play(base, candidate)
    track = of(tally, CASES[0])
    assert (track.verdict, track.logs) == (verdict, [])
    assert track.reason.startswith(said)
    assert {each for case, each in found(tally).items() if case != CASES[0]} == {GateVerdict.SAME}


def test_one_failure_that_does_not_come_back_is_noted_and_no_verdict() -> None:
    for name in ("base", "candidate"):
        base, candidate = pair(slower={CASES[1]: 0.03})
        side = base if name == "base" else candidate
        side.answers[CASES[1]] = fails("error", "the bus hiccuped", lambda seen: seen == 4)
        track = of(play(base, candidate), CASES[1])
        assert track.verdict is GateVerdict.SLOWER
        assert track.flaky == ((1, 0) if name == "base" else (0, 1))
        assert track.failure == "the bus hiccuped"
        assert side.asked[4] == (CASES[1],)  # tried again at once, alone


def test_failures_that_come_and_go_break_the_candidate_unless_the_base_has_them_too() -> None:
    odd = fails("error", "a race", lambda seen: seen % 2 == 1)
    base, candidate = pair(answers={CASES[1]: odd})
    track = of(play(base, candidate), CASES[1])
    assert track.verdict is GateVerdict.BROKEN
    assert track.reason == "fails now and then, of the candidate only in 2 processes: a race"
    base, candidate = pair(answers={CASES[1]: fails("error", "a race", lambda seen: seen in (3, 5))})
    base.answers[CASES[1]] = fails("error", "a race", lambda seen: seen == 1)
    track = of(play(base, candidate), CASES[1])
    assert track.verdict is GateVerdict.UNMEASURED
    assert "of the base in 1, of the candidate in 2 processes" in track.reason


def test_a_wrong_result_is_never_excused_and_a_second_failure_is_final() -> None:
    base, candidate = pair(slower={CASES[1]: 0.02})
    candidate.answers[CASES[1]] = fails("wrong", "off by one", lambda seen: seen == 4)
    track = of(play(base, candidate), CASES[1])
    assert track.verdict is GateVerdict.BROKEN
    assert (
        track.reason
        == "wrong on the candidate only: off by one (it ran 3 times before: it fails now and then)"
    )
    base, candidate = pair(answers={CASES[1]: fails("error", "gone", lambda seen: seen >= 1)})
    play(base, candidate)
    assert [each for each in candidate.asked if each == (CASES[1],)] == [(CASES[1],)]


# throttling


def hot(ns: float) -> Outcome:
    return Outcome("", "ok", times(ns, ("power-cap",)))


def test_a_pair_in_which_only_the_slower_side_throttled_is_taken_again_but_not_for_ever() -> None:
    base, candidate = pair(answers={CASES[0]: lambda seen: hot(1.2e4) if seen == 1 else None})
    track = of(play(base, candidate), CASES[0])
    assert (track.verdict, track.uneven) == (GateVerdict.SAME, 1)
    assert all(abs(log) < 0.05 for log in track.logs)
    base, candidate = pair(answers={CASES[0]: lambda seen: hot(1.2e4)})  # the code's own doing
    track = of(play(base, candidate), CASES[0])
    assert (track.verdict, track.uneven) == (GateVerdict.SLOWER, 2)


def test_throttling_on_both_sides_or_on_the_faster_one_is_counted_as_it_is() -> None:
    base, candidate = pair(answers={CASES[0]: lambda seen: hot(1e4)})
    base.answers[CASES[0]] = lambda seen: hot(1e4)
    base.answers[CASES[1]] = lambda seen: hot(0.9e4)
    tally = play(base, candidate)
    assert of(tally, CASES[0]).uneven == of(tally, CASES[1]).uneven == 0
    assert of(tally, CASES[1]).verdict is GateVerdict.SLOWER

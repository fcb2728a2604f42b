"""The rounds, with sides that only pretend to measure: who goes first, what is measured on, what ends the gate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import pytest

from qbench.gate import run
from qbench.gate.result import GateVerdict
from qbench.gate.run import Budget
from tests.sides import CASES, POLICY, Pretender, found, of, pair, play, tracks


def test_the_same_is_the_same_and_the_order_of_sides_alternates() -> None:
    base, candidate = pair()
    tally = play(base, candidate)
    assert set(found(tally).values()) == {GateVerdict.SAME}
    assert base.log[:4] == ["base", "candidate", "candidate", "base"]
    assert base.asked == candidate.asked
    assert base.asked[0] != CASES and sorted(base.asked[0]) == sorted(CASES)
    assert not tally.shift.confirmed
    assert tally.suite_runs == pytest.approx(sum(2 * len(each) for each in base.asked) / len(CASES))


def test_only_open_cases_are_measured_on_and_slower_and_faster_are_found() -> None:
    base, candidate = pair(slower={CASES[3]: 0.03, CASES[7]: -0.03})
    tally = play(base, candidate)
    verdicts = found(tally)
    assert verdicts.pop(CASES[3]) is GateVerdict.SLOWER
    assert verdicts.pop(CASES[7]) is GateVerdict.FASTER
    assert set(verdicts.values()) == {GateVerdict.SAME}
    for before, after in zip(base.asked, base.asked[1:], strict=False):
        assert set(after) <= set(before)
    assert {CASES[3], CASES[7]} <= set(base.asked[POLICY.min_pairs - 1])
    assert len(base.asked[4]) < 6
    assert len(of(tally, CASES[3]).logs) >= POLICY.min_pairs


def test_injected_time_goes_to_the_candidate_only() -> None:
    base, candidate = pair()
    tally = play(base, candidate, inject_ns={CASES[0]: 1000.0})
    assert of(tally, CASES[0]).verdict is GateVerdict.SLOWER


def test_a_suite_in_another_order_or_of_other_speed_gives_the_same_verdicts() -> None:
    def verdicts(order: Sequence[str], scale: float) -> dict[str, GateVerdict | None]:
        base, candidate = pair(slower={CASES[3]: 0.02, CASES[5]: 0.008})
        base.scale = candidate.scale = scale
        return found(play(base, candidate, tracks(order)))

    first = verdicts(CASES, 1.0)
    assert verdicts(CASES[::-1], 1.0) == first
    assert verdicts(CASES, 1000.0) == first


def test_the_budget_ends_the_gate_and_what_is_open_then_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    base, candidate = pair(slower={CASES[0]: 0.02})
    base.clock = candidate.clock = lambda: now.__setitem__(0, now[0] + 10.0)
    tally = play(base, candidate, budget=Budget(total_s=41.0))
    assert len(base.asked) <= 3
    track = of(tally, CASES[0])
    assert track.verdict is GateVerdict.INCONCLUSIVE
    assert track.reason == f"not decided after {len(track.logs)} pairs, when the time ran out"


def test_the_most_pairs_end_a_case_and_say_so() -> None:
    policy = dataclasses.replace(POLICY, max_pairs=6, least_df=30.0)
    base, candidate = pair(slower={CASES[0]: 0.05})
    track = of(play(base, candidate, policy=policy), CASES[0])
    assert (track.verdict, len(track.logs)) == (GateVerdict.INCONCLUSIVE, 6)
    assert track.reason == "not decided after 6 pairs, the most that the policy allows"


# the suite as a whole


def test_a_small_slowdown_of_everything_is_found_by_the_suite_as_a_whole() -> None:
    policy = dataclasses.replace(POLICY, least_effect=0.03)  # each case by itself may be slower by as much
    base, candidate = pair(all_slower=0.01)
    tally = play(base, candidate, policy=policy)
    assert tally.shift.confirmed
    assert tally.shift.log_ratio == pytest.approx(0.01, abs=0.002)
    assert set(found(tally).values()) == {GateVerdict.SAME}
    assert all(len(each) <= 16 for each in base.asked[-tally.shift.pairs :])


def settle_down(side: Pretender) -> None:
    if len(side.asked) > 1:
        side.all_slower = 0.0


def test_a_first_pair_that_was_off_as_a_whole_is_not_confirmed() -> None:
    for size in (0.011, 0.05):
        base, candidate = pair(all_slower=size)
        candidate.clock = functools.partial(settle_down, candidate)
        tally = play(base, candidate)
        assert tally.shift.pairs == run._SHIFT_PAIRS
        assert not tally.shift.confirmed


def test_cases_that_are_slower_by_themselves_make_no_shift_of_the_suite() -> None:
    base, candidate = pair(
        slower=dict.fromkeys(CASES[:24], 0.05)
    )  # a maintainer may have accepted all of these
    tally = play(base, candidate)
    assert sum(each is GateVerdict.SLOWER for each in found(tally).values()) == 24
    assert tally.shift.log_ratio > 0.04
    assert (tally.shift.confirmed, tally.shift.pairs) == (False, 0)


def test_a_shift_that_cannot_be_looked_into_says_why() -> None:
    policy = dataclasses.replace(POLICY, least_effect=0.03)
    base, candidate = pair(all_slower=0.01)
    tally = play(base, candidate, tracks(CASES[:6]), policy=policy)
    assert not tally.shift.confirmed
    assert tally.shift.note.startswith("not looked into: only ")


def test_no_shift_is_seen_in_a_hundred_unchanged_suites() -> None:
    for seed in range(100):
        base, candidate = pair()
        base.seed = candidate.seed = seed
        tally = play(base, candidate, seed=seed)
        assert tally.shift.pairs == 0
        assert set(found(tally).values()) <= {GateVerdict.SAME, GateVerdict.INCONCLUSIVE}

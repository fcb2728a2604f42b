"""The gate's rounds: a pair of fresh processes at a time, over the cases that are still open.

Every round runs one process of each side over the same cases in the same shuffled order; which side goes first
alternates. After a round `rule.decide` closes what it can. The budget ends the gate: what is open then is
inconclusive, which is reported and is neither a failure nor a pass.

Two kinds of pair are not counted, and taken again. A case that fails on one side is tried once more there at once, and
only a second failure is its verdict: a card that hiccups breaks no kernel. And where the card throttled on one side
only, and that side was the slower one, the difference may be the card's; a kernel that brings the card to its limit by
itself does so each time, so that this excuse holds for two pairs. Both rules treat the sides alike, or they would bend
the chance of a false alarm.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from qbench.gate.protocol import Outcome
from qbench.gate.result import GateVerdict, Shift
from qbench.gate.rule import FASTER, OPEN, SLOWER, GatePolicy, Prior, decide, fit_prior
from qbench.gate.side import Side
from qbench.result import Times

Say = Callable[[str], None]
_MOST_UNEVEN = 2
_MOST_FLAKY = 2
_SHIFT_CASES = 16
_SHIFT_PAIRS = 4


@dataclass(frozen=True)
class Budget:
    """When to stop asking. `case_s`: a single case that takes longer counts as failed."""

    total_s: float = 900.0
    case_s: float = 120.0


@dataclass
class Track:
    """What is known of one case so far."""

    case: str
    variance: float = 0.0  # of the stored runs' log times
    df: float = 0.0
    logs: list[float] = field(default_factory=list)
    base: list[Times] = field(default_factory=list)
    candidate: list[Times] = field(default_factory=list)
    verdict: GateVerdict | None = None
    reason: str = ""
    sd: float = 0.0  # of one run, and its degrees of freedom
    sd_df: float = 1.0
    uneven: int = 0  # pairs that were not counted, for the card throttled on the slower side only
    flaky: tuple[int, int] = (0, 0)  # failures of base and candidate that did not happen again
    failure: str = ""  # the last of them


@dataclass
class Tally:
    """Everything a gate measured, before it is put in words."""

    tracks: list[Track]
    shift: Shift
    suite_runs: float
    seconds: float


def run_rounds(
    base: Side,
    candidate: Side,
    tracks: list[Track],
    policy: GatePolicy,
    budget: Budget,
    say: Say,
    *,
    seed: int = 0,
    inject_ns: dict[str, float] | None = None,
) -> Tally:
    """Measure pairs until every case is decided or the budget ends. `inject_ns`: extra time of the candidate."""
    start = time.monotonic()
    prior = fit_prior(np.array([t.variance for t in tracks]), np.array([t.df for t in tracks]), policy)
    runs, first_pair_s = 0.0, 0.0
    for number in range(1, policy.max_pairs + _MOST_UNEVEN + 2 * _MOST_FLAKY):
        left = [track for track in tracks if track.verdict is None]
        spent = time.monotonic() - start
        expected = first_pair_s * len(left) / max(1, len(tracks))
        if not left or spent + expected > budget.total_s:
            break
        began = time.monotonic()
        _pair(base, candidate, left, number, budget, seed, inject_ns or {})
        if number == 1:
            first_pair_s = time.monotonic() - began
        runs += 2 * len(left) / len(tracks)
        _close(left, prior, len(tracks), policy)
        open_now = sum(track.verdict is None for track in tracks)
        say(f"pair {number}: {len(left)} cases, {time.monotonic() - began:.0f} s; {open_now} open")
    shift = _shift(base, candidate, tracks, policy, budget, start, seed, inject_ns or {})
    runs += 2 * shift.pairs * min(_SHIFT_CASES, len(tracks)) / max(1, len(tracks))
    for track in tracks:
        if track.verdict is None:
            track.verdict = GateVerdict.INCONCLUSIVE
            track.reason = f"not decided after {len(track.logs)} pairs, when the time ran out"
    return Tally(tracks, shift, runs, time.monotonic() - start)


def _pair(
    base: Side,
    candidate: Side,
    tracks: list[Track],
    number: int,
    budget: Budget,
    seed: int,
    inject: dict[str, float],
) -> None:
    """One process of each side; appends a log ratio to each case both could time."""
    order = [track.case for track in tracks]
    random.Random(f"{seed}/{number}").shuffle(order)
    sides = (base, candidate) if number % 2 else (candidate, base)
    extra = {base.name: {}, candidate.name: inject}
    found = {side.name: side.measure(order, budget.case_s, extra[side.name]) for side in sides}
    again = {base.name: {}, candidate.name: {}}  # type: dict[str, dict[str, Outcome]]
    for side, other in (sides, sides[::-1]):
        failed = [case for case in order if found[other.name][case].times
                  and not found[side.name][case].times and found[side.name][case].status != "wrong"]  # fmt: skip
        if failed:
            again[side.name] = side.measure(failed, budget.case_s, extra[side.name])
    for track in tracks:
        a, b = found[base.name][track.case], found[candidate.name][track.case]
        if a.times is not None and b.times is not None:
            _count(track, a.times, b.times)
            continue
        second = again[base.name].get(track.case), again[candidate.name].get(track.case)
        if any(outcome is not None and outcome.times is not None for outcome in second):
            _note_flaky(track, second[1] is not None, (b if second[1] else a).reason)
        else:
            track.verdict, track.reason = _without_times(a, b)
            if track.logs:
                track.reason += f" (it ran {len(track.logs)} times before: it fails now and then)"


def _count(track: Track, a: Times, b: Times) -> None:
    log = math.log(b.median_ns / a.median_ns)
    uneven = bool(a.throttle) != bool(b.throttle) and bool(b.throttle) == (log > 0)
    if uneven and track.uneven < _MOST_UNEVEN:
        track.uneven += 1
        return
    track.base.append(a)
    track.candidate.append(b)
    track.logs.append(log)


def _note_flaky(track: Track, on_candidate: bool, reason: str) -> None:
    a, b = track.flaky[0] + (not on_candidate), track.flaky[1] + on_candidate
    track.flaky, track.failure = (a, b), reason
    if max(a, b) >= _MOST_FLAKY:
        broken = a == 0
        track.verdict = GateVerdict.BROKEN if broken else GateVerdict.UNMEASURED
        where = f"of the candidate only in {b}" if broken else f"of the base in {a}, of the candidate in {b}"
        track.reason = f"fails now and then, {where} processes: {reason}"


def _without_times(a: Outcome, b: Outcome) -> tuple[GateVerdict, str]:
    if a.status == b.status == "unsupported":
        return GateVerdict.UNSUPPORTED, b.reason
    if a.status == "ok":
        if b.status == "unsupported":
            return GateVerdict.LOST, f"ran on the base; the candidate does not support it: {b.reason}"
        return GateVerdict.BROKEN, f"{b.status} on the candidate only: {b.reason}"
    if b.status == "ok":
        return GateVerdict.NEW, f"{a.status} on the base ({a.reason}); nothing to compare with"
    if b.status in ("wrong", "error") and a.status == "unsupported":
        return GateVerdict.BROKEN, f"{b.status} on the candidate, unsupported on the base: {b.reason}"
    return GateVerdict.UNMEASURED, f"fails on both: {b.reason}"


def _close(tracks: list[Track], prior: Prior, cases: int, policy: GatePolicy) -> None:
    timed = [track for track in tracks if track.verdict is None and track.logs]
    for count in sorted({len(track.logs) for track in timed}):
        group = [track for track in timed if len(track.logs) == count]
        state = decide(
            np.array([track.logs for track in group]),
            np.array([track.variance for track in group]),
            np.array([track.df for track in group]),
            prior,
            cases,
            policy,
        )
        for index, track in enumerate(group):
            track.sd, track.sd_df = float(state.sd[index]), float(state.df[index])
            code = int(state.verdict[index])
            if code != OPEN:
                track.verdict = {SLOWER: GateVerdict.SLOWER, FASTER: GateVerdict.FASTER}.get(
                    code, GateVerdict.SAME
                )
            elif count >= policy.max_pairs:
                track.verdict = GateVerdict.INCONCLUSIVE
                track.reason = f"not decided after {count} pairs, the most that the policy allows"


def _shift(
    base: Side, candidate: Side, tracks: list[Track], policy: GatePolicy, budget: Budget,
    start: float, seed: int, inject: dict[str, float],
) -> Shift:  # fmt: skip
    """Is the suite slower as a whole, by less than its cases can tell? Cases that are slower by themselves are judged
    (and may have been accepted) by themselves. Triggered by the median of the others' first pairs; confirmed on the
    quietest of them when every further pair's median says so too.
    """
    timed = [track for track in tracks if track.logs]
    if not timed:
        return Shift(0.0, False)
    found = float(np.median([track.logs[0] for track in timed]))
    others = [track for track in timed if track.verdict is not GateVerdict.SLOWER]
    quiet = sorted(others, key=lambda track: track.sd)[:_SHIFT_CASES]
    if not others or float(np.median([track.logs[0] for track in others])) <= policy.shift:
        return Shift(found, False)
    if len(quiet) < _SHIFT_CASES:
        why = f"only {len(quiet)} cases could tell, and it takes {_SHIFT_CASES}"
        return Shift(found, False, note=f"not looked into: {why}")
    if time.monotonic() - start > budget.total_s:
        return Shift(found, False, note="not looked into: the time ran out")
    medians = []
    for number in range(_SHIFT_PAIRS):
        again = [Track(track.case) for track in quiet]
        _pair(base, candidate, again, 1000 + number, budget, seed, inject)
        logs = [track.logs[0] for track in again if track.logs]
        medians.append(float(np.median(logs)) if logs else 0.0)
    confirmed = min(medians) > policy.shift / 2 and float(np.mean(medians)) > policy.shift
    return Shift(float(np.median([found, *medians])), confirmed, _SHIFT_PAIRS)

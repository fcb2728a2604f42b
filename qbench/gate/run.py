"""The gate's rounds: a pair of fresh processes at a time, over the cases that are still open.

Every round runs one process of each side over the same cases in the same shuffled order; which side goes first
alternates. After a round `rule.decide` closes what it can. The budget ends the gate: what is open then is
inconclusive, which is reported and is neither a failure nor a pass.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from qbench.gate.result import GateVerdict, Shift
from qbench.gate.rule import FASTER, OPEN, SLOWER, GatePolicy, Prior, decide, fit_prior
from qbench.gate.side import Side
from qbench.gate.worker import Outcome
from qbench.result import Times

Say = Callable[[str], None]


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
    for number in range(1, policy.max_pairs + 1):
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
            why = "pairs" if len(track.logs) >= policy.max_pairs else "time"
            track.reason = f"not decided after {len(track.logs)} pairs, when the {why} ran out"
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
    found: dict[str, dict[str, Outcome]] = {}
    for side in (base, candidate) if number % 2 else (candidate, base):
        found[side.name] = side.measure(order, budget.case_s, inject if side is candidate else {})
    for track in tracks:
        a, b = found[base.name][track.case], found[candidate.name][track.case]
        if a.times is not None and b.times is not None:
            track.base.append(a.times)
            track.candidate.append(b.times)
            track.logs.append(math.log(b.times.median_ns / a.times.median_ns))
        else:
            track.verdict, track.reason = _without_times(a, b)


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


_SHIFT_CASES = 16
_SHIFT_PAIRS = 4


def _shift(
    base: Side, candidate: Side, tracks: list[Track], policy: GatePolicy, budget: Budget,
    start: float, seed: int, inject: dict[str, float],
) -> Shift:  # fmt: skip
    """Is the suite slower as a whole, by less than any case can tell? Triggered by the median of the first pairs;
    confirmed on the quietest cases when every further pair's median says so too.
    """
    firsts = [track.logs[0] for track in tracks if track.logs]
    if not firsts:
        return Shift(0.0, False)
    found = float(np.median(firsts))
    quiet = sorted((t for t in tracks if t.verdict is GateVerdict.SAME), key=lambda t: t.sd)[:_SHIFT_CASES]
    if found <= policy.shift or len(quiet) < _SHIFT_CASES or time.monotonic() - start > budget.total_s:
        return Shift(found, False)
    medians = []
    for number in range(_SHIFT_PAIRS):
        again = [Track(track.case) for track in quiet]
        _pair(base, candidate, again, 1000 + number, budget, seed, inject)
        logs = [track.logs[0] for track in again if track.logs]
        medians.append(float(np.median(logs)) if logs else 0.0)
    confirmed = min(medians) > policy.shift / 2 and float(np.mean(medians)) > policy.shift
    return Shift(float(np.median([found, *medians])), confirmed, _SHIFT_PAIRS)

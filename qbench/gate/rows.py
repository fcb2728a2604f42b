"""From what was measured of a case to its row: ratio, interval, and the reason in words."""

from __future__ import annotations

import math

import numpy as np

from qbench.gate.policy import Accepted, acceptance
from qbench.gate.protocol import Place
from qbench.gate.result import GateVerdict, Row
from qbench.gate.rule import GatePolicy, detectable
from qbench.gate.run import Track
from qbench.result import Device, Times


def make_row(
    track: Track, place: Place | None, device: Device, policy: GatePolicy, accepted: tuple[Accepted, ...]
) -> Row:
    """The row of a decided case; a slowdown within what was accepted says so."""
    assert track.verdict is not None
    reason = track.reason
    if track.flaky != (0, 0) and track.failure not in reason:
        base, candidate = track.flaky
        failed = f"failed in {base} processes of the base and {candidate} of the candidate, and not when tried again"
        reason = "; ".join(each for each in (reason, f"{failed}: {track.failure}") if each)
    if not track.logs:
        return Row(track.case, track.verdict, reason, set_aside=track.uneven, flaky=track.flaky, place=place)
    from scipy.stats import t

    logs = np.array(track.logs)
    # the median of more than two normal values spreads sqrt(pi/2) times as wide as their mean
    error = track.sd * math.sqrt(2 / len(logs)) * (math.sqrt(math.pi / 2) if len(logs) > 2 else 1.0)
    middle, reach = float(np.median(logs)), float(t.ppf(0.995, track.sd_df)) * error
    finds = float(detectable(np.array(track.sd), np.array(track.sd_df), policy))
    verdict = track.verdict
    words = _reason(verdict, middle, finds)
    if verdict is GateVerdict.SLOWER:
        entry, refusal = acceptance(track.case, device, math.exp(middle), accepted)
        if entry:
            verdict, words = GateVerdict.ACCEPTED, f"accepted up to {entry.up_to:.1%}: {entry.reason}"
        else:
            words = "; ".join(each for each in (_clock_words(track) or words, refusal) if each)
    return Row(
        case=track.case,
        verdict=verdict,
        reason="; ".join(each for each in ("" if track.reason else words, reason) if each),
        ratio=math.exp(middle),
        low=math.exp(middle - reach),
        high=math.exp(middle + reach),
        pairs=len(logs),
        base_ns=_median(track.base),
        candidate_ns=_median(track.candidate),
        sd=track.sd,
        detectable=finds,
        clocks_mhz=(_clock(track.base), _clock(track.candidate)),
        throttled=(_throttled(track.base), _throttled(track.candidate)),
        set_aside=track.uneven,
        flaky=track.flaky,
        logs=tuple(round(log, 6) for log in track.logs),
        place=place,
    )


def _reason(verdict: GateVerdict, middle: float, finds: float) -> str:
    return {
        GateVerdict.SLOWER: "more than chance explains, in interleaved runs",
        GateVerdict.FASTER: "more than chance explains; record it: python -m qbench record",
        GateVerdict.SAME: f"not slower by {finds:.1%} or more",
    }.get(verdict, f"{math.expm1(middle):+.1%}")


def _clock_words(track: Track) -> str:
    """Interleaved runs share the card's state, so a clock that is lower on one side alone is that side's doing."""
    a, b = _clock(track.base), _clock(track.candidate)
    if not a or not b or b > 0.985 * a:
        return ""
    return f"the SM clock fell to {b} MHz with it ({a} MHz with the base), in interleaved runs: it draws more power"


def _median(times: list[Times]) -> float:
    return float(np.median([each.median_ns for each in times]))


def _clock(times: list[Times]) -> int:
    return int(np.median([each.clock_after_mhz for each in times]))


def _throttled(times: list[Times]) -> int:
    return sum(bool(each.throttle) for each in times)

"""Is this time a regression? A verdict from one run against the stored runs, stated with its certainty.

The baseline's runs give a mean and a standard deviation of the log time. With few runs the deviation is
shrunk toward what is known of the kind of device (limma's moderation). The new run then has a prediction
interval; SLOWER needs both a sure difference and one that matters. What lies between is INCONCLUSIVE:
reported, never a failure by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qbench.baseline import Record
from qbench.result import PREEMPTED, Judgement, Times, Verdict
from qbench.stats import mean, moderated_sd


@dataclass(frozen=True)
class Policy:
    """How sure and how large a difference must be.

    prior_sd: run-to-run standard deviation of the log time, before any is seen (H200 at recovered clocks: median
    0.25%, 90th percentile 1.65%). alpha: chance that an unchanged case is called slower, 1e-3 over 500 cases.
    """

    prior_sd: float
    prior_df: float = 8.0
    alpha: float = 2e-6
    min_effect: float = 0.03
    power: float = 0.99
    unsteady: float = 0.25  # (p80 - p20) / median of a run from which it speaks for nothing

    @classmethod
    def for_kind(cls, kind: str) -> Policy:
        """A shared CPU drifts by tens of percent; its policy says so instead of crying wolf."""
        return cls(prior_sd=0.006) if kind == "cuda" else cls(prior_sd=0.08, min_effect=0.15)


def judge(now: Times, base: tuple[Record, ...], policy: Policy) -> Judgement:
    """Judge one run's median against the baseline's runs. Ratios are now / baseline."""
    if not base:
        return Judgement(Verdict.NO_BASELINE, "no baseline is stored for this case on this device")
    from scipy.stats import t

    logs = [math.log(record.median_ns) for record in base]
    sd, df = moderated_sd(logs, policy.prior_sd, policy.prior_df)
    error = sd * math.sqrt(1 + 1 / len(logs))
    difference = math.log(now.median_ns) - mean(logs)
    reach = float(t.ppf(1 - policy.alpha, df)) * error
    detectable = max(policy.min_effect, math.expm1(reach + float(t.ppf(policy.power, df)) * error))
    verdict, reason = _decide(difference, reach, policy)
    if verdict is Verdict.SLOWER and (
        note := _preempted(now) or _unsteady(now, policy) or _slower_clock(now, base, difference, policy)
    ):
        verdict, reason = Verdict.INCONCLUSIVE, note
    return Judgement(
        verdict,
        reason,
        ratio=math.exp(difference),
        low=math.exp(difference - reach),
        high=math.exp(difference + reach),
        detectable=detectable,
        baseline_runs=len(logs),
        baseline_ns=math.exp(mean(logs)),
    )


def _decide(difference: float, reach: float, policy: Policy) -> tuple[Verdict, str]:
    change = f"{math.expm1(difference):+.1%}"
    matters = math.log1p(policy.min_effect)
    if abs(difference) <= matters:
        return Verdict.SAME, f"{change}, within {policy.min_effect:.0%}"
    if abs(difference) <= reach:
        return Verdict.INCONCLUSIVE, f"{change}, but one run is sure only from {math.expm1(reach):.1%} on"
    return (Verdict.SLOWER if difference > 0 else Verdict.FASTER), f"{change}, more than chance explains"


def _preempted(now: Times) -> str:
    """Words for a run timed by a host's clock whose CPU other processes were using, or ""."""
    return "other processes took the CPU from this run; run it again" if PREEMPTED in now.throttle else ""


def _unsteady(now: Times, policy: Policy) -> str:
    """Words for a run whose own bursts differ too much, or "": a shared machine, not the code."""
    if (now.p80_ns - now.p20_ns) <= policy.unsteady * now.median_ns:
        return ""
    return f"this run's own bursts lie between {now.p20_ns / 1e3:.3g} and {now.p80_ns / 1e3:.3g} µs; run it again"


def _slower_clock(now: Times, base: tuple[Record, ...], difference: float, policy: Policy) -> str:
    """Words for a difference that the SM clock explains, or "" where it does not."""
    clocks = [record.clock_mhz for record in base if record.clock_mhz]
    if not clocks or not now.clock_after_mhz:
        return ""
    usual = mean([float(clock) for clock in clocks])
    slower = usual / now.clock_after_mhz
    low_from_the_start = now.clock_before_mhz < 0.98 * usual
    if not (now.throttle or low_from_the_start):  # one low reading afterwards may be the code's own doing
        return ""
    if slower < 1.02 or difference - math.log(slower) > math.log1p(policy.min_effect):
        return ""
    return (
        f"{math.expm1(difference):+.1%}, but the SM clock was {now.clock_after_mhz} MHz against "
        f"{usual:.0f}: a slower clock, not slower code"
    )

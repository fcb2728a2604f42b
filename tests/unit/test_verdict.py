"""Verdicts: what they need to be sure of, their words, and how often they are wrong on unchanged cases."""

import math
import random

import pytest

from qbench.baseline import Record
from qbench.result import Times, Verdict
from qbench.verdict import Policy, judge

GPU = Policy.for_kind("cuda")


def times(ns, clock=1980):
    return Times(ns, ns, ns, 10, 100, 4, "graph", True, clock, clock)


def records(*medians, clock=1980):
    return tuple(Record(f"s{i}", ns, ns, ns, 10, clock) for i, ns in enumerate(medians))


STEADY = records(1000.0, 1002.0, 999.0, 1001.0, 998.0)


def test_no_baseline_is_said():
    assert judge(times(1000), (), GPU).verdict is Verdict.NO_BASELINE


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (1000, Verdict.SAME),
        (1029, Verdict.SAME),
        (971, Verdict.SAME),
        (1200, Verdict.SLOWER),
        (800, Verdict.FASTER),
        (1040, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict_on_a_steady_baseline(now, verdict):
    assert judge(times(now), STEADY, GPU).verdict is verdict


def test_ratio_interval_holds_the_ratio_and_detectable_effect_is_beyond_it():
    judged = judge(times(1200), STEADY, GPU)
    assert judged.low < judged.ratio < judged.high
    assert judged.ratio == pytest.approx(1.2, rel=1e-3) and judged.baseline_runs == 5
    assert judged.detectable >= judged.ratio / judged.low - 1


def test_a_slowdown_of_the_detectable_size_is_slower():
    effect = judge(times(1000), STEADY, GPU).detectable
    assert judge(times(1000 * (1 + effect)), STEADY, GPU).verdict is Verdict.SLOWER


def test_noisy_baselines_widen_the_interval():
    noisy = records(900.0, 1100.0, 1000.0, 950.0, 1060.0)
    assert judge(times(1100), noisy, GPU).verdict is Verdict.INCONCLUSIVE
    assert judge(times(1000), noisy, GPU).detectable > judge(times(1000), STEADY, GPU).detectable


def test_twenty_percent_is_seen_from_a_single_baseline_run_on_a_gpu():
    assert judge(times(1200), records(1000.0), GPU).verdict is Verdict.SLOWER


def test_a_slower_clock_is_told_from_slower_code():
    judged = judge(times(1250, clock=1600), STEADY, GPU)
    assert judged.verdict is Verdict.INCONCLUSIVE and "1600 MHz against 1980" in judged.reason
    assert judge(times(1250, clock=1960), STEADY, GPU).verdict is Verdict.SLOWER
    assert (
        judge(times(2000, clock=1600), STEADY, GPU).verdict is Verdict.SLOWER
    )  # more than the clock explains


def test_a_low_clock_only_afterwards_is_no_excuse():
    after = Times(1250, 1250, 1250, 10, 100, 4, "graph", True, 1980, 1600)
    assert judge(after, STEADY, GPU).verdict is Verdict.SLOWER


def test_a_run_that_other_processes_held_up_is_inconclusive():
    assert judge(times(9000), STEADY, Policy.for_kind("cpu")).verdict is Verdict.SLOWER
    held = Times(9000, 9000, 9000, 10, 1, 1, "wall", False, throttle=("preempted",))
    found = judge(held, STEADY, Policy.for_kind("cpu"))
    assert found.verdict is Verdict.INCONCLUSIVE and "other processes took the CPU" in found.reason


def test_a_run_whose_own_bursts_differ_widely_is_no_evidence():
    wild = Times(5000, 1000, 9000, 10, 1, 1, "wall", False)
    judged = judge(wild, STEADY, GPU)
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "own bursts" in judged.reason


def test_a_cpu_needs_far_more():
    assert judge(times(1300), records(1000.0), Policy.for_kind("cpu")).verdict is not Verdict.SLOWER


def test_unchanged_cases_are_hardly_ever_called_slower():
    """20,000 unchanged cases at the H200's measured noise (sd 0.25% for half, up to 1.65% for a tenth)."""
    generator = random.Random(1)
    wrong = 0
    for _ in range(20_000):
        sd = generator.choice([0.0012, 0.0025, 0.0025, 0.0065, 0.0165])
        runs = [1000 * math.exp(generator.gauss(0, sd)) for _ in range(6)]
        wrong += judge(times(runs[0]), records(*runs[1:]), GPU).verdict is Verdict.SLOWER
    assert wrong <= 2

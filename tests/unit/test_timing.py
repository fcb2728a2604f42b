"""The timer: its plan and its convergence by arithmetic here, its truth on a GPU in test_timer_gpu.py."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.timing import TimingPolicy, plan, time_wall, undisturbed, until_converged

L2 = 50 << 20
POLICY = TimingPolicy()


@given(st.integers(1, 1 << 34), st.floats(500, 1e8))
def test_every_call_of_a_plan_is_cold(size, call_ns):
    """Either the copies fill the L2 three times over, or each copy is used once after the sweep."""
    chosen = plan(size, call_ns, L2, POLICY)
    assert chosen.cold and 1 <= chosen.copies <= 320
    assert chosen.copies * size >= 3 * L2 or chosen.launches == chosen.copies
    assert chosen.launches % chosen.copies == 0


def test_a_plan_lasts_about_a_burst():
    for call_ns in (3_000, 20_000, 300_000):
        chosen = plan(64 << 20, call_ns, L2, POLICY)
        assert 0.5 < chosen.launches * call_ns / (POLICY.burst_ms * 1e6) < 2


def test_a_long_call_is_launched_once():
    assert plan(1 << 30, 40e6, L2, POLICY).launches == 1


def test_bursts_stop_at_the_floor_when_steady_and_at_the_cap_when_not():
    steady = until_converged(lambda: 5.0, 5.0, POLICY)
    assert len(steady.ns) == POLICY.bursts
    wild = iter(range(1, 1000))
    assert len(until_converged(lambda: float(next(wild)), 5.0, POLICY).ns) == POLICY.max_bursts


def test_the_wall_clock_sees_a_sleep():
    timed = time_wall(lambda: time.sleep(0.004), TimingPolicy(bursts=5, max_bursts=5))
    assert timed.method == "wall" and not timed.cold
    assert 4e6 <= timed.samples.median_ns < 4e8  # never too short; a busy machine may make it long


@pytest.mark.parametrize(("each", "throttle"), [(0, ()), (1000, ("preempted",))])
def test_a_cpu_that_is_taken_away_is_said(each, throttle, monkeypatch):
    taken = iter(range(0, 10**9, each + 1))
    monkeypatch.setattr("qbench.timing._preemptions", lambda: next(taken))
    timed = time_wall(lambda: time.sleep(0.004), TimingPolicy(bursts=5, max_bursts=5))
    assert timed.throttle == throttle


@pytest.mark.parametrize(("threads", "said"), [(1, ["preempted"]), (1000, [])])
def test_how_often_is_for_each_thread_that_is_busy(threads, said, monkeypatch):
    """Beside a GPU one thread waits for it, on however many cores."""
    taken = iter((0, 100))
    monkeypatch.setattr("qbench.timing._preemptions", lambda: next(taken))
    with undisturbed(threads) as found:
        time.sleep(0.01)
    assert found == said


@pytest.mark.parametrize("iters", [1, 3])
def test_the_floor_is_what_the_policy_says(iters):
    policy = TimingPolicy(bursts=iters, max_bursts=iters)
    assert len(time_wall(lambda: sum(range(100)), policy).samples.ns) == iters

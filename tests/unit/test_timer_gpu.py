"""The timer's truth on a GPU: kernels of known length, and long graphs replayed back to back."""

import pytest
import torch

from qbench.timing import CudaTimer, Plan, TimingPolicy, plan

pytestmark = pytest.mark.gpu
REPLAYS = 20


@pytest.fixture(scope="module")
def timer():
    return CudaTimer(TimingPolicy())


def spin(cycles):
    return lambda: torch.cuda._sleep(cycles)


def measured_us(timer, thunk):
    chosen = plan(1, timer.estimate_ns(thunk), timer.l2, timer.policy)
    many = Plan(1, max(1, round(2e6 / timer.estimate_ns(thunk))), chosen.cold)
    return timer.time([thunk], many).samples.median_ns / 1e3


def test_spins_of_known_length_are_measured_within_two_percent(timer):
    """A launch lasts its spin and a fixed overhead. Both are fitted by a line over 5 us to 1 ms; the line's
    slope is the clock, and every point lies within 2% of it. The clock is held against NVML's.
    """
    cycles = [10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000]
    found = [measured_us(timer, spin(each)) for each in cycles]
    weights = torch.tensor(found, dtype=torch.float64).reciprocal().unsqueeze(1)
    design = torch.tensor([[1.0, each] for each in cycles], dtype=torch.float64)
    line = torch.linalg.lstsq(design * weights, torch.ones(len(cycles), 1, dtype=torch.float64)).solution
    overhead_us, us_per_cycle = line.flatten().tolist()
    fitted = [overhead_us + us_per_cycle * each for each in cycles]
    print({"overhead_us": overhead_us, "mhz": 1 / us_per_cycle, "cycles": cycles, "us": found})
    for us, line_us in zip(found, fitted, strict=True):
        assert us == pytest.approx(line_us, rel=0.02)
    assert 0 < overhead_us < 2.5
    clock = timer.monitor.max_clock_mhz()
    assert not clock or 1 / us_per_cycle == pytest.approx(clock, rel=0.02)


@pytest.mark.parametrize("cycles", [10_000, 100_000, 1_000_000])
def test_bursts_agree_with_long_graphs_replayed_back_to_back(timer, cycles):
    """20 replays of a 2 ms graph between two events: no gaps to speak of, and a spin does not throttle."""
    thunk = spin(cycles)
    launches = max(1, 4_000_000 // cycles)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        thunk()
        stream.synchronize()
        graph.capture_begin()
        for _ in range(launches):
            thunk()
        graph.capture_end()
        graph.replay()
        timer.monitor.recover()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        stop.record()
        stream.synchronize()
    long_us = start.elapsed_time(stop) * 1e3 / (REPLAYS * launches)
    assert measured_us(timer, thunk) == pytest.approx(long_us, rel=0.02)


def test_a_copy_is_measured_cold_and_a_rotation_keeps_it_so(timer):
    """16 MB in and out fit in the L2: rotating makes them cost what memory costs, not what the cache does."""
    sources = [torch.randn(4 << 20, device="cuda") for _ in range(8)]
    targets = [torch.empty_like(each) for each in sources]
    rotated = [lambda a=a, b=b: b.copy_(a) for a, b in zip(sources, targets, strict=True)]
    cold = timer.time(rotated, Plan(8, 80, True)).samples.median_ns
    warm = timer.time(rotated[:1], Plan(1, 80, False)).samples.median_ns
    assert cold > 1.15 * warm


def test_a_thunk_that_synchronises_is_timed_with_events(timer):
    x = torch.randn(1024, device="cuda")

    def synchronising():
        return x * float(x[0].item() + 1)

    timed = timer.time([synchronising], Plan(1, 10, True))
    assert timed.method == "events" and timed.samples.median_ns > 1000


def test_outputs_handed_back_are_those_of_the_last_burst(timer):
    x = torch.randn(4096, device="cuda")
    timed = timer.time([lambda: x * 2, lambda: x * 2], Plan(2, 10, True))
    assert len(timed.outputs) == 2 and timed.method == "graph"
    assert all(torch.equal(each, x * 2) for each in timed.outputs)

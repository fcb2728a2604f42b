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
    """A spin has no operands that could be cold, so the L2 is left as it is."""
    launches = max(1, round(2e6 / timer.estimate_ns(thunk)))
    return timer.time([thunk], Plan(1, launches, cold=False)).samples.median_ns / 1e3


def long_us(timer, thunks, launches):
    """20 replays of one graph between two events: no gaps to speak of."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        thunks[0]()
        stream.synchronize()
        graph.capture_begin()
        for index in range(launches):
            thunks[index % len(thunks)]()
        graph.capture_end()
        graph.replay()
        timer.monitor.recover()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        stop.record()
        stream.synchronize()
    return start.elapsed_time(stop) * 1e3 / (REPLAYS * launches)


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
def test_bursts_of_spins_agree_with_long_graphs_replayed_back_to_back(timer, cycles):
    thunk = spin(cycles)
    expected = long_us(timer, [thunk], max(1, 4_000_000 // cycles))
    assert measured_us(timer, thunk) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("mib", [12, 48, 256])
def test_bursts_of_cold_copies_agree_with_long_graphs_replayed_back_to_back(timer, mib):
    """Memory-bound kernels of 6 us and up, rotating over operands that no cache holds, in both."""
    chosen = plan(2 * mib << 20, 2 * mib * 250.0, timer.l2, timer.policy)
    thunks = []
    for _ in range(chosen.copies):
        source, target = torch.randn(2, mib << 18, device="cuda")
        thunks.append(lambda a=source, b=target: torch.neg(a, out=b))
    expected = long_us(timer, thunks, chosen.launches)
    found = timer.time(thunks, chosen).samples.median_ns / 1e3
    print({"mib": mib, "burst_us": found, "long_us": expected, "copies": chosen.copies})
    assert found == pytest.approx(expected, rel=0.02)


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

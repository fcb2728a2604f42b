"""The way of a case on a GPU, with a timer that runs the thunks here: rotation, poison, and what each check catches."""

from collections import deque

import pytest
import torch

import qbench
from qbench.measure import Bench
from qbench.stats import Samples
from qbench.tensors import poison
from qbench.timing import Plan, Timed, TimingPolicy


class Timer:
    """Stands in for the CUDA timer: the same order of calls and poison, one nanosecond a call.

    Like a graph, it keeps what a thunk allocated at capture: a replay writes into the captured outputs.
    """

    l2 = 1 << 10
    seen: Plan | None = None
    thunks = 0

    def estimate_ns(self, thunk):
        return 2e5

    def time(self, thunks, plan, keep):
        self.seen, self.thunks = plan, len(thunks)
        held = deque((thunk() for thunk in thunks), maxlen=len(thunks))
        poison(held, keep)
        for output, thunk in zip(held, thunks, strict=True):
            fresh = thunk()
            if fresh is not output:
                output.copy_(fresh)
        return Timed(Samples((1.0,) * 10), "graph", plan.launches, len(thunks), plan.cold, list(held))


OP = qbench.Op(
    "double",
    inputs=lambda w, device: (torch.arange(1.0, 1.0 + w.size("m")),),
    reference=lambda x: 2 * x,
    tolerance=qbench.exact,
    cost=lambda w: qbench.Cost(8 * w.size("m")),
)


@pytest.fixture
def bench():
    return Bench(TimingPolicy(), torch.device("cpu"), Timer())


def case(provider):
    return qbench.Case(OP, provider, qbench.Workload.of(m=64))


@pytest.fixture(autouse=True)
def no_gpu_calls(monkeypatch):
    monkeypatch.setattr(Bench, "_release", lambda self: None)


def test_operands_are_copied_until_they_fill_the_cache_three_times_and_each_copy_is_prepared(bench):
    prepared = []

    def double(x):
        prepared.append(x)
        return lambda: 2 * x

    measured = bench.measure(case(double))
    times, samples = measured.times, measured.samples
    assert (
        bench.timer.seen.copies == bench.timer.thunks == times.copies == len(prepared) == 6
    )  # 6 x 512 B >= 3 KiB
    assert len({x.data_ptr() for x in prepared}) == 6
    assert samples == (1.0,) * 10


def test_a_buffer_written_in_full_at_each_call_is_right(bench):
    def into_a_buffer(x):
        out = torch.empty_like(x)
        return lambda: torch.mul(x, 2, out=out)

    bench.measure(case(into_a_buffer))


def test_a_buffer_whose_last_element_stays_from_before_is_wrong(bench):
    """It holds the right answer by chance: another provider of the same workload left it there."""

    def into_a_buffer(x):
        out = x * 2

        def run():
            torch.mul(x[:-1], 2, out=out[:-1])
            return out

        return run

    with pytest.raises(qbench.WrongResult, match="1 of 64 elements"):
        bench.measure(case(into_a_buffer))


def test_a_result_computed_while_preparing_is_wrong(bench):
    def before(x):
        out = x * 2
        return lambda: out

    with pytest.raises(qbench.WrongResult, match="NaN"):
        bench.measure(case(before))


def test_one_wrong_copy_among_many_is_wrong(bench):
    made = []

    def sometimes(x):
        made.append(x)
        factor = 3 if len(made) == 4 else 2
        return lambda: x * factor

    with pytest.raises(qbench.WrongResult, match="found 3, expected 2"):
        bench.measure(case(sometimes))


def test_an_operand_handed_through_is_not_poisoned(bench):
    def through(x):
        doubled = x * 2

        def run():
            torch.mul(x, 2, out=doubled)
            return doubled

        return run

    handing = qbench.Op(
        "through", OP.inputs, lambda x: x, lambda output, inputs, reference, accumulator: None, OP.cost
    )
    made = qbench.Case(handing, lambda x: lambda: x, qbench.Workload.of(m=64))
    bench.measure(made)
    bench.measure(case(through))


def test_overwritten_operands_are_wrong_before_anything_is_timed(bench):
    with pytest.raises(qbench.WrongResult, match="overwrote its operands"):
        bench.measure(case(lambda x: lambda: (x * 2, x.add_(1))[0]))
    assert bench.timer.seen is None

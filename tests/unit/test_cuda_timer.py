"""The CUDA timer's order of steps, with a stand-in for torch.cuda that runs everything here and at once."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from qbench.clocks import Monitor
from qbench.timing import CudaTimer, Plan, TimingPolicy


class Stream:
    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Event:
    def __init__(self, enable_timing):
        pass

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 2.0  # ms


class Generator:
    state = "mine"

    def clone_state(self):
        return "saved"

    def graphsafe_set_state(self, state):
        self.state = state


class Graph:
    """Capturing runs the work; a replay writes it again into what was captured, as a graph does."""

    refuses = ""
    replays = 0

    def capture_begin(self):
        pass

    def capture_end(self):
        if self.refuses:
            raise RuntimeError(self.refuses)

    def replay(self):
        Graph.replays += 1
        for output, operand in zip(RECORDED.outputs, RECORDED.operands, strict=True):
            output.copy_(operand * 2)


RECORDED = SimpleNamespace(operands=[], outputs=[])


@pytest.fixture
def timer(monkeypatch):
    fakes = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "Event": Event,
        "CUDAGraph": Graph,
        "current_device": lambda: 0,
        "default_generators": (Generator(),),
        "synchronize": lambda: None,
        "_sleep": lambda cycles: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(Graph, "refuses", "")
    monkeypatch.setattr(Graph, "replays", 0)
    made = object.__new__(CudaTimer)
    made.policy = TimingPolicy(rest_ms=0.0)
    made.monitor, made.l2 = Monitor(), 1 << 10
    made._sweep, made._stream = torch.ones(8), Stream()
    return made


def doubling(count):
    """Thunks over `count` copies of an operand; the last outputs are what a replay writes into."""
    RECORDED.operands = [torch.arange(1.0, 5.0) for _ in range(count)]
    RECORDED.outputs = [torch.empty(4) for _ in range(count)]

    def thunk(index):
        def run():
            RECORDED.outputs[index] = RECORDED.operands[index] * 2
            return RECORDED.outputs[index]

        return run

    return [thunk(index) for index in range(count)]


def test_a_graph_is_replayed_and_its_last_outputs_come_back(timer):
    timed = timer.time(doubling(3), Plan(3, 6, True))
    assert (timed.method, timed.launches, timed.copies, timed.cold) == ("graph", 6, 3, True)
    assert timed.samples.ns == (2e6 / 6,) * 10
    assert Graph.replays >= 13  # upload, lead, length, ten bursts, and the poisoned one
    assert all(torch.equal(each, torch.arange(1.0, 5.0) * 2) for each in timed.outputs)


def test_what_a_replay_does_not_write_comes_back_poisoned(timer, monkeypatch):
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    timed = timer.time(doubling(2), Plan(2, 4, True))
    assert all(each.isnan().all() for each in timed.outputs)


def test_operands_that_are_outputs_too_are_kept(timer, monkeypatch):
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    operand = torch.ones(4)
    keep = frozenset({operand.untyped_storage().data_ptr()})
    timed = timer.time([lambda: operand], Plan(1, 4, True), keep)
    assert (timed.outputs[0] == 1).all()


def test_a_thunk_that_refuses_capture_is_timed_with_events_and_the_generator_is_mended(timer, monkeypatch):
    monkeypatch.setattr(Graph, "refuses", "operation not permitted when stream is capturing")
    timed = timer.time(doubling(1), Plan(1, 500, True))
    assert (timed.method, timed.launches) == ("events", 64)
    assert torch.cuda.default_generators[0].state == "saved"


def test_another_error_while_capturing_is_raised_with_the_generator_mended(timer, monkeypatch):
    monkeypatch.setattr(Graph, "refuses", "out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        timer.time(doubling(1), Plan(1, 5, True))
    assert torch.cuda.default_generators[0].state == "saved"


def test_every_copy_runs_once_before_capture(timer):
    calls = []
    thunks = [lambda i=i: calls.append(i) or torch.ones(2) for i in range(3)]
    RECORDED.operands, RECORDED.outputs = [], []
    timer.time(thunks, Plan(3, 3, False))
    assert calls[:3] == [0, 1, 2]


def test_an_estimate_is_of_one_call(timer):
    assert timer.estimate_ns(doubling(1)[0]) == 2e6

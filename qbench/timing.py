"""How long one call takes, in short bursts at recovered clocks.

On a GPU: calls are captured into a CUDA graph that rotates through copies of the operands, so that each
call finds its operands out of the L2 cache. A sample is one replay of about 2 ms, divided by its calls. Before
each replay the L2 is swept by reading (a written sweep would leave dirty lines to be paid for inside the
burst) and the stream is kept busy until events and graph are queued, so that no launch gap is measured.
Bursts rest between, because a card at its power cap is a slower card. A thunk that cannot be captured is timed
with events around eager calls. On a CPU: the wall clock.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from qbench.case import Thunk
from qbench.clocks import Monitor
from qbench.device import l2_bytes
from qbench.result import PREEMPTED
from qbench.stats import Samples
from qbench.tensors import poison

_SWEEP = 3  # sweep and rotate through this many times the L2
_MAX_COPIES = 320
_MAX_LAUNCHES = 1000
_MAX_EAGER = 64
_CYCLES_PER_NS = 3  # a spin is counted in cycles, and GPUs run at up to 3 GHz
# of each thread; seen on two cores: 18 where nothing else ran, 120 beside two busy processes
_PREEMPTED_PER_S = 60
_LEAD_NS = 150_000  # least spin in which the host queues events and burst


@dataclass(frozen=True)
class TimingPolicy:
    """Bursts are repeated until the median's 95% half width is under `spread`, between floor and cap."""

    warmup: int = 2
    bursts: int = 10
    max_bursts: int = 30
    spread: float = 0.003
    burst_ms: float = 2.0
    rest_ms: float = 10.0
    recover_s: float = 0.6
    max_s: float = 3.0


@dataclass(frozen=True)
class Timed:
    """Samples and how they were taken; `outputs` are those of the last burst, poisoned before it."""

    samples: Samples
    method: str
    launches: int
    copies: int
    cold: bool
    outputs: list[Any]
    clock_before_mhz: int = 0
    clock_after_mhz: int = 0
    throttle: tuple[str, ...] = ()


def time_wall(thunk: Thunk, policy: TimingPolicy) -> Timed:
    """Wall-clock time of `thunk` on the CPU; operands stay in whatever cache they are in.

    `throttle` is ("preempted",) where other processes took the CPU away: threads that wait for each other then lose
    a scheduling quantum each time, and a product of 8 us takes 8 ms.
    """
    for _ in range(policy.warmup):
        thunk()
    once = _clocked(thunk, 1)
    launches = max(1, min(_MAX_LAUNCHES, int(policy.burst_ms * 1e6 / once)))
    with undisturbed(torch.get_num_threads()) as throttle:
        samples = until_converged(lambda: _clocked(thunk, launches), once * launches, policy)
    return Timed(samples, "wall", launches, 1, False, [thunk()], throttle=tuple(throttle))


@contextmanager
def undisturbed(threads: int = 1) -> Iterator[list[str]]:
    """No garbage is collected within; the list says ["preempted"] after it where others took the CPU away from so many
    busy threads: on a GPU the one that waits for it."""
    said: list[str] = []
    collecting = gc.isenabled()
    gc.disable()
    start, taken_away = time.monotonic(), _preemptions()
    try:
        yield said
    finally:
        if collecting:
            gc.enable()
    rate = (_preemptions() - taken_away) / (time.monotonic() - start) / threads
    if rate > _PREEMPTED_PER_S:
        said.append(PREEMPTED)


def _preemptions() -> int:
    """How often the scheduler took the CPU from this process, all its threads counted."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows does not tell
        return 0
    return getrusage(RUSAGE_SELF).ru_nivcsw


def _clocked(thunk: Thunk, launches: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(launches):
        thunk()
    return max(1.0, (time.perf_counter_ns() - start) / launches)


def until_converged(burst: Callable[[], float], burst_ns: float, policy: TimingPolicy) -> Samples:
    """Bursts until the median is sure enough; a long burst is asked for less often than a short one."""
    floor = policy.bursts if burst_ns < 20e6 else max(3, policy.bursts // 2)
    deadline = time.monotonic() + policy.max_s
    taken: list[float] = []
    while True:
        taken.append(burst())
        if len(taken) < floor:
            continue
        samples = Samples(tuple(taken))
        if samples.spread <= policy.spread or len(taken) >= policy.max_bursts or time.monotonic() > deadline:
            return samples


@dataclass(frozen=True)
class Plan:
    """How many operand copies to rotate through, how many calls make a burst, and whether to sweep the L2 before.

    A swept L2 has lost the launches' own commands and parameters too, as it has in a running model: a launch
    then costs 0.84 us instead of 0.68 us (H200, empty spins, 400 launches a graph).
    """

    copies: int
    launches: int
    cold: bool


def plan(bytes_per_call: int, call_ns: float, l2: int, policy: TimingPolicy) -> Plan:
    """Choose copies and launches so that every call is cold and a burst lasts about `burst_ms`.

    With enough copies to fill the L2 three times over, a copy is out of the cache when its turn comes again.
    With fewer (tiny operands), each copy is used once a burst, and the sweep before the burst makes it cold.
    """
    wanted = max(1, min(_MAX_LAUNCHES, round(policy.burst_ms * 1e6 / call_ns)))
    enough = max(1, -(-_SWEEP * l2 // max(1, bytes_per_call)))
    copies = min(enough, wanted, _MAX_COPIES)
    if copies < enough:
        return Plan(copies, copies, True)
    return Plan(copies, max(1, round(wanted / copies)) * copies, True)


class CudaTimer:
    """Times thunks on the current CUDA device. Keeps one sweep buffer and one clock monitor."""

    def __init__(self, policy: TimingPolicy) -> None:
        self.policy = policy
        self.monitor = Monitor()
        self.l2 = l2_bytes()
        self._sweep = torch.ones(_SWEEP * self.l2 // 4, dtype=torch.float32, device="cuda")
        self._stream = torch.cuda.Stream()

    def estimate_ns(self, thunk: Thunk) -> float:
        """Rough device time of one call: the quickest of a few, launch gaps hidden behind a spin."""
        burst = self._eager([thunk], 1)
        return max(500.0, min(self._between(burst, self._lead(burst)) for _ in range(3)))

    def time(self, thunks: list[Thunk], plan: Plan, keep: frozenset[int] = frozenset()) -> Timed:
        """Time `thunks` in rotation, `plan.launches` calls a burst. Outputs in the storages `keep` are not poisoned."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for each in thunks:  # a first call may compile or allocate what a capture cannot
                each()
            for _ in range(self.policy.warmup):
                thunks[0]()
            burst = self._capture(thunks, plan.launches) or self._eager(
                thunks, min(plan.launches, _MAX_EAGER)
            )
            burst.run()  # uploads the graph
            lead = self._lead(burst)
            self.monitor.recover(self.policy.recover_s)
            before = self.monitor.clock_mhz()
            poison(burst.outputs, keep)
            length_ns = self._between(burst, lead)
            rest_s = max(self.policy.rest_ms * 1e-3, min(length_ns * 1e-9, 0.1))

            def sample() -> float:
                time.sleep(rest_s)
                if plan.cold:
                    torch.sum(self._sweep)
                return self._between(burst, lead) / burst.launches

            samples = until_converged(sample, length_ns, self.policy)
            after, reasons = self.monitor.clock_mhz(), self.monitor.throttle_reasons()
            poison(burst.outputs, keep)
            burst.run()
            self._stream.synchronize()
        return Timed(
            samples,
            burst.method,
            burst.launches,
            len(thunks),
            plan.cold,
            list(burst.outputs),
            before,
            after,
            reasons,
        )

    def _capture(self, thunks: list[Thunk], launches: int) -> _Burst | None:
        """One burst as a CUDA graph, or None where the thunk cannot be captured (it synchronises, say).

        capture_begin directly: the context manager around it collects garbage and empties the allocator's
        cache each time, 0.1 s a case.
        """
        self._stream.synchronize()
        held: deque[Any] = deque(maxlen=len(thunks))
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            graph.capture_begin()
            try:
                for index in range(launches):
                    held.append(thunks[index % len(thunks)]())
            finally:
                graph.capture_end()
        except RuntimeError as error:
            generator.graphsafe_set_state(state)  # a broken capture leaves torch's generator refusing to work
            if "captur" not in str(error).lower():
                raise
            torch.cuda.synchronize()
            return None
        return _Burst(graph.replay, held, launches, "graph")

    def _eager(self, thunks: list[Thunk], launches: int) -> _Burst:
        """One burst as eager calls, queued while the spin before it lasts."""
        held: deque[Any] = deque(maxlen=len(thunks))

        def run() -> None:
            for index in range(launches):
                held.append(thunks[index % len(thunks)]())

        return _Burst(run, held, launches, "events")

    def _lead(self, burst: _Burst) -> int:
        """Cycles to spin before a burst: twice what the host took to queue it just now.

        Queueing takes longer the more nodes a graph has; a burst that the host has not queued whole when the spin
        ends would be timed with a gap.
        """
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        burst.run()
        queued_ns = time.perf_counter_ns() - start
        torch.cuda.synchronize()
        return int(_CYCLES_PER_NS * max(_LEAD_NS, min(2 * queued_ns, 20_000_000)))

    def _between(self, burst: _Burst, lead: int) -> float:
        """Nanoseconds of one burst, queued whole behind a spin of `lead` cycles."""
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(lead)
        start.record()
        burst.run()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e6


@dataclass(frozen=True)
class _Burst:
    run: Callable[[], object]
    outputs: deque[Any]
    launches: int
    method: str

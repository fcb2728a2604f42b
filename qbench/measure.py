"""One case from operands to times: make, prepare, check, rotate, time, check again under poison.

A wrong result raises WrongResult before anything is timed, and again after, for every output timed. The outputs
of the last burst were poisoned before it, so that an element nobody wrote shows.

An op with a `trial` checks and times in its own way; what it hands back goes the same way from there.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from qbench.case import Case, Cost, Thunk, Unsupported, provider_info
from qbench.check import WrongResult
from qbench.device import capability
from qbench.result import Ceilings, Times
from qbench.tensors import clone, nbytes, poison, poisoned_allocations, same_bits, storages
from qbench.timing import CudaTimer, Timed, TimingPolicy, plan, time_wall
from qbench.turns import sharing, turn


class OutOfMemory(MemoryError):
    """A case that does not fit in GPU memory."""


@dataclass(frozen=True)
class Measured:
    """What measuring a case gives: its times, the raw samples in nanoseconds, and what an op's trial adds.

    cost is the work of one timed call where it depends on the provider (None: the op's own cost says it).
    """

    times: Times
    samples: tuple[float, ...]
    cost: Cost | None = None
    figures: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


class Trial(Protocol):
    """A case of an op with its own way of being measured, ready to run.

    delay, if set, is called once in each timed part: the gate's test of itself.
    """

    delay: Callable[[], object] | None

    def check(self) -> None:
        """Run once and compare with the op's reference. Raises WrongResult."""

    def once(self) -> object:
        """One timed call, warmed up, for profilers."""

    def measure(self) -> Measured:
        """Time what was checked; raises WrongResult where a timed output differs from the checked one."""


@dataclass
class Bench:
    """The device under test and how to time on it. One a session.

    `kept` is one thing that a trial left for the next (a model on the device, say) under its key. `say` is told when
    other processes are waited for (qbench.turns).
    """

    policy: TimingPolicy
    device: torch.device
    timer: CudaTimer | None
    kept: tuple[object, Any] | None = None
    say: Callable[[str], None] = lambda line: None
    _ceilings: Ceilings | None = None

    @classmethod
    def open(cls, policy: TimingPolicy) -> Bench:
        if torch.cuda.is_available():
            return cls(policy, torch.device("cuda", torch.cuda.current_device()), CudaTimer(policy))
        return cls(policy, torch.device("cpu"), None)

    def ceilings(self) -> Ceilings:
        """Measured when first asked for."""
        if self._ceilings is None:
            from qbench.ceilings import measure_ceilings

            with turn(self.device, self.say):
                self._ceilings = measure_ceilings(self.timer, self.policy)
        return self._ceilings

    def keep(self, key: object, make: Callable[[], Any]) -> Any:
        """What is kept under `key`; anything else is let go before it is made, for both may not fit."""
        if self.kept is None or self.kept[0] != key:
            self.let_go()
            self.kept = (key, make())
        return self.kept[1]

    def let_go(self) -> None:
        """Forget what is kept, closed if it can be, and hand its memory back."""
        if self.kept is None:
            return
        close = getattr(self.kept[1], "close", None)
        if close is not None:
            close()
        self.kept = None
        gc.collect()  # modules and compiled code hold each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def check(self, case: Case) -> None:
        """Run once and check, while no other process times. Raises WrongResult, Unsupported, OutOfMemory."""
        with sharing(self.device, self.say), _memory_named(case, self):
            if trial := self._trial(case):
                trial.check()
                return
            run = self._checked(case)
            _check_poisoned(case, run)
        self._release()

    def profile(self, case: Case) -> None:
        """One call between profiler start and stop, warmed up, for ncu and nsys."""
        with sharing(self.device, self.say), _memory_named(case, self):
            trial = self._trial(case)
            if trial:
                trial.check()
            thunk = trial.once if trial else self._checked(case).thunk
        with turn(self.device, self.say), _memory_named(case, self):
            if self.timer is None:
                thunk()
                return
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            thunk()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()

    def measure(self, case: Case) -> Measured:
        """Check, time, check every timed output, while no other process times on the device.

        What a trial builds and compiles before it is timed takes long: others may do that meanwhile.
        """
        with (sharing if case.op.trial else turn)(self.device, self.say), _memory_named(case, self):
            trial = self._trial(case)
            if trial is None:
                return self._timed(case)
            trial.check()
        with turn(self.device, self.say), _memory_named(case, self):
            return trial.measure()

    def _timed(self, case: Case) -> Measured:
        run = self._checked(case)
        right = clone(run.output)  # a provider may hand out the same buffer again
        if self.timer is None:
            timed = time_wall(run.thunk, self.policy)
        else:
            size = nbytes(run.inputs) + nbytes(run.output)
            chosen = plan(size, self.timer.estimate_ns(run.thunk), self.timer.l2, self.policy)
            copies = [clone(run.pristine) for _ in range(chosen.copies - 1)]
            thunks = [run.thunk, *(case.provider(*each) for each in copies)]
            timed = self.timer.time(thunks, chosen, storages((run.inputs, copies)))
        for each in timed.outputs:
            if not same_bits(each, right):
                verify(case, each, run.pristine)
        if timed.method != "graph":  # its outputs were poisoned before the last burst
            _check_poisoned(case, run)
        _check_operands(case, run)
        self._release()
        return Measured(times_of(timed), timed.samples.ns)

    def _trial(self, case: Case) -> Trial | None:
        """The op's own trial, or None. Only trials keep things: what one left is in the way of an ordinary case."""
        _needed(case)
        if case.op.trial is None:
            self.let_go()
            return None
        return case.op.trial(case, self)

    def _checked(self, case: Case) -> _Prepared:
        inputs = case.op.inputs(case.workload, self.device)
        pristine = clone(inputs)
        thunk = case.provider(*inputs)
        output = thunk()
        verify(case, output, pristine)
        run = _Prepared(inputs, pristine, thunk, output)
        _check_operands(case, run)
        return run

    def _release(self) -> None:
        """Hand cached memory back when it is most of the card; graphs hold pools that fragment it."""
        if self.timer and torch.cuda.memory_reserved() > 0.5 * torch.cuda.mem_get_info()[1]:
            torch.cuda.empty_cache()


def _needed(case: Case) -> None:
    """Raises Unsupported where this device lacks what the provider declares to need."""
    info = provider_info(case.provider)
    if missing := info.missing(capability()):
        raise Unsupported(missing, info.instead)


@dataclass(frozen=True)
class _Prepared:
    """A case after its first, checked call; `pristine` is a copy of the operands from before it."""

    inputs: tuple[Any, ...]
    pristine: tuple[Any, ...]
    thunk: Thunk
    output: Any


def _check_poisoned(case: Case, run: _Prepared) -> None:
    """Once more, with poison in the last output and in what torch hands out: a result kept from before shows.

    Never before timing: torch 2.11 runs what torch.compile made eagerly from then on (300 us instead of 28).
    """
    poison(run.output, storages(run.inputs))
    with poisoned_allocations():
        output = run.thunk()
    verify(case, output, run.pristine)


def _check_operands(case: Case, run: _Prepared) -> None:
    if not same_bits(run.inputs, run.pristine):
        raise WrongResult(f"{case.id}: the provider overwrote its operands, which other calls read")


def verify(case: Case, output: Any, inputs: tuple[Any, ...]) -> None:
    """Raises WrongResult when the output is not what the op's reference and tolerance allow."""
    accumulator = provider_info(case.provider).accumulator
    mismatch = case.op.tolerance(output, inputs, case.op.reference, accumulator)
    if mismatch is not None:
        raise WrongResult(f"{case.id}: {mismatch}")


def times_of(timed: Timed) -> Times:
    """What is stored of a timing."""
    samples = timed.samples
    return Times(
        median_ns=samples.median_ns,
        p20_ns=samples.p20_ns,
        p80_ns=samples.p80_ns,
        samples=len(samples.ns),
        launches=timed.launches,
        copies=timed.copies,
        method=timed.method,
        cold=timed.cold,
        clock_before_mhz=timed.clock_before_mhz,
        clock_after_mhz=timed.clock_after_mhz,
        throttle=timed.throttle,
    )


class _memory_named:
    """Turns running out of GPU memory into one error that names the case's sizes; the rest goes on."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self.case = case
        self.bench = bench

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, torch.OutOfMemoryError):
            return
        cost = self.case.op.cost(self.case.workload)
        traceback.clear_frames(
            error.__traceback__
        )  # or what did not fit stays for as long as the error is kept
        self.bench.let_go()
        moves = f"one call moves {cost.bytes / 2**30:.3g} GiB, " if cost.bytes else ""
        room = ""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
            room = f"the GPU has {total:.0f} GiB ({free:.0f} GiB free now); "
        raise OutOfMemory(
            f"{self.case.id} does not fit: {moves}{room}use a smaller batch, more tensor parallelism, or fewer "
            "processes beside each other (make models JOBS=1)"
        ) from error

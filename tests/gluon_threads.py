"""fp8_few, which Triton's interpreter does not take, run by Python: its partitions as threads, tensors as numpy arrays.

Its own source runs, launcher included: `gl` and what moves data are exchanged for stand-ins. Shared memory is arrays of
numbers, NaN at first (where a swizzled byte lies is not told); a barrier counts arrivals and bytes as the hardware's;
before gdc_wait nothing of x may be read, nothing written, and the next kernel not let in. A program runs after the
other, in either order.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from qkernels.triton import early, fp4_few_plan, fp8_few

_STATE = threading.local()
_FAILED = threading.Event()
PATIENCE_S = 20


class Array(np.ndarray):
    """numpy's array with the names of a Gluon tensor."""

    type = types.SimpleNamespace(layout=None)

    def expand_dims(self, axis: int) -> Array:
        return array(np.expand_dims(np.asarray(self), axis))

    def reshape(self, shape: Any) -> Array:  # type: ignore[override]
        return array(np.asarray(self).reshape(shape))

    def to(self, _dtype: object) -> Array:
        return self


def array(values: Any) -> Array:
    return np.asarray(values).view(Array)


class Pointer:
    """A place in memory that is a flat array; loads and stores stay within it. early: before gdc_wait, too."""

    dtype = types.SimpleNamespace(element_ty=None)

    def __init__(self, memory: np.ndarray, offsets: Any = 0, early: bool = True) -> None:
        self.memory, self.offsets, self.early = memory, offsets, early

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.memory, self.offsets + np.asarray(more), self.early)


def load(pointer: Pointer, mask: Any = True, other: float = 0.0, cache_modifier: str = "") -> Array:
    assert _STATE.waited or pointer.early, "read before gdc_wait"
    at, kept = np.broadcast_arrays(pointer.offsets, np.asarray(mask))
    _within(at[kept], pointer)
    return array(np.where(kept, pointer.memory[np.where(kept, at, 0)], other))


def store(pointer: Pointer, value: Any, mask: Any = True) -> None:
    assert _STATE.waited, "written before gdc_wait"
    at, values, kept = np.broadcast_arrays(pointer.offsets, np.asarray(value), np.asarray(mask))
    places = at[kept]
    _within(places, pointer)
    assert len(np.unique(places)) == places.size, "a place is written twice"
    pointer.memory[places] = values[kept]


def _within(places: np.ndarray, pointer: Pointer) -> None:
    if places.size and not (places.min() >= 0 and places.max() < len(pointer.memory)):
        raise IndexError(f"{places.min()} .. {places.max()} of {len(pointer.memory)}")


def atomic_add(pointer: Pointer, value: int, sem: str, scope: str) -> int:
    before = int(pointer.memory[pointer.offsets])
    pointer.memory[pointer.offsets] += value
    return before


class Shared:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def index(self, i: int) -> Shared:
        assert 0 <= i < len(self.values)
        return Shared(self.values[i])

    def permute(self, order: list[int]) -> Shared:
        return Shared(self.values.transpose(order))


class Barriers:
    def __init__(self, count: int) -> None:
        self.each = [Barrier() for _ in range(count)]

    def index(self, i: int) -> Barrier:
        return self.each[i]


class Barrier:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.count = self.pending = self.bytes = self.phase = 0

    def add(self, arrivals: int, more_bytes: int) -> None:
        with self.changed:
            self.pending -= arrivals
            self.bytes += more_bytes
            assert self.pending >= 0
            if not self.pending and not self.bytes:
                self.phase, self.pending = self.phase + 1, self.count
                self.changed.notify_all()

    def wait(self, parity: int) -> None:
        with self.changed:
            done = self.changed.wait_for(lambda: _FAILED.is_set() or self.phase & 1 != parity, PATIENCE_S)
        assert done and not _FAILED.is_set(), "waits for ever"


def init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.pending = count


MBARRIER = types.SimpleNamespace(
    init=init,
    expect=lambda barrier, count: barrier.add(1, count),
    wait=lambda barrier, parity: barrier.wait(parity),
    arrive=lambda barrier, count: barrier.add(count, 0),
    MBarrierLayout=lambda: None,
)


class Descriptor:
    """TMA's view of codes: boxes of numbers, 0 outside."""

    def __init__(self, desc: Any, early: bool) -> None:
        self.values = desc.base.float().as_strided(desc.shape, desc.strides).numpy()
        self.box, self.early = desc.block_shape, early


def tma_load(desc: Descriptor, start: list[int], barrier: Barrier, to: Shared) -> None:
    assert _STATE.waited or desc.early, "x is read before gdc_wait"
    box = np.zeros(desc.box, np.float32)
    part = desc.values[tuple(slice(a, a + b) for a, b in zip(start, desc.box, strict=True))]
    box[tuple(slice(0, b) for b in part.shape)] = part
    assert to.values.shape == box.shape
    to.values[...] = box
    barrier.add(0, -box.size)


def mma(a: Shared, b: Shared, sums: Array, is_async: bool) -> Array:
    # not by a library with threads of its own, which wait 40 ms for each other beside another process
    return array(sums + np.einsum("ik,kj->ij", a.values.astype(np.float64), b.values))


def gdc_wait() -> None:
    _STATE.waited = True


def gdc_launch_dependents() -> None:
    assert _STATE.waited, "the next kernel may begin before gdc_wait"


def warp_specialize(partitions: list[Any], _warps: object, _registers: object) -> None:
    run_partitions(partitions, lambda arguments: not arguments[-1])


def run_partitions(partitions: list[Any], waited: Callable[[tuple[Any, ...]], bool]) -> None:
    """Each in a thread. waited: has it passed `gdc_wait` when it begins, by its arguments?"""
    errors: list[BaseException] = []
    program, programs = _STATE.program, _STATE.programs

    def run(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        _STATE.program, _STATE.programs, _STATE.waited = program, programs, waited(arguments)
        try:
            function(*arguments)
        except BaseException as error:  # told by the thread that started this one
            errors.append(error)
            _FAILED.set()

    threads = [threading.Thread(target=run, args=each) for each in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def allocate(_dtype: object, shape: list[int], _layout: object) -> Shared | Barriers:
    return Barriers(shape[0]) if len(shape) == 2 else Shared(np.full(shape, np.nan, np.float32))


GL = types.SimpleNamespace(
    constexpr=int, int64=None, float32=None, float8e4nv=None, load=load, store=store, atomic_add=atomic_add,
    program_id=lambda _: _STATE.program, num_programs=lambda _: _STATE.programs, static_range=range,
    arange=lambda start, end, _layout: array(np.arange(start, end)),
    where=lambda condition, a, b: array(np.where(condition, a, b)),
    sum=lambda x, axis: array(np.sum(np.asarray(x), axis)),
    zeros=lambda shape, _dtype, layout: array(np.zeros(shape)),
    convert_layout=lambda x, _layout: x, SliceLayout=lambda *_: None, BlockedLayout=lambda *_: None,
    allocate_shared_memory=allocate, warp_specialize=warp_specialize,
)  # fmt: skip
MOVES = {
    "mbarrier": MBARRIER, "tma_load": tma_load, "warpgroup_mma": mma, "gdc_wait": gdc_wait, "barrier": lambda: None,
    "warpgroup_mma_wait": lambda _, deps: deps[0], "gdc_launch_dependents": gdc_launch_dependents,
    "fence_async_shared": lambda: None,
    "reinterpret": lambda memory, _dtype, shape, _layout: Shared(memory.values.reshape(shape)),
}  # fmt: skip


def python_of(module: Any, names: dict[str, Any]) -> dict[str, Any]:
    """Names of a module in which kernels are functions of Python that find each other, and the stand-ins."""
    made = {**vars(module), **names, "gl": GL}
    for name, value in vars(module).items():
        code = getattr(getattr(value, "fn", None), "__code__", None)
        if code and name not in names:
            made[name] = types.FunctionType(code, made)
    return made


MOVES["after_previous"] = python_of(early, MOVES)["after_previous"]


class Kernel:
    """Stands in for the kernel: a launch runs every program, from the last to the first if `backwards`."""

    def __init__(self, backwards: bool) -> None:
        self.backwards = backwards
        shared = {name: python_of(fp4_few_plan, MOVES)[name] for name in ("steps_of", "combine")}
        self.run = python_of(fp8_few, MOVES | shared)["fp8_few_kernel"]
        self.counters: torch.Tensor | None = None

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(x: Any, w: Any, out: torch.Tensor, *more: Any, **constants: Any) -> None:
            early = constants["EARLY"]
            options = {name: value for name, value in constants.items() if name.isupper()}
            written = np.full(out.numel(), np.nan)
            tensors = [t if not isinstance(t, torch.Tensor) else t.numpy() if t.dtype != torch.bfloat16
                       else t.double().numpy() for t in more]  # fmt: skip
            pointers = [Pointer(t.reshape(-1)) if isinstance(t, np.ndarray) else t for t in tensors]
            left, right = Descriptor(x, False), Descriptor(w, True)
            _FAILED.clear()
            _STATE.programs = grid[0]
            for program in reversed(range(grid[0])) if self.backwards else range(grid[0]):
                _STATE.program, _STATE.waited = program, not early
                self.run(left, right, Pointer(written), *pointers, **options)
            out.copy_(torch.from_numpy(written).view(out.shape))

        return launch


@contextmanager
def on_threads(processors: int, backwards: bool = False) -> Iterator[torch.Tensor]:
    """fp8_few runs on tensors of the CPU, as if on so many multiprocessors; gives the counters, zero after it."""
    counters = torch.zeros(1024, dtype=torch.int32)
    with mock.patch.multiple(
        fp8_few,
        fp8_few_kernel=Kernel(backwards),
        require_hopper=lambda _: None,
        processors=lambda _: processors,
        workspace=lambda _, floats: (torch.full((max(floats, 1),), torch.nan), counters),
    ):
        yield counters

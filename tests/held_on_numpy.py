"""fp8_held_sm90's kernel, which Triton's interpreter does not take, run by Python on numpy arrays: what is read, looked
at and written, and what is in its place.

Its own source runs: `gl` is exchanged for what the kernel uses of it, words are their numbers in x (`numbered`), maxima
the sets of words that were looked at, and codes the number of their word. Programs run one after the other, so that
what the meeting waits for is not told. A stage of shared memory may be read when a copy into it was waited for.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qkernels.triton import fp8_held_sm90 as subject
from tests.gluon_on_numpy import GL, Array, Pointer, array

LINE = 256  # words
FUNCTIONS = (
    "words_at",
    "below",
    "load_tile",
    "store_tile",
    "larger",
    "larger_of_stage",
    "fp8_held_sm90_kernel",
)


@dataclass(frozen=True)
class Sizes:
    """Of a launch: threads of a program, programs, slots, tiles of a stage, stages."""

    threads: int
    programs: int
    slots: int
    stage: int
    stages: int


class Number(int):
    """A scalar of a kernel."""

    def to(self, _dtype: object) -> Number:
        return self


def _of_numbers(name: str) -> Any:
    return lambda a, b: Number(getattr(int, name)(a, int(b)))


for _name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__floordiv__"):
    setattr(Number, _name, _of_numbers(_name))


class Seen:
    """A maximum: which words it is of. A part of it stands for the whole."""

    def __init__(self, words: Any) -> None:
        self.words = words

    def __rshift__(self, _other: int) -> Seen:
        return self

    def __and__(self, _other: int) -> Seen:
        return self


@dataclass
class Shared:
    """Shared memory in stages of `words`; the barriers are its own."""

    stages: int
    words: int
    values: dict[int, Any] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    expected: dict[int, int] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)

    def index(self, s: int) -> int:
        assert 0 <= s < self.stages, f"stage {s} of {self.stages}"
        return s


class Tiles:
    """The same memory in tiles."""

    def __init__(self, shared: Shared, shape: list[int]) -> None:
        self.shared, self.shape = shared, shape[1:]
        assert np.prod(shape) == shared.stages * shared.words, "other bytes"

    def index(self, tile: int) -> Tiles:
        self.place = divmod(tile * int(np.prod(self.shape)), self.shared.words)
        return self

    def load(self, _layout: object) -> Array:
        stage, start = self.place
        assert stage in self.shared.ready, f"stage {stage} is read before it has come"
        return array(self.shared.values[stage][start : start + int(np.prod(self.shape))].reshape(self.shape))


def numbered(count: int) -> Any:
    """The words 1 .. count, whose bits 15 and 31, signs of elements, are zero; 0 is none of them."""
    number = np.arange(count) + 1
    return number & 0x7FFF | number >> 15 << 16


def numbers(words: Any) -> Any:
    return words & 0x7FFF | words >> 16 << 15


def held(pieces: int, sizes: Sizes) -> int:
    """Words that are read a second time, of x of so many pieces; AssertionError or IndexError for what is wrong."""
    x, out, scale = numbered(4 * pieces), np.full(8 * pieces, -1), np.full(1, -1)
    read, seen = np.zeros(4 * pieces, int), np.zeros(4 * pieces, bool)
    parts = subject.share(pieces, sizes.threads, sizes.programs, sizes.stage, sizes.stages)
    for program in range(sizes.programs):
        found = _program(program, sizes, x, read, out)
        found["fp8_held_sm90_kernel"](
            types.SimpleNamespace(layout=None), Pointer(x), Pointer(out), Pointer(scale), None, None, pieces, *parts,
            sizes.slots, sizes.stages, sizes.stage, True, 0,
        )  # fmt: skip
        assert len(found["met"]) == 1, "a program does not meet the others once"
        assert found["line"].ended == list(range(sizes.stages)), "a barrier's memory may be used again"
        seen |= found["met"][0]
    assert seen.all(), f"{int((~seen).sum())} words are not in the maximum, the first {np.argmin(seen)}"
    assert (out == np.arange(8 * pieces) // 2 + 1).all(), f"codes are missing, the first {np.argmin(out)}"
    assert scale[0] == 2, "the scale is not written"
    assert read.min() == 1 and read.max() <= 2, "words are read too often, or before the meeting too seldom"
    return int((read == 2).sum())


def _program(program: int, sizes: Sizes, x: Any, read: Any, out: Any) -> dict[str, Any]:
    """The kernel's names, exchanged, and its functions over them; "met" is what was known at the meeting."""
    met: list[Any] = []
    line = Shared(sizes.stages, sizes.stage * sizes.threads * 4)

    def where(condition: Any, a: Any, b: Any) -> Any:
        return array(np.where(condition, a, b)) if isinstance(a, np.ndarray) else a if condition else b

    def load(pointer: Pointer, mask: Any = True, other: int = 0, eviction_policy: str = "") -> Array:
        at, kept = np.broadcast_arrays(np.asarray(pointer.offsets), np.asarray(mask))
        _inside(at[kept], len(x))
        assert not met or (read[at[kept]] == 1).all(), "what is held is read again"
        read[at[kept]] += 1
        return array(np.where(kept, x[np.where(kept, at, 0)], other))

    def store(pointer: Pointer, value: Any, mask: Any = True, eviction_policy: str = "") -> None:
        at, values, kept = np.broadcast_arrays(
            np.asarray(pointer.offsets), np.asarray(value), np.asarray(mask)
        )
        _inside(at[kept], len(pointer.memory))
        assert met, "written before the meeting"
        assert (pointer.memory[at[kept]] == -1).all(), "written twice"
        pointer.memory[at[kept]] = values[kept]

    def copy(_descriptor: object, corner: list[int], barrier: int, stage: int) -> None:
        assert barrier == stage and line.expected.pop(stage) == 4 * line.words, "another number of bytes"
        start = corner[0] * LINE
        _inside(np.asarray([start, start + line.words - 1]), len(x) // LINE * LINE)
        assert stage not in line.values, "a stage is overwritten"
        line.values[stage] = x[start : start + line.words]
        read[start : start + line.words] += 1

    def wait(stage: int, phase: int) -> None:
        assert stage in line.values and phase == 0, "waits for what does not come"
        line.ready.add(stage)

    def largest(best: Seen, words: Any, *_: object) -> Seen:
        known = best.words.copy()
        known[numbers(words[words > 0]) - 1] = True
        return Seen(known)

    def meet(_partial: object, _counter: object, best: Seen, _partials: int) -> Number:
        met.append(best.words)
        return Number(0)

    def values(words: Any, _half: bool) -> Array:
        return array(np.repeat(numbers(words), 2, axis=1))

    gl = types.SimpleNamespace(
        **vars(GL) | {
            "num_warps": lambda: sizes.threads // 32, "program_id": lambda _axis: Number(program),
            "num_programs": lambda _axis: Number(sizes.programs), "static_range": range, "where": where, "load": load,
            "store": store, "full": lambda *_: Seen(np.zeros(len(x), bool)), "maximum": lambda a, _b: a,
            "max": lambda a, axis: a, "int32": None, "float8e4nv": None, "BlockedLayout": lambda *_: None,
            "SwizzledSharedLayout": lambda *_: None, "allocate_shared_memory": lambda *_: line,
        }
    )  # fmt: skip
    barriers = types.SimpleNamespace(
        MBarrierLayout=lambda: None,
        init=lambda *_, count: None,
        wait=wait,
        expect=line.expected.__setitem__,
        invalidate=lambda stage: line.ended.append(line.index(stage)),
    )
    names = dict(
        vars(subject), gl=gl, mbarrier=barriers, fence_async_shared=lambda: None, barrier=lambda: None, tma_load=copy,
        reinterpret=lambda memory, _dtype, shape, _layout: Tiles(memory, shape), largest_words=largest, _ROW=LINE,
        largest_value=lambda best, _half: best, magnitude_bits=lambda best: best, meet=meet, tidy=lambda _counter: None,
        scale_of_tensor=lambda _amax: (2, 1, True), values=values, met=met, line=line,
    )  # fmt: skip
    for name in FUNCTIONS:
        names[name] = types.FunctionType(getattr(subject, name).fn.__code__, names)
    return names


def _inside(places: Any, count: int) -> None:
    if places.size and not (places.min() >= 0 and places.max() < count):
        raise IndexError(f"{places.min()} .. {places.max()} of {count}")

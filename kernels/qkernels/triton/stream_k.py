"""Which program of a persistent product computes what, and how pieces of one tile are summed.

`programs` programs, one on each SM, share `tiles` output tiles of `steps` steps of K. Tiles that do not fill a wave are
split along K (stream-K): the first `split` tiles are one row of split * steps steps, of which each program takes an
equal, contiguous piece; the rest are computed whole, one wave after the other. A tile that lies in several pieces is
summed by whichever program finishes last: each writes its fp32 sums to a workspace and counts itself, and the last one
adds all of them in the order of K. So sums have a fixed order, nobody waits for another program, and it does not matter
which programs run at once, or in what order.

The last one sets the counter back to zero: a workspace serves one launch after the other on its stream.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qkernels.triton.gluon_names import barrier

_COUNTERS = 512  # of a launch: at least the tiles that are split, fewer than two a processor
_STREAMS = 1024  # streams and graphs with counters of their own; later graphs set theirs to zero in each replay


@gluon.jit
def place(index, across, down, GROUP: gl.constexpr):
    """Tile `index` -> (tile of w's rows, tile of x's). Tiles that run together share both in the L2 cache."""
    first = index // (GROUP * down) * GROUP
    height = min(across - first, GROUP)
    return first + index % (GROUP * down) % height, index % (GROUP * down) // height


@gluon.jit
def pieces(tiles, split, steps, program, programs):
    """(segments that are pieces of split tiles, all segments) of a program."""
    begin = program * (split * steps) // programs
    end = (program + 1) * (split * steps) // programs
    partial = min(split, 1) * ((end + steps - 1) // steps - begin // steps)
    return partial, partial + (tiles - split - program + programs - 1) // programs


@gluon.jit
def segment(number, partial, split, steps, program, programs):
    """(tile's index, first step, end) of a program's segment `number`."""
    begin = program * (split * steps) // programs
    end = (program + 1) * (split * steps) // programs
    index = begin // steps + number
    first, last = max(begin - index * steps, 0), min(end - index * steps, steps)
    whole = number >= partial
    index = split + program + (number - partial) * programs if whole else index
    return index, (0 if whole else first), (steps if whole else last)


@gluon.jit
def contributors(index, split, steps, programs):
    """(first, last) of the programs that have a piece of split tile `index`."""
    total = split * steps
    return ((index * steps + 1) * programs - 1) // total, ((index + 1) * steps * programs - 1) // total


@gluon.jit
def slot(pointer, number, SHAPE: gl.constexpr, LAYOUT: gl.constexpr):
    """Where a program's sums of a tile lie: pointers [SHAPE]."""
    rows = gl.arange(0, SHAPE[0], gl.SliceLayout(1, LAYOUT)).expand_dims(1)
    columns = gl.arange(0, SHAPE[1], gl.SliceLayout(0, LAYOUT)).expand_dims(0)
    return pointer + number * (SHAPE[0] * SHAPE[1]) + (rows * SHAPE[1] + columns)


@gluon.jit
def combine(
    sums, work_ptr, counter_ptr, index, split, steps, SHAPE: gl.constexpr, LAYOUT: gl.constexpr
):  # fmt: skip
    """(sums of all pieces of tile `index`, whether this program is the one to write them).

    A program has two slots: one for the tile its piece ends in, one for the tile it begins in the middle of.
    """
    program, programs = gl.program_id(0), gl.num_programs(0)
    first, last = contributors(index, split, steps, programs)
    mine = 2 * program + (program == first).to(gl.int32)
    gl.store(slot(work_ptr, mine, SHAPE, LAYOUT), sums)
    barrier()
    counter = counter_ptr + index
    finished = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == last - first
    if finished:
        gl.store(counter, 0)
        if last - first == 1:  # the order of two does not matter
            other = first + last - program
            other = 2 * other + (other == first).to(gl.int32)
            sums += gl.load(slot(work_ptr, other, SHAPE, LAYOUT), cache_modifier=".cg")
        else:
            sums = gl.load(slot(work_ptr, 2 * first + 1, SHAPE, LAYOUT), cache_modifier=".cg")
            for each in range(first + 1, last + 1):
                sums += gl.load(slot(work_ptr, 2 * each, SHAPE, LAYOUT), cache_modifier=".cg")
    return sums, finished


@dataclass(frozen=True)
class Plan:
    """programs of a launch and the number of tiles they split."""

    programs: int
    split: int


def divide(tiles: int, steps: int, processors: int, saved: int, least: int = 4) -> Plan:
    """How to share tiles. saved: steps that splitting must save, for it costs about that much; least: of a piece."""
    waves, rest = divmod(tiles, processors)
    if rest == 0 or (processors - rest) * steps < saved * processors:
        return Plan(min(tiles, processors), 0)
    if waves:
        return Plan(processors, rest + processors)
    return Plan(max(rest, min(processors, rest * steps // least)), rest)


@lru_cache
def processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


class Workspace:
    """Sums and counters of a device: each stream has its own, and so has each stream of a graph being captured.

    Graphs may be replayed at once, whatever stream they were captured on. Their sums are memory of the graph.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[int, Tensor] = {}
        self.counters: dict[tuple[int, int], Tensor] = {}
        self.spare: list[Tensor] = []

    def take(self, floats: int) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        capture = _capture(stream) if torch.cuda.is_current_stream_capturing() else 0
        counters = self.counters.get((stream, capture))
        if counters is None:
            if not self.spare and not capture:
                self.spare.extend(self._zeros(_STREAMS).unbind())
                torch.cuda.current_stream(self.device).synchronize()  # once: other streams use them too
            if not self.spare:
                return self._empty(floats), self._zeros(1)[0]
            counters = self.counters[stream, capture] = self.spare.pop()
        if capture:
            return self._empty(floats), counters
        if stream not in self.sums or self.sums[stream].numel() < floats:
            self.sums[stream] = self._empty(floats)
        return self.sums[stream], counters

    def _empty(self, floats: int) -> Tensor:
        return torch.empty(floats, dtype=torch.float32, device=self.device)

    def _zeros(self, launches: int) -> Tensor:
        return torch.zeros(launches, _COUNTERS, dtype=torch.int32, device=self.device)


def _capture(stream: int) -> int:
    """The number of the capture that is under way on a stream."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    ask = ctypes.CDLL("libcuda.so.1").cuStreamGetCaptureInfo_v2
    error = ask(ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), None, None, None)
    if error:
        raise RuntimeError(f"cuStreamGetCaptureInfo: CUDA error {error}")
    return number.value


_WORKSPACES: dict[torch.device, Workspace] = {}


def workspace(device: torch.device, floats: int) -> tuple[Tensor, Tensor]:
    """fp32 [at least floats] and counters, int32, all zero: of this device and stream."""
    if device not in _WORKSPACES:
        _WORKSPACES[device] = Workspace(device)
    return _WORKSPACES[device].take(floats)

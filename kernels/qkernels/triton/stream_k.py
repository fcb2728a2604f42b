"""Which program of a persistent product computes what, and how parts of one tile are summed.

One program runs on each SM. Output tiles are computed whole, a wave after the other, by programs that are at the same
K: what they share is read from memory once. The tiles left for a last wave that would not fill the GPU are split along
K instead, each into `parts` equal ranges. Each program writes its fp32 sums to a workspace and counts itself, and the
one that finishes last adds all of them in the order of K. So sums have a fixed order, nobody waits for another
program, and it does not matter which programs run at once, or in what order.

The last one sets the counter back to zero: a workspace serves one launch after the other on its stream.

Measured (H200): sharing the last tiles evenly among all programs (stream-K), so that each has its own K, is 13% slower
at M = 4096 than not splitting them: reads no longer meet in the L2 cache.
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

_COUNTERS = 256  # of a launch: at least half the processors
_STREAMS = 1024  # streams and graphs with counters of their own; later graphs set theirs to zero in each replay


@gluon.jit
def place(index, across, down, GROUP: gl.constexpr):
    """Tile `index` -> (tile of w's rows, tile of x's). Tiles that run together share both in the L2 cache."""
    first = index // (GROUP * down) * GROUP
    height = min(across - first, GROUP)
    return first + index % (GROUP * down) % height, index % (GROUP * down) // height


@gluon.jit
def segments(tiles, parts, program, programs):
    """(tiles that a program computes whole before the last wave, all its tiles, tiles of the last wave)."""
    whole = (tiles - 1) // programs
    rest = tiles - whole * programs
    return whole, whole + (program < rest * parts), rest


@gluon.jit
def segment(number, whole, rest, parts, steps, program, programs):
    """(tile's index, first step, end) of a program's tile `number`."""
    last = number >= whole
    part = program // rest if last else 0
    index = whole * programs + program % rest if last else number * programs + program
    return index, part * steps // parts, ((part + 1) * steps // parts if last else steps)


@gluon.jit
def following(stage, phase, STAGES: gl.constexpr):
    """The stage after this one in the ring, and its phase."""
    wraps = stage == STAGES - 1
    return gl.where(wraps, 0, stage + 1), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def combine(sums, work_ptr, counter_ptr, rest, parts, WARPS: gl.constexpr):
    """(sums of all parts of this program's last tile, whether this program is the one to write them).

    Sums lie in the workspace in the order of registers, 16 bytes of a thread beside those of the next.
    """
    program = gl.program_id(0)
    tile = program % rest
    M: gl.constexpr = sums.shape[0]
    N: gl.constexpr = sums.shape[1]
    split: gl.constexpr = [M // (16 * WARPS), WARPS, 2, 8, N // 8, 4, 2]
    flat = sums.reshape(split).permute(0, 4, 1, 3, 5, 2, 6).reshape([M * N])
    offsets = gl.arange(0, M * N, flat.type.layout)
    gl.store(work_ptr + program * (M * N) + offsets, flat)
    barrier()
    done = gl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu") == parts - 1
    if done:
        gl.store(counter_ptr + tile, 0)
        if parts == 2:  # the order of two does not matter
            other = program + rest if program < rest else program - rest
            flat += gl.load(work_ptr + other * (M * N) + offsets, cache_modifier=".cg")
        else:
            flat = gl.load(work_ptr + tile * (M * N) + offsets, cache_modifier=".cg")
            for part in range(1, parts):
                flat += gl.load(work_ptr + (part * rest + tile) * (M * N) + offsets, cache_modifier=".cg")
    turned: gl.constexpr = [split[0], split[4], split[1], split[3], split[5], split[2], split[6]]
    sums = gl.convert_layout(
        flat.reshape(turned).permute(0, 2, 5, 3, 1, 4, 6).reshape([M, N]), sums.type.layout, assert_trivial=True
    )
    return sums, done


@dataclass(frozen=True)
class Plan:
    """programs of a launch, and into how many parts the tiles of the last wave are split."""

    programs: int
    parts: int


def divide(tiles: int, steps: int, processors: int, step_cycles: int, most: int = 4, cost: int = 6000) -> Plan:
    """How to share tiles of `steps` steps that take `step_cycles` each. most: parts; cost: cycles, of each."""
    rest = (tiles - 1) % processors + 1
    parts = min(processors // rest, most, steps)
    while parts > 1 and (steps - steps // parts) * step_cycles < cost * parts:
        parts -= 1
    return Plan(processors if tiles > processors else rest * parts, parts)


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

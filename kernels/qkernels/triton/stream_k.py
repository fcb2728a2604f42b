"""Which program of a persistent product computes what, and how parts of one tile are summed.

One program runs on each SM. Output tiles are computed whole, a wave after the other, by programs that are at the same
K: what they share is read from memory once. The tiles left for a last wave that would not fill the GPU are split along
K instead, each into equal parts. Each program writes its fp32 sums to a workspace and counts itself, and the
one that finishes last adds all of them in the order of K. So sums have a fixed order, nobody waits for another
program, and it does not matter which programs run at once, or in what order. Where all that a product reads stays in
the L2 cache, the tiles of the last two waves are shared evenly among all programs instead (stream-K).

The last one sets the counter back to zero: a workspace serves one launch after the other on its stream.

Measured (H200): at M = 4096, where it does not, stream-K is 13% slower than no split.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qbench import Unsupported
from qkernels.triton.gluon_names import barrier

_COUNTERS = 1024  # of a launch: at least twice the programs that are there at once
IN_CACHE = 9 << 20  # bytes of x that stay in the L2 cache beside all that streams through it
_STREAMS = 1024  # and graphs, that have counters of their own; later graphs zero theirs in each replay


@gluon.jit
def place(index, across, down, GROUP: gl.constexpr):
    """Tile `index` -> (tile of w's rows, tile of x's). Tiles that run together share both in the L2 cache."""
    first = index // (GROUP * down) * GROUP
    height = min(across - first, GROUP)
    return first + index % (GROUP * down) % height, index % (GROUP * down) // height


@gluon.jit
def piece(split, sharing, steps, program):
    """(begin, end) of what a program computes of the row of split * steps steps: nothing if it shares none."""
    number = min(program, sharing)
    begin = number * (split * steps) // sharing
    end = min(number + 1, sharing) * (split * steps) // sharing
    return begin, end


@gluon.jit
def segments(tiles, split, begin, end, steps, program, programs):
    """(tiles that a program computes whole, all tiles it has a part in)."""
    whole = (tiles - split - program + programs - 1) // programs
    return whole, whole + (end + steps - 1) // steps - begin // steps


@gluon.jit
def segment(number, whole, tiles, split, begin, end, steps, program, programs):
    """(tile's index, first step, end) of a program's tile `number`."""
    inside = begin // steps + (number - whole)
    shared = number >= whole
    index = tiles - split + inside if shared else number * programs + program
    first = max(begin - inside * steps, 0) if shared else 0
    last = min(end - inside * steps, steps) if shared else steps
    return index, first, last


@gluon.jit
def contributors(tile, split, sharing, steps):
    """(first, last) of the programs that have a part of split tile `tile`."""
    total = split * steps
    return ((tile * steps + 1) * sharing - 1) // total, ((tile + 1) * steps * sharing - 1) // total


@gluon.jit
def following(stage, phase, STAGES: gl.constexpr):
    """The stage after this one in the ring, and its phase."""
    wraps = stage == STAGES - 1
    return gl.where(wraps, 0, stage + 1), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def combine(sums, work_ptr, counter_ptr, tile, split, sharing, steps, WARPS: gl.constexpr):
    """(sums of all parts of split tile `tile`, whether this program is the one to write them).

    A program has two slots in the workspace: one for a tile that it begins, one for a tile that it goes on with. Sums
    lie in the order of registers, 16 bytes of a thread beside those of the next.
    """
    program = gl.program_id(0)
    first, last = contributors(tile, split, sharing, steps)
    M: gl.constexpr = sums.shape[0]
    N: gl.constexpr = sums.shape[1]
    axes: gl.constexpr = [M // (16 * WARPS), WARPS, 2, 8, N // 8, 4, 2]
    flat = sums.reshape(axes).permute(0, 4, 1, 3, 5, 2, 6).reshape([M * N])
    offsets = gl.arange(0, M * N, flat.type.layout)
    mine = 2 * program + (1 if program == first else 0)
    gl.store(work_ptr + mine * (M * N) + offsets, flat)
    barrier()
    done = gl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu") == last - first
    if done:
        gl.store(counter_ptr + tile, 0)
        if last - first == 1:  # the order of two does not matter
            other = 2 * first + 1 if program == last else 2 * last
            flat += gl.load(work_ptr + other * (M * N) + offsets, cache_modifier=".cg")
        else:
            flat = gl.load(work_ptr + (2 * first + 1) * (M * N) + offsets, cache_modifier=".cg")
            for each in range(first + 1, last + 1):
                flat += gl.load(work_ptr + 2 * each * (M * N) + offsets, cache_modifier=".cg")
    turned: gl.constexpr = [axes[0], axes[4], axes[1], axes[3], axes[5], axes[2], axes[6]]
    sums = gl.convert_layout(
        flat.reshape(turned).permute(0, 2, 5, 3, 1, 4, 6).reshape([M, N]),
        sums.type.layout,
        assert_trivial=True,
    )
    return sums, done


@dataclass(frozen=True)
class Plan:
    """programs of a launch; how many tiles are split, and by how many programs they are shared; estimated cycles."""

    programs: int
    split: int
    sharing: int
    cycles: int

    def workspace(self, elements: int) -> int:
        """fp32 numbers for tiles of so many elements."""
        return 2 * self.sharing * elements if self.split else 0


def divide(
    tiles: int,
    steps: int,
    processors: int,
    step_cycles: int,
    part_cycles: int,
    *,
    spread: bool,
    most: int = 4,
) -> Plan:
    """The quickest way to share tiles of `steps` steps that take `step_cycles` each.

    part_cycles: what each part of a split tile costs, written, waited for and read again. A split costs that much once
    more; tiles shared evenly cost eight (H200), for most programs then have a part of two tiles. spread: what products
    read stays in the L2 cache, so parts need not be at the same K. most: parts that a tile is split into.
    """
    waves, rest = divmod(tiles - 1, processors)
    rest += 1
    before, tile = waves * steps * step_cycles, steps * step_cycles
    programs = min(tiles, processors)
    plans = [Plan(programs, 0, 1, before + tile)]
    for parts in range(2, 1 + min(most, processors // rest, steps)):
        cycles = before + -(-steps // parts) * step_cycles + (parts + 1) * part_cycles
        plans.append(Plan(max(programs, rest * parts), rest, rest * parts, cycles))
    split = rest + processors if waves else rest
    if spread and rest < processors and split * steps >= processors * 2:
        cycles = before - (tile if waves else 0) + -(-split * steps // processors) * step_cycles
        plans.append(Plan(processors, split, processors, cycles + 8 * part_cycles))
    return min(plans, key=lambda plan: plan.cycles)


@dataclass(frozen=True)
class Shape:
    """What a program computes at a time: `tiles` of 16 columns by `rows`, `stages` steps fetched ahead, by `warps`.

    resident: programs of an SM. step_cycles: of a step, measured; part_cycles: see `divide`.
    """

    tiles: int
    rows: int
    stages: int
    warps: int
    step_cycles: int
    part_cycles: int
    resident: int = 1


@lru_cache(4096)
def choose(
    shapes: tuple[Shape, ...], m: int, n: int, steps: int, processors: int, spread: bool
) -> tuple[Shape, Plan]:
    """The quickest shape and plan for M rows, by what steps and parts cost; no shape of which half would be empty."""
    found = []
    for shape in shapes:
        if shape.rows < 2 * m or shape is shapes[0]:
            tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
            plan = divide(
                tiles, steps, processors * shape.resident, shape.step_cycles, shape.part_cycles, spread=spread
            )
            found.append((shape, plan))
    return min(found, key=lambda each: each[1].cycles)


def require_hopper(device: torch.device) -> None:
    """Unsupported, before anything is compiled, on another GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        raise Unsupported("written for Hopper's wgmma and TMA (sm_90)", "triton")


def processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


class Workspace:
    """Counters of a device: each stream has its own, and so has each stream of a graph being captured.

    Graphs may be replayed at once, whatever stream they were captured on. Sums are memory of the launch: what is
    allocated while torch.compile warms up or captures a graph must not stay in use. For that reason, too, `reserve`
    allocates counters before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mark = torch.empty(0, device=device)
        self.counters: dict[tuple[int, int], Tensor] = {}
        self.spare: list[Tensor] = []

    def reserve(self) -> None:
        if not self.spare:
            self.spare.extend(self._zeros(_STREAMS).unbind())
            torch.cuda.current_stream(self.device).synchronize()  # other streams use them too

    def take(self, floats: int) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        capture = _capture(stream) if torch.cuda.is_current_stream_capturing() else 0
        counters = self.counters.get((stream, capture))
        if counters is None:
            if not capture:
                self.reserve()
            if not self.spare:
                return self._empty(floats), self._zeros(1)[0]
            counters = self.counters[stream, capture] = self.spare.pop()
        return self._empty(floats), counters

    def _empty(self, floats: int) -> Tensor:
        return torch.empty(floats, dtype=torch.float32, device=self.device)

    def _zeros(self, launches: int) -> Tensor:
        return torch.zeros(launches, _COUNTERS, dtype=torch.int32, device=self.device)


def _capture(stream: int) -> int:
    """The number of the capture that is under way on a stream; torch does not tell it."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    ask = ctypes.CDLL("libcuda.so.1").cuStreamGetCaptureInfo_v2
    error = ask(ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), None, None, None)
    if error:
        raise RuntimeError(f"cuStreamGetCaptureInfo: CUDA error {error}")
    return number.value


_WORKSPACES: dict[torch.device, Workspace] = {}


def workspace(device: torch.device, floats: int) -> tuple[Tensor, Tensor]:
    """fp32 [floats] and counters, int32, all zero: of this device and stream. No floats, no counters."""
    if floats:
        return _workspace(device).take(floats)
    nothing = torch.empty(1, dtype=torch.float32, device=device)
    return nothing, nothing.view(torch.int32)


def reserve(device: torch.device) -> None:
    """Allocate now what launches on a device share. Waits for it, once."""
    _workspace(device).reserve()


def _workspace(device: torch.device) -> Workspace:
    found = _WORKSPACES.get(device)
    # one made while launches were only recorded, on a device that was not there, does not serve the real one
    if found is None or found.mark.device != device:
        found = _WORKSPACES[device] = Workspace(device)
    return found

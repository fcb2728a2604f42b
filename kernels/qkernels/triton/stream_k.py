"""Which program of a persistent product computes what, and how parts of one tile are summed.

One program runs on each SM. Output tiles are computed whole, a wave after the other, by programs that are at the same
K: what they share is read from memory once. The tiles that would be left for a last wave that does not fill the GPU are
split along K instead, each into equal parts, and these parts come first: each program writes its fp32 sums to a
workspace, counts itself, and goes on with its whole tiles. At the end, when all parts have long been written, each
quarter of a split tile is summed by one of the programs that had a part of it. Where all that a product reads stays in
the L2 cache, the tiles of the last two waves may be shared evenly among all programs (stream-K).

Parts are added in the order of K, so results repeat bit for bit. Nobody waits for a program that may not be running
(kernels of two streams could wait for each other's places for ever): who comes to sum its quarters looks a while
whether all parts are there; if they are not it leaves a mark, and the program that brings the last part sums what is
marked. Part and mark are additions to one counter, so exactly one of the two does it. The last of all sets the counter
back to zero: a workspace serves one launch after the other on its stream.

Measured (H200): at M = 4096, where what is read does not stay in L2, stream-K is 13% slower than no split.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.language.extra.cuda import gdc_wait

from qbench import Unsupported
from qkernels.triton.gluon_names import barrier

PATIENCE = gl.constexpr(100)  # looks at a counter, each most of a microsecond
SHARED = gl.constexpr(4)  # more tiles than a program shares with others (see `divide`)
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
    """(tiles that a program shares with others, all tiles it has a part in)."""
    shared = (end + steps - 1) // steps - begin // steps
    return shared, shared + (tiles - split - program + programs - 1) // programs


@gluon.jit
def segment(number, shared, tiles, split, begin, end, steps, program, programs):
    """(tile's index, first step, end) of a program's tile `number`: what it shares comes first."""
    inside = begin // steps + number
    whole = number >= shared
    index = (number - shared) * programs + program if whole else tiles - split + inside
    first = 0 if whole else max(begin - inside * steps, 0)
    last = steps if whole else min(end - inside * steps, steps)
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
def in_order(sums, WARPS: gl.constexpr):
    """Sums [M, N] as a row, in quarters of N; 16 bytes of a thread lie beside those of the next."""
    M: gl.constexpr = sums.shape[0]
    N: gl.constexpr = sums.shape[1]
    axes: gl.constexpr = [M // (16 * WARPS), WARPS, 2, 8, N // 8, 4, 2]
    return sums.reshape(axes).permute(4, 0, 1, 3, 5, 2, 6).reshape([M * N])


@gluon.jit
def deposit(sums, work_ptr, first, WARPS: gl.constexpr):
    """Write this program's part of a tile that programs from `first` on share.

    A program has two slots in the workspace: one for a tile that it begins, one for a tile that it goes on with.
    """
    program = gl.program_id(0)
    flat = in_order(sums, WARPS)
    SIZE: gl.constexpr = flat.shape[0]
    mine = 2 * program + (1 if program == first else 0)
    gl.store(work_ptr + mine * SIZE + gl.arange(0, SIZE, flat.type.layout), flat)
    barrier()


@gluon.jit
def add_part(counter_ptr, first, last):
    """Count a part that was written. Gives the quarters (a mask) whose own programs came before this last part."""
    before = gl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    complete = (before & 255) == last - first
    if complete & ((before >> 8) == 15):
        gl.store(counter_ptr, 0)
    return gl.where(complete, before >> 8, 0)


@gluon.jit
def quarters_of(member, members):
    """The quarters (a mask) that the member-th of those who share a tile sums: they are dealt out in turns."""
    return ((1 << min(member, 4)) | (1 << min(member + members, 4))) & 15


@gluon.jit
def claim(counter_ptr, first, last, PATIENCE: gl.constexpr):
    """The quarters (a mask) that this program now sums: its own, unless a part is still missing after a while."""
    parts = last - first + 1
    mine = quarters_of(gl.program_id(0) - first, parts)
    before = gl.atomic_add(counter_ptr, 0, sem="acq_rel", scope="gpu")
    for _ in range(PATIENCE):
        if (before & 255) != parts:
            before = gl.atomic_add(counter_ptr, 0, sem="acq_rel", scope="gpu")
    before = gl.atomic_add(counter_ptr, mine << 8, sem="acq_rel", scope="gpu")
    complete = (before & 255) == parts
    if complete & ((before >> 8) + mine == 15):
        gl.store(counter_ptr, 0)
    return gl.where(complete, mine, 0)


@gluon.jit
def summed(
    work_ptr, start, first, last, M: gl.constexpr, N: gl.constexpr, LAYOUT: gl.constexpr, WARPS: gl.constexpr
):
    """Rows of an M x N tile that programs first to last wrote, from `start` on, as many as an instruction of LAYOUT
    has: fp32 [M, rows], in the order of K."""
    ROWS: gl.constexpr = LAYOUT.instr_shape[1]
    like: gl.constexpr = in_order(gl.zeros([M, ROWS], gl.float32, LAYOUT), WARPS).type.layout
    at = work_ptr + start * M + gl.arange(0, M * ROWS, like)
    if last - first == 1:  # the order of two does not matter, and both are on their way at once
        flat = gl.load(at + (2 * first + 1) * (M * N), cache_modifier=".cg")
        flat += gl.load(at + 2 * last * (M * N), cache_modifier=".cg")
    else:
        flat = gl.load(at + (2 * first + 1) * (M * N), cache_modifier=".cg")
        for each in range(first + 1, last + 1):
            flat += gl.load(at + 2 * each * (M * N), cache_modifier=".cg")
    turned: gl.constexpr = [ROWS // 8, M // (16 * WARPS), WARPS, 8, 4, 2, 2]
    sums = flat.reshape(turned).permute(1, 2, 5, 3, 0, 4, 6).reshape([M, ROWS])
    return gl.convert_layout(sums, LAYOUT, assert_trivial=True)


@gluon.jit
def write_rows(result, out_ptr, row, column, m, n):
    """Columns [M] by rows [N] of a product -> out [m, n] from (row, column) on, what is inside of it."""
    LAYOUT: gl.constexpr = result.type.layout
    columns = column + gl.arange(0, result.shape[0], gl.SliceLayout(1, LAYOUT))
    rows = row + gl.arange(0, result.shape[1], gl.SliceLayout(0, LAYOUT))
    target = out_ptr + (rows.to(gl.int64) * n).expand_dims(0) + columns.expand_dims(1)
    there = (rows < m).expand_dims(0) & (columns < n).expand_dims(1)
    gl.store(target, result.to(out_ptr.dtype.element_ty), mask=there)


@gluon.jit
def sum_quarters(
    which, low, high, row, column, m, n, out_ptr, work_ptr, parameters, FINISH: gl.constexpr,
    BN: gl.constexpr, BM: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Sum and write the quarters in a mask of the tile at (row, column) that programs low to high share."""
    for number in range(4):
        if (which >> number) & 1:
            for start in range(number * (BM // 4), (number + 1) * (BM // 4), SOME.instr_shape[1]):
                sums = summed(work_ptr, start, low, high, BN, BM, SOME, WARPS)
                result = FINISH(sums, row + start, column, m, n, parameters, WARPS)
                write_rows(result, out_ptr, row + start, column, m, n)


@gluon.jit
def add_up(
    deposited, out_ptr, work_ptr, counter_ptr, parameters, m, n, steps, split, sharing, FINISH: gl.constexpr,
    BN: gl.constexpr, BM: gl.constexpr, GROUP: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr,
    BESIDE: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """Count this program's parts of shared tiles, then sum its quarters of them.

    FINISH(sums, row, column, m, n, parameters, WARPS) makes results of sums. BESIDE: this is done by warps of their
    own, while the others multiply the program's whole tiles.
    """
    across, down = (n + BN - 1) // BN, (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    tiles = across * down
    begin, stop = piece(split, sharing, steps, program)
    shared, _ = segments(tiles, split, begin, stop, steps, program, programs)
    if BESIDE and EARLY:
        gdc_wait()
    for number in range(shared):
        index, first, end = segment(number, shared, tiles, split, begin, stop, steps, program, programs)
        if end - first < steps:
            tile, row = place(index, across, down, GROUP)
            low, high = contributors(index - (tiles - split), split, sharing, steps)
            if BESIDE:
                mbarrier.wait(deposited.index(number), 0)
            left = add_part(counter_ptr + index - (tiles - split), low, high)
            sum_quarters(
                left, low, high, row * BM, tile * BN, m, n, out_ptr, work_ptr, parameters, FINISH, BN, BM, SOME, WARPS
            )  # fmt: skip
    for number in range(shared):
        index, first, end = segment(number, shared, tiles, split, begin, stop, steps, program, programs)
        if end - first < steps:
            tile, row = place(index, across, down, GROUP)
            low, high = contributors(index - (tiles - split), split, sharing, steps)
            mine = claim(counter_ptr + index - (tiles - split), low, high, PATIENCE)
            sum_quarters(
                mine, low, high, row * BM, tile * BN, m, n, out_ptr, work_ptr, parameters, FINISH, BN, BM, SOME, WARPS
            )  # fmt: skip


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

    summing: warps that sum parts. step_cycles: of a step, measured; part_cycles: see `divide`.
    """

    tiles: int
    rows: int
    stages: int
    warps: int
    summing: int
    step_cycles: int
    part_cycles: int


def summing(shape: Shape, plan: Plan, tiles: int) -> tuple[int, int]:
    """(warps beside the others that sum parts, rows that they sum at once); no warps where no whole tiles follow.

    The few registers that are left to two warps beside 256 rows of sums hold eight rows.
    """
    if not 0 < plan.split < tiles:
        return 0, shape.rows // 4
    return shape.summing, 4 * shape.summing


@lru_cache(4096)
def choose(
    shapes: tuple[Shape, ...], m: int, n: int, steps: int, processors: int, spread: bool
) -> tuple[Shape, Plan]:
    """The quickest shape and plan for M rows, by what steps and parts cost; no shape of which half would be empty."""
    found = []
    for shape in shapes:
        if shape.rows < 2 * m or shape is shapes[0]:
            tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
            plan = divide(tiles, steps, processors, shape.step_cycles, shape.part_cycles, spread=spread)
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

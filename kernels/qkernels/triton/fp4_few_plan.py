"""fp4_few_sm90 and mxfp4_few_sm90: how a program is made up, and which program computes what.

All steps of all items (64 * wr rows of w, all of K) are one row, and each program takes an equal, contiguous part of
it: in grains, which are items, or parts of items where whole ones would leave programs idle. An item that lies in the
parts of several is summed by whichever program finishes last: each writes its fp32 sums to a workspace and counts
itself, and the last one adds all of them in the order of K and sets the counter back to zero. So sums have a fixed
order, and nobody waits for another program.
"""

from __future__ import annotations

from dataclasses import dataclass

from triton import cdiv
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qkernels.triton.gluon_names import barrier

TILES = 4  # of 16 rows of w: what a warpgroup takes


@dataclass(frozen=True)
class Few:
    """How a program works: wk * wr (2 or 4) warpgroups, of which wk share K and wr take 64 rows of w each; `stages`
    (a multiple of wk) of `depth` units of 64 of K (128 of folded weights); `resident` programs (1 or 2) on a
    multiprocessor. Of the 64 rows, `parts` (1, 2 or 4) may be parts of K beside each other instead (fp4_few_parts);
    items are not split then."""

    wk: int
    wr: int
    depth: int
    stages: int
    resident: int = 1
    parts: int = 1

    def shared_memory(self, m: int, words: int = 2, codes: int = 128) -> int:
        """Bytes of its stages and sums for up to m rows of x. words: of scales, for each row of a unit; codes: of
        codes, in a unit (256 of folded weights)."""
        unit = self.wr * TILES * (4 * codes + 32 * words) + self.parts * m * 128
        sums = self.wk - 1 if self.parts == 1 else self.wk
        return self.stages * self.depth * unit + sums * self.wr * 256 * m


@dataclass(frozen=True)
class Plan:
    """Steps of an item and of a grain, grains of all items, programs of a launch."""

    steps: int
    grain: int
    grains: int
    programs: int


def choose(m: int, tiles: int, chunks: int, sms: int = 132, *, whole: bool = False) -> Few:
    """By rows of x, tiles of 16 rows of w and chunks of 64 of K: the fastest of those measured on an H200. whole: not
    in parts, which a quantized result is not written from."""
    wave, waves = _waves(tiles, sms)
    small = cdiv(tiles, TILES) < 0.9 * sms  # its items must be split before every SM has work
    if m <= 16:
        if small:
            return (None if whole else _in_parts(m, tiles, chunks, sms)) or Few(2, 1, 4, 6)
        if cdiv(tiles, TILES) >= 3 * sms and not waves:
            return Few(1, 4, 4, 3)
        return Few(2, 1, 8, 4 if wave and chunks < 256 else 6) if wave or waves else Few(2, 1, 4, 4, 2)
    if m <= 32:
        return Few(2, 2, 4, 6) if waves else Few(2, 1, 8, 4)
    several = cdiv(tiles, TILES) >= 3 * sms
    if m <= 64:  # of `several` the fastest of ten, though it spills up to 200 bytes a thread at an item's end
        return Few(1, 4, 4, 3) if several else Few(2, 1, 4, 4) if wave or small else Few(1, 2, 4, 4)
    return Few(1, 4, 2, 4) if several and not waves else Few(2, 1, 2, 4) if wave or small else Few(1, 2, 2, 4)


def _in_parts(m: int, tiles: int, chunks: int, sms: int) -> Few | None:
    """Parts of K beside each other, where sums across programs would take longer than the SMs that are left idle."""
    items = cdiv(2 * tiles, TILES)  # of two parts
    memory_us = tiles * chunks * 576 / (32.6e3 * sms)  # 4.3 TB/s on 132

    def idle_us(items: int) -> float:
        return float(memory_us * (cdiv(items, sms) * sms / items - 1))

    if chunks % 4 == 0 and items < 0.6 * sms and idle_us(2 * items) < 2:
        return Few(2, 1, 4, 4, 1, 4)
    if chunks % 2 == 0 and items <= sms and idle_us(items) < (0.5 if m <= 8 else 2):
        return Few(2, 1, 4, 6, 1, 2)
    return Few(2, 1, 2, 8, 2, 2) if chunks % 2 == 0 and m <= 8 and items > sms else None


def quicker(m: int, tiles: int, chunks: int, sms: int = 132) -> bool:
    """Is this kernel quicker than fp4_gemm_sm90? Measured on an H200 at 64 and 128 rows."""
    return m <= 64 or (m <= 128 and chunks < 256 and _waves(tiles, sms)[0])


def _waves(tiles: int, sms: int) -> tuple[bool, bool]:
    """Whether 64 rows of w for each program make a wave that is nearly full, or so many that the last hardly counts."""
    across = cdiv(tiles, TILES)
    return 0.9 * sms <= across <= sms, across >= 4 * sms


def share(few: Few, tiles: int, chunks: int, sms: int, counters: int) -> Plan:
    """Work for a matrix of w on `sms` multiprocessors; counters: there are so many for split items."""
    tiles, chunks = tiles * few.parts, chunks // few.parts
    items, steps, programs = cdiv(tiles, TILES * few.wr), cdiv(chunks, few.depth), sms * few.resident
    wave, waves = _waves(tiles, sms)
    grain = 1
    if programs * few.wr > counters or (few.wr == 1 and (wave or waves)) or few.parts > 1:
        grain = steps
    elif waves and steps % 2 == 0:
        grain = steps // 2
    grains = items * (steps // grain)
    return Plan(steps, grain, grains, min(programs, grains))


@gluon.jit
def steps_of(program, programs, grain, grains):
    """(begin, end) of a program's steps in the row of all items' steps."""
    return program * grains // programs * grain, (program + 1) * grains // programs * grain


@gluon.jit
def contributors(item, programs, steps, grain, grains):
    """(first, last) of the programs that have steps of an item."""
    first, last = item * steps // grain, (item + 1) * steps // grain - 1
    return ((first + 1) * programs - 1) // grains, ((last + 1) * programs - 1) // grains


@gluon.jit
def combine(sums, work_ptr, counter_ptr, item, steps, grain, grains, WR: gl.constexpr, LAYOUT: gl.constexpr):
    """(sums of all parts of an item, whether this program is the one to write them).

    A program has two slots: one for the item that it goes on with, one for that which it begins.
    """
    M: gl.constexpr = sums.shape[0]
    N: gl.constexpr = sums.shape[1]
    rows = gl.arange(0, M, gl.SliceLayout(1, LAYOUT)).expand_dims(1)
    place = work_ptr + rows * N + gl.arange(0, N, gl.SliceLayout(0, LAYOUT)).expand_dims(0)
    program = gl.program_id(0)
    first, last = contributors(item, gl.num_programs(0), steps, grain, grains)
    mine = 2 * program + (1 if program == first else 0)
    gl.store(place + mine * WR * (M * N), sums)
    barrier()
    counter = counter_ptr + first * WR  # a program begins one item at most that it does not finish
    finished = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == last - first
    if finished:
        gl.store(counter, 0)
        sums = gl.load(place + (2 * first + 1) * WR * (M * N), cache_modifier=".cg")
        for each in range(first + 1, last + 1):
            sums += gl.load(place + 2 * each * WR * (M * N), cache_modifier=".cg")
    return sums, finished

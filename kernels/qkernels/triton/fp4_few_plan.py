"""fp4_few_sm90: how a program is made up, and which program computes what.

Items (64 * wr rows of w, all of K) that do not fill a wave of programs are split along K (stream-K): the first `split`
items are one row of split * steps steps, of which each program takes an equal, contiguous piece; the rest are computed
whole, one wave after the other. An item that lies in several pieces is summed by whichever program finishes last: each
writes its fp32 sums to a workspace and counts itself, and the last one adds all of them in the order of K and sets the
counter back to zero. So sums have a fixed order, and nobody waits for another program.
"""

from __future__ import annotations

from dataclasses import dataclass

from triton import cdiv
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qkernels.triton.gluon_names import barrier

TILES = 4  # of 16 rows of w: what a warpgroup takes
_SPLIT_UNITS = 32  # of 64 of K: a split costs as much time, for two trips to the L2 cache


@dataclass(frozen=True)
class Few:
    """How a program works: wk * wr (2 or 4) warpgroups, of which wk share K and wr take 64 rows of w each; `stages`
    (a multiple of wk) of `depth` units of 64 of K; `resident` programs (1 or 2) on a multiprocessor."""

    wk: int
    wr: int
    depth: int
    stages: int
    resident: int = 1

    def shared_memory(self, m: int, words: int = 2) -> int:
        """Bytes of its stages and sums for up to m rows of x; words: of scales, for each row of a unit."""
        unit = self.wr * TILES * (512 + 32 * words) + m * 128
        return self.stages * self.depth * unit + (self.wk - 1) * self.wr * 256 * m


@dataclass(frozen=True)
class Plan:
    """Items and steps of K, programs of a launch, and how many items they split."""

    items: int
    steps: int
    programs: int
    split: int


def choose(m: int, tiles: int, chunks: int, sms: int = 132) -> Few:
    """By rows of x, tiles of 16 rows of w and chunks of 64 of K: the fastest of those measured on an H200."""
    across = cdiv(tiles, TILES)
    wave = 0.9 * sms <= across <= sms
    waves = across >= 4 * sms
    if m <= 16:
        return Few(2, 1, 8, 4 if wave and chunks < 256 else 6) if wave or waves else Few(2, 1, 4, 4, 2)
    if m <= 32:
        return Few(1, 4, 4, 4) if waves else Few(2, 1, 8, 4)
    if m <= 64:
        return Few(1, 4, 4, 3) if waves else Few(2, 1, 4, 4) if wave else Few(1, 2, 4, 4)
    return Few(2, 1, 2, 4) if wave else Few(1, 2, 2, 4)


def share(few: Few, tiles: int, chunks: int, sms: int, counters: int) -> Plan:
    """Work for a matrix of w on `sms` multiprocessors; counters: there are so many for split items' warpgroups."""
    items, steps, programs = cdiv(tiles, TILES * few.wr), cdiv(chunks, few.depth), sms * few.resident
    whole = Plan(items, steps, min(items, programs), 0)
    waves, rest = divmod(items, programs)
    saved = (programs - rest) * steps / programs  # steps, if the last wave is shared by all
    if rest == 0 or saved * few.depth < _SPLIT_UNITS:
        return whole
    parts = min(programs // items, steps)
    if parts > 1 and items * parts >= 0.9 * programs:  # equal parts: few of an item
        found = Plan(items, steps, items * parts, items)
    elif waves:
        found = Plan(items, steps, programs, rest + programs)
    else:
        found = Plan(items, steps, max(items, min(programs, items * steps)), items)
    return found if found.split * few.wr <= counters else whole


@gluon.jit
def pieces(items, split, steps, program, programs):
    """(segments that are pieces of split items, all segments) of a program."""
    begin = program * (split * steps) // programs
    end = (program + 1) * (split * steps) // programs
    partial = min(split, 1) * ((end + steps - 1) // steps - begin // steps)
    return partial, partial + (items - split - program + programs - 1) // programs


@gluon.jit
def segment(number, partial, split, steps, program, programs):
    """(item, first step, end) of a program's segment `number`."""
    begin = program * (split * steps) // programs
    end = (program + 1) * (split * steps) // programs
    index = begin // steps + number
    first, last = max(begin - index * steps, 0), min(end - index * steps, steps)
    whole = number >= partial
    index = split + program + (number - partial) * programs if whole else index
    return index, (0 if whole else first), (steps if whole else last)


@gluon.jit
def contributors(index, split, steps, programs):
    """(first, last) of the programs that have a piece of split item `index`."""
    total = split * steps
    return ((index * steps + 1) * programs - 1) // total, ((index + 1) * steps * programs - 1) // total


@gluon.jit
def slot(pointer, number, SHAPE: gl.constexpr, LAYOUT: gl.constexpr):
    """Where a program's sums of an item lie: pointers [SHAPE]."""
    rows = gl.arange(0, SHAPE[0], gl.SliceLayout(1, LAYOUT)).expand_dims(1)
    columns = gl.arange(0, SHAPE[1], gl.SliceLayout(0, LAYOUT)).expand_dims(0)
    return pointer + number * (SHAPE[0] * SHAPE[1]) + (rows * SHAPE[1] + columns)


@gluon.jit
def combine(
    sums, work_ptr, counter_ptr, index, split, steps, SHAPE: gl.constexpr, LAYOUT: gl.constexpr
):  # fmt: skip
    """(sums of all pieces of item `index`, whether this program is the one to write them).

    A program has two slots: one for the item its piece ends in, one for the item it begins in the middle of.
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

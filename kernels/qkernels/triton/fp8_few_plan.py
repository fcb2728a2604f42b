"""fp8_few: how a program is made up, what is chosen for a shape, and which program computes what.

A wgmma takes 64 rows of its first operand, and a matrix of 4096 rows has only 64 such tiles for 132 multiprocessors. So
a program may take fewer rows of w and `parts` parts of their K beside each other: 32 rows by two halves of K are 64
rows of the instruction. x's parts are columns beside each other, so a product has, of every part of w with every part
of x, `parts` blocks that count; the others cost matrix units that have nothing else to do. No program waits for
another's sums then. Where x is wider, items are split along K among programs instead (fp4_few_plan).
"""

from __future__ import annotations

from dataclasses import dataclass

from triton import cdiv

from qkernels.triton.fp4_few_plan import Plan

MAX_ROWS = 64  # of x; more are no few
COLUMNS = 128  # of K: a row of a tile in shared memory
SHARED = 225 << 10  # bytes of a multiprocessor for stages and sums; two programs have 113 KB each


@dataclass(frozen=True)
class Few8:
    """How a program works: an item is `height` / `parts` rows of w by all of K, in `parts` parts; `stages` of `depth`
    tiles of `height` by 128; `resident` programs (1 or 2) on a multiprocessor. split: an item may be shared."""

    parts: int = 1
    height: int = 64
    depth: int = 4
    stages: int = 4
    resident: int = 1
    split: bool = False

    @property
    def rows(self) -> int:
        """Of w in an item."""
        return self.height // self.parts

    def shared_memory(self, m: int) -> int:
        """Bytes of its stages, and of sums that change hands, for up to m rows of x (8, 16, 32 or 64)."""
        stages = self.stages * self.depth * COLUMNS * (self.height + self.parts * m)
        return stages + (4 * self.height * m + 1024 if self.parts > 1 else 1024)

    def fits(self, m: int, k: int) -> bool:
        """Can it be launched for so many rows of x, and K?"""
        wide = self.parts * m
        even = self.parts == 1 or k % (COLUMNS * self.parts) == 0
        return wide <= 128 and even and self.resident * self.shared_memory(m) <= SHARED


def share(few: Few8, n: int, k: int, sms: int, counters: int) -> Plan:
    """Work for w [n, k] on `sms` multiprocessors; counters: there are so many for split items."""
    items = cdiv(n, few.rows)
    steps, programs = cdiv(cdiv(k, COLUMNS * few.parts), few.depth), sms * few.resident
    grain = 1 if few.split and programs <= counters else steps
    grains = items * (steps // grain)
    return Plan(steps, grain, grains, min(programs, grains))


_PLANS = {
    8: ((1, 4, 4), (2, 2, 5), (4, 2, 6), (8, 1, 8)),
    16: ((1, 4, 4), (2, 4, 4), (4, 1, 6), (8, 1, 6)),
    32: ((1, 4, 4), (2, 2, 5)),
    64: ((1, 2, 6), (2, 1, 6)),
}
"""By rows of x: (parts, depth, stages), the fewest parts first."""


def choose(m: int, n: int, k: int, sms: int = 132) -> Few8:
    """By the shape alone: the fewest parts of K that give 0.7 of the multiprocessors an item, as was fastest on an H200
    with a quantizer before each product; where x is wide and w has few rows, an even share of steps for everyone."""
    bm = width(m)
    plans = [Few8(parts, 64, depth, stages) for parts, depth, stages in _PLANS[bm]]
    fitting = [few for few in plans if few.fits(bm, k)]
    for few in fitting:
        if cdiv(n, few.rows) >= 0.7 * sms:
            return few
    if bm <= 16 and fitting:
        return fitting[-1]
    return Few8(1, 64, 4 if bm <= 32 else 2, 4 if bm <= 32 else 5, 1, True)


def width(m: int) -> int:
    """Rows of x in a product: a power of two from 8 on."""
    wide = 8
    while wide < m:
        wide *= 2
    return wide

"""A tensor whose rows follow each other, as one long row: what FP8 and INT8 under one scale take it for.

Tiles of `block` elements have no rows to be masked at, so that every access but those of the last tile is whole. A
program takes one tile: programs that stay and take tiles in turn were slower (H200, 4096 x 8192 fp16: 25.0 to 27.7 us
for 24.5), and so were hints to the cache that x is read once (26.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl
from torch import Tensor

_ENOUGH_PROGRAMS = 512  # as launch.choose_tile
_LEAST_ELEMENTS = 1024


@dataclass(frozen=True)
class Flat:
    """How a tensor of n elements is cut: `block` elements of a tile, a power of two, and warps of a program."""

    block: int = 4096
    warps: int = 4

    def fit(self, n: int) -> Flat:
        """Smaller tiles where n elements would give too few programs."""
        block, warps = self.block, self.warps
        while block > _LEAST_ELEMENTS and triton.cdiv(n, block) < _ENOUGH_PROGRAMS:
            block //= 2
        return replace(self, block=block, warps=min(warps, max(4, block // 1024)))


def is_flat(x: Tensor) -> bool:
    """Do the rows of x [M, K] follow each other without a gap?"""
    return x.stride(0) == x.shape[1] or x.shape[0] == 1


@triton.jit
def own_tile(REVERSED: tl.constexpr):
    """This program's tile, in order or from the last back (see launch.tile_of_program)."""
    if REVERSED:
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
    else:
        tile = tl.program_id(0)
    return tile


@triton.jit
def load_tile(x_ptr, tile, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """BLOCK elements of x, 0 beyond the n-th; nothing of a tile beyond the last (EVEN: n is whole tiles)."""
    at = tl.arange(0, BLOCK)
    start = tile.to(tl.int64) * BLOCK
    if EVEN:
        return tl.load(x_ptr + start + at)
    else:
        return tl.load(x_ptr + start + at, mask=at < n - start, other=0.0)


@triton.jit
def store_tile(out_ptr, tile, n, codes, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """The codes of `load_tile`, each where its element was."""
    at = tl.arange(0, BLOCK)
    start = tile.to(tl.int64) * BLOCK
    if EVEN:
        tl.store(out_ptr + start + at, codes)
    else:
        tl.store(out_ptr + start + at, codes, mask=at < n - start)

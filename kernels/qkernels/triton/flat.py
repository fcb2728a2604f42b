"""A tensor whose rows follow each other, as one long row: what FP8 and INT8 under one scale take it for.

Tiles of `block` elements have no rows to be masked at, so that every access but those of the last tile is whole. A
program takes one tile, or (`resident`) as many programs as fit run through all tiles in turn, each with its next tile
on the way while it converts one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkernels.triton.workspaces import processors

_ENOUGH_PROGRAMS = 512  # as launch.choose_tile
_LEAST_ELEMENTS = 1024


@dataclass(frozen=True)
class Flat:
    """How a tensor of n elements is cut.

    block     elements of a tile, a power of two
    warps     of a program
    resident  programs an SM that share all tiles; 0: a program for each tile
    load      eviction policy of x, "" or "evict_first"
    store     cache modifier of the codes, "" or ".cs" (written through as soon as the cache needs room)
    """

    block: int = 4096
    warps: int = 4
    resident: int = 0
    load: str = ""
    store: str = ""

    def fit(self, n: int) -> Flat:
        """Smaller tiles where n elements would give too few programs."""
        block, warps = self.block, self.warps
        while block > _LEAST_ELEMENTS and triton.cdiv(n, block) < _ENOUGH_PROGRAMS:
            block //= 2
        return replace(self, block=block, warps=min(warps, max(4, block // 1024)))

    def programs(self, n: int, device: torch.device) -> int:
        """Of the grid."""
        tiles = -(-n // self.block)
        if not self.resident:
            return tiles
        return min(tiles, self.resident * processors(device))


def is_flat(x: Tensor) -> bool:
    """Do the rows of x [M, K] follow each other without a gap?"""
    return x.stride(0) == x.shape[1] or x.shape[0] == 1


@triton.jit
def tile_at(turn, tiles, REVERSED: tl.constexpr):
    """The tile of a turn, in order or from the last back (see launch.tile_of_program)."""
    if REVERSED:
        tile = tiles - 1 - turn
    else:
        tile = turn
    return tile


@triton.jit
def load_tile(x_ptr, tile, n, BLOCK: tl.constexpr, EVEN: tl.constexpr, LOAD: tl.constexpr):
    """BLOCK elements of x, 0 beyond the n-th; nothing of a tile beyond the last (EVEN: n is whole tiles)."""
    at = tl.arange(0, BLOCK)
    start = tile.to(tl.int64) * BLOCK
    if EVEN:
        return tl.load(x_ptr + start + at, eviction_policy=LOAD)
    else:
        return tl.load(x_ptr + start + at, mask=at < n - start, other=0.0, eviction_policy=LOAD)


@triton.jit
def store_tile(out_ptr, tile, n, codes, BLOCK: tl.constexpr, EVEN: tl.constexpr, STORE: tl.constexpr):
    """The codes of `load_tile`, each where its element was."""
    at = tl.arange(0, BLOCK)
    start = tile.to(tl.int64) * BLOCK
    if EVEN:
        tl.store(out_ptr + start + at, codes, cache_modifier=STORE)
    else:
        tl.store(out_ptr + start + at, codes, mask=at < n - start, cache_modifier=STORE)

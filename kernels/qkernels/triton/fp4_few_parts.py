"""fp4_few_sm90: a warpgroup's four tiles of w as fewer tiles by `P` parts of K beside each other.

A matrix of 4096 rows is only 64 times the 64 rows of a warpgroup. Warp i may take tile i // P and part i % P of its K
instead; x's parts are columns beside each other, [P * BM, 64] of them a unit. A product has every part of w with every
part of x: of a warp's sums those with its own part of x count, and nothing of the others is read. Tensor cores have
nothing else to do. In shared memory, tiles by parts lie as tiles do (`Fragments` [tiles, P, chunks / P, ...]).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from qkernels.triton.fp4_few_plan import TILES, Few
from qkernels.triton.gluon_names import tma_load

if TYPE_CHECKING:
    from torch import Tensor


@gluon.jit
def fetch_weights(
    w_desc, s_desc, words, scales, full, begin, i, steps,
    BYTES: gl.constexpr, U: gl.constexpr, C: gl.constexpr, S: gl.constexpr, WR: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """Step begin + i, the i-th of this program, and what its stage will hold."""
    stage = i % S
    tile = (begin + i) // steps * (4 * WR // P)
    chunk = (begin + i) % steps * C
    mbarrier.expect(full.index(stage), BYTES)
    if P == 1:
        tma_load(w_desc, [tile, chunk, 0], full.index(stage), words.index(stage))
        tma_load(s_desc, [tile, chunk * 8 * U], full.index(stage), scales.index(stage))
    else:
        tma_load(w_desc, [tile, 0, chunk, 0], full.index(stage), words.index(stage))
        tma_load(s_desc, [tile, 0, chunk * 8 * U], full.index(stage), scales.index(stage))


@gluon.jit
def fetch_x(x_desc, x, full, begin, i, steps, C: gl.constexpr, S: gl.constexpr, P: gl.constexpr):
    stage = i % S
    if P == 1:
        tma_load(x_desc, [(begin + i) % steps * C, 0, 0], full.index(stage), x.index(stage))
    else:
        tma_load(x_desc, [(begin + i) % steps * C, 0, 0, 0], full.index(stage), x.index(stage))


@gluon.jit
def own_part(sums, P: gl.constexpr):
    """A warpgroup's sums [64, P * BM] with all parts of x -> [64, BM] with each warp's own; within threads."""
    if P == 1:
        return sums
    else:
        LAYOUT: gl.constexpr = sums.type.layout
        BM: gl.constexpr = sums.shape[1] // P
        of_w = gl.arange(0, 64, gl.SliceLayout(1, LAYOUT)) // 16 % P
        of_x = gl.arange(0, P * BM, gl.SliceLayout(0, LAYOUT)) // BM
        own = gl.where(of_w.expand_dims(1) == of_x.expand_dims(0), sums, 0.0)
        return gl.sum(own.reshape([64, P, BM]), 1)


@gluon.jit
def all_parts(sums, P: gl.constexpr):
    """[64, BM] of tiles by parts -> [64 / P, BM], each in P warps."""
    if P == 1:
        return sums
    else:
        BM: gl.constexpr = sums.shape[1]
        return gl.sum(sums.reshape([4 // P, P, 16, BM]), 1).reshape([64 // P, BM])


@lru_cache
def few_tiles(bits: int) -> tuple[dict[int, Any], dict[int, Any]]:
    """Layouts in shared memory, by rank, of x, whose elements have so many bits, and of words of w and its scales."""
    made = [
        {
            rank: gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=rank)
            for rank in (2, 3, 4)
        }
        for swizzle, bits in ((128, bits), (0, 32))
    ]
    return made[0], made[1]


def in_whole_units(x: Tensor, k: int) -> Tensor:
    """x padded to K = k with zeros, or as it is where TMA can read that."""
    m, size = x.shape[0], x.element_size()
    apart = m == 1 or x.stride(0) * size % 16 == 0
    if x.shape[1] == k and x.stride(1) == 1 and x.data_ptr() % 16 == 0 and apart:
        return x
    whole = torch.zeros((m, k * size), dtype=torch.uint8, device=x.device)
    whole[:, : x.shape[1] * size] = x.view(torch.uint8)
    return whole.view(x.dtype)


def descriptors(
    x: Tensor, data: Tensor, scale: Tensor, few: Few, bm: int, swizzled: dict[int, Any], raw: dict[int, Any]
) -> tuple[TensorDescriptor, TensorDescriptor, TensorDescriptor]:
    """What a stage copies of x [M, K], w and its scales, words [tiles, chunks, of a unit].

    swizzled, raw: layouts in shared memory, of x and of the others, by rank.
    """
    tiles, chunks, codes = data.shape
    columns = codes // 2  # 16 rows of a unit, eight codes a word
    x, m, p = in_whole_units(x, chunks * columns), x.shape[0], few.parts
    stride = x.stride(0) if m > 1 else chunks * columns
    words, box = scale.shape[2], TILES * few.wr // p
    if p == 1:
        return (
            TensorDescriptor(
                x, [chunks, m, columns], [columns, stride, 1], [few.depth, bm, columns], swizzled[3]
            ),
            TensorDescriptor.from_tensor(data, [box, few.depth, codes], raw[3]),
            TensorDescriptor.from_tensor(scale.view(tiles, -1), [box, few.depth * words], raw[2]),
        )
    shape, strides = [chunks // p, p, m, columns], [columns, chunks // p * columns, stride, 1]
    data, scale = data.view(tiles, p, chunks // p, codes), scale.view(tiles, p, -1)
    return (
        TensorDescriptor(x, shape, strides, [few.depth, p, bm, columns], swizzled[4]),
        TensorDescriptor.from_tensor(data, [box, p, few.depth, codes], raw[4]),
        TensorDescriptor.from_tensor(scale, [box, p, few.depth * words], raw[3]),
    )

"""`write_quantized`, which Triton's interpreter does not take, run by Python on numpy arrays: where it writes what.

Its own source runs: `gl` is exchanged for what the function uses of it, tensors are arrays, layouts nothing (they
change who holds a value, not the value), and encoding a block only notes which it was. A store asserts that it stays
within its memory and writes no place twice.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from qkernels.format import Format
from qkernels.triton import quantizing_epilogue


class Array(np.ndarray):
    """numpy's array with the names of a Gluon tensor."""

    type = types.SimpleNamespace(layout=None)

    def expand_dims(self, axis: int) -> Array:
        return array(np.expand_dims(np.asarray(self), axis))

    def permute(self, *axes: int) -> Array:
        return array(np.transpose(np.asarray(self), axes))

    def reshape(self, shape: Any) -> Array:  # type: ignore[override]
        return array(np.asarray(self).reshape(shape))

    def split(self) -> tuple[Array, Array]:
        return array(np.asarray(self)[..., 0]), array(np.asarray(self)[..., 1])

    def to(self, _dtype: object, bitcast: bool = False) -> Array:
        return self


def array(values: Any) -> Array:
    return np.asarray(values).view(Array)


class Pointer:
    def __init__(self, memory: Any, offsets: Any = 0) -> None:
        self.memory, self.offsets = memory, offsets

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.memory, self.offsets + np.asarray(more))


def store(pointer: Pointer, value: Any, mask: Any) -> None:
    at, values, kept = np.broadcast_arrays(pointer.offsets, np.asarray(value), np.asarray(mask))
    places = at[kept]
    if places.size and not (places.min() >= 0 and places.max() < len(pointer.memory)):
        raise IndexError(f"writes to {places.min()} .. {places.max()} of {len(pointer.memory)}")
    assert len(np.unique(places)) == places.size, "a place is written twice"
    pointer.memory[places] = values[kept]


GL = types.SimpleNamespace(
    constexpr=int,
    int64=None,
    uint8=None,
    num_warps=lambda: 8,
    SliceLayout=lambda *_: None,
    store=store,
    convert_layout=lambda x, _layout, assert_trivial=False: x,
    arange=lambda start, end, _layout: array(np.arange(start, end)),
    where=lambda condition, a, b: array(np.where(condition, a, b)),
)


def misplaced(m: int, n: int, fmt: Format, columns: int, rows: int, piece: int) -> str:
    """ "" if a result [m, n] that is written tile by tile, [columns, rows] each and `piece` rows at a time, has all of
    its words of codes and scale bytes where they belong.

    Element (i, j) is the number i*n + j, a word of codes its first element's plus 1, a scale byte its block's first
    element's in one byte. Every third block is not encoded, so that its words are zeros.
    """
    y = np.arange(m * n, dtype=np.float64).reshape(m, n)
    codes, scales = np.full(m * n // 8, -1, np.int64), np.full(m * n // fmt.block, -1, np.int64)

    def encode(blocks: Any, _gs: object, _rule: str) -> tuple[Array, Array, Array]:
        first = np.asarray(blocks)[:, ::8].astype(np.int64)
        return array(first + 1).reshape(-1), array(first[:, 0] % 251), array(first[:, 0] // fmt.block % 3 > 0)

    names = dict(vars(quantizing_epilogue), gl=GL, encode=encode, whole_blocks=lambda *_: None)
    run = types.FunctionType(quantizing_epilogue.write_quantized.fn.__code__, names)
    names["write_quantized"] = run
    rule = "nvfp4" if fmt.scale == "e4m3" else fmt.rule
    for row in range(0, m, rows):
        for column in range(0, n, columns):
            tile = np.full((columns, rows), 1e6)  # beyond the result: what a product of zeros need not be
            part = y[row : row + rows, column : column + columns].T
            tile[: part.shape[0], : part.shape[1]] = part
            run(array(tile), Pointer(codes), Pointer(scales), 1.0, row, column, m, n, rule, piece)
    blocks = y[:, :: fmt.block].astype(np.int64)
    words = np.where(
        np.repeat(blocks // fmt.block % 3 > 0, fmt.block // 8, axis=1), y[:, ::8].astype(np.int64) + 1, 0
    )
    for what, found, wanted in (("words", codes, words), ("scales", scales, blocks % 251)):
        bad = np.flatnonzero(found != wanted.reshape(-1))
        if len(bad):
            return f"{len(bad)} of {len(found)} {what} are wrong, the first at {bad[0]}"
    return ""

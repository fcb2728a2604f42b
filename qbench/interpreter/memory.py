"""The bytes that one argument's view of memory owns, and where an address lies in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Region:
    """Elements of a strided view from address `base`, or a plain stretch of memory that begins before it.

    `runs` are (count, stride in bytes), the largest stride first, of `run` contiguous bytes from `start`. Where
    strides interleave, that cannot describe them: `covered` then counts the view's bytes below each offset.
    """

    name: str
    base: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    item_bytes: int
    start: int
    stop: int
    run: int
    runs: tuple[tuple[int, int], ...]
    covered: Any = None

    def contains(self, addresses: Any, size: int) -> Any:
        """bool for each int64 address: do `size` bytes from it all belong to the region?"""
        offsets = addresses - self.start
        if self.covered is not None:
            inside = (offsets >= 0) & (offsets + size <= self.stop - self.start)
            first = np.where(inside, offsets, 0)
            return inside & (self.covered[np.where(inside, offsets + size, 0)] - self.covered[first] == size)
        for count, stride in self.runs:
            offsets -= np.clip(offsets // stride, 0, count - 1) * stride
        inside = np.array((offsets >= 0) & (offsets + size <= self.run))
        if size > 1 and self.runs and not inside.all():  # where one run ends the next may begin: byte by byte
            rest = np.asarray(addresses)[~inside]
            inside[~inside] = np.all([self.contains(rest + byte, 1) for byte in range(size)], axis=0)
        return inside

    def owns(self, lowest: int, highest: int, size: int) -> bool:
        """Is every address from `lowest` to `highest` inside, as far as two comparisons can tell?"""
        return not self.runs and self.covered is None and self.start <= lowest and highest + size <= self.stop

    def place(self, address: int) -> str:
        """`address` as an index of the tensor: the offset in elements, and row and column (or all indices)."""
        offset = (address - self.base) // self.item_bytes
        index, rest = [0] * len(self.shape), offset
        for dim in sorted(range(len(self.shape)), key=lambda d: -self.strides[d]):
            if self.shape[dim] > 1 and self.strides[dim] > 0:
                index[dim], rest = divmod(rest, self.strides[dim])
        if rest and index:  # no dimension moves by single elements
            index[-1] += rest
        where = f"row {index[0]}, column {index[1]}" if len(index) == 2 else f"index {tuple(index)}"
        return f"offset {offset} ({where})"

    def describe(self) -> str:
        return f"argument {self.name!r} (shape {self.shape}, strides {self.strides})"


def region_of_storage(name: str, tensor: Any) -> Region:
    """Everything that `tensor` shares its storage with."""
    storage, (base, shape, strides, size) = tensor.untyped_storage(), _layout(tensor)
    start, length = storage.data_ptr(), storage.nbytes()
    return Region(name, base, shape, strides, size, start, start + length, length, ())


def region_of_view(name: str, tensor: Any, shape: Any = None, strides: Any = None) -> Region:
    """The elements of `tensor` alone, or of another shape and strides (elements) from its first element.

    The latter may be a descriptor's, which cuts off what lies beyond its shape, not what lies beyond the storage.
    """
    base, own_shape, own_strides, size = _layout(tensor)
    shape = own_shape if shape is None else tuple(shape)
    strides = own_strides if strides is None else tuple(strides)
    if math.prod(shape) == 0:
        return Region(name, base, shape, strides, size, base, base, 0, ())
    run, outer = size, list[tuple[int, int]]()
    for stride, count in sorted(
        (s * size, n) for s, n in zip(strides, shape, strict=True) if n > 1 and s > 0
    ):
        if not outer and stride <= run:
            run += stride * (count - 1)
        elif outer and stride == outer[-1][0] * outer[-1][1]:
            outer[-1] = (outer[-1][0] * count, outer[-1][1])
        else:
            outer.append((count, stride))
    length, covered = run, None
    for count, stride in outer:
        if stride < length:
            covered = _coverage(tensor, shape, strides, size)
        length += (count - 1) * stride
    storage = tensor.untyped_storage()
    end = storage.data_ptr() + storage.nbytes()
    if base + length > end:
        return region_of_storage(name, tensor)
    return Region(name, base, shape, strides, size, base, base + length, run, tuple(reversed(outer)), covered)


def _layout(tensor: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.element_size()


def _coverage(tensor: Any, shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> Any:
    """How many of the first i bytes belong to the view, for each i."""
    length = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    elements = np.zeros(length, dtype=bool)
    np.lib.stride_tricks.as_strided(elements, shape, strides, writeable=True)[...] = True
    return np.concatenate([[0], np.cumsum(np.repeat(elements, size))])

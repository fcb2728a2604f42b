"""fp4_few_sm90 and mxfp4_few_sm90, which share a kernel, run by Python as gluon_threads runs fp8_few: partitions as
threads, tensors as numpy arrays.

Words of weights go the way they go on the GPU, as numbers, to what decodes them: there `dense` of either layout says
what they mean. That a warp holds the words which its part of the operand needs, and ptxas's and TMA's bytes, are not
told.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from qkernels.triton import (
    fp4_few_plan,
    fp4_few_sm90,
    fp4_gemm_sm90,
    mxfp4_few_sm90,
    mxfp4_folded,
    mxfp4_operand_sm90,
    quantizing_epilogue,
    stream_k,
)
from qkernels.triton.fp4_fragments import Fragments, dense
from qkernels.triton.mxfp4_folded import FoldedWeights
from tests import gluon_threads
from tests.gluon_threads import _FAILED, _STATE, Array, Barrier, Barriers, Pointer, array, python_of


class Shared:
    """Numbers, of which 64 bits hold words of 32 too; NaN at first."""

    def __init__(self, values: np.ndarray, dtype: object) -> None:
        self.values, self.dtype = values, dtype

    def index(self, i: int) -> Shared:
        assert 0 <= i < len(self.values)
        return Shared(self.values[i], self.dtype)

    def permute(self, order: list[int]) -> Shared:
        return Shared(self.values.transpose(order), self.dtype)

    def slice(self, start: int, length: int, dim: int) -> Shared:
        assert start + length <= self.values.shape[dim]
        return Shared(self.values.take(range(start, start + length), dim), self.dtype)

    def load(self, _layout: object) -> Array:
        return array(self.values.copy())

    def store(self, values: Array) -> None:
        assert values.shape == self.values.shape
        self.values[...] = values


class Descriptor:
    """TMA's view of memory: boxes of numbers, 0 outside."""

    def __init__(self, desc: Any, early: bool) -> None:
        self.values = desc.base.double().as_strided(desc.shape, desc.strides).numpy()
        self.box, self.early, self.bytes = desc.block_shape, early, desc.base.element_size()
        self.dtype = desc.base.dtype


def tma_load(desc: Descriptor, start: list[int], barrier: Barrier, to: Shared) -> None:
    assert _STATE.waited or desc.early, "x is read before gdc_wait"
    box = np.zeros(desc.box)
    part = desc.values[tuple(slice(a, a + b) for a, b in zip(start, desc.box, strict=True))]
    box[tuple(slice(0, b) for b in part.shape)] = part
    assert to.values.shape == box.shape
    to.values[...] = box
    barrier.add(0, -box.size * desc.bytes)


def mma(a: Array, b: Shared, sums: Array, is_async: bool) -> Array:
    return array(sums + np.einsum("ik,kj->ij", np.asarray(a), b.values))


def warp_specialize(partitions: list[Any], warps: list[int], _registers: object) -> None:
    assert len(warps) == len(partitions) - 1
    before = _STATE.waited
    gluon_threads.run_partitions(partitions, lambda _: before)


def allocate(dtype: object, shape: list[int], _layout: object) -> Shared | Barriers:
    return Barriers(shape[0]) if len(shape) == 2 else Shared(np.full(shape, np.nan), dtype)


def unfolded(codes: Array, spread: Array, _layouts: object) -> Array:
    """What mxfp4_operand_sm90.decoded gives, from words that stand for their bytes."""
    assert not np.isnan(codes).any() and not np.isnan(spread).any()
    words, bytes_ = (torch.from_numpy(np.asarray(each).astype(np.int64)).int() for each in (codes, spread))
    units = words.view(4, 1, 256).view(torch.uint8), bytes_.view(4, 1, 16).view(torch.uint8)
    return array(mxfp4_folded.dense(FoldedWeights(*units, torch.ones(64), 64, 128, 1.0)).numpy())


def reinterpret(memory: Shared, dtype: object, shape: list[int], _layout: object) -> Shared:
    """Bytes in the place of words are a fourth of them, each standing for four."""
    words = [*shape[:-1], shape[-1] // 4] if dtype != memory.dtype else shape
    return Shared(memory.values.reshape(words), dtype)


def decode_as(w: Fragments) -> Callable[..., Array]:
    def decode(words: Array, scales: Array, _base: object, *_more: object) -> Array:
        assert not np.isnan(words).any()
        assert not np.isnan(scales).any()
        data, scale = (torch.from_numpy(np.asarray(each).astype(np.int32)) for each in (words, scales))
        unit = replace(w, data=data.view(4, 1, 32, 4), scale=scale.view(4, 1, -1), n=64, k=64)
        return array((dense(unit) / w.unit).numpy())

    return decode


GL = types.SimpleNamespace(
    **{**vars(gluon_threads.GL), "allocate_shared_memory": allocate, "warp_specialize": warp_specialize,
       "float8e4nv": torch.float8_e4m3fn},
    int32=None, uint8="bytes", float16=torch.float16, SwizzledSharedLayout=lambda *_: None,
)  # fmt: skip
MOVES = gluon_threads.MOVES | {
    "tma_load": tma_load, "warpgroup_mma": mma, "reciprocal": lambda x: 1 / x,
    "warpgroup_mma_wait": lambda _, deps: deps[0] if len(deps) == 1 else tuple(deps),
    "reinterpret": reinterpret, "decoded": unfolded, "keep": lambda _: None,
}  # fmt: skip


OF_X = ("x_gs_ptr", "row_gs_ptr", "x_factor_ptr")


class Kernel:
    """Stands in for the kernel: a launch runs every program, from the last to the first if `backwards`."""

    def __init__(self, w: Fragments | FoldedWeights, backwards: bool) -> None:
        self.backwards = backwards
        shared = {name: python_of(fp4_few_plan, MOVES)[name] for name in ("steps_of", "combine")}
        shared["scaled"] = python_of(mxfp4_operand_sm90, MOVES)["scaled"]
        if isinstance(w, Fragments):
            shared["decode"] = decode_as(w)
        made = python_of(fp4_few_sm90, MOVES | shared)
        made["gl"] = GL
        self.run = made["fp4_few_sm90_kernel"]
        self.names = fp4_few_sm90.fp4_few_sm90_kernel.arg_names[4:]

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(x: Any, w: Any, s: Any, out: torch.Tensor, *more: Any, **constants: Any) -> None:
            options = {name: value for name, value in constants.items() if name.isupper()}
            written = np.full(out.numel(), np.nan)
            tensors = [t if not isinstance(t, torch.Tensor) else t.numpy() if t.dtype != torch.bfloat16
                       else t.double().numpy() for t in more]  # fmt: skip
            pointers = [Pointer(t.reshape(-1), early=name not in OF_X) if isinstance(t, np.ndarray) else t
                        for name, t in zip(self.names, tensors, strict=False)]  # fmt: skip
            descriptors = [Descriptor(x, False), Descriptor(w, True), Descriptor(s, True)]
            _FAILED.clear()
            _STATE.programs = grid[0]
            for program in reversed(range(grid[0])) if self.backwards else range(grid[0]):
                _STATE.program, _STATE.waited = program, not constants["EARLY"]
                self.run(*descriptors, Pointer(written), *pointers, **options)
            out.copy_(torch.from_numpy(written).view(out.shape))

        return launch


def finished(y: np.ndarray, rows: int, some: int, whole: bool, *parameters: Any) -> np.ndarray:
    """Sums y [m, n] as fp4_gemm_sm90 finishes and writes them, in tiles of 128 columns by `rows` rows of x: whole, or
    by quarters as warps do that sum parts, `some` rows at once. parameters: the kernel's, arrays for pointers."""

    def summed(tile: np.ndarray, start: int, _first: int, _last: int, *_: object) -> Array:
        return array(tile[:, start : start + some])

    m, n = y.shape
    _STATE.waited = True
    out = np.full(m * n, np.nan)
    written = python_of(quantizing_epilogue, MOVES)["write_rows"]
    made = python_of(fp4_gemm_sm90, MOVES)
    split = python_of(stream_k, MOVES | {"write_rows": written, "summed": summed})
    given = tuple(Pointer(each) if isinstance(each, np.ndarray) else each for each in parameters)
    target, layout = (None, None, Pointer(out)), types.SimpleNamespace(instr_shape=[16, some, 16])
    for row in range(0, m, rows):
        for column in range(0, n, 128):
            tile = np.full((128, rows), 1e6)
            part = y[row : row + rows, column : column + 128].T
            tile[: part.shape[0], : part.shape[1]] = part
            if whole:
                gains = made["row_gains"](given[2], row, m, rows, 8) if given[2] is not None else None
                result = made["finished"](array(tile), gains, column, n, given)
                written(result, target, row, column, m, n, "")
            else:
                split["sum_quarters"](15, 0, 1, row, column, m, n, target, tile, given, made["finish"], "", 128, rows,
                                      layout, 4)  # fmt: skip
    return out.reshape(m, n)


@contextmanager
def on_threads(
    w: Fragments | FoldedWeights, processors: int, backwards: bool = False
) -> Iterator[torch.Tensor]:
    """The products run with w on the CPU, as if on so many multiprocessors; gives the counters, zero after it."""
    counters = torch.zeros(1024, dtype=torch.int32)
    hopper = {"require_hopper": lambda _: None, "processors": lambda _: processors}
    with (
        mock.patch.multiple(
            fp4_few_sm90,
            fp4_few_sm90_kernel=Kernel(w, backwards),
            workspace=lambda _, floats: (torch.full((max(floats, 1),), torch.nan), counters),
            **hopper,
        ),
        mock.patch.multiple(mxfp4_few_sm90, **hopper),
    ):
        yield counters

"""Every access of a running kernel is held to the elements of the argument that its pointer came from.

A pointer carries its argument through arithmetic, broadcasts, shapes and descriptors, so that an address in the gap
between two strided rows, beyond a column slice, or inside another argument is seen: what a check against the
storage, or against all arguments, lets pass. A pointer whose origin is lost (read from memory, chosen from two
arguments) may address any argument, and any tensor named by `known_memory`.

Masked-out lanes are free. Uninitialised elements of the argument itself are not noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime.errors import InterpreterError

from qbench.interpreter.memory import Region, region_of_storage, region_of_view
from qbench.interpreter.patch import Patch

_KINDS = ("view", "storage")
_kind = "view"
_known: list[Region] = []
_launch: _Launch | None = None


class OutOfBounds(InterpreterError, IndexError):  # type: ignore[misc]  # triton is untyped
    """A masked-in access outside the elements of a kernel's arguments."""


@contextmanager
def guards(kind: str) -> Iterator[None]:
    """Hold accesses to each argument's own elements ("view", the default) or to its whole "storage".

    "storage" is for kernels that are handed a part of a tensor and address the rest of it on purpose.
    """
    global _kind
    if kind not in _KINDS:
        raise ValueError(f"unknown guards {kind!r}; known: {', '.join(_KINDS)}")
    before, _kind = _kind, kind
    try:
        yield
    finally:
        _kind = before


@contextmanager
def known_memory(*tensors: Any) -> Iterator[None]:
    """CPU tensors whose elements kernels may access through addresses that they read from memory."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(
                f"a tensor on {tensor.device}; an interpreted kernel reads CPU memory, use .cpu()"
            )
    before = len(_known)
    _known.extend(region_of_view(f"known memory {i}", tensor) for i, tensor in enumerate(tensors))
    try:
        yield
    finally:
        del _known[before:]


class _Launch:
    """The regions of one launch, by the identity of the host tensor that an argument became."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.regions: list[Region] = []
        self.by_tensor: dict[int, Region] = {}

    def add(self, name: str, value: Any) -> None:
        if isinstance(value, tuple):
            for i, each in enumerate(value):
                self.add(f"{name}[{i}]", each)
        elif hasattr(value, "block_shape"):  # a tensor descriptor
            self._add(name, value.base, value.base, value.shape, value.strides)
        elif hasattr(value, "data_ptr"):
            self._add(name, value, getattr(value, "base", value))  # .base where wrapped for another dtype

    def _add(self, name: str, argument: Any, tensor: Any, shape: Any = None, strides: Any = None) -> None:
        if _kind == "storage":
            region = region_of_storage(name, tensor)
        else:
            region = region_of_view(name, tensor, shape, strides)
        self.regions.append(region)
        self.by_tensor[id(argument)] = region


def _check(interpreter: Any, pointers: Any, mask: Any, verb: str) -> None:
    """OutOfBounds unless every masked-in element lies in the pointer's argument."""
    addresses, size = pointers.data, max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    owner = getattr(pointers, "_argument", None)
    if addresses.size == 0:
        return
    # Most accesses are inside even where they are masked out, and to memory without gaps: two comparisons.
    if owner is not None and owner.owns(int(addresses.min()), int(addresses.max()), size):
        return
    mask_data = np.broadcast_to(mask.data, addresses.shape)
    used = addresses[mask_data].astype(np.int64)
    if used.size == 0:
        return
    if owner is not None:
        inside = owner.contains(used, size)
    else:
        inside = np.zeros(used.shape, dtype=bool)
        for region in _everything():
            inside |= region.contains(used, size)
    if not inside.all():
        raise OutOfBounds(_message(interpreter, owner, used[~inside], used.size, verb))


def _everything() -> list[Region]:
    return [*(_launch.regions if _launch else ()), *_known]


def _message(interpreter: Any, owner: Region | None, outside: Any, total: int, verb: str) -> str:
    first = int(outside[0])
    begin = f"{_launch.kernel if _launch else 'a kernel'}, program {interpreter.interpreter_builder.grid_idx}, would"
    begin = f"{begin} {verb} {outside.size} of {total} elements outside"
    if owner is not None:
        return f"{begin} {owner.describe()}: first {owner.place(first)}; mask them"
    below = [each for each in _everything() if each.base <= first]
    near = max(below, key=lambda each: each.base) if below else None
    place = f"{near.place(first)} from {near.describe()}" if near else f"address {first:#x}"
    return (
        f"{begin} all of its arguments: first {place}; mask them, or name their tensor with known_memory(...)"
    )


def _guard_accesses(interpreter: Any) -> None:
    builder = interpreter.InterpreterBuilder
    stock_load, stock_store = builder.create_masked_load, builder.create_masked_store
    stock_rmw, stock_cas = builder.create_atomic_rmw, builder.create_atomic_cas

    def load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        _check(interpreter, ptrs, mask, "load")
        return stock_load(self, ptrs, mask, *rest, **named)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        _check(interpreter, ptrs, mask, "store")
        return stock_store(self, ptrs, value, mask, *rest, **named)

    def rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        _check(interpreter, ptr, mask, "update")
        return stock_rmw(self, op, ptr, val, mask, *rest)

    def cas(self: Any, ptr: Any, *rest: Any) -> Any:
        _check(
            interpreter, ptr, interpreter.TensorHandle(np.ones(1, dtype=bool), interpreter.tl.int1), "update"
        )
        return stock_cas(self, ptr, *rest)

    builder.create_masked_load = load
    builder.create_masked_store = store
    builder.create_atomic_rmw = rmw
    builder.create_atomic_cas = cas


def _follow_pointers(interpreter: Any) -> None:
    """Hand a pointer's argument on to what is computed from it."""
    builder = interpreter.InterpreterBuilder
    places = {"create_addptr": 0, "create_splat": 1, "create_broadcast": 0, "create_expand_dims": 0}
    places |= {"create_reshape": 0, "create_trans": 0, "create_bitcast": 0, "create_unsplat": 0}
    for name, place in places.items():
        setattr(builder, name, _following(getattr(builder, name), place))
    stock_select = builder.create_select

    def select(self: Any, condition: Any, lhs: Any, rhs: Any) -> Any:
        result = stock_select(self, condition, lhs, rhs)
        owner = getattr(lhs, "_argument", None)
        if owner is not None and owner is getattr(rhs, "_argument", None):
            result._argument = owner
        return result

    builder.create_select = select
    for kind in ("TensorDescHandle", "BlockPointerHandle"):
        if made := getattr(interpreter, kind, None):  # block pointers end with Triton 3.7
            made.materialize_pointers = _materializing(made.materialize_pointers)


def _following(stock: Any, place: int) -> Any:
    def method(self: Any, *args: Any) -> Any:
        result = stock(self, *args)
        owner = getattr(args[place], "_argument", None)
        if owner is not None:
            result._argument = owner
        return result

    return method


def _materializing(stock: Any) -> Any:
    def method(self: Any, *args: Any) -> Any:
        pointers, mask = stock(self, *args)
        pointers._argument = getattr(self.base, "_argument", None)
        return pointers, mask

    return method


def _know_arguments(interpreter: Any) -> None:
    executor = interpreter.GridExecutor
    stock_launch, stock_arguments = executor.__call__, executor._init_args_hst
    stock_convert = interpreter._implicit_cvt

    def arguments(self: Any, args: Any, kwargs: Any) -> Any:
        global _launch
        on_host = stock_arguments(self, args, kwargs)
        _launch = _Launch(self.fn.__name__)
        for name, value in (*zip(self.arg_names, on_host[0], strict=False), *on_host[1].items()):
            _launch.add(name, value)
        return on_host

    def convert(arg: Any) -> Any:
        made = stock_convert(arg)
        if _launch is not None and id(arg) in _launch.by_tensor:
            made.handle._argument = _launch.by_tensor[id(arg)]
        return made

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        global _launch
        try:
            stock_launch(self, *args, **kwargs)
        finally:
            _launch = None

    executor._init_args_hst = arguments
    executor.__call__ = launch
    interpreter._implicit_cvt = convert


def _apply(interpreter: Any) -> None:
    _guard_accesses(interpreter)
    _follow_pointers(interpreter)
    _know_arguments(interpreter)


GUARDS = (Patch("guards", "an access outside an argument's own elements went unnoticed", None, _apply),)

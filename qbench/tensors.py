"""Tensors inside operands and outputs: walk, copy, poison and compare them, whatever holds them.

Operands may be tensors, dataclasses of tensors (a quantized tensor is one), modules, or tuples, lists, deques
and dicts of these. Anything else is passed on as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_EMPTY = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_permuted.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    }
)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in `value`, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, tuple | list | deque):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same structure with every tensor replaced; modules are deep-copied, their tensors with them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: map_tensors(function, getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init and any(True for _ in tensors(getattr(value, field.name)))
        }
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, deque):
        return deque((map_tensors(function, item) for item in value), value.maxlen)
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(function, item) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    return value


def clone(value: Any) -> Any:
    """Fresh memory for every tensor in `value`."""
    return map_tensors(lambda tensor: tensor.clone(), value)


def nbytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(value))


def storages(value: Any) -> frozenset[int]:
    """Where the memory of every tensor in `value` begins."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors(value))


def poison(value: Any, keep: frozenset[int] = frozenset()) -> None:
    """Overwrite every tensor with what no kernel writes everywhere: NaN, or 0xff in bytes and integers.

    Left as they are: tensors in the storages `keep` (an output may hand operands through, or be one), and single
    numbers (it may hand through a scale that was made while preparing).
    """
    for tensor in tensors(value):
        if tensor.numel() > 1 and tensor.untyped_storage().data_ptr() not in keep:
            _poison(tensor)


def _poison(tensor: Tensor) -> None:
    """Booleans have no value that is wrong, and expanded tensors no memory of their own: both stay."""
    if tensor.dtype == torch.bool or 0 in tensor.stride():
        return
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        if tensor.element_size() > 1:
            tensor.fill_(float("nan"))
        else:
            tensor.view(torch.uint8).fill_(0xFF)  # NaN in every fp8 type
    else:
        tensor.fill_(-1 if tensor.dtype.is_signed else torch.iinfo(tensor.dtype).max)


def same_bits(left: Any, right: Any) -> bool:
    """Equal structure and equal bits, NaN included."""
    ours, theirs = list(tensors(left)), list(tensors(right))
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(left.element_size())
    if integer is None or not left.numel():
        return bool(torch.equal(left, right))
    return bool(torch.equal(left.contiguous().view(integer), right.contiguous().view(integer)))


class _PoisonedAllocations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _EMPTY and isinstance(made, Tensor) and made.numel() > 1 and made.device.type != "meta":
            _poison(made)
        return made


def poisoned_allocations() -> AbstractContextManager[None]:
    """Within it, torch.empty and its kin return poisoned memory, so that an unwritten element shows.

    Seen are calls from Python; what a C++ operator or a compiled graph allocates inside itself is not.
    """
    return cast("AbstractContextManager[None]", _PoisonedAllocations())

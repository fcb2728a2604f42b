"""Integers: truth values add modulo 2, and umulhi multiplies bit patterns as unsigned, as on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl

from qbench.interpreter.patch import Patch


def _truth_saturates(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    both = interpreter.TensorHandle(np.array([True, False]), tl.int1)
    try:
        found = [builder.create_add(both, both).data, builder.create_sub(both, both).data]
    except TypeError:  # numpy refuses to subtract truth values
        return True
    return bool(np.any(found))


def _own_truth(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock = builder.binary_op

    def binary(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if lhs.data.dtype == np.bool_ and rhs.data.dtype == np.bool_ and op in (np.add, np.subtract):
            return handle(np.logical_xor(lhs.data, rhs.data), tl.int1)
        return stock(self, lhs, rhs, op)

    builder.binary_op = binary


def _high_half_is_signed(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    for kind, dtype in ((np.int32, tl.int32), (np.int64, tl.int64)):
        a, b = (interpreter.TensorHandle(np.array([value], kind), dtype) for value in (-1, 3))
        if builder.create_umulhi(a, b).data.tolist() != [2]:
            return True
    return False


def _own_umulhi(interpreter: Any) -> None:
    def umulhi(self: Any, lhs: Any, rhs: Any) -> Any:
        kind = lhs.data.dtype
        bits, mask = 8 * kind.itemsize, (1 << 8 * kind.itemsize) - 1
        a, b = np.broadcast_arrays(lhs.data.astype(object) & mask, rhs.data.astype(object) & mask)
        return interpreter.TensorHandle(
            (a * b >> bits).astype(f"u{kind.itemsize}").view(kind), lhs.dtype.scalar
        )

    interpreter.InterpreterBuilder.create_umulhi = umulhi


INTEGERS = (
    Patch(
        "int1 arithmetic", "True + True was True, and True - True a TypeError", _truth_saturates, _own_truth
    ),
    Patch("umulhi", "of negative integers gave the signed high half", _high_half_is_signed, _own_umulhi),
)

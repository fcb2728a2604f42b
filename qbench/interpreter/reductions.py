"""Sums, extremes and scans of bf16 (and fp8) by value; the stock shortcuts took numpy's of the raw bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl

from qbench.interpreter.encoding import decode, encode, is_encoded
from qbench.interpreter.patch import Patch


def _tensor(interpreter: Any, values: Any, dtype: Any) -> Any:
    """Values (fp32 in, of `dtype` out) as a tensor; a scalar is an array of one element in the interpreter."""
    data = encode(np.atleast_1d(values), dtype) if is_encoded(dtype) else np.atleast_1d(values)
    kind = tl.block_type(dtype, list(np.shape(values))) if np.ndim(values) else dtype
    return tl.core.tensor(interpreter.TensorHandle(data, dtype), kind)


def _rounded_sum(values: Any, dtype: Any, axis: int | None, keep_dims: bool) -> Any:
    """Halves added to each other, each sum rounded, as a GPU's threads do; no order is the only right one."""
    if axis is None:
        total = _rounded_sum(values.reshape(-1), dtype, 0, False)
        return total.reshape((1,) * values.ndim) if keep_dims else total
    while (length := values.shape[axis]) > 1:
        first, second = np.split(values, [length // 2], axis=axis)
        rest = second.take(range(length // 2, second.shape[axis]), axis)
        total = decode(encode(first + second.take(range(length // 2), axis), dtype), dtype)
        values = np.concatenate([total, rest], axis=axis)
    return values if keep_dims else np.squeeze(values, axis)


def _sums_bits(interpreter: Any) -> bool:
    x = _tensor(interpreter, np.array([1.5, -3.0, 0.25, 2.0], dtype=np.float32), tl.bfloat16)
    reduce = interpreter.ReduceOps(0, None, False)
    with np.errstate(all="ignore"):
        found = [
            reduce.sum(x),
            reduce.min_max(x, np.nanmax),
            interpreter.ScanOps(0, None, False).cumsum(x)[0],
        ]
    expected = [[0.75], [2.0], [1.5, -1.5, -1.25, 0.75]]
    return any(decode(a.handle.data, tl.bfloat16).tolist() != b for a, b in zip(found, expected, strict=True))


def _own_reductions(interpreter: Any) -> None:
    reduce, scan = interpreter.ReduceOps, interpreter.ScanOps
    stock_sum, stock_extremes = reduce.sum, reduce.min_max
    stock_cumsum, stock_cumprod = scan.cumsum, scan.cumprod

    def total(self: Any, x: Any) -> Any:
        if not is_encoded(x.dtype):
            return stock_sum(self, x)
        values = _rounded_sum(decode(x.handle.data, x.dtype), x.dtype, self.axis, self.keep_dims)
        return _tensor(interpreter, values, x.dtype)

    def extremes(self: Any, x: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        x = x[0] if isinstance(x, tuple) else x
        if not is_encoded(x.dtype):
            return stock_extremes(self, x, val_reduce_op, idx_reduce_op)
        found = stock_extremes(self, _tensor(interpreter, decode(x.handle.data, x.dtype), tl.float32),
                               val_reduce_op, idx_reduce_op)  # fmt: skip
        value, *index = found if isinstance(found, tuple) else (found,)
        if not val_reduce_op:
            return found
        kind = value.type.with_element_ty(x.dtype) if value.type.is_block() else x.dtype
        narrow = tl.core.tensor(interpreter.TensorHandle(encode(value.handle.data, x.dtype), x.dtype), kind)
        return (narrow, *index) if index else narrow

    def scanning(stock: Any, step: Any) -> Any:
        def method(self: Any, x: Any) -> Any:
            if not is_encoded(x.dtype):
                return stock(self, x)
            values = np.moveaxis(decode(x.handle.data, x.dtype).copy(), self.axis, 0)
            for i in range(1, len(values)):
                values[i] = decode(encode(step(values[i - 1], values[i]), x.dtype), x.dtype)
            return [_tensor(interpreter, np.moveaxis(values, 0, self.axis), x.dtype)]

        return method

    reduce.sum = total
    reduce.min_max = extremes
    scan.cumsum = scanning(stock_cumsum, np.add)
    scan.cumprod = scanning(stock_cumprod, np.multiply)


REDUCTIONS = (Patch("bf16 reductions", "tl.sum of bf16 added raw bits", _sums_bits, _own_reductions),)

"""Elementwise operators: bf16 by value instead of by raw bits, one rounding in fma, NaN as on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl

from qbench.interpreter.encoding import decode, encode, is_encoded, to_odd
from qbench.interpreter.patch import Patch


def _bf16(interpreter: Any, *values: float) -> Any:
    return interpreter.TensorHandle(encode(np.array(values, dtype=np.float32), tl.bfloat16), tl.bfloat16)


def _fp32(interpreter: Any, *values: float) -> Any:
    return interpreter.TensorHandle(np.array(values, dtype=np.float32), tl.float32)


# Comparisons ----------------------------------------------------------------------------------------------


def _comparison_keeps_its_operands_type(interpreter: Any) -> bool:
    one, two = _fp32(interpreter, 1.0), _fp32(interpreter, 2.0)
    return bool(interpreter.InterpreterBuilder().create_fcmpOLT(one, two).dtype != tl.int1)


def _own_comparisons(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock = builder.binary_op

    def binary(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        result = stock(self, lhs, rhs, op)
        return handle(result.data, tl.int1) if result.data.dtype == np.bool_ else result

    builder.binary_op = binary


# bf16 and fp8 operators -----------------------------------------------------------------------------------


def _bfloat16_works_on_bits(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    a, b = _bf16(interpreter, 1.5, -2.0), _bf16(interpreter, 2.25, 1.0)
    with np.errstate(all="ignore"):
        found = [
            builder.create_fadd(a, b).data,
            builder.create_fmul(a, b).data,
            builder.create_fcmpOLT(a, b).data,
            builder.create_floor(a).data,
        ]
    expected = [_bf16(interpreter, 3.75, -1.0).data, _bf16(interpreter, 3.375, -2.0).data]
    expected += [np.array([True, True]), _bf16(interpreter, 1.0, -2.0).data]
    return not all(np.array_equal(each, right) for each, right in zip(found, expected, strict=True))


def _own_encoded_operators(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_binary, stock_ternary, stock_unary = builder.binary_op, builder.ternary_op, builder.unary_op

    def binary(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        dtype = lhs.dtype.scalar
        if not is_encoded(dtype):
            return stock_binary(self, lhs, rhs, op)
        value = op(decode(lhs.data, dtype), decode(rhs.data, dtype))
        return handle(value, tl.int1) if value.dtype == np.bool_ else handle(encode(value, dtype), dtype)

    def ternary(self: Any, lhs: Any, rhs: Any, other: Any, op: Any) -> Any:
        dtype = other.dtype.scalar
        if op is np.where or not is_encoded(dtype):  # a selection moves bits and rounds nothing
            return stock_ternary(self, lhs, rhs, other, op)
        return handle(encode(op(*(decode(each.data, dtype) for each in (lhs, rhs, other))), dtype), dtype)

    def unary(self: Any, arg: Any, op: Any) -> Any:
        dtype = arg.dtype.scalar
        if not is_encoded(dtype):
            return stock_unary(self, arg, op)
        return handle(encode(op(decode(arg.data, dtype)), dtype), dtype)

    builder.binary_op = binary
    builder.ternary_op = ternary
    builder.unary_op = unary


# Fused multiply-add ---------------------------------------------------------------------------------------

_FMA = (
    (1 + 2.0**-12, 1 + 2.0**-12, -1 - 2.0**-11),
    (1 + 2.0**-23, 1 + 2.0**-23, 2.0**-60),
    (3.0, 5.0, np.inf),
)


def fused(x: Any, y: Any, z: Any) -> Any:
    """x * y + z of fp32, fp16 or bf16 values as float64 rounded to odd: the next rounding is then the only one.

    The product of two fp32 is exact in float64. The error of the sum is exact too (Knuth's two-sum).
    """
    product, addend = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = product + addend
    part = total - product
    return to_odd(total, (product - (total - part)) + (addend - part))


def _fma_rounds_twice(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    columns = list(zip(*_FMA, strict=True))
    expected = np.array([2.0**-24, 1 + 2.0**-22, np.inf], dtype=np.float32)
    with np.errstate(all="ignore"):
        found = builder.create_fma(*(_fp32(interpreter, *column) for column in columns)).data
        small = builder.create_fma(*(_bf16(interpreter, value) for value in (1.5, 2.5, 0.25))).data
    return not (np.array_equal(found, expected) and np.array_equal(small, _bf16(interpreter, 4.0).data))


def _own_fma(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock, numpy_type = builder.create_fma, interpreter._get_np_dtype

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        dtype = z.dtype.scalar
        if dtype == tl.float64:
            return stock(self, x, y, z)
        with np.errstate(all="ignore"):
            result = fused(*(decode(each.data, dtype) for each in (x, y, z)))
        return handle(encode(result, dtype, numpy_type(dtype)), dtype)

    builder.create_fma = fma


# NaN ------------------------------------------------------------------------------------------------------

_ARITHMETIC = (
    "create_fadd",
    "create_fsub",
    "create_fmul",
    "create_fdiv",
    "create_precise_divf",
    "create_fma",
)
_NAN: dict[Any, Any] = {
    np.dtype(np.float32): np.array(0x7FFFFFFF, dtype=np.uint32).view(np.float32),
    np.dtype(np.float16): np.array(0x7FFF, dtype=np.uint16).view(np.float16),
}


def _nan_has_the_hosts_sign(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    with np.errstate(all="ignore"):
        found = builder.create_fmul(_fp32(interpreter, np.inf), _fp32(interpreter, 0.0)).data
    return bool(found.view(np.uint32)[0] != 0x7FFFFFFF)


def _own_nan(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def canonical(stock: Any) -> Any:
        def operate(self: Any, *args: Any) -> Any:
            result = stock(self, *args)
            nan = _NAN.get(result.data.dtype)
            if nan is None or is_encoded(result.dtype.scalar):
                return result
            bad = np.isnan(result.data)
            return handle(np.where(bad, nan, result.data), result.dtype) if bad.any() else result

        return operate

    for name in _ARITHMETIC:
        setattr(builder, name, canonical(getattr(builder, name)))


# Minimum, maximum, clamp ----------------------------------------------------------------------------------


def _extremes_propagate_nan(interpreter: Any) -> bool:
    builder = interpreter.InterpreterBuilder()
    bad, one = _fp32(interpreter, np.nan), _fp32(interpreter, 1.0)
    found = [make(*pair).data for make in (builder.create_maxnumf, builder.create_minnumf)
             for pair in ((bad, one), (one, bad))]  # fmt: skip
    return not np.array_equal(np.array(found).ravel(), np.ones(4))


def _own_extremes(interpreter: Any) -> None:
    builder = interpreter.InterpreterBuilder
    builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax)
    builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin)


def _clamp_propagates_nan(interpreter: Any) -> bool:
    three = (_fp32(interpreter, each) for each in (np.nan, 1.0, 2.0))
    none = interpreter._ir.PROPAGATE_NAN.NONE
    return bool(interpreter.InterpreterBuilder().create_clampf(*three, none).data[0] != 1.0)


def _own_clamp(interpreter: Any) -> None:
    builder = interpreter.InterpreterBuilder
    stock, none = builder.create_clampf, interpreter._ir.PROPAGATE_NAN.NONE

    def clamp(self: Any, arg: Any, lo: Any, hi: Any, propagate_nans: Any) -> Any:
        if propagate_nans != none:
            return stock(self, arg, lo, hi, propagate_nans)
        return self.binary_op(self.binary_op(arg, lo, np.fmax), hi, np.fmin)

    builder.create_clampf = clamp


OPERATORS = (
    Patch(
        "comparisons",
        "a comparison kept its operands' dtype, so that a scalar condition became a mask of integers",
        _comparison_keeps_its_operands_type,
        _own_comparisons,
    ),
    Patch(
        "bf16 operators",
        "arithmetic and comparison worked on the raw bits of bf16; now on values, rounded once each",
        _bfloat16_works_on_bits,
        _own_encoded_operators,
    ),
    Patch("fma", "tl.fma rounded the product, or worked on raw bits", _fma_rounds_twice, _own_fma),
    Patch(
        "NaN",
        "inf * 0 had the sign that x86 sets, and as an integer lay below all numbers; a GPU's is 0x7fffffff",
        _nan_has_the_hosts_sign,
        _own_nan,
    ),
    Patch(
        "minimum and maximum",
        "propagated NaN, which the GPU's default does not",
        _extremes_propagate_nan,
        _own_extremes,
    ),
    Patch("clamp", "propagated NaN though not asked to", _clamp_propagates_nan, _own_clamp),
)

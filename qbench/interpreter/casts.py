"""Casts from and to bf16, e4m3 and e5m2: rounded to nearest even once, saturating where the hardware does."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import triton.language as tl

from qbench.interpreter.encoding import FLOAT8, decode, encode, encode_toward_zero
from qbench.interpreter.patch import Patch


def _interesting(dtype: Any) -> Any:
    """float32: every code of an 8-bit type (or 2^11 of bf16), all ties, their neighbours, overflow, inf and NaN."""
    if dtype.name == "bf16":
        codes = np.concatenate([np.arange(0x3F00, 0x4100), np.arange(0x200), np.arange(0x7E00, 0x7F80)])
        grid = decode(codes.astype(np.uint16), dtype)
    else:
        grid = decode(np.arange(127, dtype=np.uint8), dtype)
    grid = np.unique(grid[np.isfinite(grid)])
    ties = grid[:-1] + (grid[1:] - grid[:-1]) / 2
    positive = np.concatenate(
        [
            grid,
            ties,
            np.nextafter(ties, np.float32(0)),
            np.nextafter(ties, np.float32(np.inf)),
            [1e30, np.inf],
        ]
    ).astype(np.float32)
    return np.concatenate([positive, -positive, np.array([np.nan], dtype=np.float32)])


def _same(found: Any, expected: Any) -> bool:
    return bool(found.dtype == expected.dtype and np.array_equal(found, expected))


def _float8_is_wrong(interpreter: Any) -> bool:
    builder, nearest = interpreter.InterpreterBuilder(), interpreter._ir.ROUNDING_MODE.RTNE
    with np.errstate(all="ignore"):
        for dtype in (tl.float8e4nv, tl.float8e5):
            values, codes = _interesting(dtype), np.arange(256, dtype=np.uint8)
            for wide, data in ((tl.float32, values), (tl.float16, values.astype(np.float16))):
                narrow = builder.create_fp_to_fp(interpreter.TensorHandle(data, wide), dtype, nearest)
                if not _same(narrow.data, encode(data, dtype)):
                    return True
                back = builder.create_fp_to_fp(interpreter.TensorHandle(codes, dtype), wide, None)
                if not np.array_equal(back.data, decode(codes, dtype), equal_nan=True):
                    return True
    return False


def _bfloat16_is_wrong(interpreter: Any) -> bool:
    builder, handle = interpreter.InterpreterBuilder(), interpreter.TensorHandle
    values, integers = _interesting(tl.bfloat16), np.arange(-300, 300, dtype=np.int32)
    with np.errstate(all="ignore"):
        rounded = builder.cast_impl(handle(values, tl.float32), tl.bfloat16)
        whole = builder.cast_impl(handle(integers, tl.int32), tl.bfloat16)
        exact = np.arange(0x3F80, 0x4300, dtype=np.uint16)
        back = builder.cast_impl(handle(exact, tl.bfloat16), tl.int32)
        half = builder.cast_impl(handle(exact, tl.bfloat16), tl.float16)
    return not (
        np.array_equal(decode(rounded.data, tl.bfloat16), _nearest_bfloat16(values), equal_nan=True)
        and _same(whole.data, encode(integers, tl.bfloat16))
        and np.array_equal(back.data, decode(exact, tl.bfloat16).astype(np.int32))
        and np.array_equal(half.data, decode(exact, tl.bfloat16).astype(np.float16))
    )


def _nearest_bfloat16(values: Any) -> Any:
    return decode(encode(values, tl.bfloat16), tl.bfloat16)


def _own_casts(names: frozenset[str], interpreter: Any) -> None:
    """Take over every cast from or to one of these types."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_cast, stock_fp_to_fp = builder.cast_impl, builder.create_fp_to_fp
    toward_zero, numpy_type = interpreter._ir.ROUNDING_MODE.RTZ, interpreter._get_np_dtype

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        have, want = src.dtype.scalar, dst_type.scalar
        if not (have.name in names or want.name in names):
            return stock_cast(self, src, dst_type)
        return handle(encode(decode(src.data, have), want, numpy_type(want)), want)

    def fp_to_fp(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        have, want = src.dtype.scalar, dst_type.scalar
        if not (have.name in names or want.name in names):
            return stock_fp_to_fp(self, src, dst_type, rounding)
        values = decode(src.data, have)
        if rounding == toward_zero and want.name in names:
            return handle(encode_toward_zero(values, want), want)
        return handle(encode(values, want, numpy_type(want)), want)

    builder.cast_impl = cast
    builder.create_fp_to_fp = fp_to_fp


def _has_no_bfloat16_constant(interpreter: Any) -> bool:
    make = getattr(interpreter.InterpreterBuilder(), "get_bf16", None)
    if make is None:
        return True
    found = make(1.7)
    return not (found.dtype == tl.bfloat16 and _same(found.data, encode(np.array([1.7]), tl.bfloat16)))


def _own_bfloat16_constant(interpreter: Any) -> None:
    def constant(self: Any, value: float) -> Any:
        return interpreter.TensorHandle(encode(np.array([value]), tl.bfloat16), tl.bfloat16)

    interpreter.InterpreterBuilder.get_bf16 = constant


CASTS = (
    Patch(
        "fp8 casts",
        "a tenth of the casts to e4m3 and e5m2 was wrong: ties, overflow (500 -> 256), subnormals; e4m3's NaN was 480",
        _float8_is_wrong,
        partial(_own_casts, frozenset(FLOAT8)),
    ),
    Patch(
        "bf16 casts",
        "fp32 -> bf16 truncated; integers gave their own bits, and bf16 gave its bits as an integer",
        _bfloat16_is_wrong,
        partial(_own_casts, frozenset({"bf16"})),
    ),
    Patch(
        "bf16 constants",
        "tl.full(..., tl.bfloat16) failed for the lack of a constant, or truncated it",
        _has_no_bfloat16_constant,
        _own_bfloat16_constant,
    ),
)

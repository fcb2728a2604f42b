"""tl.dot of bf16 and fp8, and tl.dot_scaled: E8M0 scales of groups of 32, E4M3 scales of groups of 16 (NVFP4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl

from qbench.interpreter.encoding import decode, decode_e2m1, decode_e8m0, encode
from qbench.interpreter.patch import Patch


def _dot_is_wrong(interpreter: Any) -> bool:
    """Every code of e4m3 and e5m2, and some of bf16, times one."""
    builder, handle = interpreter.InterpreterBuilder(), interpreter.TensorHandle
    for dtype, kind, count in (
        (tl.bfloat16, np.uint16, 0x7F80),
        (tl.float8e4nv, np.uint8, 256),
        (tl.float8e5, np.uint8, 256),
    ):
        codes = np.arange(0, count, 0xFF if count > 256 else 1).astype(kind)[:, None]
        zero = handle(np.zeros(codes.shape, dtype=np.float32), tl.float32)
        with np.errstate(all="ignore"):
            one = handle(encode(np.ones((1, 1), dtype=np.float32), dtype), dtype)
            found = builder.create_dot(handle(codes, dtype), one, zero, None, 0).data
        if not np.array_equal(found, decode(codes, dtype), equal_nan=True):
            return True
    return False


def _own_dot(interpreter: Any) -> None:
    def dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        product = np.matmul(
            decode(a.data, a.dtype.scalar), decode(b.data, b.dtype.scalar), dtype=d.data.dtype
        )
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot


def _scaled_operand(handle: Any, scale: Any, packed: bool, k_pack: bool, is_rhs: bool) -> Any:
    """float64 values of an operand: lhs [..., M, K], or rhs [..., K, N] with its scale still [..., N, K/group].

    e2m1 lies in pairs along K if `k_pack`, else along M or N.
    """
    if packed:
        values = decode_e2m1(handle.data, -1 if is_rhs != k_pack else -2)
    else:
        values = decode(handle.data, handle.dtype.scalar)
    values = values.astype(np.float64)
    if scale is None:
        return values
    kind = scale.dtype.scalar
    factors = decode(scale.data, kind) if kind.name == "fp8e4nv" else decode_e8m0(scale.data)
    factors = np.repeat(factors, values.shape[-2 if is_rhs else -1] // factors.shape[-1], axis=-1)
    return values * (np.swapaxes(factors, -1, -2) if is_rhs else factors)


def _own_dot_scaled(interpreter: Any) -> None:
    packed = interpreter._ir.ScaleDotElemTypeTY.E2M1

    def dot_scaled(
        self: Any, lhs: Any, lhs_scale: Any, lhs_format: Any, rhs: Any, rhs_scale: Any, rhs_format: Any,
        fast_math: bool, lhs_k_pack: bool, rhs_k_pack: bool, acc: Any,
    ) -> Any:  # fmt: skip
        a = _scaled_operand(lhs, lhs_scale, lhs_format == packed, lhs_k_pack, is_rhs=False)
        b = _scaled_operand(rhs, rhs_scale, rhs_format == packed, rhs_k_pack, is_rhs=True)
        # Products are exact in float64, and one rounding follows: within every order of fp32 sums.
        total = np.matmul(a, b) + acc.data
        return interpreter.TensorHandle(total.astype(np.float32), tl.float32)

    interpreter.InterpreterBuilder.create_dot_scaled = dot_scaled


def _dot_scaled_is_wrong(interpreter: Any) -> bool:
    """Missing, or wrong about a scale: E8M0 bytes 0 and 255, E4M3 scales, fp8 and bf16 operands."""
    builder, handle, kinds = (
        interpreter.InterpreterBuilder(),
        interpreter.TensorHandle,
        interpreter._ir.ScaleDotElemTypeTY,
    )
    if not hasattr(builder, "create_dot_scaled"):
        return True
    zero = handle(np.zeros((1, 1), dtype=np.float32), tl.float32)

    def found(a: Any, scale: Any, kind: Any, depth: int) -> float:
        ones = handle(np.full((depth, 1), 0x3F80, dtype=np.uint16), tl.bfloat16)
        rest = (kinds.BF16, False, True, True, zero)
        with np.errstate(all="ignore"):
            return float(builder.create_dot_scaled(a, scale, kind, ones, None, *rest).data[0, 0])

    def scales(data: int, dtype: Any) -> Any:
        return handle(np.full((1, 1), data, dtype=np.uint8), dtype)

    codes = handle(np.array([[0x2F] + [0] * 15], dtype=np.uint8), tl.uint8)  # -6 and 1, then zeros
    e5m2 = handle(np.array([[0x3C, 0xC1] + [0] * 30], dtype=np.uint8), tl.float8e5)  # 1 and -2.5
    e4m3 = handle(np.array([[0x38, 0xC1] + [0] * 30], dtype=np.uint8), tl.float8e4nv)  # 1 and -2.25
    return not (
        found(codes, scales(128, tl.uint8), kinds.E2M1, 32) == -10.0
        and found(codes, scales(0, tl.uint8), kinds.E2M1, 32) == -5 * 2.0**-127
        and np.isnan(found(codes, scales(255, tl.uint8), kinds.E2M1, 32))
        and found(handle(codes.data[:, :8], tl.uint8), scales(0x3C, tl.float8e4nv), kinds.E2M1, 16) == -7.5
        and found(handle(codes.data[:, :8], tl.uint8), scales(0x01, tl.float8e4nv), kinds.E2M1, 16)
        == -5 * 2.0**-9
        and found(e5m2, scales(126, tl.uint8), kinds.E5M2, 32) == -0.75
        and found(e4m3, scales(126, tl.uint8), kinds.E4M3, 32) == -0.625
    )


def _semantic_wants_constexpr(interpreter: Any) -> bool:
    """Does `tl.dot_scaled` take `.value` of the formats, which in the interpreter are plain strings?"""
    semantic, handle = interpreter.TritonSemantic(interpreter.InterpreterBuilder()), interpreter.TensorHandle

    def block(rows: int, columns: int, dtype: Any, kind: Any) -> Any:
        return tl.tensor(handle(np.zeros((rows, columns), dtype), kind), tl.block_type(kind, [rows, columns]))

    a, b, acc = (
        block(*each)
        for each in ((16, 16, "u1", tl.uint8), (16, 16, "u1", tl.uint8), (16, 16, "f4", tl.float32))
    )
    scale = block(16, 1, "u1", tl.uint8)
    try:
        semantic.dot_scaled(a, scale, "e2m1", b, scale, "e2m1", acc, False, True, True, tl.float32)
    except AttributeError:
        return True
    return False


def _own_format_strings(interpreter: Any) -> None:
    semantic = interpreter.TritonSemantic
    stock = semantic.dot_scaled

    def dot_scaled(self: Any, lhs: Any, lhs_scale: Any, lhs_format: Any, rhs: Any, rhs_scale: Any, rhs_format: Any,
                   *rest: Any) -> Any:  # fmt: skip
        formats = (tl.constexpr(each) if isinstance(each, str) else each for each in (lhs_format, rhs_format))
        left, right = formats
        return stock(self, lhs, lhs_scale, left, rhs, rhs_scale, right, *rest)

    semantic.dot_scaled = dot_scaled


PRODUCTS = (
    Patch(
        "dot",
        "tl.dot of bf16 multiplied raw bits, e4m3's NaN was 480, and e5m2's least subnormals were 0",
        _dot_is_wrong,
        _own_dot,
    ),
    Patch(
        "dot_scaled",
        "tl.dot_scaled was missing, or decoded E4M3 scales (NVFP4) as E8M0, or byte 0 as 0 and 255 as inf",
        _dot_scaled_is_wrong,
        _own_dot_scaled,
    ),
    Patch(
        "dot_scaled formats",
        "tl.dot_scaled asked its format strings for .value, which only the compiler's have",
        _semantic_wants_constexpr,
        _own_format_strings,
    ),
)

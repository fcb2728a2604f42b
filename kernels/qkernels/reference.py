"""What a GEMM on quantized operands means, in float64 and short enough to check by eye. Calls no fast kernel.

out = (sum_k a*b) * alpha_a * alpha_b + bias. The sum runs over `exact_values` (code * block scale): for FP4 operands
each product has at most 12 significant bits, so the float64 sum is exact but for huge spreads of scales.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .codec import floor_log2, pow2
from .tensor import QTensor

ROWS_AT_ONCE = 8192  # of b; [8192, 8192] in float64 is 512 MiB


def matmul(a: Tensor | QTensor, b: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
    """a [M, K] times b [N, K] transposed → float64 [M, N], bias [N] added; rotated operands stay rotated."""
    check_operands(a, b)
    left = _exact(a)
    parts = [left @ _exact(_rows(b, start)).T for start in range(0, b.shape[0], ROWS_AT_ONCE)]
    out = torch.cat(parts, dim=1) if parts else left.new_zeros(left.shape[0], 0)
    out = out * (_alpha(a) * _alpha(b))
    if bias is None:
        return out
    if tuple(bias.shape) != (b.shape[0],):
        raise ValueError(
            f"bias has shape {list(bias.shape)}, b has N = {b.shape[0]} rows; it must be [{b.shape[0]}]"
        )
    return out + bias.to(torch.float64)


def magnitude(a: Tensor | QTensor, b: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
    """|A| |B|^T as float64 [M, N] to within 1%: rows brought to amax ~1 by a power of two, product in fp32.

    A bias is no part of it; it is taken so that the operands of `matmul` fit. Rows with NaN or inf leave others alone.
    On CUDA in bf16 with fp32 sums: three roundings of 2^-9, and a tenth of the time.
    """
    check_operands(a, b)
    return _product_of_sizes(a, b, _size)


def certified(size: Tensor, a: Tensor | QTensor, b: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
    """bool [M, N]: where every order of fp32 operations gives exactly `matmul`. size = magnitude(a, b).

    With u = (the largest power of two dividing row i of a) * (that of row j of b), every sum of products is a multiple
    of u; up to 2^24*u fp32 holds all of these. Tensor cores are no exception: within one product of fragments they keep
    the bits of the largest term and of 23 more, which u is among. A bias must be a multiple of u*alpha too.
    So must be the sums over raw codes and over zero points, where a zero point is taken off afterwards.
    alpha must be a power of two: folding another one into the operands or block sums, in fp32, is as honest as
    multiplying by it last, and rounds each term. Certified are operands and results far from the ends of fp32 only, so
    that neither a scaling by powers of two nor a flush of subnormals on the way changes anything.
    """
    nothing = torch.zeros_like(size, dtype=torch.bool)
    alphas = [float(_alpha(t)) for t in (a, b)]
    if any(math.frexp(alpha)[0] != 0.5 or not _LEAST < alpha < _MOST for alpha in alphas):
        return nothing
    alpha = alphas[0] * alphas[1]
    if any(isinstance(t, QTensor) and t.zero_point is not None for t in (a, b)):
        size = _product_of_sizes(a, b, _size_in_parts)
    left = _row_units(a)
    rights = [_row_units(_rows(b, start)) for start in range(0, b.shape[0], ROWS_AT_ONCE)]
    right = torch.cat(rights) if rights else left.new_zeros(0)
    unit = left[:, None] * right * alpha
    ends = (left > _LEAST)[:, None] & (right > _LEAST) & (size < _MOST) & (size < _MOST * alpha)
    if bias is not None:
        least = _lowest_bits(bias.to(torch.float64))
        size = size + bias.to(torch.float64).abs()
        unit, ends = unit.minimum(least), ends & (least > _LEAST) & (size < _MOST)
    return (
        ends & (unit > _LEAST) & (unit > _LEAST * alpha) & (size * 1.02 <= unit * 2.0**24)
    )  # size is good to 1%


_LEAST, _MOST = 2.0**-100, 2.0**100


def int8_matmul(a: QTensor, b: QTensor, *, bias: Tensor | None = None) -> Tensor:
    """s_a * s_b * (D - azp * sum_k B) + bias → float64 [M, N]; D = the integer product of the raw codes, exact.

    The same value as `matmul`, in the order an INT8 kernel computes it; b must be symmetric.
    """
    check_operands(a, b)
    if b.zero_point is not None:
        raise ValueError("b has a zero point; only activations (a) may be asymmetric")
    left, right = a.data.to(torch.float64), b.data.to(torch.float64)  # |D| <= 2^14 * K: exact in float64
    product = left @ right.T
    if a.zero_point is not None:
        product = product - a.zero_point.reshape(-1, 1).to(torch.float64) * right.sum(1)
    out = a.scale.reshape(-1, 1).to(torch.float64) * b.scale.reshape(1, -1).to(torch.float64) * product
    return out if bias is None else out + bias.to(torch.float64)


def check_operands(a: Tensor | QTensor, b: Tensor | QTensor) -> None:
    """ValueError unless a [M, K] and b [N, K] can be multiplied: 2-D, same K, same rotation."""
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a {list(a.shape)} and b {list(b.shape)} must be [M, K] and [N, K]; b is not transposed"
        )
    if isinstance(a, QTensor) and isinstance(b, QTensor) and a.hadamard != b.hadamard:
        raise ValueError(
            f"a is rotated by {a.hadamard}, b by {b.hadamard}; rotate both by the same size or neither"
        )


def _exact(t: Tensor | QTensor) -> Tensor:
    return t.exact_values() if isinstance(t, QTensor) else t.to(torch.float64)


def _alpha(t: Tensor | QTensor) -> Tensor:
    return t.alpha if isinstance(t, QTensor) else torch.ones((), dtype=torch.float64, device=t.device)


def _rows(t: Tensor | QTensor, start: int) -> Tensor | QTensor:
    return (
        t.linear().rows(start, start + ROWS_AT_ONCE)
        if isinstance(t, QTensor)
        else t[start : start + ROWS_AT_ONCE]
    )


def _row_units(t: Tensor | QTensor) -> Tensor:
    """float64 [rows]: the largest power of two that divides each row; 0 for a row with NaN or inf, or one so wide that
    `magnitude`, in fp32, could lose products of it.
    """
    step = max(1, ROWS_AT_ONCE * 1024 // t.shape[1])  # of int64 temporaries
    if isinstance(t, QTensor):
        step = max(1, step // t.format.block_rows) * t.format.block_rows
    starts = range(0, t.shape[0], step)
    parts = [t.linear().rows(i, i + step) if isinstance(t, QTensor) else t[i : i + step] for i in starts]
    units = []
    for part in parts:
        values = _exact(part)
        unit = _lowest_bits(values).amin(1)
        units.append(torch.where(values.abs().amax(1) <= unit * 2.0**60, unit, 0.0))
    return torch.cat(units) if units else torch.zeros(0, dtype=torch.float64, device=t.device)


def _lowest_bits(x: Tensor) -> Tensor:
    """float64, the lowest set bit of each float64: x minus x with that bit cleared. 2^50 for 0, 0 for NaN and inf."""
    bits = x.view(torch.int64)
    cleared = (bits & (bits - 1)).view(torch.float64)
    fraction = bits & ((1 << 52) - 1)
    lowest = torch.where(fraction == 0, x, x - cleared).abs()  # a power of two has no bit but the hidden one
    return torch.where(x == 0, 2.0**50, lowest).masked_fill(~torch.isfinite(x), 0.0)


def _product_of_sizes(
    a: Tensor | QTensor, b: Tensor | QTensor, size: Callable[[Tensor | QTensor], Tensor]
) -> Tensor:
    left, left_unit = _normalised(size(a))
    parts = [left.new_zeros(left.shape[0], 0, dtype=torch.float64)]
    for start in range(0, b.shape[0], ROWS_AT_ONCE):
        right, right_unit = _normalised(size(_rows(b, start)))
        parts.append((left @ right.T).to(torch.float64) * (left_unit * right_unit.T))
    return torch.cat(parts, dim=1) * (_alpha(a) * _alpha(b)).abs()


def _size(t: Tensor | QTensor) -> Tensor:
    return _exact(t).abs()


def _size_in_parts(t: Tensor | QTensor) -> Tensor:
    """(|code| + |zero point|) * scale."""
    if not isinstance(t, QTensor) or t.zero_point is None:
        return _size(t)
    return _size(t).maximum(_size(dataclasses.replace(t, zero_point=-t.zero_point)))


def _normalised(size: Tensor) -> tuple[Tensor, Tensor]:
    """(size over powers of two [rows, 1], these powers): fp32, or bf16 on CUDA."""
    amax = torch.where(torch.isfinite(size), size, 0.0).amax(1, keepdim=True)
    unit = pow2(floor_log2(amax).clamp(-500, 500))
    return (size / unit).to(torch.bfloat16 if size.is_cuda else torch.float32), unit

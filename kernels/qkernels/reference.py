"""What a GEMM on quantized operands means, in float64 and short enough to check by eye. Calls no fast kernel.

out = (sum_k a*b) * alpha_a * alpha_b + bias. The sum runs over `exact_values` (code * block scale): for FP4 operands
each product has at most 12 significant bits, so the float64 sum is exact but for huge spreads of scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import floor_log2, pow2
from .tensor import QTensor

ROWS_AT_ONCE = 8192  # of b; [8192, 8192] in float64 is 512 MiB


def matmul(a: Tensor | QTensor, b: Tensor | QTensor, *, bias: Tensor | None = None) -> Tensor:
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


def magnitude(a: Tensor | QTensor, b: Tensor | QTensor) -> Tensor:
    """|A| |B|^T as float64 [M, N] to within 1%: operands brought to amax ~1 by a power of two, product in fp32.

    On CUDA in bf16 with fp32 sums: three roundings of 2^-9, and a tenth of the time.
    """
    check_operands(a, b)
    left, left_unit = _normalised(a)
    parts = []
    for start in range(0, b.shape[0], ROWS_AT_ONCE):
        right, right_unit = _normalised(_rows(b, start))
        parts.append((left @ right.T).to(torch.float64) * (left_unit * right_unit))
    out = (
        torch.cat(parts, dim=1)
        if parts
        else torch.zeros(left.shape[0], 0, dtype=torch.float64, device=left.device)
    )
    return out * (_alpha(a) * _alpha(b)).abs()


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
    return t.rows(start, start + ROWS_AT_ONCE) if isinstance(t, QTensor) else t[start : start + ROWS_AT_ONCE]


def _normalised(t: Tensor | QTensor) -> tuple[Tensor, Tensor]:
    size = _exact(t).abs()
    amax = size.amax() if size.numel() else size.new_zeros(())
    unit = pow2(floor_log2(amax).clamp(-500, 500))
    return (size / unit).to(torch.bfloat16 if size.is_cuda else torch.float32), unit

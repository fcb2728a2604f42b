"""What stands before a quantizer in a model, in float64: RMSNorm and SiLU(gate) * up, and how near fp32 comes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """float64 [M, K]: x * rsqrt(mean(x^2) + eps) * weight."""
    wide = x.to(torch.float64)
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.to(torch.float64)


def rms_norm_error(y: Tensor) -> Tensor:
    """How far an honest fp32 evaluation may be from `rms_norm`, float64: 2^-20 |y|.

    A square is off by 2^-24, a sum of K <= 2^15 in a tree by 20 * 2^-24, which rsqrt halves; rsqrt itself by 2^-22, and
    the products by 2^-24 each. Below fp32's normal numbers a product is off by 2^-149; zeros stay zeros.
    """
    return torch.where(y == 0, 0.0, y.abs() * 2.0**-20 + 2.0**-140)


def add_residual(x: Tensor, residual: Tensor) -> Tensor:
    """x + residual in fp32, rounded to x's dtype."""
    return (x.to(torch.float32) + residual.to(torch.float32)).to(x.dtype)


def silu_mul(x: Tensor) -> Tensor:
    """float64 [..., K]: silu(gate) * up of x [..., 2K], the first and the second half of each row."""
    gate, up = x.to(torch.float64).chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def silu_mul_error(x: Tensor) -> Tensor:
    """How far an honest fp32 evaluation may be from `silu_mul`, float64.

    exp(-g) takes log2(e)*g rounded to fp32, so that it is off by (|g| + 3) * 2^-23; a quotient and a product by 2^-22.
    Where 1 + exp(-g) reaches 2^126 its reciprocal may be flushed to 0, and silu is -88 * 2^-126 there.
    """
    gate, up = x.to(torch.float64).chunk(2, dim=-1)
    y = gate * torch.sigmoid(gate) * up
    error = y.abs() * (gate.abs() + 8) * 2.0**-23 + up.abs() * 2.0**-118 + 2.0**-140
    return torch.where((gate == 0) | (up == 0), 0.0, error)


def check_norm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> None:
    """TypeError or ValueError unless weight [K] and residual [M, K] go with x [M, K], and eps is a number >= 0."""
    if weight.shape != x.shape[-1:] or not weight.is_floating_point():
        raise ValueError(
            f"weight is {weight.dtype} {list(weight.shape)}; it must be floating point [{x.shape[-1]}]"
        )
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps = {eps} is not a number >= 0")
    for name, tensor in (("weight", weight), ("residual", residual)):
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}; move one of them")
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{name} has stride {tensor.stride(-1)} in its last axis; use .contiguous()")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual is {residual.dtype} {list(residual.shape)}; it must be x's: {x.dtype} {list(x.shape)}"
        )

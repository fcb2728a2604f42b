"""Blockwise Hadamard rotation along K: y = (x @ H)/sqrt(n), H the symmetric Sylvester matrix with entries ±1.

H stays ±1 and 1/sqrt(n) is applied once at the end in fp32 or wider: 1/sqrt(32) and 1/sqrt(128) are inexact in bf16
and would bias a GEMM of two rotated operands by -2.1e-4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_hadamard(k: int, n: int) -> None:
    """ValueError unless n is a power of two >= 2 that divides K (not numel: blocks must not cross rows)."""
    if n < 2 or n & (n - 1):
        raise ValueError(f"Hadamard size {n} is not a power of two >= 2; use 16, 32, 64 or 128")
    if k % n:
        raise ValueError(
            f"K = {k} is not a multiple of the Hadamard size {n}; pad K or choose a size that divides it"
        )


def hadamard_matrix(
    n: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """[n, n] Sylvester matrix: entries ±1, symmetric, H @ H = n * identity. n is a power of two >= 2."""
    check_hadamard(n, n)
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    while matrix.shape[0] < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def rotate(x: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rotate each n consecutive elements of the last axis; computed in `dtype` (float64 or, for any other, float32).

    Butterflies of additions instead of a matmul: no TF32 or bf16 setting of the process can change the result.
    Returns `dtype`, x's shape; its own inverse up to rounding.
    """
    check_hadamard(x.shape[-1], n)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    y: Tensor = x.to(compute).unflatten(-1, (x.shape[-1] // n, n))
    half = 1
    while half < n:
        pairs = y.unflatten(-1, (n // (2 * half), 2, half))
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack([low + high, low - high], dim=-2).flatten(-3)
        half *= 2
    y = (y / math.sqrt(n)).flatten(-2)
    return y.to(dtype)

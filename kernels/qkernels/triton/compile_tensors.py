"""Operands of compile_cases: uninitialised, for launches that run nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels.format import Format
from qkernels.tensor import QTensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
N, K = 8192, 8192


def matrix(m: int, k: int = K, dtype: str = "bf16") -> Tensor:
    return torch.empty(m, k, dtype=DTYPES[dtype], device="cuda")


def gapped(m: int, k: int = K, dtype: str = "bf16") -> Tensor:
    """Rows with 16 elements between them."""
    return matrix(m, k + 16, dtype)[:, :k]


def eight(m: int, k: int = K) -> Tensor:
    return torch.empty(m, k, dtype=torch.float8_e4m3fn, device="cuda")


def one(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(1, dtype=dtype, device="cuda")


def quantized(rows: int, k: int, fmt: Format) -> QTensor:
    assert fmt.block
    data = torch.empty(rows, k // 2, dtype=torch.uint8, device="cuda")
    scale = torch.empty(rows, k // fmt.block, dtype=torch.uint8, device="cuda")
    return QTensor(data, scale, fmt, (rows, k), one().reshape(()) if fmt.levels == 2 else None)

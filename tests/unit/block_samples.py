"""Inputs and marks shared by the tests of formats beyond one scale for each row's FP4 block."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8_BLOCK,
    FP8_BLOCK_2D,
    INT4,
    INT4_ASYM,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8,
    MXFP8_E5M2,
    NVFP4_2D,
    NVFP4_4OVER6,
    NVFP4_4OVER6_MAE,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
)
from qkernels.tensor import QTensor

BLOCKS = (NVFP4_2D, NVFP4_MIN_SCALE, NVFP4_4OVER6, NVFP4_4OVER6_MAE, NVFP4_TOKEN, MXFP8, MXFP8_E5M2, MXFP6_E3M2,
       MXFP6_E2M3, FP8_BLOCK, FP8_BLOCK_2D, INT4, INT4_ASYM)  # fmt: skip
every_block_kind = pytest.mark.parametrize("fmt", BLOCKS, ids=lambda f: f.name)
MX = pytest.mark.parametrize("fmt", [MXFP8, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3], ids=lambda f: f.name)
TILES = pytest.mark.parametrize("fmt", [NVFP4_2D, FP8_BLOCK_2D], ids=lambda f: f.name)


def sample(rows: int = 160, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[rows, 384] with a zero row, a zero block, a constant and a positive one, small rows, and a short last tile."""
    x = torch.randn(rows, 384, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[3], x[5, :128], x[7, :128] = 0, 0, 3.25
    x[9, 128:256] = x[9, 128:256].abs() + 1
    x[11] *= 2.0**-10
    x[12] *= 2.0**-17
    return x


def fails(q: QTensor, x: Tensor, fmt: Format, words: str = "") -> bool:
    problem = compare_quantized(dataclasses.replace(q, format=fmt), x, fmt)
    return problem is not None and words in str(problem)

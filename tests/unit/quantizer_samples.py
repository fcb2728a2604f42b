"""Inputs and marks shared by the comparator's tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qkernels.format import E2M1, FORMATS, INT8, Format

BLOCK_FORMATS = [f for f in FORMATS.values() if f.element is E2M1 and f.block_rows == 1]
"""FP4 with a scale for each row's block; the others: test_compare_blocks.py."""
every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
every_block_format = pytest.mark.parametrize("fmt", BLOCK_FORMATS, ids=lambda f: f.name)


def static(fmt: Format) -> dict[str, Any]:
    return {"scale": 0.03} if fmt is INT8 else {}


def sample(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[48, 256] with a zero row, a zero block, a constant row, a small row and a -0."""
    x = torch.randn(48, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[3], x[5, :64], x[7], x[9, 4] = 0, 0, 3.25, -0.0
    x[11] *= 2.0**-10
    return x

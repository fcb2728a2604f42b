"""The 128×4 layout for every shape up to 260×20: the formula, its inverse, padding that never comes back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qkernels.swizzle import from_blocked, to_blocked

ROWS, COLS = 260, 20


def offsets(cols: int) -> np.ndarray:
    """int64 [ROWS, cols]: where the documented formula puts each scale."""
    r, c = np.indices((ROWS, cols))
    return ((r // 128) * math.ceil(cols / 4) + c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4


def positions(rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Two digits, 1..255 each, that together name the place (r, c): none of them is padding."""
    place = torch.arange(rows * cols).view(rows, cols)
    return (place % 255 + 1).to(torch.uint8), (place // 255 + 1).to(torch.uint8)


@pytest.mark.parametrize("cols", range(1, COLS + 1))
def test_every_scale_of_every_shape_lands_at_the_documented_offset_and_comes_back(cols: int):
    where = offsets(cols)
    assert len(np.unique(where)) == where.size
    for rows in range(1, ROWS + 1):
        place, count = torch.from_numpy(where[:rows]), -(-rows // 128) * -(-cols // 4) * 512
        for digit in positions(rows, cols):
            flat = to_blocked(digit)
            assert flat.shape == (count,)
            assert torch.equal(flat[place], digit), (rows, cols)
            assert int(flat.count_nonzero()) == rows * cols, (rows, cols)  # all else is zero padding
            poisoned = torch.full_like(flat, 255)
            poisoned[place] = digit
            back = from_blocked(poisoned, rows, cols)
            assert torch.equal(back, digit), (rows, cols)
            assert back.is_contiguous()


@pytest.mark.parametrize(("rows", "cols"), [(0, 4), (0, 0), (4, 0)])
def test_nothing_gives_nothing(rows: int, cols: int):
    flat = to_blocked(torch.zeros(rows, cols, dtype=torch.uint8))
    assert flat.numel() == 0
    assert from_blocked(flat, rows, cols).shape == (rows, cols)


def test_blocked_is_a_bijection_on_whole_tiles():
    flat = torch.arange(2 * 3 * 512).to(torch.uint8)
    assert torch.equal(to_blocked(from_blocked(flat, 256, 12)), flat)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e8m0fnu])
def test_bytes_pass_unchanged_whatever_the_dtype(dtype: torch.dtype):
    raw = torch.arange(256, dtype=torch.uint8).view(64, 4)
    flat = to_blocked(raw.view(dtype))
    assert flat.dtype == dtype
    assert torch.equal(from_blocked(flat, 64, 4).view(torch.uint8), raw)


def test_non_contiguous_scales():
    scale = torch.arange(40, dtype=torch.uint8).view(5, 8)
    assert torch.equal(to_blocked(scale.T), to_blocked(scale.T.contiguous()))


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="1-byte dtype"):
        to_blocked(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"blocked scales of \[129, 4\] take 1024 bytes, got 512"):
        from_blocked(torch.zeros(512, dtype=torch.uint8), 129, 4)

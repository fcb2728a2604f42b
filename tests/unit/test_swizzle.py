"""The 128×4 layout: the formula, a bijection for every shape, padding that never comes back."""

from __future__ import annotations

import pytest
import torch

from qkernels.swizzle import from_blocked, to_blocked

SHAPES = [
    (1, 1),
    (1, 4),
    (31, 3),
    (32, 4),
    (33, 5),
    (127, 7),
    (128, 4),
    (129, 9),
    (256, 8),
    (300, 13),
    (128, 512),
]


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_every_scale_lands_at_the_documented_offset(rows: int, cols: int):
    scale = torch.randint(
        1, 256, (rows, cols), dtype=torch.uint8, generator=torch.Generator().manual_seed(rows)
    )
    flat = to_blocked(scale)
    wide = -(-cols // 4)
    r, c = torch.arange(rows)[:, None], torch.arange(cols)[None]
    offset = ((r // 128) * wide + c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
    assert torch.equal(flat[offset], scale)
    assert flat.numel() == -(-rows // 128) * wide * 512
    assert offset.unique().numel() == rows * cols
    assert int((flat != 0).sum()) == rows * cols  # everything else is zero padding


@pytest.mark.parametrize(("rows", "cols"), [*SHAPES, (0, 4), (0, 0)])
def test_from_blocked_inverts_and_drops_poisoned_padding(rows: int, cols: int):
    scale = torch.randint(
        0, 255, (rows, cols), dtype=torch.uint8, generator=torch.Generator().manual_seed(cols)
    )
    flat = to_blocked(scale)
    used = to_blocked(torch.ones_like(scale)) == 1
    poisoned = torch.where(used, flat, 255).to(torch.uint8)
    assert torch.equal(from_blocked(poisoned, rows, cols), scale)
    assert from_blocked(flat, rows, cols).is_contiguous()


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

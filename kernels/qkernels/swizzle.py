"""The 128×4 scale layout of Blackwell tensor cores (cuBLAS "block scaling factors layout", torchao `to_blocked`).

offset(r, c) = ((r//128)*ceil(C/4) + c//4)*512 + (r%32)*16 + ((r%128)//32)*4 + c%4, zero-padded to 128×4 tiles.
Bytes only: the scales are raw e4m3 or e8m0 bits, and a framework cast would change them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def _tiles(rows: int, cols: int) -> tuple[int, int]:
    return -(-rows // 128), -(-cols // 4)


def blocked_bytes(rows: int, cols: int) -> int:
    """Bytes of [rows, cols] one-byte scales in this layout, padding included."""
    tall, wide = _tiles(rows, cols)
    return tall * wide * 512


def to_blocked(scale: Tensor) -> Tensor:
    """[R, C] scales of any 1-byte dtype → flat [ceil(R/128)*128 * ceil(C/4)*4] of that dtype, padding bytes 0."""
    if scale.ndim != 2 or scale.element_size() != 1:
        raise ValueError(f"to_blocked takes [rows, cols] of a 1-byte dtype, got {list(scale.shape)} {scale.dtype}; "
                         "view the scales as uint8 and flatten the leading axes")  # fmt: skip
    rows, cols = scale.shape
    tall, wide = _tiles(rows, cols)
    padded = pad(scale.view(torch.uint8), (0, wide * 4 - cols, 0, tall * 128 - rows))
    tiles = padded.reshape(tall, 4, 32, wide, 4).permute(0, 3, 2, 1, 4)  # [tall, wide, r%32, r%128//32, c%4]
    return tiles.reshape(-1).view(scale.dtype)


def from_blocked(flat: Tensor, rows: int, cols: int) -> Tensor:
    """Inverse of `to_blocked`: contiguous [rows, cols]; padding is sliced away and never reaches the result."""
    tall, wide = _tiles(rows, cols)
    if flat.numel() != tall * wide * 512 or flat.element_size() != 1:
        raise ValueError(f"blocked scales of [{rows}, {cols}] take {tall * wide * 512} bytes, got {flat.numel()} "
                         f"elements of {flat.dtype}; pass the unpadded rows and cols of the scale tensor")  # fmt: skip
    tiles = flat.reshape(-1).view(torch.uint8).reshape(tall, wide, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(tall * 128, wide * 4)[:rows, :cols].contiguous().view(flat.dtype)

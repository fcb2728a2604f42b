"""What several checks share: comparing bytes, and operands whose every sum is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels import QTensor
from qkernels.format import Format

ONE = {"e4m3": 0x38, "e8m0": 127}  # the scale byte of 1
NEXT = {"e4m3": 8, "e8m0": 1}  # bytes from one power of two to the next


def difference(found: QTensor, wanted: QTensor) -> str:
    """ "" if both hold the same bytes, else the first part that differs and how often."""
    for part in ("data", "scale", "global_scale", "zero_point"):
        left, right = getattr(found, part), getattr(wanted, part)
        if (left is None) != (right is None):
            return f"{part} is {left}, expected {right}"
        if left is None:
            continue
        if left.numel() != right.numel() or left.dtype != right.dtype:
            return f"{part} is {left.dtype} {list(left.shape)}, expected {right.dtype} {list(right.shape)}"
        size = left.dtype.itemsize
        one, two = (t.reshape(-1).view(torch.uint8).reshape(-1, size) for t in (left, right))
        bad = (one != two).any(-1)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            shown = left.reshape(-1)[at].item(), right.reshape(-1)[at].item()
            return f"{part}[{at}] is {shown[0]}, expected {shown[1]} ({int(bad.sum())} of {len(bad)} differ)"
    return ""


def normal(rows: int, k: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def certified(rows: int, k: int, fmt: Format, seed: int, gs: float = 4.0) -> QTensor:
    """Every code under the scales 1 and 2: partial sums are multiples of 1/4 below 2^22, exact in every order."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, generator=generator)
    assert fmt.block is not None
    step = torch.randint(0, 2, (rows, k // fmt.block), generator=generator) * NEXT[fmt.scale]
    scale = (ONE[fmt.scale] + step).to(torch.uint8)
    return QTensor(data, scale, fmt, (rows, k), torch.tensor(gs) if fmt.levels == 2 else None)

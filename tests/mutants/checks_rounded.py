"""NVFP4's values without its codes, against the two kernels that give them one after the other."""

from __future__ import annotations

import torch

from tests.property import test_nvfp4_rounded


def rounded() -> None:
    """Both dtypes of words and fp32, rotated or not, blocks that are not finite or have no scale, rows with gaps."""
    for dtype in test_nvfp4_rounded.DTYPES:
        x = test_nvfp4_rounded.normal(3, 240, dtype)
        test_nvfp4_rounded.check(x)
        test_nvfp4_rounded.check(x, 16)
        test_nvfp4_rounded.check((x.float() * torch.tensor([2.0**-20] * 16 + [1.0] * 224)).to(dtype))
        x[0, 5], x[1, 20], x[2] = float("inf"), float("nan"), 0.0
        test_nvfp4_rounded.check(x)
    test_nvfp4_rounded.check(test_nvfp4_rounded.normal(3, 168, torch.bfloat16)[:, 8:])

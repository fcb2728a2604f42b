"""The float64 references of products against integer sums."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qkernels import quantize
from qkernels.reference import int8_matmul, magnitude, matmul


def product() -> None:
    """matmul, int8_matmul and |A||B|^T of small whole numbers, against integer sums."""
    generator = torch.Generator().manual_seed(8)
    codes = torch.randint(-6, 7, (5, 64), generator=generator).float()
    weight = torch.randint(-6, 7, (9, 64), generator=generator).float()
    bias = torch.arange(9.0) / 3
    for name in ("nvfp4", "nvfp4_1l", "mxfp4_abs_max", "mxfp4"):
        options = {"global_scale": 4.0} if name == "nvfp4" else {}
        a, b = quantize(codes, name, **options), quantize(weight, name, **options)
        left, right = a.dequantize(torch.float64).numpy(), b.dequantize(torch.float64).numpy()
        _near(f"{name} product", matmul(a, b), left @ right.T)
        _near(f"{name} product with bias", matmul(a, b, bias=bias), left @ right.T + bias.double().numpy())
        _near(f"{name} weight-only", matmul(codes, b), codes.double().numpy() @ right.T)
        _near(f"{name} |A||B|^T", magnitude(a, b), np.abs(left) @ np.abs(right).T, unit=0.01)
        assert matmul(a, b).dtype == torch.float64, "the product is not in float64"
    x = torch.randn(5, 64, generator=generator) + 0.5
    b = quantize(weight, "int8_token")
    for name in ("int8_token", "int8_asym"):
        a = quantize(x, name)
        wanted = a.dequantize(torch.float64).numpy() @ b.dequantize(torch.float64).numpy().T
        for found in (matmul(a, b, bias=bias), int8_matmul(a, b, bias=bias)):
            _near(f"{name} product", found, wanted + bias.double().numpy())
    wide = torch.randn(3, 16, generator=generator)
    tall = torch.randn(8192 + 3, 16, generator=generator)
    _near("a product of many rows", matmul(wide, tall), wide.double().numpy() @ tall.double().numpy().T)
    rotated = quantize(codes, "mxfp4", hadamard=32)
    for a, b in ((rotated, quantize(weight, "mxfp4")), (codes[:, :32], quantize(weight, "mxfp4"))):
        try:
            matmul(a, b)
        except ValueError:
            continue
        raise AssertionError("operands of another rotation or another K were multiplied")


def _near(what: str, found: Tensor, wanted: np.ndarray, unit: float = 1e-12) -> None:
    assert tuple(found.shape) == wanted.shape, f"{what}: shape {tuple(found.shape)}, expected {wanted.shape}"
    error = np.abs(found.numpy() - wanted)
    bad = error > unit * (np.abs(wanted) + 1.0)
    assert not bad.any(), f"{what}: off by {error.max():.3g}, {bad.sum()} of {bad.size} elements"

"""What a QTensor means: values, alpha, rows and bytes from its own parts, read by ml_dtypes."""

from __future__ import annotations

import dataclasses
import math

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from qkernels import QTensor, quantize, to_blocked

KINDS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int8": np.int8,
}
FORMATS = ("nvfp4", "nvfp4_1l", "nvfp4_2d", "nvfp4_token", "mxfp4", "mxfp4_abs_max", "mxfp8_e5m2", "mxfp6_e2m3",
           "mxfp6_e3m2", "fp8", "fp8_token", "fp8_block", "int4", "int4_asym", "int8_token", "int8_asym")  # fmt: skip


def tensor() -> None:
    """Each kind of element, scale, global scale and zero point; a slice of rows; parts that do not fit are refused."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(37, 256, generator=generator) * torch.exp2(torch.arange(37.0) % 5 * 4 - 8)[:, None]
    for name in FORMATS:
        q = quantize(x, name)
        wanted = _values(q)
        found = q.dequantize(torch.float64).numpy()
        assert np.allclose(found, wanted, rtol=1e-14, atol=0), f"{name}: dequantize gives other values"
        exact = q.exact_values().numpy() * float(q.alpha)
        assert np.allclose(exact, wanted, rtol=1e-14, atol=0), (
            f"{name}: exact_values * alpha gives other values"
        )
        part = q.rows(16, 36)
        assert part.shape == (20, 256), f"{name}: rows(16, 36) has shape {part.shape}"
        assert np.array_equal(part.dequantize(torch.float64).numpy(), found[16:36]), (
            f"{name}: rows(16, 36) differ"
        )
        parts = [t for t in (q.scale, q.global_scale, q.zero_point) if t is not None]
        held = 37 * 256 * q.format.element.bits // 8 + sum(t.numel() * t.element_size() for t in parts)
        assert q.nbytes == held == q.format.nbytes((37, 256)), (
            f"{name}: nbytes is {q.nbytes}, it holds {held}"
        )
    _refused(quantize(x, "nvfp4_1l"))


def _refused(q: QTensor) -> None:
    changes: dict[str, Tensor] = {
        "data": q.data[:, :-1],
        "scale": to_blocked(q.scale).reshape(128, -1),
        "global_scale": torch.ones(()),
    }
    for name, tensor in changes.items():
        try:
            dataclasses.replace(q, **{name: tensor})
        except ValueError:
            continue
        raise AssertionError(f"a QTensor with {name} {list(tensor.shape)} was not refused")


def _values(q: QTensor) -> np.ndarray:
    fmt = q.format
    byte = q.data.view(torch.uint8).numpy()
    codes = np.stack([byte & 15, byte >> 4], axis=-1).reshape(q.shape) if fmt.packed else byte
    if fmt.element.name == "int4":
        codes = (codes ^ 8).astype(np.int16).astype(np.float64) - 8
    elif fmt.element.name == "uint4":
        codes = codes.astype(np.float64)
    else:
        codes = codes.astype(np.uint8).view(KINDS[fmt.element.name]).astype(np.float64)
    scale = q.scale.double().numpy() if fmt.scale == "fp32" else _floats(q.scale, fmt.scale)
    zero = np.zeros(1) if q.zero_point is None else q.zero_point.numpy()
    if fmt.block:
        scale, zero = (_spread(part, q) if part.ndim == 2 else part for part in (scale, zero))
    gs = np.ones(1) if q.global_scale is None else q.global_scale.double().numpy()
    return (codes - zero) * scale / gs / (3.0 if fmt.rule == "abs_max" else 1.0)


def _floats(scale: Tensor, kind: str) -> np.ndarray:
    return scale.numpy().view(KINDS[kind]).astype(np.float64)


def _spread(part: np.ndarray, q: QTensor) -> np.ndarray:
    """Scale [R, C] -> one for each element [M, K]."""
    rows = math.ceil(q.shape[0] / part.shape[0]) if q.format.block_rows == 1 else q.format.block_rows
    return part.repeat(rows, axis=0)[: q.shape[0]].repeat(q.shape[1] // part.shape[1], axis=1)

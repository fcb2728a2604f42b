"""The exact quantizer against the formulas of its formats, written a second time in numpy."""

from __future__ import annotations

import math
import sys

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from qkernels import QTensor, quantize
from qkernels.format import Format, get_format
from qkernels.quantize import check_input
from tests.mutants.checks_codec import E2M1, E4M3, nearest

LARGEST = np.finfo(np.float32).max
ONCE_MORE = {
    "floor": 2.0,
    "ceil": 1.0,
    "even": 1.75,
    "rceil": 1.5,
}  # exponent + 1 above (even: from) this mantissa


def reference() -> None:
    """Scales and codes of every format that a kernel exists for, bit for bit; zeros, extremes, NaN and rows apart."""
    for name in ("nvfp4", "nvfp4_1l"):
        for gs in (None, 57.25) if name == "nvfp4" else (None,):
            for x in _blocks(16):
                _nvfp4(x, name, gs)
    for rule in ("floor", "ceil", "even", "rceil", "abs_max", "quest"):
        for x in _blocks(32):
            _mxfp4(x, get_format("mxfp4" if rule == "floor" else f"mxfp4_{rule}"))
    for x in (*_blocks(32), _near_ties(E4M3, 448.0), _near_ties(np.arange(128.0), 127.0)):
        _fp8(x)
        _int8(x)
    _rotated()
    _chunks()


def _blocks(block: int) -> list[Tensor]:
    """fp32 [rows, 4 blocks]: a normal, a spread, ties, each threshold of a scale and its neighbours, and non-finite."""
    generator = torch.Generator().manual_seed(block)
    k = 4 * block
    plain = torch.randn(4, k, generator=generator)
    spread = plain * torch.exp2(torch.arange(4.0) * 9 - 18)[:, None]
    ties = torch.randint(-32, 33, (4, k), generator=generator) / 4.0
    ties[:, ::block] = 6.0
    ties[0] = -0.0
    ties[1, :block] = -ties[1, :block].abs()
    top = torch.tensor([1.0, 1.5, 1.75, 1.9999999, 2.0**-3, 6.0, 6.5])
    top = torch.cat([top, top.nextafter(torch.zeros(1)), top.nextafter(torch.full((1,), 9.0))])
    thresholds = plain.repeat(6, 1)[: len(top)].clamp(-0.9, 0.9) * top[:, None] / 2
    thresholds[:, ::block] = -top[:, None]
    tiny = torch.zeros(3, k)
    tiny[0, 1], tiny[1, 0], tiny[2, 3] = 2.0**-149, 2.0**-127, 3e38
    nearly = torch.full((1, k), 1.6371600627899170)  # whose variance is below zero in fp32
    nearly[:, torch.arange(k) % block < 18] = nearly[0, 0].nextafter(torch.tensor(2.0))
    bad = plain.clone()
    bad[0, 3], bad[2, block], bad[2, 2 * block] = math.nan, math.inf, -math.inf
    return [plain, spread, ties, thresholds, tiny, nearly, torch.zeros(2, k), torch.full((2, k), -1.5), bad]


def _near_ties(values: np.ndarray, top: float) -> Tensor:
    """fp32 rows whose elements lie beside the ties of values*amax/top: one rounding more or less shows in the codes."""
    amax = torch.rand(48, 1, generator=torch.Generator().manual_seed(7)) * 3 + 0.5
    middle = torch.from_numpy((values[1:] + values[:-1]) / 2).float()
    x = middle[-120:] / top * amax
    x = torch.cat([x, x.nextafter(torch.zeros(1)), x.nextafter(torch.full((1,), 9.0))], dim=1)
    return torch.cat([x, -amax], dim=1)


def _rotated() -> None:
    """Whole numbers rotated by 16 or 64 are exact in fp32: rotating inside the quantizer is rotating before it."""
    for n in (16, 64):
        x = torch.randint(-64, 65, (3, 128), generator=torch.Generator().manual_seed(n)).float()
        before = x.reshape(-1, n) @ torch.from_numpy(scipy.linalg.hadamard(n)).float() / n**0.5
        for name in ("nvfp4", "mxfp4") if n == 64 else ("nvfp4",):
            found, wanted = quantize(x, name, hadamard=n), quantize(before.reshape(3, 128), name)
            same = torch.equal(found.data, wanted.data) and torch.equal(found.scale, wanted.scale)
            assert same, f"{name} with a rotation by {n} is not {name} of the rotated input"
            assert found.hadamard == n, f"{name}: the result does not say that it is rotated by {n}"


def _nvfp4(x: Tensor, name: str, gs: float | None) -> None:
    q = quantize(x, name, global_scale=gs)
    wide = x.double().numpy()
    encode = 1.0
    if name == "nvfp4":
        finite = np.where(np.isfinite(wide), np.abs(wide), 0.0).max()
        dynamic = 1.0 if finite == 0 else min(448.0 * 6.0 / finite, float(LARGEST))
        encode = float(np.float32(dynamic if gs is None else gs))
        assert float(q.global_scale) == encode, (
            f"global scale is {float(q.global_scale)!r}, expected {encode!r}"
        )
    blocks = wide.reshape(len(wide), -1, 16)
    amax = np.abs(blocks).max(-1)
    bad = ~np.isfinite(amax)
    scale = nearest(E4M3, np.where(bad, 0, amax) * encode / 6)
    size = E4M3[scale][..., None]
    with np.errstate(all="ignore"):
        y = np.where(size > 0, np.where(bad[..., None], 0, blocks) * encode / size, 0.0)
    codes = _e2m1(y) * (~bad & (scale > 0))[..., None]
    _compare(q, np.where(bad, 0x7F, scale), codes, x)


def _mxfp4(x: Tensor, fmt: Format) -> None:
    q = quantize(x, fmt)
    blocks = x.double().numpy().reshape(len(x), -1, 32)
    bad = ~np.isfinite(blocks).all(-1)
    exponent = np.vectorize(lambda *at: _exponent(blocks[at], fmt.rule), otypes=[int])(*np.indices(bad.shape))
    byte = np.clip(exponent + 127, 0, 254)
    y = np.where(bad[..., None], 0, blocks) * (3.0 if fmt.rule == "abs_max" else 1.0)
    codes = _e2m1(y * np.ldexp(1.0, 127 - byte)[..., None]) * ~bad[..., None]
    _compare(q, np.where(bad, 0xFF, byte), codes, x)


def _exponent(block: np.ndarray, rule: str) -> int:
    amax = np.abs(block).max()
    if not np.isfinite(amax):
        return 0
    if rule == "quest":
        row = block.astype(np.float32)
        with np.errstate(all="ignore"):
            mean = np.float32(row.astype(np.float64).sum()) / np.float32(32)
            square = np.float32((row * row).astype(np.float64).sum()) / np.float32(32)
            variance = square - mean * mean
        if not np.isfinite(square):
            return 127
        if variance < 0:
            return 0
        amax = np.sqrt(variance) * np.float32(2.92247856 / 6) + np.float32(1e-8)
        return math.frexp(float(amax))[1] - 1
    if rule == "abs_max":
        return math.frexp(float(np.float32(amax) + np.float32(1e-8)))[1] - 1
    if amax == 0:
        return -1000
    fraction, exponent = math.frexp(float(amax))
    mantissa, limit = 2 * fraction, ONCE_MORE[rule]
    return exponent - 3 + int(mantissa >= limit if rule == "even" else mantissa > limit)


def _fp8(x: Tensor) -> None:
    row = x.numpy()
    with np.errstate(all="ignore"):
        for name, scale in (("fp8", None), ("fp8", np.float32(0.02)), ("fp8_token", None)):
            amax = np.abs(row).max() if name == "fp8" else np.abs(row).max(-1, keepdims=True)
            found = (amax / np.float32(448)) if scale is None else scale
            if name == "fp8_token":
                found = np.maximum(found, np.float32(1.0 / (448.0 * 512.0)))
                y = row / found
            else:
                y = row * np.minimum(np.float32(1) / found, LARGEST)
            found = np.where(np.isfinite(found), found, np.nan).astype(np.float32).reshape(-1, 1)
            codes = nearest(E4M3, y.astype(np.float64)) | np.where(np.signbit(y), 128, 0)
            codes = np.where(np.isnan(y), 127, codes) * ~np.isnan(found)
            q = quantize(x, name, scale=None if scale is None else float(scale))
            _compare_rows(q, found, codes, None, x)


def _int8(x: Tensor) -> None:
    row = x.numpy()
    with np.errstate(all="ignore"):
        scale = np.float32(0.03)
        q = quantize(x, "int8", scale=float(scale))
        _compare_rows(q, np.array([[scale]]), _saturated(row / scale, 0), None, x)
        q = quantize(x, "int8_asym", scale=float(scale), zero_point=-5)
        _compare_rows(q, np.array([[scale]]), _saturated(row / scale, -5), np.array([[-5]]), x)
        amax = np.abs(row).max(-1, keepdims=True)
        finite = np.isfinite(amax)
        found = np.where(finite, amax / np.float32(127), np.nan)
        codes = _saturated(row * np.minimum(np.float32(127) / amax, LARGEST), 0) * finite
        _compare_rows(quantize(x, "int8_token"), found, codes, None, x)
        low, high = row.min(-1, keepdims=True), row.max(-1, keepdims=True)
        found = np.where(
            high == low, amax, np.maximum((high - low) / np.float32(255), amax * np.float32(2**-20))
        )
        found = np.where(finite, np.where(found == 0, np.where(amax == 0, 1, amax), found), np.nan)
        zero = np.where(finite, np.rint(np.float32(-128) - low / found), 0)
        codes = np.where(finite, _saturated(row / found, zero), 0)
        _compare_rows(quantize(x, "int8_asym"), found, codes, zero, x)


def _saturated(y: np.ndarray, zero: np.ndarray | int) -> np.ndarray:
    return np.where(np.isnan(y), 0, np.clip(np.rint(y.astype(np.float64)) + zero, -128, 127))


def _e2m1(y: np.ndarray) -> np.ndarray:
    return nearest(E2M1, y) | np.where(np.signbit(y), 8, 0)


def _chunks() -> None:
    """Rows beyond the first chunk, and leading axes, are quantized like the first."""
    module = sys.modules[check_input.__module__]  # `qkernels.quantize` is the function
    whole = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    for name in ("nvfp4", "mxfp4_ceil", "fp8", "fp8_token", "int8_asym"):
        wanted = quantize(whole, name)
        kept, module.CHUNK_ELEMENTS = module.CHUNK_ELEMENTS, 192
        try:
            found = quantize(whole, name)
        finally:
            module.CHUNK_ELEMENTS = kept
        same = torch.equal(found.data.view(torch.uint8), wanted.data.view(torch.uint8))
        assert same and torch.equal(found.scale, wanted.scale), f"{name}: rows quantized by chunks differ"
        row = quantize(whole[1, 4:], name)
        alone = name in ("nvfp4", "fp8") or torch.equal(row.scale, wanted.scale[1, 4:])
        assert alone, f"{name}: a row alone has another scale"


def _compare(q: QTensor, scale: np.ndarray, codes: np.ndarray, x: Tensor) -> None:
    found = q.scale.numpy().astype(int)
    _equal(f"{q.format.name} scale", found, scale, x)
    pairs = codes.reshape(len(codes), -1, 2)
    _equal(f"{q.format.name} codes", q.data.numpy(), pairs[..., 0] | pairs[..., 1] << 4, x)


def _compare_rows(
    q: QTensor, scale: np.ndarray, codes: np.ndarray, zero: np.ndarray | None, x: Tensor
) -> None:
    name = q.format.name
    _equal(f"{name} scale", q.scale.numpy().reshape(scale.shape), scale.astype(np.float32), x)
    data = q.data.view(torch.uint8) if q.data.dtype.is_floating_point else q.data
    _equal(f"{name} codes", data.numpy().astype(int), codes.astype(int), x)
    if zero is not None:
        assert q.zero_point is not None, f"{name}: no zero point"
        _equal(f"{name} zero point", q.zero_point.numpy().reshape(zero.shape), zero.astype(np.int32), x)


def _equal(what: str, found: np.ndarray, wanted: np.ndarray, x: Tensor) -> None:
    bad = ~((found == wanted) | (np.isnan(found) & np.isnan(wanted)))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        row = x[at[0]].tolist() if at and at[0] < len(x) else x.tolist()
        raise AssertionError(
            f"{what} at {at}: found {found[at]}, expected {wanted[at]} ({bad.sum()} differ)\n  row {row}"
        )

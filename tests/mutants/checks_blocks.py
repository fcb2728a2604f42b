"""The block formats that no kernel exists for, in numpy: other elements, 2-D blocks, four-over-six, INT4, chance."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qkernels import QTensor, get_format, quantize
from qkernels.compare import compare_quantized
from qkernels.format import Format
from tests.mutants.checks_codec import E2M1, E2M3, E3M2, E4M3, E5M2, nearest
from tests.mutants.helpers import normal

LARGEST = float(np.finfo(np.float32).max)
ELEMENTS = {"e2m1": E2M1, "e4m3": E4M3, "e5m2": E5M2, "e3m2": E3M2, "e2m3": E2M3}
NAN = {"e4m3": 0x7F, "e8m0": 0xFF, "fp32": math.nan}
FORMATS = ("nvfp4_2d", "nvfp4_min_scale", "nvfp4_4over6", "nvfp4_4over6_mae", "nvfp4_token", "mxfp8", "mxfp8_e5m2",
           "mxfp6_e3m2", "mxfp6_e2m3", "fp8_block", "fp8_block_2d", "int4", "int4_asym")  # fmt: skip


def blocks() -> None:
    """Scales, zero points, global scales and codes of each, byte for byte; then stochastic rounding."""
    for name in FORMATS:
        fmt = get_format(name)
        k = 2 * (fmt.block or 1)
        for x in _inputs(2 * fmt.block_rows + 3, k):
            _judge(x, fmt)
    for name in ("nvfp4_1l", "mxfp8", "fp8_block", "int4", "fp8_token", "int8_token"):
        _chance(name)


def _inputs(rows: int, k: int) -> list[Tensor]:
    plain = normal(rows, k)
    spread = plain * torch.exp2(torch.linspace(-20, 14, rows).round())[:, None]
    bad = plain.clone()
    bad[1, 3], bad[rows - 1, k - 1] = math.nan, -math.inf
    ties = torch.randint(-32, 33, (rows, k), generator=torch.Generator().manual_seed(1)) / 4.0
    ties[:, :: k // 2] = -6.0
    tiny = torch.zeros(rows, k)
    tiny[0, 1], tiny[rows - 1, 0] = 2.0**-149, 3e38
    return [plain, plain + 3.0, spread, ties, bad, tiny, torch.zeros(rows, k)]


def _judge(x: Tensor, fmt: Format) -> None:
    q = quantize(x, fmt)
    rows = fmt.block_rows
    groups = -(-len(x) // rows)
    padded = np.zeros((groups * rows, x.shape[1]))
    padded[: len(x)] = x.double().numpy()
    gs = _global_scale(x, fmt)
    if fmt.levels == 2:
        assert q.global_scale is not None
        _same(f"{fmt.name} global scale", q.global_scale.double().numpy().reshape(-1), gs.reshape(-1))
    columns = x.shape[1] // (fmt.block or 1)
    for r in range(groups):
        for c in range(columns):
            at = slice(r * rows, (r + 1) * rows), slice(c * (fmt.block or 1), (c + 1) * (fmt.block or 1))
            scale, zero, codes = _block(padded[at], fmt, float(gs[r] if len(gs) > 1 else gs[0]))
            where = f"{fmt.name} block {r}, {c}"
            _same(f"{where}: scale", q.scale[r, c].double().numpy(), np.float64(scale))
            if q.zero_point is not None:
                _same(f"{where}: zero point", q.zero_point[r, c].numpy(), np.float64(zero))
            here = slice(r * rows, min(len(x), (r + 1) * rows)), at[1]
            _same(f"{where}: codes", q.codes()[here].numpy(), codes[: here[0].stop - here[0].start])


def _global_scale(x: Tensor, fmt: Format) -> np.ndarray:
    if fmt.levels == 1:
        return np.ones(1)
    size = np.where(np.isfinite(x.numpy()), np.abs(x.double().numpy()), 0.0)
    amax = size.max(-1) if fmt.global_granularity == "row" else size.max().reshape(1)
    with np.errstate(all="ignore"):
        gs = np.minimum((256.0 if fmt.select else 448.0) * 6 / amax, LARGEST)
    return np.where(amax > 0, gs, 1.0).astype(np.float32).astype(np.float64)


def _block(x: np.ndarray, fmt: Format, gs: float) -> tuple[float, float, np.ndarray]:
    """(stored scale, zero point, codes) of one block."""
    if not np.isfinite(x).all():
        return NAN[fmt.scale], 0, np.zeros(x.shape)
    amax = np.abs(x).max()
    if fmt.scale == "e8m0":
        table = ELEMENTS[fmt.element.name]
        exponent = math.frexp(amax)[1] - math.frexp(table[-1])[1] if amax > 0 else -127
        byte = min(max(exponent + 127, 0), 254)
        return byte, 0, _floats(x * 2.0 ** (127 - byte), table)
    if fmt.scale == "e4m3":
        six, four = (
            int(nearest(E4M3, np.array(max(amax * gs / 6 * factor, fmt.min_scale)))) for factor in (1, 1.5)
        )
        errors = [_error(x * gs, E4M3[byte], fmt.select) for byte in (six, four)]
        byte = four if fmt.select and errors[1] < errors[0] else six
        return byte, 0, _floats(x * gs / E4M3[byte], E2M1) if E4M3[byte] > 0 else np.zeros(x.shape)
    if fmt.element.name == "e4m3":
        scale = float(np.float32(amax / 448))
        return scale, 0, _floats(x / scale, E4M3) if scale > 0 else np.zeros(x.shape)
    if fmt.symmetric:
        scale = float(np.float32(amax / 7.5))
        return scale, 0, np.clip(np.rint(x / scale), -8, 7).astype(int) & 15 if scale else np.zeros(x.shape)
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    scale = float(np.float32((high - low) / 15))
    if scale == 0:
        return scale, 0, np.zeros(x.shape)
    zero = float(np.clip(np.rint(-low / scale), 0, 15))
    return scale, zero, np.clip(np.rint(x / scale) + zero, 0, 15)


def _error(y: np.ndarray, scale: float, select: str) -> float:
    if scale == 0 or not select:
        return float(np.abs(y).sum() if select == "mae" else (y * y).sum())
    value = E2M1[nearest(E2M1, y / scale)] * scale
    off = value - np.abs(y)
    return float((off * off).sum() if select == "mse" else np.abs(off).sum())


def _floats(y: np.ndarray, table: np.ndarray) -> np.ndarray:
    sign = len(table) if len(table) in (8, 32) else 128
    return nearest(table, y) | np.where(np.signbit(y), sign, 0)


def _chance(name: str) -> None:
    """Codes are neighbours, their mean is x, the draws follow from the seed."""
    row = normal(1, 128, seed=5)
    x = row.expand(2000, -1).contiguous()

    def draw(seed: int) -> QTensor:
        return quantize(x, name, rounding="stochastic", generator=torch.Generator().manual_seed(seed))

    q = draw(0)
    fmt = q.format
    wrong = compare_quantized(q, x, fmt, rounding="stochastic")
    assert wrong is None, f"{name}, stochastic: {wrong}"
    values = q.dequantize(torch.float64)
    off = (values.mean(0) - row[0].double()).abs()
    room = 6 * values.std(0) / len(x) ** 0.5 + 1e-6
    top = fmt.element.greatest if fmt.element.integer else fmt.element.max
    scale = q.scale_values()[0].repeat_interleave(128 // q.scale.shape[-1])
    biased = (off > room) & (row[0].abs() <= top * scale)  # beyond, codes saturate
    assert not bool(biased.any()), (
        f"{name}: stochastic rounding is biased by up to {float(off[biased].max()):.3g}"
    )
    assert bool((values.std(0) > 0).any()), f"{name}: nothing is left to chance"
    assert torch.equal(draw(0).data.view(torch.uint8), q.data.view(torch.uint8)), (
        f"{name}: draws do not repeat"
    )
    assert not torch.equal(draw(1).data.view(torch.uint8), q.data.view(torch.uint8)), (
        f"{name}: the seed is ignored"
    )


def _same(what: str, found: np.ndarray, wanted: np.ndarray) -> None:
    bad = ~((found == wanted) | (np.isnan(found) & np.isnan(wanted)))
    if np.any(bad):
        at = tuple(int(i) for i in np.argwhere(bad)[0]) if np.ndim(bad) else ()
        raise AssertionError(
            f"{what} at {at}: found {found[at]}, expected {wanted[at]} ({np.sum(bad)} differ)"
        )

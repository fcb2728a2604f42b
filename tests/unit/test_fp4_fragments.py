"""Weights in tensor-core order hold exactly what the QTensor holds, wherever in the tile an element lies."""

from __future__ import annotations

import math

import pytest
import torch

from qbench import Unsupported
from qkernels.format import MXFP4, NVFP4, NVFP4_1L, Format
from qkernels.tensor import QTensor
from qkernels.triton.fp4_fragments import Fragments, fragments

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
PLACES = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 14, 10, 11))


def random_weight(n: int, k: int, fmt: Format, low: int = 0, high: int = 256, seed: int = 0) -> QTensor:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, generator=generator)
    scale = torch.randint(low, high, (n, k // fmt.block), dtype=torch.uint8, generator=generator)
    return QTensor(data, scale, fmt, (n, k), torch.tensor(3.0) if fmt.levels == 2 else None)


def unshuffled(f: Fragments) -> torch.Tensor:
    """float64 [n, k] by the layout's description, an element at a time, without alpha."""
    out = torch.zeros(f.n, f.k, dtype=torch.float64)
    block = f.format.block
    words, scales = f.data.tolist(), f.scale.tolist()
    for row in range(f.n):
        tile, s, g = row // 16, row % 16 // 8, row % 8
        for column in range(f.k):
            chunk, e, h = column // 64, column % 64 // 16, column % 16 // 8
            t, half = column % 8 // 2, column % 2
            bits = words[tile][chunk][4 * g + t][e] >> (16 * half) & 0xFFFF
            code = sum((bits >> place & 1) << bit for bit, place in enumerate(PLACES[s + 2 * h]))
            byte = (g * 64 // block + column % 64 // block) * 2 + s
            scale = scales[tile][chunk][byte // 4] >> (8 * (byte % 4)) & 0xFF
            out[row, column] = E2M1[code] * scale_value(scale, f)
    return out


def scale_value(byte: int, f: Fragments) -> float:
    if f.format.scale == "e8m0":
        return 2.0 ** (byte - 127)
    return math.nan if byte == 255 else (1 + (byte & 7) / 8) * 2.0 ** ((byte >> 3) - 21)


@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("n", "k"), [(16, 64), (32, 128), (5, 32), (33, 96)])
def test_every_element_is_where_the_layout_says(n: int, k: int, fmt: Format) -> None:
    w = random_weight(n, k, fmt, 0, 0x7F if fmt.scale == "e4m3" else 128)
    found = unshuffled(fragments(w))
    exact = w.exact_values(torch.float64)
    assert torch.equal(found, exact)


def test_all_scales_of_nvfp4_negative_ones_too() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8)
    w = QTensor(torch.full((16, 128), 0x92, dtype=torch.uint8), bytes_.view(16, 16), NVFP4_1L, (16, 256))
    torch.testing.assert_close(
        unshuffled(fragments(w)), w.exact_values(torch.float64), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize(
    ("low", "high", "shift"), [(0, 0, 126), (100, 128, 126), (140, 200, 54), (190, 254, 0)]
)
def test_the_range_of_mxfp4_scales_is_moved_into_that_of_bf16(low: int, high: int, shift: int) -> None:
    w = random_weight(16, 64, MXFP4, low, high + 1)
    w.scale[0, 0], w.scale[1, 0] = low, high
    if low + shift < 121:
        with pytest.raises(Unsupported, match="too far for bf16"):
            fragments(w)
        return
    f = fragments(w)
    assert (f.unit, int(f.base)) == (2.0 ** (126 - shift), shift // 2)


def test_a_nan_scale_of_mxfp4_is_refused() -> None:
    w = random_weight(16, 64, MXFP4, 100, 120)
    w.scale[3, 1] = 255
    with pytest.raises(Unsupported, match="NaN"):
        fragments(w)


def test_fragments_take_as_many_bytes_as_the_format() -> None:
    for fmt in (NVFP4, MXFP4):
        w = random_weight(64, 256, fmt, 100, 120)
        assert fragments(w).nbytes == w.data.numel() + w.scale.numel()

"""What the exact quantizer must give, byte by byte and by hand: corners that a second implementation could share."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch

from qkernels.format import (
    FORMATS,
    INT8,
    INT8_ASYM,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_QUEST,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_1L,
)
from qkernels.quantize import quantize
from qkernels.quantize_mx import quest_moments


def block(amax: float, size: int = 32) -> torch.Tensor:
    x = torch.zeros(1, size)
    x[0, 3] = -amax
    return x


@pytest.mark.parametrize("power", [-100, 0, 1, 60])
@pytest.mark.parametrize(
    ("fmt", "bytes_of"),
    [
        (MXFP4, {1.0: 125, 1.5: 125, 1.75: 125, 1.9999: 125}),
        (MXFP4_CEIL, {1.0: 125, 1.0001: 126, 1.75: 126}),
        (MXFP4_EVEN, {1.0: 125, 1.7499: 125, 1.75: 126, 1.9999: 126}),
        (MXFP4_RCEIL, {1.0: 125, 1.5: 125, 1.5001: 126}),
    ],
)
def test_shared_exponent_of_each_rule(fmt, bytes_of, power):
    for mantissa, byte in bytes_of.items():
        assert quantize(block(mantissa * 2.0**power), fmt).scale.item() == byte + power


def test_abs_max_adds_its_epsilon_before_the_exponent_is_taken():
    assert quantize(block(0.0), MXFP4_ABS_MAX).scale.item() == 127 - 27  # floor(log2 1e-8) = -27
    just_below = 1.0 - 2.0**-24  # + 1e-8 stays below 1 in fp32
    assert quantize(block(just_below), MXFP4_ABS_MAX).scale.item() == 126
    assert (
        quantize(block(2.0**-20 - 0.9e-8), MXFP4_ABS_MAX).scale.item() == 127 - 20
    )  # the epsilon lifts it over


def test_quest_takes_scale_one_where_rounding_makes_the_variance_negative():
    generator = torch.Generator().manual_seed(0)
    near = 1.1 + torch.rand(4000, 32, generator=generator) * 1e-4
    variance, _ = quest_moments(near.to(torch.float64))
    negative = near[variance < 0]
    assert len(negative) > 10
    assert (quantize(negative, MXFP4_QUEST).scale == 127).all()


@pytest.mark.parametrize("fmt", [NVFP4_1L, NVFP4])
def test_a_least_block_scale_lifts_small_blocks_to_it(fmt):
    lifted = dataclasses.replace(fmt, min_scale=2.0**-6)
    options = {"global_scale": 1.0} if fmt is NVFP4 else {}
    small = block(2.0**-9, 16)
    assert quantize(small, lifted, **options).scale.item() == 0x08  # the least normal E4M3 number
    assert quantize(small, fmt, **options).scale.item() == 0x00


def test_a_nearly_constant_row_keeps_its_value():
    """max - min is one ulp: the plain formula's zero point leaves fp32, and the row with it."""
    x = torch.full((1, 64), 1.0)
    x[0, ::2] = 1.0 + 2.0**-23
    q = quantize(x, INT8_ASYM)
    assert q.scale.item() == pytest.approx(2.0**-20, rel=1e-6)
    assert (q.dequantize(torch.float64) - x).abs().max() <= 2.0**-20


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f is not INT8], ids=lambda fmt: fmt.name)
def test_rows_taken_in_chunks_are_the_rows_taken_at_once(fmt, monkeypatch):
    rows = 11 if fmt.block_rows == 1 else 2 * fmt.block_rows + 11
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(1)) * torch.arange(
        1.0, rows + 1
    ).unsqueeze(1)
    whole = quantize(x, fmt)
    monkeypatch.setattr(importlib.import_module("qkernels.quantize"), "CHUNK_ELEMENTS", 3 * 128)
    parts = quantize(x, fmt)
    assert torch.equal(whole.data.view(torch.uint8), parts.data.view(torch.uint8))
    assert torch.equal(whole.scale, parts.scale)
    if whole.zero_point is not None:
        assert torch.equal(whole.zero_point, parts.zero_point)
    if whole.global_scale is not None:
        assert torch.equal(whole.global_scale, parts.global_scale)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: quantize([[1.0] * 64], NVFP4), TypeError, "cannot quantize a list"),
        (
            lambda: quantize(torch.ones(1, 64), NVFP4, hadamard=16.0),
            TypeError,
            "Hadamard size 16.0 is a float",
        ),
        (
            lambda: quantize(torch.ones(1, 64), INT8_ASYM, scale=0.1, zero_point=3.7),
            TypeError,
            "3.7 is not a whole",
        ),
        (lambda: quantize(torch.ones(1, 64), INT8_ASYM, scale=0.1, zero_point=10**9), ValueError, "beyond 2"),
    ],
)
def test_what_cannot_be_quantized_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()

"""The comparator passes what is right: row scales, tiles, other MX elements, FP8 and INT4 blocks in honest orders."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qkernels.codec import decode_float, pack_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import (
    E4M3,
    FORMATS,
    FP8_BLOCK,
    INT4,
    INT4_ASYM,
    MXFP8,
    Format,
)
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.unit.block_samples import BLOCKS, every_block_kind, fails, sample


@every_block_kind
@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([1, 15, 16, 17, 40]),
    seed=st.integers(0, 999),
    power=st.integers(-30, 30),
    data=st.data(),
)
def test_what_the_reference_gives_passes(fmt: Format, rows: int, seed: int, power: int, data: st.DataObject):
    g = torch.Generator().manual_seed(seed)
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float32]))
    x = torch.randn(rows, 256, generator=g) * torch.exp2(
        torch.randint(-9, 10, (rows, 1), generator=g).float()
    )
    if data.draw(st.booleans()):
        x = x.round()  # ties and zeros
    x = (x * 2.0**power).to(dtype)
    drawn = quantize(x, fmt, rounding="stochastic", generator=g)
    assert compare_quantized(quantize(x, fmt), x, fmt) is None
    assert compare_quantized(drawn, x, fmt, rounding="stochastic") is None


@every_block_kind
def test_leading_axes_and_vectors_pass(fmt: Format):
    x = sample(256).view(2, 128, 384)
    assert compare_quantized(quantize(x, fmt), x, fmt) is None
    assert compare_quantized(quantize(x[0, 0], fmt), x[0, 0], fmt) is None


@pytest.mark.parametrize("fmt", [f for f in BLOCKS if f.hadamard], ids=lambda f: f.name)
def test_an_fp32_rotation_passes(fmt: Format):
    x = sample()
    for size in fmt.hadamard:
        q = dataclasses.replace(quantize(rotate(x, size), fmt), hadamard=size)
        assert compare_quantized(q, x, fmt, hadamard=size) is None


def fp32_kernel(x: Tensor, fmt: Format, reciprocal: bool) -> QTensor:
    """FP8 and INT4 blocks of one row in fp32 alone, in the orders of DeepGEMM, GPTQ and compressed-tensors."""
    blocks = x.float().unflatten(-1, (-1, 128))
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    amax, top = torch.maximum(-low, high), torch.full((), fmt.element.max)
    scale = amax / top if fmt.symmetric else (high - low) / top
    wide = scale.unsqueeze(-1)
    y = blocks * (1 / wide).clamp(max=3e38) if reciprocal else torch.where(wide > 0, blocks / wide, 0.0)
    zero = None
    if fmt is FP8_BLOCK:
        if reciprocal:
            y = blocks * (448 / amax.unsqueeze(-1)).clamp(max=3e38)
        data = y.clamp(-448, 448).to(torch.float8_e4m3fn).flatten(-2)
    else:
        if not fmt.symmetric:
            zero = torch.where(scale > 0, -low / scale, 0.0).round().to(torch.int32)
        shift = 0 if zero is None else zero.unsqueeze(-1)
        codes = (y + shift).round() if reciprocal else y.round() + shift
        codes = codes.clamp(fmt.element.least, fmt.element.greatest).to(torch.int16) & 15
        data = pack_e2m1(codes.to(torch.uint8).flatten(-2))
    return QTensor(data, scale, fmt, tuple(x.shape), zero_point=zero)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("fmt", [FP8_BLOCK, INT4, INT4_ASYM], ids=lambda f: f.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_fp32_orders_pass(fmt: Format, reciprocal: bool, dtype: torch.dtype):
    for seed in range(3):
        x = torch.randn(512, 384, generator=torch.Generator().manual_seed(seed)).to(dtype)
        x[:64] = (x[:64] * 4).round() / 4
        x[64] = 0
        assert compare_quantized(fp32_kernel(x, fmt, reciprocal), x, fmt) is None


def test_a_zero_block_may_have_any_fp32_scale_but_only_zeros():
    x = sample()
    q = quantize(x, FP8_BLOCK)
    scale = q.scale.clone()
    scale[3], scale[5, 0] = 1.0, 1e-4 / 448
    other = dataclasses.replace(q, scale=scale)
    assert compare_quantized(other, x, FP8_BLOCK) is None
    data = q.data.clone()
    data.view(torch.uint8)[3, 100] = 1
    assert fails(dataclasses.replace(other, data=data), x, FP8_BLOCK, "row 3, column 100")


def test_decoded_values_are_those_of_the_definitions():
    """The comparator judges bytes; that the decoder reads the same bytes is shown once, apart from it."""
    x = sample(32)
    q = quantize(x, MXFP8)
    by_hand = decode_float(q.data.view(torch.uint8), E4M3).double().unflatten(-1, (-1, 32))
    by_hand = by_hand * torch.exp2(q.scale.double() - 127).unsqueeze(-1)
    assert torch.equal(q.dequantize(torch.float64), by_hand.flatten(-2))
    q = quantize(x, FORMATS["nvfp4_2d"])
    assert q.global_scale is not None
    tall = q.scale.view(torch.float8_e4m3fn).double().repeat_interleave(16, 0).repeat_interleave(16, 1)
    codes = torch.stack([q.data & 15, q.data >> 4], -1).flatten(-2)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]).double()
    assert torch.equal(q.dequantize(torch.float64), table[codes.long()] * tall / q.global_scale.double())

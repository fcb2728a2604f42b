"""The comparator accepts every honest order of operations; planted bugs are in test_compare_bugs.py."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
from torch import Tensor

from qkernels.codec import decode_e4m3, encode_e2m1, encode_e4m3, pack_e2m1, unpack_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8,
    INT8,
    INT8_ASYM,
    MXFP4,
    MXFP6_E3M2,
    NVFP4,
    Format,
)
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.unit.quantizer_samples import every_block_format, every_format, sample, static


def fp32_nvfp4(x: Tensor, gs: Tensor, order: str) -> QTensor:
    """NVFP4 in fp32, in one of the orders kernels use."""
    blocks = x.float().unflatten(-1, (-1, 16))
    amax = blocks.abs().amax(-1)
    t = amax * (gs / 6) if order == "folded" else amax / 6 * gs
    scale = encode_e4m3(t.clamp(max=448))
    s = decode_e4m3(scale).unsqueeze(-1)
    y = blocks * (gs / s) if order == "folded" else blocks * gs * (1 / s)
    codes = encode_e2m1(torch.where(s > 0, y, 0)).flatten(-2)
    return QTensor(pack_e2m1(codes), scale, NVFP4, tuple(x.shape), gs)


@every_format
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_reference_passes(fmt: Format, dtype: torch.dtype):
    x = sample(dtype)
    for size in (None, *fmt.hadamard):
        q = quantize(x, fmt, hadamard=size, **static(fmt))
        assert compare_quantized(q, x, fmt, hadamard=size, **static(fmt)) is None


@pytest.mark.parametrize("order", ["folded", "reciprocal"])
def test_other_fp32_orders_pass_though_their_bytes_differ(order: str):
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    q = quantize(x, NVFP4)
    assert q.global_scale is not None
    other = fp32_nvfp4(x, q.global_scale, order)
    assert compare_quantized(other, x, NVFP4) is None
    assert not (torch.equal(q.data, other.data) and torch.equal(q.scale, other.scale))


@every_block_format
def test_an_fp32_rotation_passes(fmt: Format):
    x = sample()
    for size in fmt.hadamard:
        y = rotate(x, size)  # fp32; quantized as it is
        q = dataclasses.replace(quantize(y, fmt), hadamard=size)
        assert compare_quantized(q, x, fmt, hadamard=size) is None


def test_static_scales_are_compared_exactly():
    x = sample()
    q = quantize(x, NVFP4, global_scale=100.0)
    assert compare_quantized(q, x, NVFP4, global_scale=100.0) is None
    problem = compare_quantized(q, x, NVFP4, global_scale=100.25)
    assert problem is not None
    assert "the static one is 100.25" in problem.summary
    for fmt, options in (
        (FP8, {"scale": 0.01}),
        (INT8, {"scale": 0.03}),
        (INT8_ASYM, {"scale": 0.02, "zero_point": 3}),
    ):
        q = quantize(x, fmt, **options)
        assert compare_quantized(q, x, fmt, **options) is None
        assert compare_quantized(q, x, fmt, **{**options, "scale": 0.0101}) is not None
    assert compare_quantized(q, x, INT8_ASYM, scale=0.02, zero_point=4) is not None


@every_format
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_finite_never_agree(fmt: Format, bad: float):
    clean = sample()
    x = clean.clone()
    x[20, 33] = bad
    for size in (None, *fmt.hadamard):
        options = {**static(fmt), "hadamard": size}
        poisoned = quantize(x, fmt, **options)
        assert compare_quantized(poisoned, x, fmt, **options) is None
        if fmt is not INT8:  # static int8 has no place for NaN
            assert poisoned.dequantize()[20, 33].isnan()
            assert compare_quantized(quantize(clean, fmt, **options), x, fmt, **options) is not None
            assert compare_quantized(poisoned, clean, fmt, **options) is not None


def test_negative_zero_is_kept():
    x = torch.zeros(1, 32)
    x[0, :8] = -0.0
    x[0, 31] = 6
    q = quantize(x, MXFP4)
    assert compare_quantized(q, x, MXFP4) is None
    lost = torch.where(unpack_e2m1(q.data) == 8, 0, unpack_e2m1(q.data))
    assert compare_quantized(dataclasses.replace(q, data=pack_e2m1(lost)), x, MXFP4) is not None


def test_six_bit_codes_leave_the_upper_bits_of_their_byte_alone():
    x = sample()
    q = quantize(x, MXFP6_E3M2)
    data = q.data.clone()
    data[20, 7] |= 0x40
    problem = compare_quantized(dataclasses.replace(q, data=data), x, MXFP6_E3M2)
    assert problem is not None
    assert "low six bits" in problem.summary and "at [20, 7]" in problem.details
    assert torch.equal(dataclasses.replace(q, data=data).dequantize(), q.dequantize())


def test_structure_is_judged_before_values():
    x = sample()
    q = quantize(x, MXFP4)
    assert "format is mxfp4, expected nvfp4" in str(compare_quantized(q, x, NVFP4))
    assert "shape" in str(compare_quantized(q, x[:-1], MXFP4))
    assert "Hadamard size is None, expected 32" in str(compare_quantized(q, x, MXFP4, hadamard=32))


@every_format
def test_chunks_are_joined(fmt: Format, monkeypatch: pytest.MonkeyPatch):
    x = sample().view(4, 12, 256) if fmt.block_rows == 1 else sample().repeat(6, 1)
    whole = quantize(x, fmt, **static(fmt))
    # `qkernels.quantize` names the function too: the package exports it
    monkeypatch.setattr(importlib.import_module("qkernels.quantize"), "CHUNK_ELEMENTS", 7 * 256)
    parts = quantize(x, fmt, **static(fmt))
    assert torch.equal(parts.data.view(torch.uint8), whole.data.view(torch.uint8))
    assert torch.equal(parts.scale, whole.scale)
    assert compare_quantized(whole, x, fmt, **static(fmt)) is None
    data = whole.data.clone()
    flat = data.view(torch.uint8).view(-1, data.shape[-1])
    sign = {4: 0x88, 6: 0x20, 8: 0x80}[fmt.element.bits]
    flat[47, 5] ^= sign
    flat[2, 5] ^= sign
    problem = compare_quantized(dataclasses.replace(whole, data=data), x, fmt, **static(fmt))
    assert problem is not None
    assert problem.count == (4 if fmt.packed else 2)
    assert "row 2, column" in problem.details


@every_format
def test_no_rows_are_right(fmt: Format):
    x = torch.empty(0, 128)
    assert compare_quantized(quantize(x, fmt, **static(fmt)), x, fmt, **static(fmt)) is None

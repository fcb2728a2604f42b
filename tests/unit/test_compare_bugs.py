"""The comparator fails on every planted bug, says where, and names the likely cause."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from qkernels.codec import pack_e2m1, unpack_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_QUEST,
    NVFP4,
    NVFP4_1L,
    Format,
)
from qkernels.quantize import quantize
from tests.unit.quantizer_samples import every_block_format, every_format, sample, static


@every_block_format
def test_swapped_nibbles_fail_and_are_named(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    problem = compare_quantized(dataclasses.replace(q, data=(q.data >> 4) | (q.data << 4)), x, fmt)
    assert problem is not None
    assert "nibble order" in problem.details
    assert problem.count > x.numel() // 4


@every_block_format
def test_truncation_fails_and_is_named(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    codes = unpack_e2m1(q.data)
    value, decoded = x.double().abs(), q.dequantize(torch.float64).abs()
    truncated = torch.where(decoded > value * (1 + 1e-5), codes - 1, codes)
    problem = compare_quantized(dataclasses.replace(q, data=pack_e2m1(truncated)), x, fmt)
    assert problem is not None
    assert "truncation" in problem.details


def test_ties_away_from_zero_fail_and_are_named():
    x = torch.tensor([0.25, 1.25, 2.5, 5.0, -0.25, -5.0, 6.0, 0.0] * 4).bfloat16()[None]
    q = quantize(x, MXFP4)
    away = torch.where(q.dequantize().abs() < x.float().abs(), unpack_e2m1(q.data) + 1, unpack_e2m1(q.data))
    problem = compare_quantized(dataclasses.replace(q, data=pack_e2m1(away)), x, MXFP4)
    assert problem is not None
    assert "ties" in problem.details


@pytest.mark.parametrize("step", [1, -1])
@every_block_format
def test_one_scale_byte_off_by_one_fails_and_is_placed(fmt: Format, step: int):
    x = sample()
    q = quantize(x, fmt)
    scale = q.scale.clone()
    scale[20, 3] = int(scale[20, 3]) + step
    problem = compare_quantized(dataclasses.replace(q, scale=scale), x, fmt)
    assert problem is not None
    assert problem.count == 1
    assert "row 20, block 3" in problem.details
    assert f"{step:+d} off" in problem.details


@every_format
def test_a_last_row_never_written_fails_and_is_named(fmt: Format):
    x = torch.cat([sample(), sample(), sample(), sample()])
    q = quantize(x, fmt, **static(fmt))
    first = len(x) - 1 if fmt.block_rows == 1 else (len(x) - 1) // fmt.block_rows * fmt.block_rows
    byte = 0x25 if fmt.element.bits == 6 else 0xA5
    data, scale = q.data.clone(), q.scale.clone()
    data[-1].view(torch.uint8).fill_(byte)
    if scale.ndim == 2:
        scale[-1].view(torch.uint8).fill_(byte)
    problem = compare_quantized(dataclasses.replace(q, data=data, scale=scale), x, fmt, **static(fmt))
    assert problem is not None
    words = f"only in rows {first}..191: likely never written, or beyond a mask (the last rows)"
    assert words in problem.details


def test_a_dropped_or_inverted_global_scale_fails_and_is_named():
    x = sample()
    q = quantize(x, NVFP4)
    assert q.global_scale is not None
    plain = quantize(x, NVFP4_1L)
    for other, words in (
        (dataclasses.replace(q, scale=plain.scale, data=plain.data), "global scale was not applied"),
        (dataclasses.replace(q, global_scale=torch.ones(())), "dropped"),
        (dataclasses.replace(q, global_scale=1 / q.global_scale), "inverted"),
        (dataclasses.replace(q, global_scale=torch.full((), float("nan"))), "not a finite"),
    ):
        problem = compare_quantized(other, x, NVFP4)
        assert problem is not None
        assert words in problem.details


@pytest.mark.parametrize("fmt", [FP8, FP8_TOKEN, INT8, INT8_TOKEN, INT8_ASYM], ids=lambda f: f.name)
def test_a_scale_two_ulp_off_or_a_wrong_code_fails(fmt: Format):
    x = sample()
    q = quantize(x, fmt, **static(fmt))
    scale = (q.scale.view(torch.int32) + 2).view(torch.float32)
    assert "scale" in str(compare_quantized(dataclasses.replace(q, scale=scale), x, fmt, **static(fmt)))
    data = q.data.clone()
    data.view(torch.uint8)[20, 9] ^= 1
    problem = compare_quantized(dataclasses.replace(q, data=data), x, fmt, **static(fmt))
    assert problem is not None
    assert problem.count == 1
    assert "row 20, column 9" in problem.details


def test_a_lost_constant_row_and_a_wrong_zero_point_fail():
    x = sample()
    q = quantize(x, INT8_ASYM)
    assert q.zero_point is not None
    data = q.data.clone()
    data[7] = 0
    assert "row 7" in str(compare_quantized(dataclasses.replace(q, data=data), x, INT8_ASYM))
    zero = q.zero_point.clone()
    zero[20] += 1
    assert "row 20" in str(compare_quantized(dataclasses.replace(q, zero_point=zero), x, INT8_ASYM))


def test_abs_max_judged_as_floor_and_quest_as_floor_fail():
    x = sample()
    for fmt in (MXFP4_ABS_MAX, MXFP4_QUEST):
        assert compare_quantized(dataclasses.replace(quantize(x, MXFP4), format=fmt), x, fmt) is not None

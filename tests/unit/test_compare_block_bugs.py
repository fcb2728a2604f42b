"""The comparator fails on every planted bug of tiles, row scales, other MX elements, FP8 and INT4 blocks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qkernels.codec import encode_float, pack_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8_BLOCK,
    FP8_BLOCK_2D,
    INT4,
    INT4_ASYM,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8,
    MXFP8_E5M2,
    NVFP4,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
)
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.unit.block_samples import BLOCKS, MX, TILES, every_block_kind, fails, sample


@every_block_kind
@pytest.mark.parametrize("step", [1, -1])
def test_one_scale_off_fails_and_is_placed(fmt: Format, step: int):
    x = sample()
    q = quantize(x, fmt)
    scale = q.scale.clone()
    raw = scale if scale.dtype == torch.uint8 else scale.view(torch.int32)
    row = 20 // fmt.block_rows
    raw[row, 2] += step if scale.dtype == torch.uint8 else 2 * step  # a neighbour of an fp32 scale is honest
    problem = compare_quantized(dataclasses.replace(q, scale=scale), x, fmt)
    assert problem is not None
    assert problem.count == 1 and "scale" in problem.summary


@every_block_kind
@pytest.mark.parametrize("column", [32, 33])
def test_one_code_off_fails_and_is_placed(fmt: Format, column: int):
    x = sample()
    q = quantize(x, fmt)
    data = q.data.clone()
    raw = data.view(torch.uint8)
    if fmt.packed:
        raw[20, column // 2] ^= 0x10 if column % 2 else 0x01
    else:
        raw[20, column] ^= 0x01
    problem = compare_quantized(dataclasses.replace(q, data=data), x, fmt)
    assert problem is not None
    assert problem.count == 1 and f"row 20, column {column}" in problem.details


@every_block_kind
def test_a_lost_sign_fails(fmt: Format):
    x = sample()
    q, other = quantize(x, fmt), quantize(-x, fmt)
    assert fails(dataclasses.replace(q, data=other.data), x, fmt)


@pytest.mark.parametrize("fmt", [f for f in BLOCKS if f.packed], ids=lambda f: f.name)
def test_nibble_order_fails(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    assert fails(dataclasses.replace(q, data=(q.data >> 4) | (q.data << 4)), x, fmt)


@every_block_kind
def test_truncation_fails(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    codes, value = q.codes(), q.dequantize(torch.float64)
    if fmt.element.integer:
        codes = torch.where(value > x.double() + 1e-5, codes - 1, codes) & 15  # floor
    else:
        codes = torch.where(value.abs() > x.double().abs() * (1 + 1e-5), codes - 1, codes)
    data = pack_e2m1(codes) if fmt.packed else codes.view(q.data.dtype)
    assert fails(dataclasses.replace(q, data=data), x, fmt, "code")


@TILES
def test_blocks_of_one_row_in_place_of_tiles_fail(fmt: Format):
    x = sample()
    q = quantize(x, dataclasses.replace(fmt, block_rows=1), global_scale=400.0 if fmt.levels == 2 else None)
    right = quantize(x, fmt, global_scale=400.0 if fmt.levels == 2 else None)
    first = q.scale[:: fmt.block_rows]
    flat = dataclasses.replace(right, data=q.data, scale=first)
    options = {"global_scale": 400.0} if fmt.levels == 2 else {}
    problem = compare_quantized(flat, x, fmt, **options)
    assert problem is not None and "scale" in problem.summary
    # right scales, but codes of the rows' own blocks
    mixed = compare_quantized(dataclasses.replace(right, data=q.data), x, fmt, **options)
    assert mixed is not None and "code" in mixed.summary


@TILES
def test_a_last_tile_that_reads_beyond_the_rows_fails(fmt: Format):
    x = sample(fmt.block_rows + 5)
    beyond = torch.full((fmt.block_rows - 5, 384), 100.0, dtype=x.dtype)
    wide = quantize(torch.cat([x, beyond]), fmt, global_scale=400.0 if fmt.levels == 2 else None)
    cut = wide.rows(0, len(x))
    options = {"global_scale": 400.0} if fmt.levels == 2 else {}
    assert compare_quantized(cut, x, fmt, **options) is not None


def test_an_ignored_least_scale_fails():
    x = sample() * 2.0**-4
    gs = 4.0
    q = quantize(x, NVFP4, global_scale=gs)
    problem = compare_quantized(
        dataclasses.replace(q, format=NVFP4_MIN_SCALE), x, NVFP4_MIN_SCALE, global_scale=gs
    )
    assert problem is not None and "allowed 0x08 .. 0x08" in problem.details


def test_global_scales_of_other_rows_fail_and_are_named():
    x = sample()
    q = quantize(x, NVFP4_TOKEN)
    assert q.global_scale is not None
    swapped = q.global_scale.clone()
    swapped[[20, 21]] = swapped[[21, 20]]
    assert fails(dataclasses.replace(q, global_scale=swapped), x, NVFP4_TOKEN, "global scale of row 20")
    assert fails(dataclasses.replace(q, global_scale=swapped), x, NVFP4_TOKEN, "that of another row")
    one = quantize(x, NVFP4)
    assert one.global_scale is not None
    shared = one.global_scale.expand(len(x), 1).clone()
    assert fails(dataclasses.replace(one, format=NVFP4_TOKEN, global_scale=shared), x, NVFP4_TOKEN)
    assert fails(dataclasses.replace(q, global_scale=1 / q.global_scale), x, NVFP4_TOKEN, "inverted")
    # scales and codes that belong to the swapped global scales: consistent, but not what the rows ask for
    assert fails(quantize(x, NVFP4_TOKEN, global_scale=swapped), x, NVFP4_TOKEN, "global scale of row 20")
    given = compare_quantized(q, x, NVFP4_TOKEN, global_scale=swapped)
    assert given is not None and "the static one is" in str(given)


@MX
def test_the_exponent_of_another_element_or_rule_fails(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    for rule in ("ceil", "even", "rceil"):
        assert fails(quantize(x, dataclasses.replace(fmt, rule=rule)), x, fmt, "scale")
    low = q.scale.clamp(max=254) + 1
    codes = encode_float(
        x.double().unflatten(-1, (-1, 32)) / torch.exp2(low.double() - 127).unsqueeze(-1), fmt.element
    )
    shifted = dataclasses.replace(q, scale=low, data=codes.flatten(-2).view(q.data.dtype))
    assert fails(shifted, x, fmt, "scale")


@MX
def test_overflow_stored_as_nan_or_infinity_fails(fmt: Format):
    x = torch.zeros(1, 32)
    x[0, 0] = 1.999  # beyond the largest number under the floor rule
    q = quantize(x, fmt)
    data = q.data.clone()
    top = 0x7C if fmt is MXFP8_E5M2 else 0x7F if fmt is MXFP8 else 0
    data.view(torch.uint8)[0, 0] = top
    assert compare_quantized(q, x, fmt) is None
    assert fails(dataclasses.replace(q, data=data), x, fmt, "column 0")


def test_the_bits_of_the_other_element_fail():
    x = sample()
    for fmt, other in ((MXFP6_E3M2, MXFP6_E2M3), (MXFP6_E2M3, MXFP6_E3M2)):
        q, wrong = quantize(x, fmt), quantize(x, other)
        assert fails(dataclasses.replace(q, data=wrong.data), x, fmt)
        assert fails(wrong, x, fmt, "scale")
    q, wrong = quantize(x, MXFP8), quantize(x, MXFP8_E5M2)
    assert "data dtype" in str(compare_quantized(dataclasses.replace(q, data=wrong.data), x, MXFP8))
    assert fails(dataclasses.replace(q, data=wrong.data.view(torch.float8_e4m3fn)), x, MXFP8)


@pytest.mark.parametrize("fmt", [FP8_BLOCK, FP8_BLOCK_2D], ids=lambda f: f.name)
def test_fp8_scales_of_another_kind_fail(fmt: Format):
    x = sample()
    q = quantize(x, fmt)
    for scale in (
        torch.exp2(torch.ceil(torch.log2(q.scale))),  # power-of-two scales
        q.scale.amax(-1, keepdim=True).expand(q.scale.shape).contiguous(),  # one a row
        torch.where(q.scale > 0, 1 / q.scale, 0.0),  # inverted
        q.scale.roll(1, dims=1),  # those of the neighbouring block
        q.scale * (448 / 240),  # the E4M3 of another vendor
    ):
        assert fails(dataclasses.replace(q, scale=scale), x, fmt, "scale")


def int4(x: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None, least: int, greatest: int) -> QTensor:
    y = torch.where(
        scale.unsqueeze(-1) > 0, x.double().unflatten(-1, (-1, 128)) / scale.double().unsqueeze(-1), 0.0
    )
    codes = (y.round() + (0 if zero is None else zero.unsqueeze(-1))).clamp(least, greatest).to(
        torch.int16
    ) & 15
    return QTensor(pack_e2m1(codes.to(torch.uint8).flatten(-2)), scale, fmt, tuple(x.shape), zero_point=zero)


def test_int4_of_other_conventions_fails():
    x = sample()
    q = quantize(x, INT4)
    amax = x.double().unflatten(-1, (-1, 128)).abs().amax(-1)
    assert compare_quantized(int4(x, INT4, q.scale, None, -8, 7), x, INT4) is None
    assert fails(int4(x, INT4, (amax / 7).float(), None, -7, 7), x, INT4, "scale")  # the narrow range
    assert fails(int4(x, INT4, (amax / 8).float(), None, -8, 7), x, INT4, "scale")
    assert fails(dataclasses.replace(q, data=q.data ^ 0x88), x, INT4, "code")  # offset binary


def test_asymmetric_int4_of_other_conventions_fails():
    x = sample()
    q = quantize(x, INT4_ASYM)
    blocks = x.double().unflatten(-1, (-1, 128))
    low, high = blocks.amin(-1), blocks.amax(-1)
    assert q.zero_point is not None
    assert compare_quantized(int4(x, INT4_ASYM, q.scale, q.zero_point, 0, 15), x, INT4_ASYM) is None
    for step in (1, -1):
        zero = (q.zero_point + step).clamp(0, 15)
        assert fails(dataclasses.replace(q, zero_point=zero), x, INT4_ASYM, "scale")
        assert fails(int4(x, INT4_ASYM, q.scale, zero, 0, 15), x, INT4_ASYM, "scale")
        one = q.zero_point.clone()
        one[20, 1] += step
        problem = compare_quantized(dataclasses.replace(q, zero_point=one), x, INT4_ASYM)
        assert problem is not None and problem.count == 1
    narrow = ((high - low) / 15).float()  # the range not widened to zero: the positive group of row 9
    zero = torch.where(narrow > 0, -low / narrow, 0.0).round().clamp(0, 15).to(torch.int32)
    assert fails(int4(x, INT4_ASYM, narrow, zero, 0, 15), x, INT4_ASYM, "scale")
    signed = dataclasses.replace(q, data=q.data ^ 0x88, zero_point=q.zero_point - 8)
    assert fails(signed, x, INT4_ASYM)

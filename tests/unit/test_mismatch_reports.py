"""Each class of quantizer bug is named by the comparator."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qkernels.codec import encode_e2m1, pack_e2m1, unpack_e2m1
from qkernels.format import (
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    MXFP4,
    NVFP4,
    NVFP4_1L,
    Format,
    get_format,
)
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.unit.mismatches import normal, report, with_scale
from tests.unit.quantizer_samples import sample, static

FP8_BLOCK, INT4, INT4_ASYM = (get_format(name) for name in ("fp8_block", "int4", "int4_asym"))


def nvfp4_codes(y: Tensor, q: QTensor) -> QTensor:
    """q with the codes of y."""
    return dataclasses.replace(q, data=pack_e2m1(encode_e2m1(y)))


def over_scale(x: Tensor, q: QTensor) -> Tensor:
    """x/s as float64 under e8m0 scales."""
    return x.double() / torch.exp2(q.scale.double() - 127).repeat_interleave(32, dim=1)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("away", "ties rounded away from zero"),
        ("toward", "ties rounded toward zero"),
        ("up", "ties rounded up (half up)"),
        ("down", "ties rounded down (half down)"),
    ],
)
@pytest.mark.parametrize("fmt", [MXFP4, get_format("mxfp6_e2m3"), INT8], ids=lambda f: f.name)
def test_tie_rules_are_told_apart(fmt: Format, rule: str, words: str) -> None:
    """Every second multiple of half a step is a tie."""
    if fmt is INT8:
        x, options = torch.arange(-40, 40).reshape(2, 40) / 2, {"scale": 1.0}
    else:
        x = torch.cat([torch.tensor([[4.0]]), torch.arange(1, 32)[None] / (4 if fmt is MXFP4 else 16)], dim=1)
        x, options = torch.cat([x, -x]), {}
    q = quantize(x, fmt, **options)
    delta = {"away": x.sign(), "toward": -x.sign(), "up": torch.ones_like(x), "down": -torch.ones_like(x)}[
        rule
    ]
    if fmt is not INT8:
        delta[:, 0] = 0  # the largest element sets the scale
    other = quantize((x + delta * 2.0**-10).to(torch.float32), fmt, **options)
    assert torch.equal(other.scale, q.scale)
    details = report(other, x, fmt, **options)
    assert "all wrong codes lie exactly at ties" in details and words in details


def test_truncation_and_ceiling_are_not_tie_rules() -> None:
    x = sample()
    q = quantize(x, MXFP4)
    y = over_scale(x, q)
    for shift, words in ((-0.3, "truncation"), (0.2, "away from zero")):
        moved = nvfp4_codes(y + shift * y.sign() * (y.abs() < 5), q)
        right, wrong = unpack_e2m1(q.data) & 7, unpack_e2m1(moved.data) & 7
        one_way = torch.where(
            wrong.int() - right.int() == (1 if shift > 0 else -1),
            unpack_e2m1(moved.data),
            unpack_e2m1(q.data),
        )
        details = report(dataclasses.replace(q, data=pack_e2m1(one_way)), x, MXFP4)
        assert words in details and "ties" not in details


def test_a_single_code_wrong_at_a_tie_tells_its_rule() -> None:
    x = torch.tensor([[4.0, 1.25] + [0.0] * 30])
    q = quantize(x, MXFP4)
    data = q.data.clone()
    data[0, 0] += 1 << 4
    words = "all wrong codes lie exactly at ties: likely ties rounded away from zero or up (half up)"
    assert words in report(dataclasses.replace(q, data=data), x, MXFP4)


@pytest.mark.parametrize("fmt", [NVFP4_1L, MXFP4, FP8_TOKEN], ids=lambda f: f.name)
def test_a_lost_sign_and_a_lost_minus_zero_are_told_apart(fmt: Format) -> None:
    x = sample()
    x[9, :64:2] = -0.0
    q = quantize(x, fmt)
    bits = q.codes()
    top, low = (8, 7) if fmt.packed else (0x80, 0x7F)

    def stored(codes: Tensor) -> QTensor:
        data = pack_e2m1(codes) if fmt.packed else codes.view(q.data.dtype)
        return dataclasses.replace(q, data=data)

    assert "lost sign bit" in report(stored(bits & low), x, fmt)
    no_minus_zero = torch.where(bits == top, torch.zeros_like(bits), bits)
    assert "the sign of zero is lost" in report(stored(no_minus_zero), x, fmt)


@pytest.mark.parametrize(
    "fmt", [NVFP4, get_format("mxfp8"), FP8_TOKEN, INT8, INT4_ASYM], ids=lambda f: f.name
)
def test_stale_memory_is_named(fmt: Format) -> None:
    x = sample()
    q = quantize(x, fmt, **static(fmt))
    data = q.data.clone()
    data.view(torch.uint8)[::3, 8:40] = 0xA5
    assert "every wrong value is 0xa5: likely never written" in report(
        dataclasses.replace(q, data=data), x, fmt, **static(fmt)
    )


def test_a_tail_of_the_columns_is_named() -> None:
    x = sample()
    q = quantize(x, NVFP4)
    data, scale = q.data.clone(), q.scale.clone()
    data[:, 120:] = 0x21
    assert "only in the last 16 columns of each row: likely the mask or the grid of the tail" in report(
        dataclasses.replace(q, data=data), x, NVFP4
    )
    scale[:, -2:] = 0x11
    details = report(with_scale(q, scale), x, NVFP4)
    assert "only in the last 2 blocks of each row" in details
    assert "every wrong value is 0x11" in details


@pytest.mark.parametrize(
    ("fmt", "step", "words"),
    [
        (MXFP4, 1, "+1 off (2 times the scale)"),
        (MXFP4, -2, "-2 off (0.25 times the scale)"),
        (NVFP4_1L, -1, "-1 off: likely the exponent or rounding"),
        (NVFP4_1L, 8, "+8 off (2 times the scale)"),
    ],
    ids=str,
)
def test_scale_bytes_off_by_a_constant_are_counted(fmt: Format, step: int, words: str) -> None:
    x = normal(8, 128)
    q = quantize(x, fmt)
    assert words in report(with_scale(q, (q.scale.int() + step).to(torch.uint8)), x, fmt)


@pytest.mark.parametrize(
    "fmt", [FP8_BLOCK, FP8_TOKEN, INT4, get_format("fp8_block_2d")], ids=lambda f: f.name
)
def test_fp32_scales_that_are_inverted_or_off_by_a_factor_are_named(fmt: Format) -> None:
    x = normal(140, 256)
    q = quantize(x, fmt)
    assert "the stored scale is the reciprocal" in report(with_scale(q, 1 / q.scale), x, fmt)
    assert "the stored scale is 2 times the right one" in report(with_scale(q, 2 * q.scale), x, fmt)


def test_nan_that_is_lost_or_made_is_named() -> None:
    x = sample()
    x[5, :64] = 0
    for fmt in (NVFP4_1L, MXFP4, FP8_BLOCK):
        nan = {"e4m3": 0x7F, "e8m0": 255}.get(fmt.scale, torch.nan)
        q = quantize(x, fmt)
        scale = q.scale.clone()
        scale[5, 0] = nan
        assert "NaN where x is finite" in report(with_scale(q, scale), x, fmt)
        bad = x.clone()
        bad[20, 3] = torch.nan
        assert "x holds NaN or inf there" in report(with_scale(quantize(bad, fmt), q.scale), bad, fmt)


def test_a_wrong_zero_point_is_shown_beside_the_right_one() -> None:
    x = normal(8, 256)
    for fmt in (INT8_ASYM, INT4_ASYM):
        q = quantize(x, fmt)
        assert q.zero_point is not None
        details = report(dataclasses.replace(q, zero_point=q.zero_point + 1), x, fmt)
        assert "the scale itself is right: its zero point is wrong" in details
        first = int(q.zero_point.flatten()[0])
        assert f"zero point: found [{first + 1}], expected [{first}]" in details

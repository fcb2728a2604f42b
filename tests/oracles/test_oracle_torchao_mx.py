"""MXFP4, MXFP6 and MXFP8 against torchao's four scale modes, and its swizzle.

Equal in every bit wherever the block's scale byte is at least 1. Where torchao differs, and who is right:
    byte 0      it stores 2^-127 but divides by 2^-126 (by 1 in mode rceil): values decode to half or to zero. OCP MX
                v1.0 gives byte 0 the value 2^-127, and a value is scale times element; ours are the nearest codes.
    rceil       in eager mode it takes ceil(log2(amax/max)) in float32, a whole number for amax up to 2^-17 above a
                power of two times max: the scale is one exponent too low and the block saturates. Its compiled path
                on Blackwell, cvt.rp.satfinite.ue8m0x2.f32, rounds up, as here. No bf16 input shows it.
    infinity    it saturates, except that NaN is byte 255; here the block decodes to NaN.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from torch import Tensor

from qkernels.codec import pow2
from qkernels.format import MXFP4, MXFP6_E2M3, MXFP6_E3M2, MXFP8, MXFP8_E5M2, Format
from qkernels.quantize import quantize
from qkernels.swizzle import from_blocked, to_blocked
from tests.oracles.inputs import bits32, every_bfloat16_amax, tensors, threshold_amax
from tests.oracles.torchao_results import mx, mx_values, torchao

RULES = ("floor", "ceil", "even", "rceil")
ELEMENTS = (MXFP4, MXFP6_E2M3, MXFP6_E3M2, MXFP8, MXFP8_E5M2)
FORMATS = [dataclasses.replace(fmt, rule=rule) for fmt in ELEMENTS for rule in RULES]
every_mx_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.element.name}-{f.rule}")
SIGNIFICANDS = (1.0, 1.25, 1.5, 1.75, 1.875, 1.9375, 1.96875)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    torchao("prototype.mx_formats.mx_tensor")


def assert_bit_equal(x: Tensor, fmt: Format) -> None:
    """Scale bytes everywhere; codes wherever the byte is not 0."""
    ours, (scale, codes) = quantize(x, fmt), mx(x, fmt.element, fmt.rule)
    assert torch.equal(ours.scale, scale)
    compared = (scale != 0).repeat_interleave(32, -1)
    assert torch.equal(ours.codes()[compared], codes[compared])


@every_mx_format
def test_blocks_of_every_bfloat16_amax_are_bit_equal(fmt: Format):
    assert_bit_equal(every_bfloat16_amax(32), fmt)


@pytest.mark.parametrize(
    "fmt", [f for f in FORMATS if f.rule != "rceil"], ids=lambda f: f"{f.element.name}-{f.rule}"
)
def test_blocks_at_every_float32_threshold_and_its_neighbours_are_bit_equal(fmt: Format):
    assert_bit_equal(threshold_amax(SIGNIFICANDS, 32), fmt)


@every_mx_format
@given(x=tensors(32, dtypes=(torch.bfloat16,)))
def test_tensors_are_bit_equal(fmt: Format, x: Tensor):
    assert_bit_equal(x, fmt)


@pytest.mark.parametrize(
    "fmt", [f for f in FORMATS if f.rule != "rceil"], ids=lambda f: f"{f.element.name}-{f.rule}"
)
@given(x=tensors(32, dtypes=(torch.float32,)) | bits32(32))
def test_float32_tensors_are_bit_equal(fmt: Format, x: Tensor):
    assert_bit_equal(x, fmt)


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.rule == "rceil"], ids=lambda f: f.element.name)
def test_rceil_of_torchao_is_one_too_low_just_above_a_power_of_two_and_ours_never(fmt: Format):
    top = fmt.element.max / 2.0**fmt.element.emax  # the significand from which on the exponent rises
    x = threshold_amax([top + step * 2.0**-23 for step in range(0, 100, 3)], 32)
    ours, theirs = quantize(x, fmt).scale[:, 0].int(), mx(x, fmt.element, "rceil")[0][:, 0].int()
    amax, most = x.double().abs().amax(-1), Fraction(fmt.element.max)
    for byte, largest in list(zip(ours.tolist(), amax.tolist(), strict=True))[
        ::53
    ]:  # the rule, in rational numbers
        assert Fraction(largest) <= most * Fraction(2) ** (byte - 127)
        assert byte == 0 or Fraction(largest) > most * Fraction(2) ** (byte - 128)
    low = theirs != ours
    assert low.sum() > 1000
    assert (theirs[low] == ours[low] - 1).all()
    beyond = amax[low] / (fmt.element.max * pow2(theirs[low] - 127))
    assert ((beyond > 1) & (beyond < 1 + 2.0**-17)).all()


def test_torchao_decodes_blocks_of_scale_byte_0_to_half_and_we_to_the_nearest():
    x = torch.zeros(1, 32)
    x[0, :4] = torch.tensor([6.0, 3.0, 1.0, -0.5]) * 2.0**-127
    scale, codes = mx(x, MXFP4.element, "floor")
    assert scale.item() == 0
    assert torch.equal(mx_values(scale, codes, MXFP4.element)[0, :2], x[0, :2] / 2)
    ours = quantize(x, MXFP4)
    assert ours.scale.item() == 0
    assert torch.equal(ours.dequantize(torch.float64), x.double())
    _, ceiled = mx(x, MXFP4.element, "rceil")
    assert not ceiled[0, :3].any()  # divided by 1


def test_nan_gives_the_nan_scale_in_both_and_infinity_only_here():
    x = torch.ones(2, 32)
    x[0, 5], x[1, 5] = float("nan"), float("inf")
    for rule in RULES:
        scale, _ = mx(x, MXFP4.element, rule)
        assert scale[0] == 255
        assert scale[1] < 255
    assert quantize(x, MXFP4).scale.tolist() == [[255], [255]]


def test_swizzled_layout_equals_torchaos_for_every_shape_up_to_two_tiles():
    theirs = torchao("prototype.mx_formats.utils")
    g = torch.Generator().manual_seed(0)
    for cols in range(1, 21):
        scale = torch.randint(0, 256, (260, cols), dtype=torch.uint8, generator=g)
        for rows in range(1, 261):
            flat = to_blocked(scale[:rows])
            assert torch.equal(flat, theirs.to_blocked(scale[:rows])), (rows, cols)
            assert torch.equal(from_blocked(flat, rows, cols), theirs.from_blocked(flat, rows, cols))

"""What each block format must store, byte by byte, for numbers that a reader can check."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qkernels.format import (
    FORMATS,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    INT4,
    INT4_ASYM,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8,
    MXFP8_E5M2,
    NVFP4_2D,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
)
from qkernels.quantize import quantize

NAN, INF = float("nan"), float("inf")
BLOCKS = [f for f in FORMATS.values() if f.block]


def row(*head: float, k: int = 128) -> Tensor:
    """[1, k] fp32 that starts with these numbers and goes on with zeros."""
    return torch.tensor([[*head, *[0.0] * (k - len(head))]])


# --- NVFP4 ----------------------------------------------------------------------------------------------------------


def test_sixteen_rows_share_the_scale_of_a_2d_block_and_the_last_group_may_be_short():
    x = torch.zeros(17, 32)
    x[3, 5], x[0, 0], x[16, 0], x[5, 16] = 6.0, 0.5, 12.0, -1.5
    q = quantize(x, NVFP4_2D, global_scale=1.0)
    assert q.scale.tolist() == [[0x38, 0x28], [0x40, 0x00]]  # 6/6, 1.5/6; 12/6 and nothing
    codes = q.codes()
    assert (codes[3, 5], codes[0, 0], codes[16, 0], codes[5, 16]) == (7, 1, 7, 15)
    assert torch.equal(q.dequantize(), x)


def test_a_2d_block_of_a_short_group_is_that_of_the_rows_there_are():
    x = torch.randn(21, 48, generator=torch.Generator().manual_seed(0))
    q = quantize(x, NVFP4_2D, global_scale=100.0)
    top = quantize(x[:16], NVFP4_2D, global_scale=100.0)
    rest = quantize(x[16:], NVFP4_2D, global_scale=100.0)
    assert torch.equal(q.data, torch.cat([top.data, rest.data]))
    assert torch.equal(q.scale, torch.cat([top.scale, rest.scale]))


def test_the_least_scale_lifts_small_blocks_to_2_to_minus_6():
    q = quantize(row(2.0**-9, -(2.0**-7), k=16), NVFP4_MIN_SCALE, global_scale=1.0)
    assert q.scale.item() == 0x08
    assert q.codes()[0, :2].tolist() == [0, 9]  # 1/8 of the scale rounds to 0, 1/2 is a number
    assert quantize(torch.zeros(1, 16), NVFP4_MIN_SCALE).dequantize().eq(0).all()


def test_each_row_has_its_own_global_scale():
    x = torch.cat([row(6.0, k=16), row(-12.0, 3.0, k=16), torch.zeros(1, 16)])
    q = quantize(x, NVFP4_TOKEN)
    assert q.global_scale is not None
    assert q.global_scale.tolist() == [[448.0], [224.0], [1.0]]
    assert q.scale.tolist() == [[0x7E], [0x7E], [0x00]]
    assert torch.equal(q.dequantize(), x)
    assert torch.equal(q.exact_values(), x.double()) and q.alpha.item() == 1.0


def test_a_row_global_scale_is_taken_over_the_finite_elements_of_its_row():
    x = row(6.0, k=32).repeat(2, 1)
    x[1, 20] = NAN
    q = quantize(x, NVFP4_TOKEN)
    assert q.global_scale is not None
    assert q.global_scale.flatten().tolist() == [448.0, 448.0]
    assert q.dequantize().isnan().sum() == 16


def test_static_row_global_scales_are_one_a_row():
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    gs = torch.tensor([[100.0], [200.0], [300.0]])
    q = quantize(x, NVFP4_TOKEN, global_scale=gs)
    for i in range(3):
        one = quantize(x[i : i + 1], FORMATS["nvfp4"], global_scale=float(gs[i]))
        assert torch.equal(q.rows(i, i + 1).data, one.data)
        assert torch.equal(q.rows(i, i + 1).dequantize(), one.dequantize())
    with pytest.raises(
        ValueError, match=r"one global scale a row: pass a float32 tensor \[3, 1\], not 100.0"
    ):
        quantize(x, NVFP4_TOKEN, global_scale=100.0)
    with pytest.raises(ValueError, match="finite number > 0"):
        quantize(x, NVFP4_TOKEN, global_scale=-gs)


# --- MX with other elements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-90, 0, 40])
@pytest.mark.parametrize(
    ("fmt", "cases"),
    [
        (MXFP8, {448.0: (127, 0x7E), 500.0: (127, 0x7E), 512.0: (128, 0x78), 1.0: (119, 0x78)}),
        (MXFP8_E5M2, {57344.0: (127, 0x7B), 65000.0: (127, 0x7B), 1.0: (112, 0x78)}),
        (MXFP6_E3M2, {28.0: (127, 31), 31.9: (127, 31), 32.0: (128, 28), 1.0: (123, 28)}),
        (MXFP6_E2M3, {7.5: (127, 31), 7.9: (127, 31), 8.0: (128, 24), 1.0: (125, 24)}),
    ],
    ids=lambda v: v.name if isinstance(v, Format) else "",
)
def test_floor_takes_the_exponent_of_amax_less_that_of_the_element_and_saturates(fmt, cases, power):
    for amax, (byte, code) in cases.items():
        q = quantize(row(-amax, k=32) * 2.0**power, fmt)
        assert q.scale.item() == byte + power
        assert q.codes()[0, 0] == code | (1 << (fmt.element.bits - 1))
        assert q.codes()[0, 1:].eq(0).all()


def test_elements_within_an_mx_block_round_to_nearest_even():
    x = row(
        448.0, 17.0, 19.0, 2.0**-9, 2.0**-10, 3 * 2.0**-10, -0.0, k=32
    )  # ties between 16, 18, 20 and subnormals
    assert quantize(x, MXFP8).dequantize()[0, :7].tolist() == [448, 16, 20, 2.0**-9, 0, 2.0**-8, -0.0]
    x = row(28.0, 0.0625, 0.03125, 0.09375, 9.0, 11.0, k=32)
    assert quantize(x, MXFP6_E3M2).dequantize()[0, :6].tolist() == [28, 0.0625, 0, 0.125, 8, 12]
    x = row(7.5, 0.125, 0.0625, 0.1875, 2.125, 2.375, k=32)
    assert quantize(x, MXFP6_E2M3).dequantize()[0, :6].tolist() == [7.5, 0.125, 0, 0.25, 2, 2.5]


def test_six_bit_codes_take_a_byte_each_and_count_six_bits():
    q = quantize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), MXFP6_E3M2)
    assert q.data.dtype == torch.uint8 and q.data.shape == (4, 64) and q.data.max() < 64
    assert q.nbytes == 4 * 64 * 6 // 8 + 4 * 2


# --- FP8 with fp32 scales of 128 and 128x128 ------------------------------------------------------------------------


def test_fp8_blocks_have_scale_amax_over_448():
    x = torch.cat([row(56.0, -7.0, k=256), torch.zeros(1, 256)])
    x[0, 128:132] = torch.tensor([3.5, 0.0, -0.0, 1e-8])
    q = quantize(x, FP8_BLOCK)
    assert q.scale.tolist() == [[0.125, 0.0078125], [0.0, 0.0]]
    assert q.codes()[0, :2].tolist() == [0x7E, 0x80 | 0x66]  # 448 and -56
    assert q.codes()[0, 128:132].tolist() == [0x7E, 0x00, 0x80, 0x00]
    assert torch.equal(q.dequantize()[:, :128], x[:, :128]) and q.dequantize()[1].eq(0).all()


def test_fp8_weights_share_a_scale_among_128_rows_and_columns():
    x = torch.zeros(130, 256)
    x[127, 0], x[128, 0], x[0, 255] = 448.0, 224.0, -112.0
    q = quantize(x, FP8_BLOCK_2D)
    assert q.scale.tolist() == [[1.0, 0.25], [0.5, 0.0]]
    assert torch.equal(q.dequantize(), x)


# --- INT4 -----------------------------------------------------------------------------------------------------------


def test_int4_scale_is_amax_over_7_and_a_half_and_nibbles_are_twos_complement():
    x = row(7.5, -7.5, 0.5, 1.5, 2.5, -0.5, -1.0, -1.5)
    q = quantize(x, INT4)
    assert q.scale.item() == 1.0
    assert q.data[0, :4].tolist() == [0x87, 0x20, 0x02, 0xEF]  # 7 sat, -8; 0, 2; 2, 0; -1, -2
    assert q.dequantize()[0, :8].tolist() == [7, -8, 0, 2, 2, 0, -1, -2]


def test_int4_groups_are_independent_and_zero_groups_stay_zero():
    x = torch.cat([row(15.0), torch.zeros(1, 128)], dim=1)
    q = quantize(x, INT4)
    assert q.scale.tolist() == [[2.0, 0.0]] and q.dequantize()[0, 128:].eq(0).all()


def test_asymmetric_int4_covers_its_range_and_zero():
    x = row(10.0, -5.0, 0.0, 2.5, 3.5, -0.5)
    q = quantize(x, INT4_ASYM)
    assert q.zero_point is not None
    assert (q.scale.item(), q.zero_point.item()) == (1.0, 5)
    assert q.codes()[0, :6].tolist() == [15, 0, 5, 7, 9, 5]
    assert q.dequantize()[0, :6].tolist() == [10, -5, 0, 2, 4, 0]


@pytest.mark.parametrize(("value", "zero", "code"), [(3.0, 0, 15), (-3.0, 15, 0), (0.0, 0, 0)])
def test_a_constant_int4_group_survives(value: float, zero: int, code: int):
    q = quantize(torch.full((1, 128), value), INT4_ASYM)
    assert q.zero_point is not None
    assert q.zero_point.item() == zero and q.codes().eq(code).all()
    assert (q.dequantize() - value).abs().max() <= abs(value) * 2.0**-23


def test_asymmetric_int4_of_the_largest_numbers_does_not_overflow():
    q = quantize(row(3.4e38, -3.4e38), INT4_ASYM)
    assert q.scale.isfinite().all() and q.zero_point is not None and q.zero_point.item() == 8
    assert q.dequantize(torch.float64)[0, :2].tolist() == [7 * q.scale.item(), -8 * q.scale.item()]


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("fmt", BLOCKS, ids=lambda f: f.name)
def test_a_block_with_nan_or_inf_is_nan_with_codes_0_and_no_other_is(fmt: Format, bad: float):
    x = torch.randn(2 * fmt.block_rows, 256, generator=torch.Generator().manual_seed(0))
    x[fmt.block_rows, 128] = bad
    q, clean = quantize(x, fmt), quantize(x.nan_to_num(0.0, 0.0, 0.0), fmt)
    lost = torch.zeros(x.shape, dtype=torch.bool)
    lost[fmt.block_rows :, 128 : 128 + (fmt.block or 0)] = True
    assert torch.equal(q.dequantize().isnan(), lost)
    assert q.codes()[lost].eq(0).all()
    assert q.zero_point is None or q.zero_point[1, 1] == 0
    assert torch.equal(q.dequantize()[~lost], clean.dequantize()[~lost])


@pytest.mark.parametrize("fmt", BLOCKS, ids=lambda f: f.name)
def test_strides_and_leading_axes_do_not_matter(fmt: Format):
    x = torch.randn(2 * fmt.block_rows, 384, generator=torch.Generator().manual_seed(1))
    q = quantize(x, fmt)
    turned, deep = quantize(x.T.contiguous().T, fmt), quantize(x.view(2, fmt.block_rows, 384), fmt)
    assert torch.equal(turned.codes(), q.codes()) and torch.equal(turned.scale, q.scale)
    assert torch.equal(deep.dequantize().view(x.shape), q.dequantize())
    assert deep.scale.shape == (2, 1, 384 // (fmt.block or 1))
    with pytest.raises(ValueError, match="K = 100 is not a multiple"):
        quantize(x[:, :100], fmt)


@pytest.mark.parametrize("fmt", [NVFP4_2D, FP8_BLOCK_2D], ids=lambda f: f.name)
def test_a_stack_of_matrices_must_not_share_blocks(fmt: Format):
    x = torch.ones(2, 24, 128)
    with pytest.raises(
        ValueError, match=r"\[2, 24, 128\] has 24 rows a matrix.*quantize each matrix by itself"
    ):
        quantize(x, fmt)
    assert quantize(x[0], fmt).scale.shape == (-(-24 // fmt.block_rows), 128 // (fmt.block or 1))

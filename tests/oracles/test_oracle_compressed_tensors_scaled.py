"""INT4, INT8 and FP8 with fp32 scales against compressed-tensors. All of float32 input, for it computes in x's dtype.

Scales: INT4, INT4 asymmetric and FP8 by the same formula, but for vLLM's least scale per token. INT8 per token is
amax/127.5 there (its range -128..127 halved) and amax/127 in vLLM and here: another format, not an error; under one
scale the codes are equal.
Codes: it divides, as static INT8 and FP8 per token do here: equal in every bit. An asymmetric code is rne(x/s + zp)
there and rne(x/s) + zp in vLLM and here: they differ at ties under an odd zp, by one code.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_BLOCK_2D, FP8_TOKEN, INT4, INT4_ASYM, INT8, INT8_TOKEN, MIN_TOKEN_SCALE
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.oracles import compressed_tensors_results as ct
from tests.oracles.inputs import exact_groups, tensors

FLOAT32 = (torch.float32,)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    ct.compressed_tensors("quantization")


def without_zero_groups(x: Tensor, group: int) -> Tensor:
    """Rows none of whose groups is zero: a scale of 0 becomes 2^-23 there."""
    x = x[(x.unflatten(-1, (-1, group)).abs().amax(-1) > 0).all(-1)]
    assume(len(x) > 0)
    return x


def fp8_bytes(values: Tensor) -> Tensor:
    """E4M3 numbers as float32 → bytes, exact."""
    return values.to(torch.float8_e4m3fn).view(torch.uint8)


def per_row(x: Tensor, settings: dict[str, object]) -> tuple[Tensor, Tensor]:
    return ct.parameters(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), settings)


@given(x=tensors(16, FLOAT32))
def test_fp8_per_token_is_bit_equal(x: Tensor):
    x = without_zero_groups(x, x.shape[1])
    x = x[x.abs().amax(-1) / 448 >= MIN_TOKEN_SCALE]
    scale, _ = per_row(x, ct.FP8_TOKEN)
    ours = quantize(x, FP8_TOKEN)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.data.view(torch.uint8), fp8_bytes(ct.quantized(x, scale, None, ct.FP8_TOKEN)))


@given(x=tensors(16, FLOAT32))
def test_fp8_per_tensor_has_the_same_scale_and_accepted_codes(x: Tensor):
    assume(x.any())
    scale, _ = ct.parameters(x.amin(), x.amax(), ct.FP8_TENSOR)
    assert torch.equal(quantize(x, FP8).scale, scale)
    codes = fp8_bytes(ct.quantized(x, scale, None, ct.FP8_TENSOR)).view(torch.float8_e4m3fn)
    assert compare_quantized(QTensor(codes, scale, FP8, tuple(x.shape)), x, FP8) is None


@pytest.mark.parametrize("rows", [128, 200])
def test_fp8_blocks_of_128x128_have_the_same_scale_and_accepted_codes(rows: int):
    g = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 384, generator=g) * torch.exp2(torch.randint(-9, 9, (rows, 1), generator=g).float())
    padded = torch.nn.functional.pad(x, (0, 0, 0, -rows % 128))
    tiles = padded.view(len(padded) // 128, 128, 3, 128)
    scale, _ = ct.parameters(tiles.amin((1, 3)), tiles.amax((1, 3)), ct.FP8_BLOCK)
    ours = quantize(x, FP8_BLOCK_2D)
    assert torch.equal(ours.scale, scale)
    codes = fp8_bytes(ct.quantized(x, scale, None, ct.FP8_BLOCK)).view(torch.float8_e4m3fn)
    output = QTensor(codes, scale, FP8_BLOCK_2D, tuple(x.shape))
    assert compare_quantized(output, x, FP8_BLOCK_2D) is None


@given(x=tensors(16, FLOAT32))
def test_int8_per_channel_codes_under_the_same_scale_are_equal(x: Tensor):
    x = without_zero_groups(x, x.shape[1])
    scale, _ = per_row(x, ct.INT8_CHANNEL)
    theirs = ct.quantized(x, scale, None, ct.INT8_CHANNEL).to(torch.int8)
    for row, s, codes in zip(x, scale, theirs, strict=True):
        assert torch.equal(quantize(row[None], INT8, scale=s).data[0], codes)
    assert torch.equal(ct.fake_quantized(x, scale, None, ct.INT8_CHANNEL), theirs.float() * scale)


@given(x=tensors(16, FLOAT32))
def test_int8_per_token_scale_is_amax_over_127_and_a_half(x: Tensor):
    x = without_zero_groups(x, x.shape[1])
    scale, _ = per_row(x, ct.INT8_TOKEN)
    amax = x.abs().amax(-1, keepdim=True)
    assert torch.equal(scale, amax / torch.tensor(127.5))
    assert torch.equal(quantize(x, INT8_TOKEN).scale, amax / torch.tensor(127.0))


def int4(values: Tensor, scale: Tensor, x: Tensor) -> QTensor:
    """Their words hold value + 8 in each nibble; ours two's complement."""
    return QTensor(ct.packed_int4(values) ^ 0x88, scale, INT4, tuple(x.shape))


@given(x=tensors(128, FLOAT32))
def test_int4_groups_have_the_same_scale_and_accepted_codes(x: Tensor):
    x = without_zero_groups(x, 128)
    scale, _ = ct.of_groups(x, 128, ct.INT4)
    assert torch.equal(quantize(x, INT4).scale, scale)
    values = ct.quantized(x, scale, None, ct.INT4)
    output = int4(values, scale, x)
    assert compare_quantized(output, x, INT4) is None
    assert torch.equal(output.dequantize(), ct.fake_quantized(x, scale, None, ct.INT4))


@given(x=tensors(128, FLOAT32))
def test_asymmetric_int4_groups_have_the_same_scale_and_zero_point_and_codes_but_for_ties(x: Tensor):
    x = without_zero_groups(x, 128)
    scale, zero = ct.of_groups(x, 128, ct.INT4_ASYM)
    ours = quantize(x, INT4_ASYM)
    torch.testing.assert_close(ours.scale, scale, rtol=2.0**-23, atol=0)  # it rounds max - min first
    values = ct.quantized(x, scale, zero, ct.INT4_ASYM)
    same = (ours.scale == scale).repeat_interleave(128, -1)
    y = x.double() / scale.double().repeat_interleave(128, -1)
    away = (y - y.floor() - 0.5).abs() > 2.0**-16  # from a tie, by more than fp32 rounds x/s + zp
    theirs = values.to(torch.int16) + 8  # zero points and codes are -8..7 there and 0..15 here
    assert ours.zero_point is not None
    apart = (ours.zero_point - zero.to(torch.int32) - 8).abs()
    least = x.unflatten(-1, (-1, 128)).amin(-1).clamp(max=0).double() / scale.double()
    at_tie = (least - least.floor() - 0.5).abs() < 2.0**-16
    assert (apart[~at_tie] == 0).all()
    compared = away & same & ~at_tie.repeat_interleave(128, -1)
    assert torch.equal(ours.codes()[compared].to(torch.int16), theirs[compared])


def test_codes_are_bit_equal_where_the_arithmetic_is_exact():
    x = exact_groups(-7.5, 7.5, 128)
    scale, _ = ct.of_groups(x, 128, ct.INT4)
    assert torch.equal(quantize(x, INT4).data, int4(ct.quantized(x, scale, None, ct.INT4), scale, x).data)
    x = exact_groups(-448, 448, 128, rows=1).expand(128, -1).contiguous()
    values = ct.quantized(x, quantize(x, FP8_BLOCK_2D).scale, None, ct.FP8_BLOCK)
    assert torch.equal(quantize(x, FP8_BLOCK_2D).data.view(torch.uint8), fp8_bytes(values))


def test_ties_of_asymmetric_codes_under_an_odd_zero_point_differ_by_one():
    x = torch.zeros(1, 128)
    x[0, :4] = torch.tensor([-3.5, 4.0, 0.25, 0.75])  # s = 0.5, zp = 7: x/s is a tie at 0.5 and 1.5
    ours = quantize(x, INT4_ASYM)
    scale, zero = ct.of_groups(x, 128, ct.INT4_ASYM)
    assert (ours.scale.item(), scale.item()) == (0.5, 0.5)
    assert ours.zero_point is not None
    assert (ours.zero_point.item(), zero.item()) == (7, -1)
    theirs = ct.quantized(x, scale, zero, ct.INT4_ASYM).int() + 8
    assert ours.codes()[0, :4].tolist() == [0, 15, 7, 9]
    assert theirs[0, :4].tolist() == [0, 15, 8, 8]


@given(st.binary(min_size=128, max_size=128))
def test_packed_int4_words_hold_the_same_nibbles(raw: bytes):
    codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(1, 128) & 0xF
    signed = torch.where(codes > 7, codes.to(torch.int16) - 16, codes.to(torch.int16))
    data = codes[:, 0::2] | codes[:, 1::2] << 4
    assert torch.equal(ct.packed_int4(signed) ^ 0x88, data)

"""FP8, INT8 and INT4 against torchao's affine and float8 primitives.

Scales: the same formula, but for vLLM's least FP8 scale per token, equal in every bit for float32 input; of bf16 input
torchao rounds amax/448 to bf16.
Codes: FP8 per token is fl(x/s) in both, equal in every bit. Elsewhere torchao multiplies by fl(1/s) or rounds x/s where
this library does otherwise: one unit in the last place before rounding to the code, so the comparator decides.
Its asymmetric range always includes 0, as that of INT4_ASYM does; that of INT8_ASYM, which is vLLM's, does not.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from qkernels.codec import decode_e4m3
from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT4,
    INT4_ASYM,
    INT8_ASYM,
    INT8_TOKEN,
    MIN_TOKEN_SCALE,
    Format,
)
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.oracles.inputs import exact_groups, rows_of_ties, tensors
from tests.oracles.torchao_results import fp8, integers, torchao

FLOAT32 = (torch.float32,)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    torchao("quantization.quant_primitives")


def as_fp8(codes: Tensor) -> Tensor:
    return codes.view(torch.float8_e4m3fn)


def without_zero_rows(x: Tensor) -> Tensor:
    """torchao divides 0 by a scale of 0; here such rows are zeros."""
    return some(x[x.abs().amax(-1) > 0])


def some(x: Tensor) -> Tensor:
    assume(len(x) > 0)
    return x


@given(x=tensors(16, FLOAT32))
def test_fp8_per_token_is_bit_equal(x: Tensor):
    x = some(x[x.abs().amax(-1) / 448 >= MIN_TOKEN_SCALE])
    ours, (scale, codes) = quantize(x, FP8_TOKEN), fp8(x, (1, x.shape[1]))
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.data.view(torch.uint8), codes)


def test_fp8_ties_of_every_code_are_bit_equal_per_token():
    x = rows_of_ties(decode_e4m3(torch.arange(127)).tolist())
    assert torch.equal(quantize(x, FP8_TOKEN).data.view(torch.uint8), fp8(x, (1, x.shape[1]))[1])


@given(x=tensors(16, FLOAT32))
def test_fp8_per_tensor_has_the_same_scale_and_accepted_codes(x: Tensor):
    assume(x.any())
    scale, codes = fp8(x, tuple(x.shape))
    assert torch.equal(quantize(x, FP8).scale, scale.reshape(1))
    output = QTensor(as_fp8(codes), scale.reshape(1), FP8, tuple(x.shape))
    assert compare_quantized(output, x, FP8) is None


@pytest.mark.parametrize("fmt", [FP8_BLOCK, FP8_BLOCK_2D], ids=lambda f: f.name)
@given(x=tensors(128, FLOAT32))
def test_fp8_blocks_have_the_same_scale_and_accepted_codes(fmt: Format, x: Tensor):
    if fmt.block_rows > 1:
        x = x.repeat(-(-fmt.block_rows // len(x)), 1)[: fmt.block_rows]
    x = x.masked_fill(x == 0, 0.25)
    ours, (scale, codes) = quantize(x, fmt), fp8(x, (fmt.block_rows, 128))
    assert torch.equal(ours.scale, scale)
    assert compare_quantized(QTensor(as_fp8(codes), scale, fmt, tuple(x.shape)), x, fmt) is None


def test_codes_are_bit_equal_where_the_arithmetic_is_exact():
    eight = exact_groups(-448, 448, 128)
    assert torch.equal(quantize(eight, FP8_BLOCK).data.view(torch.uint8), fp8(eight, (1, 128))[1])
    tall = torch.cat(
        [exact_groups(-448, 448, 128, rows=1), torch.arange(127 * 256).view(127, 256) % 448 / 8.0]
    )
    tall[0] = tall[0] / tall[0].amax() * 448  # k = 0
    assert torch.equal(quantize(tall, FP8_BLOCK_2D).data.view(torch.uint8), fp8(tall, (128, 128))[1])
    whole = exact_groups(-127, 127, 64)
    codes = integers(whole, (1, 128), -127, 127, symmetric=True)[2]
    assert torch.equal(quantize(whole, INT8_TOKEN).data, codes)
    four = exact_groups(-7.5, 7.5, 128)  # -7.5 is a tie, to -8; 7.5 saturates
    scale, _, codes = integers(four, (1, 128), -8, 7, symmetric=True)
    assert torch.equal(quantize(four, INT4).data, int4(codes, scale, INT4, tuple(four.shape), None).data)
    for least in (-15, -11, -4, 0):
        four = exact_groups(least, least + 15, 128)
        scale, zero, codes = integers(four, (1, 128), 0, 15, symmetric=False)
        ours = quantize(four, INT4_ASYM)
        assert ours.zero_point is not None
        assert torch.equal(ours.zero_point, zero.to(torch.int32))
        assert torch.equal(ours.data, int4(codes, scale, INT4_ASYM, tuple(four.shape), zero).data)


def test_of_bfloat16_input_torchao_rounds_the_fp8_scale_to_bfloat16():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    scale, _ = fp8(x, (1, 128))
    ours = quantize(x, FP8_TOKEN).scale
    assert torch.equal(scale, ours.to(torch.bfloat16).float())
    assert (scale != ours).any()


@given(x=tensors(16, FLOAT32))
def test_int8_per_token_has_the_same_scale_and_accepted_codes(x: Tensor):
    x = without_zero_rows(x)
    scale, _, codes = integers(x, (1, x.shape[1]), -127, 127, symmetric=True)
    assert torch.equal(quantize(x, INT8_TOKEN).scale, scale)
    assert compare_quantized(QTensor(codes, scale, INT8_TOKEN, tuple(x.shape)), x, INT8_TOKEN) is None


@given(x=tensors(16, FLOAT32))
def test_int8_asymmetric_has_the_same_scale_where_the_row_holds_both_signs(x: Tensor):
    x = some(x[(x.amin(-1) < 0) & (x.amax(-1) > 0)])
    scale, zero, codes = integers(x, (1, x.shape[1]), -128, 127, symmetric=False)
    ours = quantize(x, INT8_ASYM)
    assert torch.equal(ours.scale, scale)
    output = QTensor(codes, scale, INT8_ASYM, tuple(x.shape), zero_point=zero.to(torch.int32))
    assert compare_quantized(output, x, INT8_ASYM) is None


def test_int8_asymmetric_of_a_positive_row_spans_zero_in_torchao_only():
    x = torch.linspace(1.0, 2.0, 16)[None]
    scale, _, _ = integers(x, (1, 16), -128, 127, symmetric=False)
    assert scale.item() == pytest.approx(2 / 255)
    assert quantize(x, INT8_ASYM).scale.item() == pytest.approx(1 / 255)


def int4(codes: Tensor, scale: Tensor, fmt: Format, shape: tuple[int, ...], zero: Tensor | None) -> QTensor:
    raw = codes.view(torch.uint8) & 0xF
    zeros = None if zero is None else zero.to(torch.int32)
    return QTensor(raw[:, 0::2] | raw[:, 1::2] << 4, scale, fmt, shape, zero_point=zeros)


@given(x=tensors(128, FLOAT32))
def test_int4_groups_have_the_same_scale_and_accepted_codes(x: Tensor):
    x = without_zero_rows(x)
    scale, _, codes = integers(x, (1, 128), -8, 7, symmetric=True)
    assert torch.equal(quantize(x, INT4).scale, scale)
    output = int4(codes, scale, INT4, tuple(x.shape), None)
    assert compare_quantized(output, x, INT4) is None


@given(x=tensors(128, FLOAT32))
def test_asymmetric_int4_groups_have_the_same_scale_and_accepted_codes(x: Tensor):
    x = without_zero_rows(x)
    scale, zero, codes = integers(x, (1, 128), 0, 15, symmetric=False)
    ours = quantize(x, INT4_ASYM)
    torch.testing.assert_close(ours.scale, scale, rtol=2.0**-23, atol=0)  # it rounds max - min first
    output = int4(codes, scale, INT4_ASYM, tuple(x.shape), zero)
    assert compare_quantized(output, x, INT4_ASYM) is None

"""Four-over-six: which of the two scales a block takes, by hand and against a search over both."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from qkernels.codec import decode_e2m1, encode_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import NVFP4, NVFP4_4OVER6, NVFP4_4OVER6_MAE, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

BOTH = pytest.mark.parametrize("fmt", [NVFP4_4OVER6, NVFP4_4OVER6_MAE], ids=lambda f: f.name)


def block(*head: float) -> Tensor:
    return torch.tensor([[*head, *[0.0] * (16 - len(head))]])


def at_one(x: Tensor, fmt: Format) -> QTensor:
    return quantize(x, fmt, global_scale=1.0)


@BOTH
def test_a_number_between_4_and_6_is_worth_a_larger_scale(fmt: Format):
    q = at_one(block(6.0, 5.0), fmt)  # 5 is 1 away under scale 1, and 4.5 under scale 1.5
    assert q.scale.item() == 0x3C
    assert q.dequantize()[0, :2].tolist() == [6.0, 4.5]


@BOTH
def test_equal_errors_keep_the_normal_scale(fmt: Format):
    for x in (block(6.0), block(-6.0, 3.0), torch.zeros(1, 16)):
        assert at_one(x, fmt).scale.item() == at_one(x, NVFP4).scale.item()


def test_squares_and_absolute_values_may_choose_differently():
    x = block(6.0, 5.0, 0.5, 0.5, 0.5)  # errors 1, 0, 0, 0 against .5, .25, .25, .25
    assert at_one(x, NVFP4_4OVER6).scale.item() == 0x3C
    assert at_one(x, NVFP4_4OVER6_MAE).scale.item() == 0x38


@BOTH
def test_the_larger_scale_is_rounded_once_from_1_and_a_half_times_the_quotient(fmt: Format):
    # amax/6 = 1.0625 is a tie and becomes 1; 1.59375 becomes 1.625, not 1.5 * 1
    assert at_one(block(6.375), fmt).scale.item() == 0x3D


def test_the_global_scale_leaves_room_for_the_larger_scale():
    q = quantize(block(6.0, 5.0), NVFP4_4OVER6)
    assert q.global_scale is not None
    assert q.global_scale.item() == 256.0
    assert q.scale.view(torch.float8_e4m3fn).item() == 384.0


@BOTH
def test_the_choice_is_the_better_of_both_and_never_worse_than_the_normal_scale(fmt: Format):
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    q = quantize(x, fmt)
    plain = quantize(x, dataclasses.replace(NVFP4, scale_max=256.0))
    four = quantize(x, dataclasses.replace(fmt, select=""))  # the same as plain: the field alone chooses
    assert torch.equal(four.data, plain.data) and torch.equal(four.scale, plain.scale)

    def error(t: QTensor) -> Tensor:
        off = (t.dequantize(torch.float64) - x).unflatten(-1, (-1, 16)).abs()
        return (off.square() if fmt.select == "mse" else off).sum(-1)

    other = q.scale != plain.scale
    assert 0.2 < other.float().mean() < 0.8
    assert (error(q)[other] < error(plain)[other]).all()
    assert torch.equal(error(q)[~other], error(plain)[~other])


def authors(x: Tensor, fmt: Format) -> QTensor:
    """Their order of operations in fp32: 1.5 times the quotient, reciprocals, and errors of decoded values."""
    gs = torch.full((), 6 * 256.0) / x.float().abs().amax()
    blocks = x.float().unflatten(-1, (-1, 16))
    t = blocks.abs().amax(-1) / 6 * gs
    found = []
    for factor in (1.0, 1.5):
        scale = (t * factor).to(torch.float8_e4m3fn)
        s = scale.float().unsqueeze(-1)
        codes = encode_e2m1(torch.where(s > 0, blocks * (1 / (1 / gs * s)), 0.0))
        off = decode_e2m1(codes) * s / gs - blocks
        error = off.square().sum(-1) if fmt.select == "mse" else off.abs().sum(-1)
        found.append((scale.view(torch.uint8), codes, error))
    (six, six_codes, six_error), (four, four_codes, four_error) = found
    better = four_error < six_error
    codes = torch.where(better.unsqueeze(-1), four_codes, six_codes).flatten(-2)
    data = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return QTensor(data, torch.where(better, four, six), fmt, tuple(x.shape), gs)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp32_arithmetic_in_the_authors_order_passes(fmt: Format, dtype: torch.dtype):
    for seed in range(4):
        x = torch.randn(512, 256, generator=torch.Generator().manual_seed(seed)).to(dtype)
        x[seed] = torch.randint(-12, 13, (256,), generator=torch.Generator().manual_seed(seed)) / 2  # ties
        assert compare_quantized(authors(x, fmt), x, fmt) is None


@BOTH
def test_the_wrong_choice_fails(fmt: Format):
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    right = quantize(x, fmt)
    rule = NVFP4_4OVER6_MAE if fmt is NVFP4_4OVER6 else NVFP4_4OVER6
    wrong = {
        "always six": dataclasses.replace(fmt, select=""),
        "the other error": dataclasses.replace(fmt, select=rule.select),
    }
    for words, other in wrong.items():
        q = quantize(x, other, global_scale=right.global_scale)
        problem = compare_quantized(dataclasses.replace(q, format=fmt), x, fmt)
        assert problem is not None, words
        assert problem.count > 10 and "scale" in problem.summary
    # always four: the scales of a tensor 1.5 times as large, the codes of this one
    large = quantize(x * 1.5, dataclasses.replace(fmt, select=""), global_scale=right.global_scale)
    blocks = x.double().unflatten(-1, (-1, 16)) * right.global_scale.double()
    codes = encode_e2m1(blocks / large.scale.view(torch.float8_e4m3fn).double().unsqueeze(-1)).flatten(-2)
    always = dataclasses.replace(right, scale=large.scale, data=codes[:, 0::2] | (codes[:, 1::2] << 4))
    problem = compare_quantized(always, x, fmt)
    assert problem is not None and problem.count > 10


def test_one_block_chosen_wrongly_among_thousands_is_found_and_placed():
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(3))
    q = quantize(x, NVFP4_4OVER6)
    six = quantize(x, dataclasses.replace(NVFP4_4OVER6, select=""))
    row, column = (q.scale != six.scale).nonzero()[7].tolist()
    scale, data = q.scale.clone(), q.data.clone()
    scale[row, column] = six.scale[row, column]
    data[row, column * 8 : column * 8 + 8] = six.data[row, column * 8 : column * 8 + 8]
    problem = compare_quantized(dataclasses.replace(q, scale=scale, data=data), x, NVFP4_4OVER6)
    assert problem is not None
    assert problem.count == 1 and f"row {row}, block {column}" in problem.details

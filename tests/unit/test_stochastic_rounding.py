"""Stochastic rounding: unbiased, between the two neighbours, repeatable, and judged as such."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import qkernels
from qkernels.compare import compare_quantized
from qkernels.format import (
    FORMATS,
    INT4,
    INT4_ASYM,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_QUEST,
    MXFP8,
    NVFP4,
    Format,
)
from qkernels.ops.quantize import QuantizeOptions, reference, tolerance
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

ROUNDED = (MXFP4_ABS_MAX, MXFP4_QUEST, INT4, INT4_ASYM, INT8_TOKEN, INT8_ASYM)
"""Formats whose scale of half the largest number is no power of two: hardly a number but 0 is theirs exactly."""

every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)


def static(fmt: Format) -> dict[str, Any]:
    return {"scale": 0.03} if fmt is INT8 else {}


def draw(x: Tensor, fmt: Format, seed: int = 0) -> QTensor:
    generator = torch.Generator().manual_seed(seed)
    return quantize(x, fmt, rounding="stochastic", generator=generator, **static(fmt))


def judge(q: QTensor, x: Tensor, fmt: Format) -> object:
    return compare_quantized(q, x, fmt, rounding="stochastic", **static(fmt))


def normal(rows: int = 40, k: int = 256, seed: int = 0) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))


@every_format
@pytest.mark.parametrize("value", [0.8137, -0.07])
def test_the_mean_of_a_hundred_thousand_draws_is_the_value(fmt: Format, value: float):
    x = torch.full((896, 128), value)
    x[:, ::16], x[:, 1::16] = 2.75, -2.75  # the same amax in every block, of both signs
    values = draw(x, fmt).dequantize(torch.float64)[x == value]
    assert len(values) > 100_000
    found = values.unique()
    assert len(found) == 2 and found[0] < value < found[1]
    wanted = float(x[0, 2])
    up = (wanted - found[0]) / found.diff()
    sigma = found.diff() * (up * (1 - up) / len(values)).sqrt()
    assert (values.mean() - wanted).abs() <= 5 * sigma


@every_format
def test_draws_are_neighbours_and_scales_those_of_rounding_to_nearest(fmt: Format):
    x = normal()
    near, drawn = quantize(x, fmt, **static(fmt)), draw(x, fmt)
    assert torch.equal(near.scale, drawn.scale)
    assert 0.02 < (near.codes() != drawn.codes()).float().mean() < 0.6
    assert judge(drawn, x, fmt) is None and judge(near, x, fmt) is None
    assert compare_quantized(drawn, x, fmt, **static(fmt)) is not None


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f not in ROUNDED], ids=lambda f: f.name)
def test_numbers_of_the_format_are_never_moved(fmt: Format):
    x = torch.zeros(256, 128)
    x[:, ::16], x[::2, 1::16] = 8.0 if fmt is INT8 else fmt.element.max / 2, -1.0
    options: dict[str, Any] = {"scale": 0.25} if fmt is INT8 else {}
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        q = quantize(x, fmt, rounding="stochastic", generator=generator, **options)
        assert torch.equal(q.dequantize(torch.float64), x.double())


def test_equal_seeds_repeat_and_others_differ():
    x = normal()
    assert torch.equal(draw(x, NVFP4).data, draw(x, NVFP4).data)
    assert not torch.equal(draw(x, NVFP4).data, draw(x, NVFP4, seed=1).data)


def test_a_seed_is_asked_for_and_an_unknown_rounding_named():
    x = normal(2, 32)
    with pytest.raises(ValueError, match=r"stochastic rounding needs generator=torch.Generator"):
        qkernels.quantize(x, "mxfp4", rounding="stochastic")
    with pytest.raises(ValueError, match="unknown rounding 'down'; known: nearest, stochastic"):
        qkernels.quantize(x, "mxfp4", rounding="down")
    with pytest.raises(ValueError, match="unknown rounding 'down'"):
        compare_quantized(quantize(x, MXFP4), x, MXFP4, rounding="down")
    with pytest.raises(ValueError, match="no Triton kernel quantizes mxfp4 with rounding to stochastic"):
        qkernels.quantize(x, "mxfp4", rounding="stochastic", generator=torch.Generator(), backend="triton")


def test_the_operation_carries_the_rounding_and_its_seed():
    x = normal()
    options = QuantizeOptions(MXFP8, rounding="stochastic", seed=5)
    q = reference(x, options)
    assert torch.equal(q.codes(), draw(x, MXFP8, seed=5).codes())
    assert tolerance(q, (x, options), reference, "fp32") is None
    assert tolerance(q, (x, QuantizeOptions(MXFP8)), reference, "fp32") is not None


@every_format
def test_a_code_two_steps_off_fails(fmt: Format):
    x = normal()
    q = draw(x, fmt)
    data = q.data.clone()
    raw = data.view(torch.uint8)
    row, column = 20, 33
    at = column // 2 if fmt.packed else column
    code = int(q.codes()[row, column])
    top = (1 << (fmt.element.bits - 1)) - 1
    moved = code - 2 if (code & top) >= 2 else code + 2
    if fmt.packed:
        raw[row, at] = (int(raw[row, at]) & 0x0F) | (moved << 4)
    else:
        raw[row, at] = moved
    problem = judge(dataclasses.replace(q, data=data), x, fmt)
    assert problem is not None
    assert f"row {row}, column {column}" in str(problem)

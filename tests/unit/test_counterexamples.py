"""What is tempting to believe of quantizers and false, each with its smallest counter-example."""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels.format import (
    INT8,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_QUEST,
    NVFP4,
    NVFP4_1L,
    Format,
)
from qkernels.quantize import quantize
from tests.quantizers import over, values


def block(*head: float) -> Tensor:
    return torch.tensor([[*head, *[0.0] * (32 - len(head))]])


@over(MXFP4_CEIL, MXFP4_ABS_MAX)
def test_false_representable_blocks_are_exact_under_every_rule(fmt: Format):
    x = block(6.0, 0.5)
    assert not torch.equal(quantize(x, fmt).dequantize(), x)
    assert torch.equal(quantize(x, MXFP4).dequantize(), x)


@over(MXFP4_ABS_MAX, MXFP4_QUEST)
def test_false_every_rule_is_idempotent(fmt: Format):
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    once = quantize(x, fmt).dequantize()
    assert not torch.equal(quantize(once, fmt).dequantize(), once)


def test_false_nvfp4_is_equivariant_at_fixed_global_scale():
    x = block(6.0, 5.5, 1.0)
    large, small = (values(x * 1.125 * 2.0**p, NVFP4, global_scale=1.0) for p in (0, -8))
    assert not torch.equal(small, large * 2.0**-8)


def test_false_nvfp4_is_idempotent_at_subnormal_scales():
    x = block(6.4 * 2.0**-10)  # t just above half the least scale: rounds up to 2^-9 and keeps only 3
    once = quantize(x, NVFP4_1L).dequantize()
    twice = quantize(once, NVFP4_1L).dequantize()
    assert not torch.equal(once, twice)


def test_false_nvfp4_blocks_are_independent():
    x, y = block(1.0, 0.3, 0.7), block(1.0, 0.3, 0.7)
    y[0, 31] = 1000.0
    assert not torch.equal(values(x, NVFP4)[0, :16], values(y, NVFP4)[0, :16])


def test_false_monotone_across_inputs():
    x, y = block(7.0, 0.5), block(8.0, 0.5)
    assert (x <= y).all()
    assert values(x, MXFP4)[0, 1] > values(y, MXFP4)[0, 1]


def test_false_static_int8_at_the_dynamic_scale_is_dynamic_int8():
    x = torch.tensor([[1.3074228763580322, 0.15956735610961914]])
    dynamic = quantize(x, INT8_TOKEN)
    assert dynamic.data.tolist() == [[127, 15]]
    assert quantize(x, INT8, scale=float(dynamic.scale)).data.tolist() == [[127, 16]]

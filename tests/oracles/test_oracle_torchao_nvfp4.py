"""NVFP4 against torchao, which keeps block scales at 2^-6 or above and divides by products of reciprocals in fp32.

Equal in every bit where the arithmetic is exact, else accepted by the comparator; who is right does not arise, both are
orders of the same formula. Where torchao differs: it saturates an infinite block at 448 where ours decodes to NaN, and
two levels with the scale of a zero tensor (amax/2688 = 0) give NaN scales where ours are zeros.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from torch import Tensor

from qkernels.compare import compare_quantized
from qkernels.format import NVFP4, NVFP4_1L, NVFP4_MIN_SCALE, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.oracles.inputs import every_bfloat16_amax, tensors
from tests.oracles.torchao_results import nvfp4, torchao

ONE_LEVEL = dataclasses.replace(NVFP4_1L, min_scale=NVFP4_MIN_SCALE.min_scale)
DTYPES = (torch.bfloat16, torch.float32)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    torchao("prototype.mx_formats.nvfp4_tensor")


def exact_blocks() -> Tensor:
    """[4096, 16]: the largest of each block is 6*2^k, k from -14 to 6, the others multiples of 2^k/4 and ties of it."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-48, 49, (4096, 16), generator=g) / 8.0
    x[torch.arange(4096), torch.arange(4096) % 16] = torch.where(torch.arange(4096) % 3 == 0, -6.0, 6.0)
    return x * torch.exp2(torch.randint(-14, 7, (4096, 1), generator=g).float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_level_is_bit_equal_where_the_arithmetic_is_exact(dtype: torch.dtype):
    x = exact_blocks().to(dtype)
    ours, (scale, data) = quantize(x, ONE_LEVEL), nvfp4(x)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.data, data)
    assert (ours.scale == 0x08).any()  # the least scale took part


@pytest.mark.parametrize("decode_scale", [2.0**-4, 1.0, 4.0])
def test_two_levels_are_bit_equal_where_the_arithmetic_is_exact(decode_scale: float):
    x = exact_blocks() * decode_scale
    ours = quantize(x, NVFP4_MIN_SCALE, global_scale=1 / decode_scale)
    scale, data = nvfp4(x, torch.tensor(decode_scale))
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.data, data)


def assert_accepted(x: Tensor, fmt: Format) -> None:
    amax = x.float().abs().amax()
    if fmt.levels == 2 and not amax:
        return
    decode_scale = amax / 2688 if fmt.levels == 2 else None
    scale, data = nvfp4(x, decode_scale)
    gs = None if decode_scale is None else 1.0 / decode_scale
    output = QTensor(data, scale, fmt, tuple(x.shape), gs)
    assert compare_quantized(output, x, fmt) is None
    assert gs is None or compare_quantized(output, x, fmt, global_scale=float(gs)) is None


@pytest.mark.parametrize("fmt", [ONE_LEVEL, NVFP4_MIN_SCALE], ids=["one level", "two levels"])
@given(x=tensors(16, dtypes=DTYPES))
def test_tensors_are_accepted_by_the_comparator(fmt: Format, x: Tensor):
    assert_accepted(x, fmt)


def test_one_level_of_every_bfloat16_amax_is_accepted():
    assert_accepted(every_bfloat16_amax(16), ONE_LEVEL)


def test_without_the_least_scale_the_comparator_refuses_small_blocks():
    """The minimum is part of the format, not of the comparator's slack."""
    x = exact_blocks()
    scale, data = nvfp4(x)
    output = QTensor(data, scale, NVFP4_1L, tuple(x.shape))
    wrong = compare_quantized(output, x, NVFP4_1L)
    assert wrong is not None
    assert "scale" in wrong.summary


def test_infinity_saturates_and_a_zero_tensor_is_nan_in_torchao_only():
    x = torch.ones(2, 16)
    x[0, 3], x[1, 3] = float("inf"), float("nan")
    scale, _ = nvfp4(x)
    assert scale.tolist() == [[0x7E], [0x7F]]
    assert quantize(x, ONE_LEVEL).scale.tolist() == [[0x7F], [0x7F]]
    zeros = torch.zeros(1, 16)
    scale, _ = nvfp4(zeros, torch.tensor(0.0))
    assert scale.item() & 0x7F == 0x7F
    assert not quantize(zeros, NVFP4).dequantize().any()

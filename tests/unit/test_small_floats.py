"""The codec of every float element over all codes, against ml_dtypes, at every tie, and drawn stochastically."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from qkernels.codec import decode_e2m1, decode_float, encode_e2m1, encode_float, round_steps
from qkernels.format import E2M1, E2M3, E3M2, E4M3, E5M2, Element

PEERS = {
    E2M1: ml_dtypes.float4_e2m1fn,
    E2M3: ml_dtypes.float6_e2m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
    E4M3: ml_dtypes.float8_e4m3fn,
    E5M2: ml_dtypes.float8_e5m2,
}
every_element = pytest.mark.parametrize("element", PEERS, ids=lambda e: e.name)


def codes_of(element: Element) -> Tensor:
    return torch.arange(1 << element.bits, dtype=torch.uint8)


def magnitudes(element: Element) -> Tensor:
    """float64 values of the finite codes of positive sign, ascending."""
    values = decode_float(codes_of(element)[: 1 << (element.bits - 1)], element).to(torch.float64)
    return values[values.isfinite()]


@every_element
def test_every_code_decodes_as_ml_dtypes(element: Element):
    codes = codes_of(element)
    ours = decode_float(codes, element)
    theirs = torch.from_numpy(codes.numpy().view(PEERS[element]).astype(np.float32))
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(9.0).view(torch.int32), theirs.nan_to_num(9.0).view(torch.int32))


@every_element
def test_every_bfloat16_rounds_as_ml_dtypes(element: Element):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).to(torch.float32)
    x = x[x.isfinite()]
    theirs = x.clamp(-element.max, element.max).numpy().astype(PEERS[element]).view(np.uint8)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(encode_float(x.to(dtype), element), torch.from_numpy(theirs))


def test_the_table_of_e2m1_and_the_arithmetic_of_all_elements_agree():
    y = torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(encode_e2m1(y), encode_float(y, E2M1))
    assert torch.equal(decode_e2m1(codes_of(E2M1)), decode_float(codes_of(E2M1), E2M1))


@every_element
def test_largest_and_least_numbers_follow_from_the_bits(element: Element):
    values = magnitudes(element)
    assert values[-1] == element.max
    assert 2.0**element.emax <= element.max < 2.0 ** (element.emax + 1)
    assert values[1] == 2.0 ** (element.emin - element.mantissa)


@every_element
def test_ties_go_to_the_even_code_and_their_neighbours_do_not(element: Element):
    values = magnitudes(element)
    ties = (values[:-1] + values[1:]) / 2
    low = torch.arange(len(ties), dtype=torch.uint8)
    assert torch.equal(encode_float(ties, element), low + (low & 1))
    assert torch.equal(encode_float(torch.nextafter(ties, values[:-1]), element), low)
    assert torch.equal(encode_float(torch.nextafter(ties, values[1:]), element), low + 1)
    sign = 1 << (element.bits - 1)
    assert torch.equal(encode_float(-ties, element), encode_float(ties, element) | sign)


@every_element
def test_overflow_saturates_zeros_keep_their_sign_and_nan_has_one_code(element: Element):
    sign = 1 << (element.bits - 1)
    top = int(encode_float(torch.tensor([element.max]), element))
    y = torch.tensor([math.inf, -math.inf, element.max * 1.5, -0.0, 0.0, -1e-30])
    assert encode_float(y, element).tolist() == [top, top | sign, top, sign, 0, sign]
    nan = encode_float(torch.tensor([math.nan, -math.nan]), element).tolist()
    assert nan == [0x7F, 0x7F] if element.bits == 8 else [sign - 1, sign - 1]


@every_element
def test_noise_picks_a_neighbour_by_the_distance_in_steps_and_leaves_values_alone(element: Element):
    values = magnitudes(element)
    low = torch.arange(len(values) - 1, dtype=torch.uint8)
    quarter = values[:-1] + 0.25 * values.diff()
    for noise, up in ((0.0, 1), (0.2499999, 1), (0.25, 0), (0.9999999, 0)):
        draw = torch.full_like(quarter, noise)
        assert torch.equal(encode_float(quarter, element, draw), low + up)
        below = decode_float(encode_float(-quarter, element, draw), element).to(torch.float64)
        assert torch.equal(below, -values[low.long() + up])
    for noise in (0.0, 1 - 2.0**-53):
        draw = torch.full_like(values, noise)
        assert torch.equal(decode_float(encode_float(values, element, draw), element).double(), values)


def test_whole_numbers_below_zero_are_drawn_downwards_too():
    y = torch.tensor([-1.75, -1.75, 2.5, 2.5, -3.0], dtype=torch.float64)
    noise = torch.tensor([0.0, 0.25, 0.4, 0.5, 0.0], dtype=torch.float64)
    assert round_steps(y, noise).tolist() == [-1.0, -2.0, 3.0, 2.0, -3.0]
    assert round_steps(y).tolist() == [-2.0, -2.0, 2.0, 2.0, -3.0]

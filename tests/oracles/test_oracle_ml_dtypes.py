"""Element and scale codecs against ml_dtypes: every code, every bf16 number, every tie and its float32 neighbours.

Where ml_dtypes differs by its own choice, each a test below: out of range it gives NaN (E4M3) or infinity (E5M2) where
a quantizer saturates; NaN becomes -0 in the types without NaN; a cast from float64 rounds to float32 on the way; a cast
to E8M0 rounds the significand half up and gives NaN for 0, where a shared exponent is an integer already.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from qkernels.codec import (
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    decode_float,
    encode_e2m1,
    encode_e4m3,
    encode_e8m0,
    encode_float,
)
from qkernels.format import E2M1, E2M3, E3M2, E4M3, E5M2, Element
from tests.oracles.inputs import every_bfloat16, neighbours

TYPES = {
    E2M1: ml_dtypes.float4_e2m1fn,
    E2M3: ml_dtypes.float6_e2m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
    E4M3: ml_dtypes.float8_e4m3fn,
    E5M2: ml_dtypes.float8_e5m2,
}
E8M0 = ml_dtypes.float8_e8m0fnu
every_element = pytest.mark.parametrize("element", TYPES, ids=lambda e: e.name)


def all_codes(element: Element) -> Tensor:
    return torch.arange(1 << element.bits, dtype=torch.int16).to(torch.uint8)


def decoded(codes: Tensor, dtype: type) -> Tensor:
    """float32, by ml_dtypes."""
    return torch.from_numpy(codes.numpy().view(dtype).astype(np.float32))


def encoded(x: Tensor, element: Element) -> Tensor:
    """Codes of float32 x by ml_dtypes, clamped first: out of range it does not saturate."""
    assert x.dtype == torch.float32
    kept = x.clamp(-element.max, element.max)
    return torch.from_numpy(kept.numpy().astype(TYPES[element]).view(np.uint8))


def same(a: Tensor, b: Tensor) -> bool:
    """Equal float32 bits, all NaN alike."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def ties(element: Element) -> tuple[Tensor, Tensor]:
    """float64 halfway points between neighbouring magnitudes, and the lower code of each."""
    values = decoded(all_codes(element)[: 1 << (element.bits - 1)], TYPES[element]).double()
    values = values[values <= element.max]  # drops NaN and infinity
    return (values[:-1] + values[1:]) / 2, torch.arange(len(values) - 1).to(torch.uint8)


@every_element
def test_every_code_decodes_to_the_same_bits(element: Element):
    codes = all_codes(element)
    assert same(decode_float(codes, element), decoded(codes, TYPES[element]))
    assert float(ml_dtypes.finfo(TYPES[element]).max) == element.max


def test_the_short_names_decode_to_the_same_bits():
    assert same(decode_e2m1(all_codes(E2M1)), decoded(all_codes(E2M1), TYPES[E2M1]))
    assert same(decode_e4m3(all_codes(E4M3)), decoded(all_codes(E4M3), TYPES[E4M3]))
    assert same(decode_e8m0(all_codes(E4M3)), decoded(all_codes(E4M3), E8M0))


@every_element
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_bfloat16_number_encodes_to_the_same_code(element: Element, dtype: torch.dtype):
    x = every_bfloat16()
    x = x[~x.isnan()]  # infinities clamp to the largest
    assert torch.equal(encode_float(x.to(dtype), element), encoded(x, element))


@every_element
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_tie_and_its_float32_neighbours_encode_to_the_same_code(element: Element, sign: float):
    x = sign * neighbours(ties(element)[0].float())
    assert torch.equal(encode_float(x, element), encoded(x, element))
    assert torch.equal(encode_float(x.double(), element), encoded(x, element))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_short_names_encode_to_the_same_code(sign: float):
    for element, encode in ((E2M1, encode_e2m1), (E4M3, encode_e4m3)):
        x = torch.cat([sign * neighbours(ties(element)[0].float()), every_bfloat16()])
        x = x[~x.isnan()]
        assert torch.equal(encode(x), encoded(x, element))
        assert torch.equal(encode(x.double()), encoded(x, element))


@every_element
def test_every_code_survives_both_ways(element: Element):
    codes = all_codes(element)
    finite = codes[decoded(codes, TYPES[element]).isfinite()]
    assert torch.equal(encode_float(decoded(finite, TYPES[element]), element), finite)
    assert torch.equal(encoded(decode_float(finite, element), element), finite)


@every_element
def test_ml_dtypes_rounds_float64_twice_and_we_round_once(element: Element):
    """Just above a tie with an even lower code, by less than float32 can tell: up; through float32 it comes down."""
    tie, low = ties(element)
    above, even = tie * (1 + 2.0**-40), (low & 1) == 0
    assert torch.equal(encode_float(above, element), low + 1)
    assert torch.equal(encode_float(tie * (1 - 2.0**-40), element), low)
    theirs = torch.from_numpy(above.numpy().astype(TYPES[element]).view(np.uint8))
    assert torch.equal(theirs[even], low[even])


@every_element
def test_out_of_range_and_nan_where_ml_dtypes_chooses_otherwise(element: Element):
    x = torch.tensor([3.0e38, float("inf"), -float("inf"), float("nan")])
    largest = encoded(torch.tensor(element.max)[None], element).item()
    top = 1 << (element.bits - 1)
    ours, theirs = (
        encode_float(x, element).tolist(),
        torch.from_numpy(x.numpy().astype(TYPES[element]).view(np.uint8)),
    )
    assert ours[:3] == [largest, largest, largest | top]
    if element in (E4M3, E5M2):
        assert ours[3] == 0x7F
        assert decode_float(torch.tensor([0x7F, 0xFF], dtype=torch.uint8), element).isnan().all()
        assert not decoded(theirs, TYPES[element])[:3].isfinite().any()
    else:
        assert ours[3] == largest  # no code for NaN: the scale carries it
        assert theirs.tolist() == [largest, largest, largest | top, top]


def test_every_power_of_two_has_the_same_e8m0_byte():
    exponent = torch.arange(-127, 128)
    powers = torch.exp2(exponent.double()).float()
    theirs = torch.from_numpy(powers.numpy().astype(E8M0).view(np.uint8))
    assert torch.equal(encode_e8m0(exponent), theirs)
    assert torch.equal(encode_e8m0(exponent), torch.arange(255).to(torch.uint8))
    assert encode_e8m0(torch.tensor([-1087, -128, 128, 1024])).tolist() == [0, 0, 254, 254]


def test_ml_dtypes_rounds_to_e8m0_half_up_and_gives_nan_for_zero():
    """Why no cast makes a scale byte: floor of 1.5*2^k is 2^k, and a zero block has byte 0."""
    x = np.array([1.25, 1.5, 1.75, 0.0, 3.4e38], np.float32)
    assert x.astype(E8M0).view(np.uint8).tolist() == [127, 128, 128, 255, 255]

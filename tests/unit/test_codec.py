"""Element codecs over all codes, against ml_dtypes and at every tie."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from qkernels.codec import (
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    encode_e2m1,
    encode_e4m3,
    encode_e8m0,
    floor_log2,
    pack_e2m1,
    pow2,
    round_to,
    unpack_e2m1,
)

BYTES = torch.arange(256, dtype=torch.uint8)
NAN, INF = math.nan, math.inf


def ml_values(bits: Tensor, dtype: type) -> Tensor:
    return torch.from_numpy(bits.numpy().view(dtype).astype(np.float32))


def same(a: Tensor, b: Tensor) -> bool:
    """Equal as bits, all NaN alike."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def all_bfloat16() -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).to(torch.float32)


def test_every_e2m1_code_decodes_as_ml_dtypes():
    codes = BYTES[:16]
    assert same(decode_e2m1(codes), ml_values(codes, ml_dtypes.float4_e2m1fn))


def test_every_e4m3_byte_decodes_as_ml_dtypes():
    assert same(decode_e4m3(BYTES), ml_values(BYTES, ml_dtypes.float8_e4m3fn))


def test_every_e8m0_byte_decodes_as_ml_dtypes():
    assert same(decode_e8m0(BYTES), ml_values(BYTES, ml_dtypes.float8_e8m0fnu))
    assert decode_e8m0(BYTES)[0] == 2.0**-127


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_survive_decode_then_encode(dtype: torch.dtype):
    assert torch.equal(encode_e2m1(decode_e2m1(BYTES[:16]).to(dtype)), BYTES[:16])
    again = encode_e4m3(decode_e4m3(BYTES).to(dtype))
    assert torch.equal(again, torch.where((BYTES & 0x7F) == 0x7F, 0x7F, BYTES))  # both NaN become 0x7f


def test_e2m1_rounds_every_bfloat16_as_ml_dtypes():
    x = all_bfloat16()
    x = x[~x.isnan()]
    expected = torch.from_numpy(x.numpy().astype(ml_dtypes.float4_e2m1fn).view(np.uint8))
    assert torch.equal(encode_e2m1(x), expected)
    assert torch.equal(encode_e2m1(x.to(torch.bfloat16)), expected)
    assert torch.equal(encode_e2m1(x.to(torch.float64)), expected)


def test_e4m3_rounds_every_bfloat16_as_ml_dtypes():
    x = all_bfloat16()
    x = x[~x.isnan()]
    clamped = x.clamp(-448, 448)
    expected = torch.from_numpy(clamped.numpy().astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
    assert torch.equal(encode_e4m3(x), expected)


@pytest.mark.parametrize(
    ("tie", "value"), [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5, 4)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_e2m1_ties_go_to_the_even_code_and_neighbours_do_not(tie: float, value: float, sign: int):
    y = torch.tensor([tie, math.nextafter(tie, 0), math.nextafter(tie, 9)], dtype=torch.float64) * sign
    at, below, above = decode_e2m1(encode_e2m1(y)).tolist()
    assert at == sign * value
    assert abs(below) < abs(above)
    assert at in (below, above)


def test_e4m3_ties_go_to_the_even_byte_and_neighbours_do_not():
    values = decode_e4m3(BYTES[:127]).to(torch.float64)
    ties = (values[:-1] + values[1:]) / 2
    low = torch.arange(126, dtype=torch.uint8)
    assert torch.equal(encode_e4m3(ties), low + (low & 1))
    assert torch.equal(encode_e4m3(torch.nextafter(ties, torch.zeros(()).double())), low)
    assert torch.equal(encode_e4m3(torch.nextafter(ties, torch.full((), 9e9).double())), low + 1)


def test_e4m3_from_float64_does_not_round_twice():
    # fp32 would round this to the tie 1.0625, which then goes down to 1.0
    y = torch.tensor([1.0625 + 2.0**-40], dtype=torch.float64)
    assert decode_e4m3(encode_e4m3(y)).item() == 1.125
    assert decode_e4m3(encode_e4m3(y.float())).item() == 1.0


def test_saturation_negative_zero_and_nan():
    y = torch.tensor([INF, -INF, 1e30, -0.0, 0.0, -(2.0**-149)])
    assert encode_e2m1(y).tolist() == [7, 15, 7, 8, 0, 8]
    assert encode_e4m3(y).tolist() == [0x7E, 0xFE, 0x7E, 0x80, 0, 0x80]
    assert encode_e4m3(torch.tensor([NAN, -NAN])).tolist() == [0x7F, 0x7F]


def test_e8m0_clamps_and_never_makes_nan():
    exponent = torch.tensor([-1087, -128, -127, 0, 127, 128, 1024])
    assert encode_e8m0(exponent).tolist() == [0, 0, 0, 127, 254, 254, 254]


def test_floor_log2_is_exact_around_powers_of_two_and_for_subnormals():
    power = torch.arange(-1022, 1023)
    x = pow2(power)
    assert torch.equal(floor_log2(x), power)
    assert torch.equal(floor_log2(-torch.nextafter(x, torch.zeros_like(x)))[1:], power[1:] - 1)
    tiny = torch.tensor([2.0**-149, 3 * 2.0**-149, 2.0**-126, math.nextafter(1, 0)], dtype=torch.float64)
    assert floor_log2(tiny.float())[:3].tolist() == [-149, -148, -126]
    assert floor_log2(tiny)[3] == -1
    assert floor_log2(torch.tensor([0.0]))[0] < -1074
    assert floor_log2(torch.tensor([INF, NAN])).tolist() == [1024, 1024]


def test_packing_puts_even_elements_in_the_low_nibble():
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert pack_e2m1(codes).tolist() == [[0x21, 0x0F]]
    assert torch.equal(pack_e2m1(unpack_e2m1(BYTES[None])), BYTES[None])
    with pytest.raises(ValueError, match="K = 3 is odd"):
        pack_e2m1(codes[:, :3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_round_to_rounds_once_and_halfway_to_even(dtype: torch.dtype):
    values = torch.arange(2**15 - 1, dtype=torch.int16).view(dtype)
    values = values[values.isfinite()]
    low, high = values[:-1].double(), values[1:].double()
    middle = (low + high) / 2
    even = torch.where((torch.arange(len(low)) & 1).bool(), high, low)
    assert torch.equal(round_to(middle, dtype).double(), even)
    assert torch.equal(round_to(-middle, dtype).double(), -even)
    # nextafter in float64: an fp32 in between would round onto the tie first
    assert torch.equal(round_to(torch.nextafter(middle, low), dtype).double(), low)
    assert torch.equal(round_to(torch.nextafter(middle, high), dtype).double(), high)
    assert torch.equal(round_to(values.double(), dtype), values)
    assert round_to(torch.tensor([INF, -INF, 1e300]).double(), dtype).tolist() == [INF, -INF, INF]
    assert round_to(torch.tensor([NAN]).double(), dtype).isnan().all()
    assert torch.signbit(round_to(torch.tensor([-0.0, -1e-300]).double(), dtype)).all()


def test_round_to_refuses_other_dtypes():
    with pytest.raises(TypeError, match="float8"):
        round_to(torch.zeros(1, dtype=torch.float64), torch.float8_e4m3fn)

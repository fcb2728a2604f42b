"""Properties of the E2M1 codec, of representable blocks and of rotations, beyond those that check_quantizer asks.

What is tempting and false: unit/test_counterexamples.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qkernels.codec import decode_e2m1, encode_e2m1, unpack_e2m1
from qkernels.format import FORMATS, INT8_ASYM, MXFP4, MXFP4_EVEN, MXFP4_RCEIL, NVFP4_1L, Format
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from qkernels.testing.strategies import tensors
from tests.quantizers import GRID, floats, over


@given(y=st.lists(floats, min_size=2, max_size=64))
def test_e2m1_is_idempotent_nearest_monotone_and_odd(y: list[float]):
    x = torch.tensor(sorted(y), dtype=torch.float64)
    rounded = decode_e2m1(encode_e2m1(x)).double()
    assert torch.equal(decode_e2m1(encode_e2m1(rounded)).double(), rounded)
    assert torch.equal((rounded - x).abs(), (GRID[:, None] - x).abs().amin(0))
    assert (rounded.diff() >= 0).all()
    assert torch.equal(encode_e2m1(-x) ^ 8, encode_e2m1(x))


@over(MXFP4, MXFP4_EVEN, MXFP4_RCEIL)
@given(codes=st.lists(st.integers(0, 15), min_size=32, max_size=32), power=st.integers(-100, 100))
def test_representable_mx_blocks_round_trip_at_any_scale(fmt: Format, codes: list[int], power: int):
    x = (decode_e2m1(torch.tensor([codes], dtype=torch.uint8)).double() * 2.0**power).float()
    assert torch.equal(quantize(x, fmt).dequantize(), x)


@given(codes=st.lists(st.integers(0, 15), min_size=15, max_size=15), byte=st.integers(1, 0x7E))
def test_representable_nvfp4_blocks_round_trip_if_they_contain_six(codes: list[int], byte: int):
    raw = torch.tensor([[*codes, 7]], dtype=torch.uint8)
    x = decode_e2m1(raw) * torch.tensor([byte], dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    q = quantize(x, NVFP4_1L)
    assert q.scale.item() == byte
    assert torch.equal(unpack_e2m1(q.data), raw)


@given(x=tensors(block=128, dtypes=[torch.float32]), n=st.sampled_from([16, 32, 64, 128]))
def test_a_rotation_grows_no_element_beyond_sqrt_n(x: Tensor, n: int):
    assert rotate(x, n, torch.float64).abs().max() <= n**0.5 * x.double().abs().max() * (1 + 1e-12)


@given(value=st.floats(width=16, allow_nan=False, allow_infinity=False), k=st.integers(1, 40))
def test_a_constant_row_survives_asymmetric_int8_exactly(value: float, k: int):
    x = torch.full((2, k), value)
    assert torch.equal(quantize(x, INT8_ASYM).dequantize(), x)


@given(base=st.floats(1, 1000, width=32), steps=st.integers(1, 300))
def test_a_nearly_constant_fp32_row_survives_asymmetric_int8(base: float, steps: int):
    x = torch.tensor([[base, base * (1 + steps * 2.0**-23), base]])
    assert ((quantize(x, INT8_ASYM).dequantize() - x).abs() <= base * 2.0**-19).all()


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.block], ids=lambda f: f.name)
@given(x=tensors(block=128, max_rows=3))
def test_zero_blocks_decode_to_zeros_beside_any_others(fmt: Format, x: Tensor):
    x = torch.cat([x, torch.zeros_like(x), -x])
    x[:, :128] = 0
    out = quantize(x, fmt).dequantize(torch.float64)
    assert (out[:, :128] == 0).all()
    assert out.isfinite().all()
    assert fmt.block_rows > 1 or (out[len(x) // 3 : 2 * len(x) // 3] == 0).all()

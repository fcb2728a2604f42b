"""Properties of E2M1 and of the block formats built on it (NVFP4, MXFP4)."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from qkernels.codec import decode_e2m1, encode_e2m1, unpack_e2m1
from qkernels.format import (
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_QUEST,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_1L,
    Format,
)
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from tests.property.strategies import tensors
from tests.quantizers import DYNAMIC, GRID, OCP, assert_same, block_amax, block_error, floats, over, values

# --- E2M1 -----------------------------------------------------------------------------------------------------------


@given(y=st.lists(floats, min_size=2, max_size=64))
def test_e2m1_is_idempotent_nearest_monotone_and_odd(y: list[float]):
    x = torch.tensor(sorted(y), dtype=torch.float64)
    rounded = decode_e2m1(encode_e2m1(x)).double()
    assert torch.equal(decode_e2m1(encode_e2m1(rounded)).double(), rounded)
    assert torch.equal((rounded - x).abs(), (GRID[:, None] - x).abs().amin(0))
    assert (rounded.diff() >= 0).all()
    assert torch.equal(encode_e2m1(-x) ^ 8, encode_e2m1(x))


# --- block formats --------------------------------------------------------------------------------------------------


@over(MXFP4, MXFP4_EVEN)
@given(x=tensors())
def test_floor_and_even_are_idempotent_in_bytes(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    assert_same(quantize(q.dequantize(), fmt), q)


@over(MXFP4_CEIL, MXFP4_RCEIL)
@given(x=tensors())
def test_ceil_and_rceil_are_idempotent_in_values(fmt: Format, x: Tensor):
    once = quantize(x, fmt).dequantize()
    assert torch.equal(quantize(once, fmt).dequantize(), once)


@over(*OCP, NVFP4)
@given(x=tensors(dtypes=[torch.float32, torch.bfloat16]), power=st.integers(-40, 40))
def test_a_power_of_two_passes_through(fmt: Format, x: Tensor, power: int):
    q, scaled = quantize(x, fmt), quantize(x * 2.0**power, fmt)
    assert torch.equal(scaled.data, q.data)
    assert torch.equal(scaled.dequantize(torch.float64), q.dequantize(torch.float64) * 2.0**power)


@over(*[f for f in DYNAMIC if f.block and f is not MXFP4_QUEST])
@given(x=tensors(), seed=st.integers(0, 99))
def test_permuting_blocks_or_elements_in_a_block_permutes_the_result(fmt: Format, x: Tensor, seed: int):
    g = torch.Generator().manual_seed(seed)
    blocks, inside = (
        torch.randperm(x.shape[-1] // 32, generator=g),
        torch.randperm(fmt.block or 1, generator=g),
    )
    by_block = x.unflatten(-1, (-1, 32))[:, blocks].flatten(-2)
    assert torch.equal(values(by_block, fmt), values(x, fmt).unflatten(-1, (-1, 32))[:, blocks].flatten(-2))
    mixed = x.unflatten(-1, (-1, fmt.block))[..., inside].flatten(-2)
    assert torch.equal(
        values(mixed, fmt), values(x, fmt).unflatten(-1, (-1, fmt.block))[..., inside].flatten(-2)
    )


@over(*[f for f in DYNAMIC if f.block])
@given(x=tensors())
def test_monotone_within_a_block(fmt: Format, x: Tensor):
    blocks = x.unflatten(-1, (-1, fmt.block)).sort(-1).values
    assert (values(blocks.flatten(-2), fmt).unflatten(-1, (-1, fmt.block)).diff() >= 0).all()


@over(*OCP, MXFP4_ABS_MAX)
@given(x=tensors())
def test_mx_error_against_the_amax_of_the_block(fmt: Format, x: Tensor):
    amax, error = block_amax(x, fmt), block_error(x, fmt)
    # abs_max adds 1e-8 to amax, which swallows blocks of that size: judged where it does not matter
    counted = (amax > 2.0**-10 if fmt is MXFP4_ABS_MAX else amax > 0).expand_as(error)
    bound = (0.25 if fmt is MXFP4 else 0.2) * amax.expand_as(error)[counted]
    assert (error[counted] < bound).all() if fmt is MXFP4 else (error[counted] <= bound * (1 + 1e-12)).all()


@over(NVFP4, NVFP4_1L)
@given(x=tensors())
def test_nvfp4_error_against_the_amax_of_the_block(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    amax, error = block_amax(x, fmt), block_error(x, fmt)
    g = float(q.alpha)
    t = amax / 6 / g
    assume(float(t.max()) <= 448 * (1 + 2.0**-20))  # one level saturates beyond 2688
    normal = (q.scale >= 8).unsqueeze(-1)
    bound = torch.where(
        normal, 3 / 17 * amax, g * torch.maximum(t + 2.0**-10, torch.tensor(6 * 2.0**-10).double())
    )
    assert (error <= bound * (1 + 1e-6)).all()


@over(NVFP4, NVFP4_1L)
@given(x=tensors())
def test_an_nvfp4_block_with_normal_scale_contains_six_and_is_idempotent(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    normal = q.scale >= 8
    largest = (unpack_e2m1(q.data) & 7).unflatten(-1, (-1, 16)).amax(-1)
    assert (largest[normal] == 7).all()
    options = {} if q.global_scale is None else {"global_scale": float(q.global_scale)}
    again = quantize(q.dequantize(), fmt, **options)
    assert torch.equal(again.scale[normal], q.scale[normal])
    assert torch.equal(
        again.codes().unflatten(-1, (-1, 16))[normal], q.codes().unflatten(-1, (-1, 16))[normal]
    )


@over(MXFP4, MXFP4_EVEN, MXFP4_RCEIL)
@given(codes=st.lists(st.integers(0, 15), min_size=32, max_size=32), power=st.integers(-100, 100))
def test_representable_mx_blocks_round_trip(fmt: Format, codes: list[int], power: int):
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

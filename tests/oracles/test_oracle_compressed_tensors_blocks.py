"""NVFP4, MXFP4, MXFP6, MXFP8 and Hadamard against compressed-tensors.

Equal in every bit for MXFP4 (its rule is `even`), MXFP6 E2M3 (`even`) and, where the arithmetic is exact, NVFP4; NVFP4
elsewhere is accepted by the comparator. Where it differs, and who is right:
    -0          x = -0 gives code 0, since sign(-0)*0 is 0; the value is the same.
    zero scale  a block scale that rounds to 0 becomes 0.125: with all codes 0 the value is the same.
    MXFP8       its exponent rises from 1.75*2^k on, the threshold of E2M1, for every element of 8 bits: neither OCP's
                floor nor `even` (1.9375) nor `rceil` (above 1.75). At exactly 448*2^j the largest number would fit.
    the top     from amax = 1.75*2^127 on the rounded amax is infinite and the MX scale with it (byte 255, NaN); the
                exponent would fit.
    bf16        of bf16 input it computes the global scale, block scales and x/s in bf16, rounding each: NVFP4 moves.
                MX formats do not, for powers of two are exact.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from torch import Tensor

from qkernels.codec import decode_e8m0, encode_e4m3
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4_EVEN, MXFP6_E2M3, MXFP8, NVFP4, Format
from qkernels.hadamard import hadamard_matrix
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.oracles import compressed_tensors_results as ct
from tests.oracles.inputs import every_bfloat16_amax, tensors, threshold_amax

MXFP6_EVEN = dataclasses.replace(MXFP6_E2M3, rule="even")
MX = [(MXFP4_EVEN, ct.MXFP4), (MXFP6_EVEN, ct.MXFP6)]
every_mx = pytest.mark.parametrize(("fmt", "settings"), MX, ids=["mxfp4", "mxfp6"])
DTYPES = (torch.bfloat16, torch.float32)
TOP = 1.75 * 2.0**127
SIGNIFICANDS = (1.0, 1.5, 1.75, 1.875, 1.9375, 1.96875)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    ct.compressed_tensors("quantization")


def assert_mx_equal(x: Tensor, fmt: Format, settings: dict[str, object]) -> None:
    x = x.masked_fill(x == 0, 0.0)[x.abs().amax(-1) < TOP]  # no -0
    scale, _ = ct.of_groups(x, 32, settings)
    ours = quantize(x, fmt)
    assert torch.equal(decode_e8m0(ours.scale), scale.float())
    values = ct.quantized(x, scale, None, settings)
    assert torch.equal(
        values.double() * scale.double().repeat_interleave(32, -1), ours.dequantize(torch.float64)
    )
    if fmt.packed:
        assert torch.equal(ct.packed_fp4(values), ours.data)


@every_mx
def test_mx_blocks_of_every_bfloat16_amax_are_equal(fmt: Format, settings: dict[str, object]):
    x = every_bfloat16_amax(32)
    assert_mx_equal(x, fmt, settings)
    assert_mx_equal(x.float(), fmt, settings)


@every_mx
def test_mx_blocks_at_every_float32_threshold_are_equal(fmt: Format, settings: dict[str, object]):
    assert_mx_equal(threshold_amax(SIGNIFICANDS, 32), fmt, settings)


@every_mx
@given(x=tensors(32, dtypes=DTYPES))
def test_mx_tensors_are_equal(fmt: Format, settings: dict[str, object], x: Tensor):
    assert_mx_equal(x, fmt, settings)


def test_mxfp8_raises_the_exponent_at_the_threshold_of_e2m1():
    x = threshold_amax([1.0, 1.5, 1.75, 1.875, 1.9375], 32)
    x = x[x.abs().amax(-1) >= 2.0**-118]  # byte 0 and its floor left out
    theirs, amax = ct.of_groups(x, 32, ct.MXFP8)[0], x.abs().amax(-1, keepdim=True)
    floor, rceil, even = (
        decode_e8m0(quantize(x, dataclasses.replace(MXFP8, rule=rule)).scale)
        for rule in ("floor", "rceil", "even")
    )
    assert torch.equal(theirs, torch.where(amax >= 1.75 * floor * 256, 2 * floor, floor))
    assert torch.equal(theirs != rceil, amax == 448 * floor)
    assert (theirs != even).any()
    assert (theirs != floor).any()


def test_mxfp8_codes_under_the_same_scale_are_equal():
    x = every_bfloat16_amax(32).float()
    ours = quantize(x, MXFP8)
    values = ct.quantized(x, decode_e8m0(ours.scale), None, ct.MXFP8)
    assert torch.equal(
        values, ours.exact_values(torch.float64).float() / decode_e8m0(ours.scale).repeat_interleave(32, -1)
    )


def nvfp4_of(x: Tensor, gs: Tensor) -> QTensor:
    """Their scales and codes as a QTensor."""
    scale, _ = ct.of_groups(x, 16, ct.NVFP4, gs)
    values = ct.quantized(x, scale, None, ct.NVFP4, gs)
    return QTensor(ct.packed_fp4(values), encode_e4m3(scale), NVFP4, tuple(x.shape), gs.reshape(()))


@given(x=tensors(16, dtypes=(torch.float32,)))
def test_nvfp4_tensors_are_accepted_by_the_comparator(x: Tensor):
    x = x.masked_fill(x == 0, 0.0)
    gs = ct.global_scale(x)
    ours, theirs = quantize(x, NVFP4), nvfp4_of(x, gs)
    assert ours.global_scale is not None
    torch.testing.assert_close(
        ours.global_scale.reshape(1), gs, rtol=2.0**-22, atol=0
    )  # 2688 * (1/amax) there
    lifted = (ours.scale == 0) & (theirs.scale == encode_e4m3(torch.tensor(0.125)))
    kept = dataclasses.replace(theirs, scale=torch.where(lifted, 0, theirs.scale))
    assert compare_quantized(kept, x, NVFP4) is None
    values = ct.fake_quantized(x, *ct.of_groups(x, 16, ct.NVFP4, gs)[:1], None, ct.NVFP4, gs)
    torch.testing.assert_close(values, theirs.dequantize(), rtol=2.0**-22, atol=0)


def test_nvfp4_is_bit_equal_where_the_arithmetic_is_exact():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-48, 49, (4096, 16), generator=g) / 8.0
    x[:, 3] = 6.0
    x *= torch.exp2(torch.randint(-7, 7, (4096, 1), generator=g).float())
    for gs in (0.25, 1.0, 4.0):
        ours, theirs = quantize(x, NVFP4, global_scale=gs), nvfp4_of(x, torch.tensor([gs]))
        assert torch.equal(theirs.scale, ours.scale)
        assert torch.equal(theirs.data, ours.data)


def test_nvfp4_blocks_that_underflow_get_scale_0_125_and_the_same_values():
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 17] = 2688.0, 1e-3
    theirs, ours = nvfp4_of(x, torch.ones(1)), quantize(x, NVFP4, global_scale=1.0)
    assert ours.scale.tolist() == [[0x7E, 0x00]]
    assert theirs.scale.tolist() == [[0x7E, 0x20]]
    assert torch.equal(theirs.dequantize(), ours.dequantize())


def test_negative_zero_loses_its_sign_in_compressed_tensors_only():
    x = torch.full((1, 32), -0.0)
    x[0, 0] = 6.0
    values = ct.quantized(x, torch.ones(1, 1), None, ct.MXFP4)
    assert not torch.signbit(values).any()
    assert quantize(x, MXFP4_EVEN).codes()[0, 1:].eq(8).all()


def test_of_bfloat16_input_the_global_scale_is_rounded_to_bfloat16():
    x = torch.full((1, 16), 5.0, dtype=torch.bfloat16)
    assert ct.global_scale(x).item() == 540.0  # 2688 * bf16(1/5), rounded
    ours = quantize(x, NVFP4).global_scale
    assert ours is not None
    assert ours.item() == pytest.approx(537.6)


def test_an_amax_of_1_75_times_2_to_the_127_gives_an_infinite_mx_scale_in_compressed_tensors_only():
    x = torch.full((1, 32), TOP)
    scale, _ = ct.of_groups(x, 32, ct.MXFP4)
    assert scale.isinf().all()
    ours = quantize(x, MXFP4_EVEN)
    assert ours.scale.item() == 253
    assert torch.equal(ours.dequantize(torch.float64), torch.full((1, 32), 2.0**128, dtype=torch.float64))


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32, 64, 128, 256])
def test_the_hadamard_matrix_is_the_same(n: int):
    theirs = ct.compressed_tensors("transform.utils.hadamard").deterministic_hadamard_matrix(n, torch.float64)
    assert torch.equal(hadamard_matrix(n, torch.float64), theirs)

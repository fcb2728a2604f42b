"""FP8, INT8 and NVFP4 against vLLM's formulas in numpy: bit for bit where claimed, the comparator elsewhere.

Differences found, each a test below: vLLM stores 448 for NaN (fmin drops it) and for the zeros of a tensor whose scale
is subnormal (0 * inf); it loses a constant row under asymmetric INT8; asymmetric codes are x*(1/s) in its newer kernels
and x/s, as here, in the older ones.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qkernels.codec import decode_e4m3
from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_BLOCK, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, NVFP4
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.oracles import vllm_formulas as vllm
from tests.oracles.inputs import bits32, exact_groups, rows_of_ties, tensors

LEAST = 2.0**-100  # above it no reciprocal of a scale is subnormal or infinite, in vLLM's order or ours
scales = st.floats(2.0**-60, 2.0**60, width=32)
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # overflow and 0*inf are part of the formulas


def plain(x: Tensor) -> np.ndarray:
    return x.to(torch.float32).numpy()


def same(found: Tensor, expected: np.ndarray) -> bool:
    """Equal bytes."""
    return np.array_equal(found.contiguous().view(torch.uint8).numpy(), expected.view(np.uint8))


@given(tensors(16) | bits32(16), scales)
def test_fp8_static(x: Tensor, scale: float):
    assert same(quantize(x, FP8, scale=scale).data, vllm.fp8_static(plain(x), np.float32(scale)))


@given(tensors(16) | bits32(16, least=LEAST))
def test_fp8_per_tensor(x: Tensor):
    q, (scale, codes) = quantize(x, FP8), vllm.fp8_tensor(plain(x))
    assert same(q.scale, scale)
    assert not x.any() or same(q.data, codes)


@given(tensors(16) | bits32(16))
def test_fp8_per_token(x: Tensor):
    q, (scale, codes) = quantize(x, FP8_TOKEN), vllm.fp8_token(plain(x))
    assert same(q.scale, scale)
    assert same(q.data, codes)


@given(tensors(128) | bits32(128, least=1e-9))
def test_fp8_per_group_of_128_has_the_same_scale_and_accepted_codes(x: Tensor):
    """amax from its floor of 1e-10 on, which only keeps zeros from dividing by zero. It rounds x/s to fp32 first."""
    scale, codes = (torch.from_numpy(part) for part in vllm.fp8_group(plain(x), 128))
    ours = quantize(x, FP8_BLOCK).scale
    assert torch.equal(ours, torch.where(ours == 0, ours, scale))
    output = QTensor(codes.view(torch.float8_e4m3fn), scale, FP8_BLOCK, tuple(x.shape))
    assert compare_quantized(output, x, FP8_BLOCK) is None


@given(tensors(16) | bits32(16), scales)
def test_int8_static(x: Tensor, scale: float):
    assert same(quantize(x, INT8, scale=scale).data, vllm.int8_static(plain(x), np.float32(scale)))


def test_int8_and_fp8_ties_of_every_code_are_bit_equal():
    """Where x*(127/amax), x/s and x*(1/s) part: a few in a thousand of these, none of them here."""
    whole, e4m3 = rows_of_ties(range(128)), rows_of_ties(decode_e4m3(torch.arange(127)).tolist())
    assert same(quantize(whole, INT8_TOKEN).data, vllm.int8_token(plain(whole))[1])
    assert same(quantize(e4m3, FP8_TOKEN).data, vllm.fp8_token(plain(e4m3))[1])
    for row in range(0, len(whole), 9):
        one, two = whole[row : row + 1], e4m3[row : row + 1]
        scale = plain(one.amax() / torch.tensor(127.0))[()]
        assert same(quantize(one, INT8, scale=float(scale)).data, vllm.int8_static(plain(one), scale))
        assert same(quantize(two, FP8).data, vllm.fp8_tensor(plain(two))[1])


def test_fp8_groups_are_bit_equal_where_the_arithmetic_is_exact():
    x = exact_groups(-448, 448, 128)
    assert same(quantize(x, FP8_BLOCK).data, vllm.fp8_group(plain(x), 128)[1])


def test_asymmetric_int8_is_bit_equal_where_the_arithmetic_is_exact():
    for least in (-128, -100, -127, 0, 3):
        x = exact_groups(least, least + 255, 64)
        q = quantize(x, INT8_ASYM)
        for reciprocal in (True, False):
            scale, zero_point, codes = vllm.int8_token_asymmetric(plain(x), reciprocal=reciprocal)
            assert same(q.scale, scale)
            assert q.zero_point is not None
            assert same(q.zero_point, zero_point)
            assert same(q.data, codes)


@given(tensors(16) | bits32(16, least=LEAST))
def test_int8_per_token(x: Tensor):
    q, (scale, codes) = quantize(x, INT8_TOKEN), vllm.int8_token(plain(x))
    assert same(q.scale, scale)
    assert same(q.data, codes)


@given(tensors(16) | bits32(16), scales, st.integers(-300, 300))
def test_int8_static_asymmetric_is_the_division_of_the_older_kernels(
    x: Tensor, scale: float, zero_point: int
):
    q = quantize(x, INT8_ASYM, scale=scale, zero_point=zero_point)
    assert same(
        q.data, vllm.int8_static_asymmetric(plain(x), np.float32(scale), zero_point, reciprocal=False)
    )


def test_int8_static_asymmetric_by_a_reciprocal_differs_at_ties_by_one_code():
    scale, steps = np.float32(0.03), np.arange(-128, 127, dtype=np.float32) + np.float32(0.5)
    x = torch.from_numpy((steps * scale)[None])
    newer = vllm.int8_static_asymmetric(plain(x), scale, 3, reciprocal=True).astype(np.int32)
    ours = quantize(x, INT8_ASYM, scale=float(scale), zero_point=3).data.numpy()
    assert set(np.abs(newer - ours).flatten().tolist()) == {0, 1}


@given(tensors(16))
def test_int8_per_token_asymmetric(x: Tensor):
    wide = plain(x)
    low, high = wide.min(-1, keepdims=True), wide.max(-1, keepdims=True)
    scale, zero_point, codes = vllm.int8_token_asymmetric(wide, reciprocal=False)
    q = quantize(x, INT8_ASYM)
    assert q.zero_point is not None
    whole = (high - low)[:, 0] > np.abs(wide).max(-1) * 2.0**-12  # else s is the least that keeps the row
    assert np.array_equal(q.scale.numpy()[whole], scale[whole])
    assert np.array_equal(q.zero_point.numpy()[whole], zero_point[whole])
    assert np.array_equal(q.data.numpy()[whole], codes[whole])


@given(tensors(16))
def test_int8_per_token_asymmetric_by_a_reciprocal_is_accepted(x: Tensor):
    x = x[x.float().amax(-1) - x.float().amin(-1) > x.float().abs().amax(-1) * 2.0**-12]
    scale, zero_point, codes = vllm.int8_token_asymmetric(plain(x), reciprocal=True)
    parts = (torch.from_numpy(part) for part in (codes, scale, zero_point))
    data, scales_, zeros = parts
    output = QTensor(data, scales_, INT8_ASYM, tuple(x.shape), zero_point=zeros)
    assert compare_quantized(output, x, INT8_ASYM) is None


NUDGES = list(itertools.product((-1, 0, 1), repeat=3))


@given(tensors(16, dtypes=(torch.bfloat16, torch.float16)), st.sampled_from(NUDGES))
def test_nvfp4_with_reciprocals_off_by_one_unit_is_accepted(x: Tensor, nudge: tuple[int, int, int]):
    top = float(x.abs().max())
    gs = np.float32(2688) / np.float32(top) if top else np.float32(1)
    scale, codes = vllm.nvfp4(plain(x), gs, nudge)
    data = torch.from_numpy(codes[:, 0::2] | codes[:, 1::2] << 4)
    output = QTensor(data, torch.from_numpy(scale), NVFP4, tuple(x.shape), torch.tensor(gs))
    assert compare_quantized(output, x, NVFP4) is None
    assert compare_quantized(output, x, NVFP4, global_scale=float(gs)) is None


def test_nvfp4_is_bit_equal_where_the_arithmetic_is_exact():
    """amax of each block 6*2^k and gs a power of two: nothing rounds but the codes."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-24, 25, (512, 16), generator=g) / 4.0
    x[:, 3] = 6.0
    x *= torch.exp2(torch.randint(-6, 7, (512, 1), generator=g).float())
    for gs in (1.0, 0.25, 4.0):
        ours, (scale, codes) = quantize(x, NVFP4, global_scale=gs), vllm.nvfp4(plain(x), np.float32(gs))
        assert same(ours.scale, scale)
        assert same(ours.codes(), codes)


def test_vllm_stores_448_for_nan_and_for_zeros_under_a_subnormal_scale_and_we_do_not():
    nan = torch.tensor([[float("nan"), 1.0]])
    assert vllm.fp8_static(plain(nan), np.float32(1)).tolist() == [[0x7E, 0x38]]
    assert quantize(nan, FP8, scale=1.0).data.view(torch.uint8).tolist() == [[0x7F, 0x38]]
    tiny = torch.tensor([[0.0, 2.0**-125]])
    scale, codes = vllm.fp8_tensor(plain(tiny))
    assert codes.tolist() == [[0x7E, 0x7E]]  # 0 * inf; the scale, not zero, gives 448*s for the zero
    ours = quantize(tiny, FP8)
    assert same(ours.scale, scale)
    assert ours.dequantize()[0, 0] == 0


def test_vllm_loses_a_constant_row_under_asymmetric_int8_and_we_keep_it():
    row = torch.full((1, 16), 3.25)
    scale, _, _ = vllm.int8_token_asymmetric(plain(row), reciprocal=True)
    assert scale.tolist() == [[0.0]]
    assert torch.equal(quantize(row, INT8_ASYM).dequantize(), row)

"""What is true of every quantizer here, as properties; boundaries by name first, then random tensors.

Block formats: test_block_formats.py. What is tempting and false: unit/test_counterexamples.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    Format,
)
from qkernels.quantize import quantize
from tests.property.strategies import boundaries, raw_bits, tensors
from tests.quantizers import DYNAMIC, assert_same, over

# --- every format ---------------------------------------------------------------------------------------------------


@over(*DYNAMIC)
@pytest.mark.parametrize("name", boundaries(32))
def test_boundaries_stay_finite_keep_zeros_and_pass_the_comparator(fmt: Format, name: str):
    x = boundaries(64)[name]
    for dtype in (torch.float32, torch.bfloat16):
        q = quantize(x.to(dtype), fmt)
        out = q.dequantize(torch.float64)
        assert out.isfinite().all()
        assert (out.abs() <= 1.5 * x.abs().max() + 1e-7).all()
        assert (out[(x == 0).all(-1)] == 0).all()
        assert q.global_scale is None or q.global_scale.isfinite()
        assert compare_quantized(q, x.to(dtype), fmt) is None


@over(*DYNAMIC)
@given(x=raw_bits())
def test_any_finite_bits_give_finite_values_that_pass_the_comparator(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    assert q.dequantize(torch.float64).isfinite().all()
    assert compare_quantized(q, x, fmt) is None


@over(*DYNAMIC)
@given(x=tensors())
def test_strides_do_not_matter(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    wide = torch.full((x.shape[0], 2 * x.shape[1] + 1), 99.0, dtype=x.dtype)
    wide[:, 1 : 2 * x.shape[1] : 2] = x
    assert_same(quantize(wide[:, 1 : 2 * x.shape[1] : 2], fmt), q)
    assert_same(quantize(x.T.contiguous().T, fmt), q)


@over(*[f for f in DYNAMIC if f.levels == 1 and f is not FP8])
@given(x=tensors(max_rows=4), seed=st.integers(0, 99))
def test_rows_are_independent_without_a_tensor_scale(fmt: Format, x: Tensor, seed: int):
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.dtype) * 100
    both = quantize(torch.cat([other, x]), fmt)
    assert_same(both.rows(len(x), 2 * len(x)), quantize(x, fmt))


# --- FP8 and INT8 ---------------------------------------------------------------------------------------------------


@over(FP8, FP8_TOKEN)
@given(x=tensors())
def test_fp8_error(fmt: Format, x: Tensor):
    q = quantize(x, fmt)
    error = (q.dequantize(torch.float64) - x.double()).abs()
    assert (error <= torch.maximum(x.double().abs() / 17, q.scale.double() * 2.0**-10) * (1 + 1e-6)).all()


@over(INT8, INT8_TOKEN, INT8_ASYM)
@given(x=tensors())
def test_int8_error_is_half_a_step(fmt: Format, x: Tensor):
    amax = x.double().abs().amax(-1, keepdim=True)
    assume(float(amax.max()) > 0)
    q = quantize(x, fmt, scale=float(amax.max()) / 127) if fmt is INT8 else quantize(x, fmt)
    error = (q.dequantize(torch.float64) - x.double()).abs()
    assert (error <= q.scale.double() / 2 + 1e-6 * amax.max()).all()


@given(value=st.floats(width=16, allow_nan=False, allow_infinity=False), k=st.integers(1, 40))
def test_a_constant_row_survives_asymmetric_int8_exactly(value: float, k: int):
    x = torch.full((2, k), value)
    assert torch.equal(quantize(x, INT8_ASYM).dequantize(), x)


@given(base=st.floats(1, 1000, width=32), steps=st.integers(1, 300))
def test_a_nearly_constant_fp32_row_survives_asymmetric_int8(base: float, steps: int):
    x = torch.tensor([[base, base * (1 + steps * 2.0**-23), base]])
    assert ((quantize(x, INT8_ASYM).dequantize() - x).abs() <= base * 2.0**-19).all()

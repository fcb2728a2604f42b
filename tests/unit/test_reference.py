"""The float64 GEMM reference against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

import qkernels.reference as reference
from qkernels.format import FORMATS, INT8, INT8_ASYM, INT8_TOKEN, MXFP4, MXFP4_ABS_MAX, NVFP4, Format
from qkernels.quantize import quantize
from qkernels.reference import int8_matmul, magnitude, matmul


def make(rows: int, seed: int, fmt: Format | None = None, **options: float) -> torch.Tensor:
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(seed))
    return x if fmt is None else quantize(x, fmt, **options)


def test_one_product_by_hand():
    a = quantize(torch.tensor([[6.0] + [0.0] * 31]), MXFP4_ABS_MAX)
    b = quantize(torch.tensor([[3.0] + [0.0] * 31, [-1.5] + [0.0] * 31]), MXFP4)
    # abs_max: s = 4, code e2m1(4.5) = 4, value 16/3; floor keeps 3 and -1.5
    assert matmul(a, b, bias=torch.tensor([0.5, 0.0])).tolist() == [
        [pytest.approx(16.5), pytest.approx(-8.0)]
    ]
    assert magnitude(a, b).tolist() == [[pytest.approx(16.0), pytest.approx(8.0)]]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_is_dequantize_then_matmul(fmt: Format):
    options = {"scale": 0.03} if fmt is INT8 else {}
    a, b = make(5, 1, fmt, **options), make(7, 2, fmt, **options)
    left, right = a.dequantize(torch.float64), b.dequantize(torch.float64)
    torch.testing.assert_close(matmul(a, b), left @ right.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(magnitude(a, b), left.abs() @ right.abs().T, rtol=1e-3, atol=0)
    plain = make(5, 3)
    torch.testing.assert_close(matmul(plain, b), plain.double() @ right.T, rtol=1e-12, atol=1e-12)


def test_chunks_of_b_join_into_the_whole(monkeypatch: pytest.MonkeyPatch):
    a, b = make(3, 1, NVFP4), make(7, 2, NVFP4)
    whole, sizes = matmul(a, b), magnitude(a, b)
    monkeypatch.setattr(reference, "ROWS_AT_ONCE", 3)
    torch.testing.assert_close(matmul(a, b), whole, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(magnitude(a, b), sizes, rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_magnitude_neither_overflows_nor_underflows(size: float):
    a, b = make(2, 1) * size, make(3, 2) * size
    torch.testing.assert_close(magnitude(a, b), a.double().abs() @ b.double().abs().T, rtol=1e-3, atol=0)


def test_int8_with_a_zero_point_equals_the_product_of_values():
    a, b = make(5, 1, INT8_ASYM), make(7, 2, INT8_TOKEN)
    bias = torch.arange(7.0)
    torch.testing.assert_close(int8_matmul(a, b, bias=bias), matmul(a, b, bias=bias), rtol=1e-12, atol=1e-12)
    static = make(5, 1, INT8_ASYM, scale=0.02, zero_point=-7)
    torch.testing.assert_close(int8_matmul(static, b), matmul(static, b), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="zero point"):
        int8_matmul(b, a)


def test_empty_operands_give_empty_products():
    a, b = make(4, 1, NVFP4), make(0, 2, NVFP4)
    assert matmul(a, b).shape == (4, 0)
    assert matmul(b, a).shape == (0, 4)
    assert magnitude(a, b).shape == (4, 0)


def test_operands_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\[M, K\] and \[N, K\]"):
        matmul(torch.ones(4, 8), torch.ones(8, 4))
    x = torch.ones(4, 128)
    with pytest.raises(ValueError, match="rotated by 32"):
        matmul(quantize(x, MXFP4, hadamard=32), quantize(x, MXFP4))

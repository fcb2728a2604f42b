"""The GEMM bound: accepts honest fp32, refuses what fixed tolerances let through."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbench import GemmBound, check, exact, gemm_error, within

OUT = torch.bfloat16
BOUND = GemmBound(
    magnitude=lambda a, b: a.double().abs() @ b.double().abs().T,
    sizes=lambda a, b: (a.shape[0], b.shape[0], a.shape[1]),
    dtype=lambda a, b: OUT,
    take_rows=lambda operands, start, stop: (operands[0][start:stop], operands[1]),
)


def product(a, b):
    return a.double() @ b.double().T


def operands(m=5, n=7, k=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, k, generator=generator).bfloat16() for rows in (m, n))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("k", [16, 512, 4096])
def test_accepts_an_fp32_product_rounded_once(dtype, k):
    a, b = operands(k=k)
    bound = dataclasses.replace(BOUND, dtype=lambda a, b: dtype)
    assert bound((a.float() @ b.float().T).to(dtype), (a, b), product) is None


@pytest.mark.parametrize("k", [512, 4096])
def test_refuses_truncation_to_bf16_instead_of_rounding(k):
    a, b = operands(k=k)
    truncated = ((a.float() @ b.float().T).view(torch.int32) & -65536).view(torch.float32).bfloat16()
    assert BOUND(truncated, (a, b), product) is not None


def test_refuses_an_fp16_accumulator():
    a, b = operands(k=1024)
    sums = torch.zeros(5, 7, dtype=torch.float16)
    for i in range(1024):
        sums += a[:, i, None].half() * b[None, :, i].half()
    assert BOUND(sums.bfloat16(), (a, b), product) is not None


def test_refuses_an_alpha_off_by_two_to_minus_seven():
    a, b = operands()
    assert BOUND(((a.float() @ b.float().T) * (1 + 2**-7)).bfloat16(), (a, b), product) is not None


def test_names_the_rows_never_written_and_counts_them_across_chunks():
    a, b = operands(m=5)
    out = (a.float() @ b.float().T).bfloat16()
    out[-1] = float("nan")
    mismatch = BOUND(out, (a, b), product)
    assert mismatch.count == 7 and "NaN" in mismatch.summary and "only in rows [4]" in mismatch.details


def test_a_part_of_a_large_output_is_not_told_as_all_of_it(monkeypatch):
    monkeypatch.setattr(check, "_elements_at_once", lambda output: 128 * 7)
    a, b = operands(m=512, k=64)
    for wrong, words in (
        ([127, 300], "only in rows [127]\n"),
        ([511], "rows [511], the last of 512: likely a mask"),
    ):
        out = (a.float() @ b.float().T).bfloat16()
        out[wrong] = 0.0
        mismatch = BOUND(out, (a, b), product)
        start = wrong[0] // 128 * 128
        assert f"in rows {start} to {start + 127} of 512: the first part" in mismatch.summary
        assert words in f"{mismatch.details}\n" and (mismatch.count, mismatch.total) == (7, 128 * 7)


def test_refuses_another_shape_with_both_shapes_named():
    a, b = operands()
    out = (b.float() @ a.float().T).bfloat16()
    assert "[7, 5], expected torch.bfloat16 [5, 7]" in BOUND(out, (a, b), product).summary


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_refuses_an_output_that_lacks_rows(rows):
    a, b = operands()
    assert BOUND((a[:rows].float() @ b.float().T).bfloat16(), (a, b), product) is not None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_refuses_a_dtype_other_than_the_promised_one(dtype):
    a, b = operands()
    assert "expected torch.bfloat16" in BOUND((a.float() @ b.float().T).to(dtype), (a, b), product).summary


def test_a_wrong_single_number_is_a_mismatch():
    one = torch.tensor(1.0)
    assert exact(one, (one,), lambda x: 2 * x).count == 1


def test_accepts_an_empty_product():
    a, b = torch.empty(0, 16).bfloat16(), operands(k=16)[1]
    assert BOUND(torch.empty(0, 7).bfloat16(), (a, b), product) is None


def test_nan_must_be_nan_on_both_sides():
    a, b = operands()
    a[0, 0] = float("nan")
    out = (a.float() @ b.float().T).bfloat16()
    assert BOUND(out, (a, b), product) is None
    assert BOUND(out.nan_to_num(1.0), (a, b), product) is not None


def test_coarse_accumulators_are_allowed_more_and_unknown_ones_are_refused():
    a, b = operands()
    expected, size = product(a, b), BOUND.magnitude(a, b)
    assert (gemm_error(expected, size, 256, "fp8-fast") > gemm_error(expected, size, 256)).all()
    with pytest.raises(ValueError, match="unknown accumulator 'fp4'"):
        BOUND(expected.bfloat16(), (a, b), product, "fp4")


@given(
    st.floats(-1e30, 1e30, allow_subnormal=False),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_within_zero_error_is_correct_rounding(value, dtype):
    """With no error allowed, only the neighbours of the value pass, and the rounded value always does."""
    exact_value = torch.tensor([[value]], dtype=torch.float64)
    single = exact_value.float()  # so that one rounding to dtype is one rounding
    zero = torch.zeros_like(exact_value)
    assert within(single.to(dtype), single.double(), zero) is None


def test_exact_accepts_nan_where_expected_only():
    nan = torch.tensor([1.0, float("nan")])
    assert exact(nan, (nan,), lambda x: x) is None
    assert exact(nan, (nan,), lambda x: x.nan_to_num(0.0)).count == 1

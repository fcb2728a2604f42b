"""The certificate of a product: where no order of fp32 sums can round, one wrong bit is seen, and none is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qkernels import reference
from qkernels.format import FORMATS, INT8_ASYM, MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.ops.gemm import product_bound
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

BOUND = product_bound(roundings=0)
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def normal(rows: int, k: int, seed: int) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))


def coarse(rows: int, k: int, fmt: Format, seed: int, spread: int = 2) -> QTensor:
    """Random codes under block scales 1 .. 2^(spread - 1) and a global scale of 4."""
    g = torch.Generator().manual_seed(seed)
    q = quantize(
        torch.randint(-12, 13, (rows, k), generator=g) / 2,
        fmt,
        **({"scale": 0.5} if fmt.name == "int8" else {}),
    )
    step = {"e4m3": (0x38, 8), "e8m0": (127, 1)}
    powers = torch.randint(0, spread, q.scale.shape, generator=g)
    one, by = step.get(fmt.scale, (0, 0))
    scale = (one + by * powers).to(torch.uint8) if by else 2.0 ** powers.float()
    gs = None if q.global_scale is None else torch.full_like(q.global_scale, 4.0)
    return dataclasses.replace(q, scale=scale, global_scale=gs)


def certified(a: Tensor | QTensor, b: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
    return reference.certified(reference.magnitude(a, b), a, b, bias)


def terms(a: Tensor | QTensor, b: QTensor) -> Tensor:
    """fp32 [M, N, K]: every product."""
    left = a.float() if isinstance(a, Tensor) else a.exact_values(torch.float32)
    return left[:, None] * b.exact_values(torch.float32)


def one_by_one(products: Tensor) -> Tensor:
    total = torch.zeros(products.shape[:2])
    for k in range(products.shape[2]):
        total = total + products[:, :, k]
    return total


def pairwise(products: Tensor) -> Tensor:
    while products.shape[2] > 1:
        if products.shape[2] % 2:
            products = torch.nn.functional.pad(products, (0, 1))
        products = products[:, :, 0::2] + products[:, :, 1::2]
    return products[:, :, 0]


def alpha(a: Tensor | QTensor, b: QTensor) -> float:
    return float(b.alpha) * (float(a.alpha) if isinstance(a, QTensor) else 1.0)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_coarse_operands_of_every_format_are_certified(fmt: Format) -> None:
    a, b = coarse(3, 128, fmt, 1), coarse(5, 128, fmt, 2)
    if fmt.gain == 1:
        assert certified(a, b).all()
    else:
        assert not certified(a, b).any()  # alpha = 1/9


@given(
    fmt=st.sampled_from([NVFP4, NVFP4_1L, MXFP4]),
    quantized=st.booleans(),
    blocks=st.integers(1, 6),
    spread=st.integers(1, 8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    order=st.sampled_from([one_by_one, pairwise]),
    seed=st.integers(0, 2**20),
)
def test_no_order_of_fp32_sums_is_refused(
    fmt: Format, quantized: bool, blocks: int, spread: int, dtype: torch.dtype, order, seed: int
) -> None:
    """Certified or not: with wide spreads of scales (2^0 .. 2^7 each) some elements are and some are not."""
    k = blocks * fmt.block
    a, b = coarse(4, k, fmt, seed, spread), coarse(3, k, fmt, seed + 1, spread)
    left = a if quantized else a.exact_values(torch.bfloat16)
    shuffled = terms(left, b)[:, :, torch.randperm(k, generator=torch.Generator().manual_seed(seed))]
    out = (order(shuffled) * alpha(left, b)).to(dtype)
    bound = product_bound(roundings=0, out_dtype=dtype)
    assert bound(out, (left, b), reference.matmul) is None


@given(fmt=st.sampled_from([NVFP4, MXFP4, NVFP4_1L]), blocks=st.integers(1, 8), seed=st.integers(0, 2**20))
def test_no_order_is_refused_on_operands_as_they_are_quantized(fmt: Format, blocks: int, seed: int) -> None:
    """Global scales that are no power of two, and alpha folded into the operands in fp32."""
    k = blocks * fmt.block
    a, b = quantize(normal(4, k, seed), fmt), quantize(normal(3, k, seed + 1), fmt)
    bound = product_bound(roundings=0, out_dtype=torch.float32)
    folded = a.dequantize(torch.float32)[:, None] * b.dequantize(torch.float32)
    for out in (one_by_one(terms(a, b)) * alpha(a, b), pairwise(folded), one_by_one(folded)):
        assert bound(out, (a, b), reference.matmul) is None


@given(seed=st.integers(0, 2**20), element=st.integers(0, 11), dtype=st.sampled_from(list(BITS)))
def test_one_bit_of_one_output_is_seen(seed: int, element: int, dtype: torch.dtype) -> None:
    a, b = coarse(4, 160, NVFP4, seed), coarse(3, 160, NVFP4, seed + 1)
    out = reference.matmul(a, b).float().to(dtype)
    out.view(BITS[dtype]).flatten()[element] ^= 1
    problem = product_bound(roundings=0, out_dtype=dtype)(out, (a, b), reference.matmul)
    assert problem is not None and problem.count == 1


@given(seed=st.integers(0, 2**20), lost=st.integers(0, 159))
def test_the_lowest_bit_of_one_product_is_seen_in_fp32(seed: int, lost: int) -> None:
    """What E of the whole sum would let pass: 1/4 beside a sum of 160 terms of up to 576."""
    a, b = coarse(1, 160, NVFP4_1L, seed, spread=4), coarse(1, 160, NVFP4_1L, seed + 1, spread=4)
    products = terms(a, b)
    products[0, 0, lost] += 0.25
    out = one_by_one(products)
    assert product_bound(roundings=0, out_dtype=torch.float32)(out, (a, b), reference.matmul) is not None


def test_without_a_certificate_that_bit_passes() -> None:
    a, b = coarse(1, 4096, NVFP4_1L, 1, spread=4), coarse(1, 4096, NVFP4_1L, 2, spread=4)
    out = (reference.matmul(a, b) + 0.25).float()
    bound = product_bound(roundings=0, out_dtype=torch.float32)
    assert bound(out, (a, b), reference.matmul) is not None
    assert dataclasses.replace(bound, certified=None)(out, (a, b), reference.matmul) is None


def test_ties_of_the_final_rounding_go_to_even() -> None:
    # 8 * 16 + 0.5 = 128.5 lies between the bf16 numbers 128 and 129; 129.5 between 129 and 130
    a = torch.tensor([[8.0, 0.5] + [0.0] * 30, [8.0, 1.5] + [0.0] * 30]).bfloat16()
    b = torch.tensor([[16.0, 1.0] + [0.0] * 30]).bfloat16()
    assert reference.matmul(a, b).flatten().tolist() == [128.5, 129.5]
    assert BOUND(torch.tensor([[128.0], [130.0]]).bfloat16(), (a, b), reference.matmul) is None
    for wrong in ([[129.0], [130.0]], [[128.0], [129.0]]):
        problem = BOUND(torch.tensor(wrong).bfloat16(), (a, b), reference.matmul)
        assert problem is not None and problem.count == 1


def test_more_than_24_bits_or_an_alpha_that_is_no_power_of_two_are_not_certified() -> None:
    a, b = coarse(2, 64, NVFP4, 1), coarse(2, 64, NVFP4, 2)
    assert certified(a, b).all()
    assert not certified(dataclasses.replace(a, global_scale=torch.tensor(3.0)), b).any()
    assert not certified(a, quantize(normal(2, 64, 3), MXFP4_ABS_MAX)).any()
    x = torch.ones(2, 64)
    x[0, 5] = 2.0**-24
    assert certified(x, b).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(("share", "inside"), [(0.97, True), (1.03, False)])
def test_a_sum_is_certified_up_to_2_to_the_24_lowest_bits(share: float, inside: bool) -> None:
    """The magnitude is known to 1%, so a margin of 2% is left."""
    a, b = torch.ones(1, 64), torch.ones(1, 64)
    a[0, 0], a[0, 1] = 2.0**-12, round(share * 2**12) - 63
    assert bool(certified(a, b)) is inside


def test_results_near_the_ends_of_fp32_are_not_certified() -> None:
    a, b = torch.ones(1, 32), torch.ones(1, 32)
    assert certified(a, b).all()
    for left, right in ((2.0**-70, 2.0**-70), (2.0**70, 2.0**70), (2.0**-120, 1.0), (2.0**120, 2.0**-120)):
        assert not certified(a * left, b * right).any()


def test_rows_with_nan_or_inf_are_not_certified_and_leave_the_others_alone() -> None:
    a, b = coarse(4, 64, MXFP4, 1).exact_values(torch.float32), coarse(3, 64, MXFP4, 2)
    a[1, 3], a[2, 7] = torch.nan, torch.inf
    assert certified(a, b).all(1).tolist() == [True, False, False, True]
    assert reference.magnitude(a, b)[[0, 3]].gt(0).all()
    expected = reference.matmul(a, b)
    assert product_bound(roundings=0)(expected.float(), (a, b), reference.matmul) is None


def test_zero_rows_must_give_zero() -> None:
    a, b = torch.zeros(2, 32).bfloat16(), coarse(3, 32, MXFP4, 1)
    assert certified(a, b).all()
    assert BOUND(torch.zeros(2, 3).bfloat16(), (a, b), reference.matmul) is None
    assert BOUND(torch.full((2, 3), 1e-30).bfloat16(), (a, b), reference.matmul) is not None


def test_a_bias_is_exact_only_on_the_grid_of_the_sums() -> None:
    a, b = coarse(2, 64, MXFP4, 1), coarse(3, 64, MXFP4, 2)
    assert certified(a, b, torch.tensor([0.5, -3.0, 0.0])).all()
    assert certified(a, b, torch.tensor([2.0**-20, 2.0**30, 1.0])).tolist() == [[False, False, True]] * 2


def test_a_reference_that_adds_what_the_operands_do_not_show_keeps_room_for_it() -> None:
    a, b, bias = coarse(9, 64, MXFP4, 1), coarse(7, 64, MXFP4, 2), normal(1, 7, 3)[0]

    def biased(left: QTensor, right: QTensor) -> Tensor:
        return reference.matmul(left, right, bias)

    out = one_by_one(terms(a, b)) + bias
    assert product_bound(out_dtype=torch.float32)(out, (a, b), biased) is None
    wrong = out * (1 + 2.0**-20)
    assert product_bound(out_dtype=torch.float32)(wrong, (a, b), biased) is not None


def test_codes_and_zero_points_summed_apart_must_be_exact_too() -> None:
    """Codes 1 and 2 under a zero point of 0, and of -2^20: sums of codes and of zero points apart may leave fp32."""
    data = torch.tensor([[1, 2] * 64], dtype=torch.int8)
    zero = torch.zeros(1, 1, dtype=torch.int32)
    a = QTensor(data, torch.ones(1, 1), INT8_ASYM, (1, 128), zero_point=zero)
    far = dataclasses.replace(a, zero_point=zero - (1 << 20))
    b = torch.ones(1, 128)
    assert certified(a, b).all()
    assert not certified(far, b).any()


@pytest.mark.parametrize("accumulator", ["fp8-fast", "fp8-promoted"])
def test_coarse_accumulators_get_no_certificate(accumulator: str) -> None:
    a, b = coarse(4, 160, NVFP4, 1), coarse(3, 160, NVFP4, 2)
    out = (reference.matmul(a, b) * (1 + 2.0**-14)).float()
    bound = product_bound(roundings=0, out_dtype=torch.float32)
    assert bound(out, (a, b), reference.matmul, accumulator) is None
    assert bound(out, (a, b), reference.matmul) is not None
    assert bound(out, (a, b), reference.matmul, "int32") is not None


def test_an_int32_sum_is_held_to_its_scaling_alone() -> None:
    """4096 terms: fp32 sums may be off by 4*64*2^-24 of the magnitude, an exact sum scaled in fp32 by 4*2^-24."""
    a, b = quantize(normal(4, 4096, 1), INT8_ASYM), quantize(normal(3, 4096, 2), FORMATS["int8_token"])
    bound = product_bound(roundings=0, out_dtype=torch.float32)
    out = reference.int8_matmul(a, b)
    assert bound(out.float(), (a, b), reference.matmul, "int32") is None
    off = (out + reference.magnitude(a, b) * (16 * 2.0**-24)).float()
    assert bound(off, (a, b), reference.matmul, "fp32") is None
    assert bound(off, (a, b), reference.matmul, "int32") is not None


def test_chunks_of_rows_are_certified_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = FORMATS["nvfp4_2d"]
    a, b = coarse(300, 64, fmt, 1), coarse(40, 64, fmt, 2)
    whole = certified(a, b)
    monkeypatch.setattr(reference, "ROWS_AT_ONCE", 16)
    assert torch.equal(certified(a, b), whole)
    monkeypatch.setattr("qbench.check._elements_at_once", lambda output: 1)
    out = reference.matmul(a, b).float().bfloat16()
    assert BOUND(out, (a, b), reference.matmul) is None
    out[299, 39] += out[299, 39]
    problem = BOUND(out, (a, b), reference.matmul)
    assert problem is not None and "at (299, 39)" in problem.details

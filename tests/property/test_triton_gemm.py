"""The FP4 GEMM kernel equals dequantize-then-matmul on the same operands: boundaries by name, then hypothesis.

Interpreted on a CPU, compiled on a GPU: the same tests.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from qbench import Mismatch, exact, gemm_error, within
from qbench.interpreter import repair
from qkernels import reference
from qkernels.api import TRITON_FORMATS
from qkernels.codec import decode_e2m1, decode_e4m3, decode_e8m0, pack_e2m1, round_to
from qkernels.format import FP8, MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.ops.require import decodes_as
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.triton.fp4_gemm import fp4_gemm
from qkernels.triton.fp4_plan import DECODES

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP4 = [fmt for fmt in TRITON_FORMATS if fmt.packed and decodes_as(fmt, *DECODES)]
ACTIVATIONS = ["bfloat16", "float16", "float32", "quantized"]
ONE = {"e4m3": 0x38, "e8m0": 127}  # the scale byte of 1.0; the next power of two is 8 bytes, or 1 byte, on


def normal(m: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def activation(x: torch.Tensor, kind: str, fmt: Format) -> torch.Tensor | QTensor:
    return quantize(x, fmt) if kind == "quantized" else x.to(getattr(torch, kind))


def judge(
    out: torch.Tensor, a: torch.Tensor | QTensor, b: QTensor, bias: torch.Tensor | None = None
) -> Mismatch | None:
    expected = reference.matmul(a, b, bias=bias)
    return within(out, expected, gemm_error(expected, reference.magnitude(a, b), a.shape[1]))


def random_codes(rows: int, k: int, fmt: Format, scales: torch.Tensor, seed: int = 0) -> QTensor:
    """Every code equally often, under the given scale bytes, one drawn for each block."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, generator=generator)
    choice = torch.randint(0, len(scales), (rows, k // fmt.block), generator=generator)
    gs = torch.tensor(4.0, device=DEVICE) if fmt.levels == 2 else None
    return QTensor(data.to(DEVICE), scales.to(torch.uint8)[choice].to(DEVICE), fmt, (rows, k), gs)


def certified(rows: int, k: int, fmt: Format, seed: int) -> QTensor:
    """Scales 1 and 2: every partial sum is a multiple of 1/4 below 2^22, so every order of fp32 sums is exact."""
    one = ONE[fmt.scale]
    return random_codes(rows, k, fmt, torch.tensor([one, one + (8 if fmt.scale == "e4m3" else 1)]), seed)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fmt", FP4, ids=lambda fmt: fmt.name)
def test_product_lies_within_its_error_bound(fmt: Format, kind: str) -> None:
    # 17 rows, 70 columns and K = 160 leave a part of a tile over on every side
    a, b = activation(normal(17, 160), kind, fmt), quantize(normal(70, 160, 1), fmt)
    bias = normal(1, 70, 2)[0]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert judge(fp4_gemm(a, b, bias=bias, out_dtype=dtype), a, b, bias) is None


@pytest.mark.parametrize("kind", ["float16", "quantized"])
@pytest.mark.parametrize("m", [0, 1, 15, 16, 33, 127, 129])
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name)
def test_every_row_count_and_an_odd_number_of_columns(fmt: Format, m: int, kind: str) -> None:
    x, b = normal(max(m, 1), 64)[:m], quantize(normal(33, 64, 1), fmt)
    a = quantize(normal(max(m, 1), 64), fmt).rows(0, m) if kind == "quantized" else x.half()
    out = fp4_gemm(a, b)
    assert out.shape == (m, 33)
    assert out.dtype == torch.bfloat16
    assert judge(out, a, b) is None


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("blocks", [1, 3, 5, 8, 9])
def test_depth_of_any_number_of_blocks(fmt: Format, blocks: int, kind: str) -> None:
    k = blocks * fmt.block
    a, b = activation(normal(3, k), kind, fmt), quantize(normal(5, k, 1), fmt)
    assert judge(fp4_gemm(a, b, out_dtype=torch.float32), a, b) is None


@pytest.mark.parametrize("n", [1, 7, 8, 63, 64, 65])
def test_any_number_of_columns(n: int) -> None:
    a, b = normal(2, 32).half(), quantize(normal(n, 32, 1), NVFP4)
    assert judge(fp4_gemm(a, b), a, b) is None


def test_no_columns_give_an_empty_result() -> None:
    b = quantize(normal(4, 32), MXFP4).rows(0, 0)
    assert fp4_gemm(normal(2, 32).half(), b).shape == (2, 0)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4], ids=lambda fmt: fmt.name)
def test_certified_sums_are_bit_equal(fmt: Format, kind: str) -> None:
    b = certified(40, 480, fmt, seed=1)
    a = certified(5, 480, fmt, seed=2)
    operand = a if kind == "quantized" else a.exact_values().to(getattr(torch, kind))
    for dtype in (torch.float32, torch.bfloat16):
        expected = round_to(reference.matmul(operand, b), dtype)
        assert exact(fp4_gemm(operand, b, out_dtype=dtype), (), lambda expected=expected: expected) is None


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fmt", [NVFP4_1L, MXFP4], ids=lambda fmt: fmt.name)
def test_one_hot_rows_read_out_every_code_under_every_scale(fmt: Format, kind: str) -> None:
    """Nibble order, subnormal, NaN, least and greatest scales: each weight appears alone in the output."""
    block = fmt.block
    codes = torch.arange(block, dtype=torch.uint8) % 16
    data = (codes[0::2] | codes[1::2] << 4).expand(256, -1).contiguous()
    scale = torch.arange(256, dtype=torch.uint8).reshape(256, 1)
    b = QTensor(data.to(DEVICE), scale.to(DEVICE), fmt, (256, block))
    hot: torch.Tensor | QTensor = torch.eye(block, dtype=getattr(torch, kind, None), device=DEVICE)
    if kind == "quantized":  # code 2 is the value 1
        ones = torch.full((block, 1), ONE[fmt.scale], dtype=torch.uint8, device=DEVICE)
        hot = QTensor(pack_e2m1(2 * hot.to(torch.uint8)), ones, fmt, (block, block))
    decode = decode_e8m0 if fmt.scale == "e8m0" else decode_e4m3
    values = decode(scale).double() * decode_e2m1(codes).double()
    out = fp4_gemm(hot, b, out_dtype=torch.float32)
    assert exact(out.cpu(), (), lambda: values.T.float() + 0.0) is None


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_extreme_scales_of_both_operands(fmt: Format) -> None:
    wide = torch.tensor([1, 2, 40, 100]) if fmt.scale == "e4m3" else torch.tensor([60, 100, 127, 180])
    a, b = random_codes(4, 96, fmt, wide, 1), random_codes(6, 96, fmt, wide, 2)
    assert judge(fp4_gemm(a, b, out_dtype=torch.float32), a, b) is None


@pytest.mark.parametrize("amax", [1e-30, 1e-10, 1e10, 1e15])
def test_extreme_global_scales_do_not_leave_fp32_on_the_way(amax: float) -> None:
    """Neither where their product, 2688^2/(amax_a*amax_b), overflows, nor where one scale alone would."""
    a, b = quantize(normal(3, 64) * amax, NVFP4), quantize(normal(9, 64, 1) * amax, NVFP4)
    a1 = dataclasses.replace(a, global_scale=1 / a.global_scale)
    for left in (a, a1):
        assert judge(fp4_gemm(left, b, out_dtype=torch.float32), left, b) is None


@pytest.mark.parametrize(
    ("gs", "scale", "code"),
    [(2.5e-20, 0x01, 1), (1.7e20, 0x7E, 7)],
    ids=["product of both leaves fp32 upward", "product of both is subnormal"],
)
def test_alphas_whose_product_leaves_fp32_are_applied_one_after_the_other(
    gs: float, scale: int, code: int
) -> None:
    """1/gs^2 is 1.6e39 or 3.5e-41; the result, with sums of 3.8e-6 or 7e6 a term, is an ordinary number."""
    data = torch.full((4, 8), code | code << 4, dtype=torch.uint8, device=DEVICE)
    scales = torch.full((4, 1), scale, dtype=torch.uint8, device=DEVICE)
    operand = QTensor(data, scales, NVFP4, (4, 16), torch.tensor(gs, device=DEVICE))
    out = fp4_gemm(operand, operand, out_dtype=torch.float32).double()
    expected = reference.matmul(operand, operand)
    assert 1e-37 < expected.min() < 1e38
    assert ((out - expected).abs() <= 2.0**-21 * expected).all()


def test_zero_tensor_gives_zeros_and_the_bias() -> None:
    a, b = quantize(torch.zeros(3, 64, device=DEVICE), NVFP4), quantize(normal(8, 64), NVFP4)
    bias = normal(1, 8, 3)[0].half()
    assert torch.equal(fp4_gemm(a, b, bias=bias, out_dtype=torch.float16), bias.expand(3, 8))


def test_nan_stays_in_its_row_and_its_column() -> None:
    x, b = normal(5, 64).half(), quantize(normal(7, 64, 1), NVFP4)
    x[2, 40] = float("nan")
    b.scale[3, 1] = 0x7F
    out = fp4_gemm(x, b)
    expected = torch.zeros(5, 7, dtype=torch.bool, device=DEVICE)
    expected[2], expected[:, 3] = True, True
    assert torch.equal(out.isnan(), expected)


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
@pytest.mark.parametrize("fmt", [NVFP4_1L, MXFP4], ids=lambda fmt: fmt.name)
def test_a_nan_scale_is_neither_infinite_nor_a_number(fmt: Format, kind: str) -> None:
    """Positive operands only: with a zero or a mixed sign among them, inf would give NaN as well."""
    data = torch.full((2, 32), 0x22, dtype=torch.uint8, device=DEVICE)
    scale = torch.full((2, 64 // fmt.block), ONE[fmt.scale], dtype=torch.uint8, device=DEVICE)
    scale[1, 1] = 255
    ones = torch.ones(3, 64, dtype=getattr(torch, kind), device=DEVICE)
    out = fp4_gemm(ones, QTensor(data, scale, fmt, (2, 64)))
    assert bool((out[:, 0] == 64).all())
    assert bool(out[:, 1].isnan().all())


def test_strided_rows_and_poisoned_surroundings() -> None:
    """Column slices of larger tensors: nothing outside of the slice may be read into the result."""
    big = torch.full((9, 200), float("nan"), dtype=torch.float16, device=DEVICE)
    x = big[1:8:2, 3:99]  # misaligned by 6 bytes, every other row
    x.copy_(normal(4, 96))
    whole = quantize(normal(11, 96, 1), NVFP4)
    data = torch.full((13, 64), 0xFF, dtype=torch.uint8, device=DEVICE)
    scale = torch.full((13, 9), 0x7F, dtype=torch.uint8, device=DEVICE)
    data[1:12, 5:53], scale[1:12, 1:7] = whole.data, whole.scale
    b = dataclasses.replace(whole, data=data[1:12, 5:53], scale=scale[1:12, 1:7])
    assert judge(fp4_gemm(x, b), x, whole) is None
    xq = quantize(x, NVFP4)
    wide = torch.full((4, 80), 0xFF, dtype=torch.uint8, device=DEVICE)
    wide[:, 7:55] = xq.data
    assert judge(fp4_gemm(dataclasses.replace(xq, data=wide[:, 7:55]), b), xq, whole) is None


@pytest.mark.parametrize("kind", ["float16", "quantized"])
def test_a_broken_operand_is_noticed(kind: str) -> None:
    """The bound of these tests rejects what a wrong kernel would give."""
    a, b = activation(normal(8, 128), kind, NVFP4), quantize(normal(16, 128, 1), NVFP4)
    swapped = dataclasses.replace(b, data=(b.data >> 4) | (b.data << 4))
    shifted = dataclasses.replace(b, scale=b.scale.roll(1, dims=1))
    assert judge(fp4_gemm(a, swapped), a, b) is not None
    assert judge(fp4_gemm(a, shifted), a, b) is not None
    assert (
        judge(fp4_gemm(a, dataclasses.replace(b, global_scale=b.global_scale * (1 + 2**-7))), a, b)
        is not None
    )


BAD = {
    "K of the operands differ": (lambda a, b: (a[:, :32], b), ValueError, "same K"),
    "transposed activations": (lambda a, b: (normal(64, 4).half().T, b), ValueError, r"\.contiguous\(\)"),
    "three dimensions": (lambda a, b: (a[None], b), ValueError, r"\[M, K\]"),
    "float64 activations": (lambda a, b: (a.double(), b), TypeError, "bfloat16"),
    "plain weights": (lambda a, b: (a, normal(4, 64)), TypeError, "quantize it"),
    "FP8 weights": (lambda a, b: (a, quantize(normal(4, 64), FP8)), ValueError, "NVFP4"),
    "mixed formats": (lambda a, b: (quantize(a, MXFP4), b), ValueError, "quantize both"),
    "one operand rotated": (lambda a, b: (quantize(a, NVFP4, hadamard=16), b), ValueError, "rotate both"),
    "global scale in bf16": (
        lambda a, b: (a, dataclasses.replace(b, global_scale=b.global_scale.bfloat16())),
        ValueError,
        "float32",
    ),
    "another device": (lambda a, b: (a.to("meta"), b), ValueError, r"\.to\("),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_bad_operands_name_the_value_and_the_remedy(case: str) -> None:
    change, kind, message = BAD[case]
    a, b = change(normal(4, 64).half(), quantize(normal(8, 64), NVFP4))
    with pytest.raises(kind, match=message):
        fp4_gemm(a, b)


def test_bad_bias_and_output_dtype_are_refused() -> None:
    a, b = normal(4, 64).half(), quantize(normal(8, 64), NVFP4)
    with pytest.raises(ValueError, match=r"bias .* \[8\]"):
        fp4_gemm(a, b, bias=normal(1, 4)[0])
    with pytest.raises(TypeError, match="out_dtype"):
        fp4_gemm(a, b, out_dtype=torch.float64)


@given(
    fmt=st.sampled_from(FP4),
    kind=st.sampled_from(ACTIVATIONS),
    m=st.integers(1, 70),
    n=st.integers(1, 130),
    blocks=st.integers(1, 10),
    seed=st.integers(0, 2**16),
)
def test_any_shape_lies_within_its_error_bound(
    fmt: Format, kind: str, m: int, n: int, blocks: int, seed: int
) -> None:
    k = blocks * fmt.block
    a, b = activation(normal(m, k, seed), kind, fmt), quantize(normal(n, k, seed + 1), fmt)
    bias = normal(1, n, seed + 2)[0]
    assert judge(fp4_gemm(a, b, bias=bias), a, b, bias) is None


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("m", [1, 17, 33, 65, 129, 257, 1000])
def test_every_tile_of_the_table_at_full_depth(m: int, fmt: Format, kind: str) -> None:
    a, b = activation(normal(m, 4096), kind, fmt), quantize(normal(1025, 4096, 1), fmt)
    assert judge(fp4_gemm(a, b), a, b) is None


@pytest.mark.gpu
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_operands_and_outputs_beyond_two_to_the_31(fmt: Format) -> None:
    """Offsets of the last rows leave 32 bits: activations, then packed weights, then the output."""
    few, many, k = 32, 300_000, 16384
    a = torch.empty(many // 2, k, dtype=torch.bfloat16, device=DEVICE).normal_()
    b = quantize(normal(few, k, 1), fmt)
    out = fp4_gemm(a, b)
    assert judge(out[-64:], a[-64:], b) is None
    data = torch.randint(0, 256, (many, k // 2), dtype=torch.uint8, device=DEVICE)
    scale = torch.full((many, k // fmt.block), ONE[fmt.scale], dtype=torch.uint8, device=DEVICE)
    gs = torch.ones((), device=DEVICE) if fmt.levels == 2 else None
    w = QTensor(data, scale, fmt, (many, k), gs)
    out = fp4_gemm(a[:8000], w)
    assert out.numel() > 2**31
    assert judge(out[-8:, -512:], a[7992:8000], w.rows(many - 512, many)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bfloat16", "quantized"])
def test_a_captured_launch_follows_its_operands(kind: str) -> None:
    """No synchronization, and the global scale is read at replay, not at capture."""
    a, b = activation(normal(16, 512), kind, NVFP4), quantize(normal(256, 512, 1), NVFP4)
    fp4_gemm(a, b)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fp4_gemm(a, b)
    b.global_scale.mul_(0.5)
    graph.replay()
    assert judge(out, a, b) is None


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_results_repeat_bit_for_bit(kind: str) -> None:
    a, b = activation(normal(48, 8192), kind, NVFP4), quantize(normal(512, 8192, 1), NVFP4)
    first = fp4_gemm(a, b)
    assert all(torch.equal(first, fp4_gemm(a, b)) for _ in range(10))

"""The weight-only products for fragments equal dequantize-then-matmul: boundaries by name, then hypothesis.

The kernel for few rows interpreted on a CPU, compiled on a GPU; Hopper's (Gluon) on a GPU only.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from qbench import Mismatch, gemm_error, within
from qbench.interpreter import guards, repair
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.triton.fp4_decode_rows import fp4_decode_rows
from qkernels.triton.fp4_few_plan import Few
from qkernels.triton.fp4_few_sm90 import fp4_few_sm90
from qkernels.triton.fp4_fragments import fragments
from qkernels.triton.fp4_gemm_sm90 import SHAPES, fp4_gemm_sm90
from qkernels.triton.fp4_stream import Stream, fp4_stream
from qkernels.triton.quantized_result import Quantized
from qkernels.triton.stream_plan import Shape
from qkernels.triton.workspaces import processors
from tests.plans import every_plan

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = [NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX]
ONE = {"e4m3": 0x38, "e8m0": 127}
DIVIDED = [Stream(1, 1, 1, 1), Stream(2, 1, 2, 1), Stream(1, 2, 1, 2), Stream(4, 2, 1, 1), Stream(2, 2, 4, 2)]


def normal(m: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def by_rows(m: int) -> torch.Tensor:
    """A global scale for each row of x, over many powers of two and not in order."""
    order = torch.randperm(m, generator=torch.Generator().manual_seed(m))
    return (1.37 * torch.exp2(torch.linspace(-40, 40, m)))[order].to(DEVICE)[:, None]


def judge(
    out: torch.Tensor, a: torch.Tensor, b: QTensor, bias: torch.Tensor | None = None
) -> Mismatch | None:
    expected = reference.matmul(a, b, bias=bias)
    return within(out, expected, gemm_error(expected, reference.magnitude(a, b), a.shape[1]))


@pytest.mark.parametrize("divide", DIVIDED, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_however_the_work_is_divided(fmt: Format, divide: Stream) -> None:
    x, w = normal(3, 160).bfloat16(), quantize(normal(70, 160, 1), fmt)
    bias = normal(1, 70, 2)[0]
    assert judge(fp4_stream(x, fragments(w), bias=bias, divide=divide), x, w, bias) is None


@pytest.mark.parametrize("m", [0, 1, 7, 8, 9, 16, 17, 33, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_row_count(m: int, dtype: torch.dtype) -> None:
    x, w = normal(max(m, 1), 96)[:m].to(dtype), quantize(normal(33, 96, 1), NVFP4)
    out = fp4_stream(x, fragments(w))
    assert (out.shape, out.dtype) == ((m, 33), dtype)
    assert judge(out, x, w) is None


@pytest.mark.parametrize("k", [16, 48, 64, 128, 144, 320, 1040])
def test_depth_of_any_number_of_blocks(k: int) -> None:
    x, w = normal(5, k).bfloat16(), quantize(normal(20, k, 1), NVFP4)
    with guards("storage"):
        assert judge(fp4_stream(x, fragments(w)), x, w) is None


def test_rows_may_be_strided_and_what_lies_between_them_is_not_read_as_numbers() -> None:
    whole = torch.full((6, 224), torch.nan, device=DEVICE, dtype=torch.bfloat16)
    x = whole[::2, 16:112]
    x.copy_(normal(3, 96))
    w = quantize(normal(20, 96, 1), NVFP4)
    assert judge(fp4_stream(x, fragments(w)), x, w) is None


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_products_whose_sums_are_exact_in_every_order_are_bit_equal(fmt: Format) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (48, 160), dtype=torch.uint8, generator=generator).to(DEVICE)
    one = ONE[fmt.scale]
    scale = torch.full((48, 320 // fmt.block), one, dtype=torch.uint8, device=DEVICE)
    w = QTensor(data, scale, fmt, (48, 320), torch.tensor(4.0, device=DEVICE) if fmt.levels == 2 else None)
    x = torch.randint(-4, 5, (9, 320), generator=generator).to(DEVICE, torch.bfloat16)
    out = fp4_stream(x, fragments(w), out_dtype=torch.float32)
    assert torch.equal(out, reference.matmul(x, w).float())


def test_nan_and_infinity_stay_in_their_rows() -> None:
    x, w = normal(4, 64).bfloat16(), quantize(normal(20, 64, 1), NVFP4)
    x[1, 3], x[2, 40] = torch.nan, torch.inf
    out = fp4_stream(x, fragments(w))
    assert out[1].isnan().all()
    assert not out[2].isfinite().any()
    assert judge(out[[0, 3]], x[[0, 3]], w) is None
    w.scale[7, 2] = 0x7F
    assert fp4_stream(x, fragments(w))[:, 7].isnan().all()


@given(
    m=st.integers(1, 20), n=st.integers(1, 70), blocks=st.integers(1, 9), seed=st.integers(0, 999),
    fmt=st.sampled_from(FORMATS), divide=st.sampled_from(DIVIDED),
)  # fmt: skip
def test_any_shape(m: int, n: int, blocks: int, seed: int, fmt: Format, divide: Stream) -> None:
    k = blocks * fmt.block
    x, w = normal(m, k, seed).bfloat16(), quantize(normal(n, k, seed + 1), fmt)
    assert judge(fp4_stream(x, fragments(w), divide=divide), x, w) is None


@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("m", "k"), [(1, 16), (5, 144), (33, 1040)])
def test_activations_in_nvfp4_are_decoded_exactly_and_multiplied(m: int, k: int, fmt: Format) -> None:
    a, w = quantize(normal(m, k), fmt), quantize(normal(40, k, 1), fmt)
    x = fp4_decode_rows(a)
    assert torch.equal(x.double(), a.exact_values(torch.float64))
    out = fp4_stream(x, fragments(w), x_global_scale=a.global_scale)
    expected = reference.matmul(a, w)
    assert within(out, expected, gemm_error(expected, reference.magnitude(a, w), k)) is None


@pytest.mark.parametrize("m", [1, 7, 16, 33, 64])
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_each_row_has_its_global_scale(m: int, fmt: Format) -> None:
    x, w, bias, tops = (
        normal(m, 96).bfloat16(),
        quantize(normal(33, 96, 1), fmt),
        normal(1, 33, 2)[0],
        by_rows(m),
    )
    for divide in (None, Stream(1, 1, 1, 1)):  # of the second a tile has as many rows of w as of 16 rows of x
        for dtype in (torch.bfloat16, torch.float32):
            with guards("storage"):
                out = fp4_stream(
                    x, fragments(w), x_global_scale=tops, bias=bias, divide=divide, out_dtype=dtype
                )
            assert judge(out, x.double() / tops.double(), w, bias) is None


def test_the_product_of_both_global_scales_may_leave_fp32_and_sums_over_that_of_x_alone() -> None:
    x = normal(3, 96).bfloat16() * 1000
    for of_w, of_x in ((5e19, 2e-20), (3e-19, 2e-20), (3e4, 2e-33)):
        tops = torch.tensor([[3e19], [of_x], [1.0]], device=DEVICE)
        w = dataclasses.replace(
            quantize(normal(33, 96, 1), NVFP4), global_scale=torch.tensor(of_w, device=DEVICE)
        )
        out = fp4_stream(x, fragments(w), x_global_scale=tops, out_dtype=torch.float32)
        assert judge(out, x.double() / tops.double(), w) is None


def test_what_is_not_taken_is_named() -> None:
    nvfp4, mxfp4 = (fragments(quantize(normal(16, 64), fmt)) for fmt in (NVFP4, MXFP4))
    for x, w, kind, words in (
        (normal(2, 64), nvfp4, TypeError, "x is torch.float32"),
        (normal(2, 64).half(), mxfp4, TypeError, "leave the range of float16"),
        (normal(2, 32).bfloat16(), nvfp4, ValueError, r"must be \[M, 64\]"),
        (normal(65, 64).bfloat16(), nvfp4, ValueError, "M = 65"),
        (normal(64, 2).bfloat16().T, nvfp4, ValueError, "stride 2 in its last dimension"),
    ):
        with pytest.raises(kind, match=words):
            fp4_stream(x, w)
        with pytest.raises(kind, match=words.replace("65", "129")):
            fp4_few_sm90(normal(129, 64).bfloat16() if x.shape[0] == 65 else x, w)
    assert fp4_few_sm90(normal(1, 64)[:0].bfloat16(), nvfp4).shape == (0, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [None, *SHAPES], ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 256, 128), (100, 264, 320), (300, 520, 4096), (128, 1000, 64)])
def test_hoppers_product(m: int, n: int, k: int, fmt: Format, shape: Shape | None) -> None:
    x, w = normal(m, k).bfloat16(), quantize(normal(n, k, 1), fmt)
    f, bias = fragments(w), normal(1, n, 2)[0]
    out = fp4_gemm_sm90(x, f, bias=bias, shape=shape)
    assert judge(out, x, w, bias) is None
    assert torch.equal(out, fp4_gemm_sm90(x, f, bias=bias, shape=shape))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(100, 264, 320), (300, 5128, 2048), (1300, 5128, 128), (250, 10240, 1024)]
)
def test_hoppers_product_however_tiles_are_split(
    m: int, n: int, k: int, shape: Shape, dtype: torch.dtype
) -> None:
    x, w = normal(m, k).to(dtype), quantize(normal(n, k, 1), NVFP4)
    f = fragments(w)
    tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
    for plan in every_plan(tiles, -(-k // 128), processors(x.device), shape):
        out = fp4_gemm_sm90(x, f, shape=shape, plan=plan)
        assert out.dtype == dtype and judge(out, x, w) is None, plan
        for _ in range(5):
            assert torch.equal(out, fp4_gemm_sm90(x, f, shape=shape, plan=plan, early=False)), plan


@pytest.mark.gpu
@pytest.mark.parametrize("into", [None, NVFP4, MXFP4], ids=["sixteen bits", "nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 256, 128), (7, 288, 320), (65, 416, 320), (128, 5152, 1024), (129, 10240, 1024), (300, 5152, 2048)],
)
def test_hoppers_product_over_a_global_scale_of_each_row(
    m: int, n: int, k: int, shape: Shape, into: Format | None
) -> None:
    x, w, bias, tops = (
        normal(m, k).bfloat16(),
        quantize(normal(n, k, 1), NVFP4),
        normal(1, n, 2)[0],
        by_rows(m),
    )
    f, of_x = fragments(w), x.double() / tops.double()
    y, gs = reference.matmul(of_x, w, bias=bias), torch.tensor(30.0, device=DEVICE)
    error = gemm_error(y, reference.magnitude(of_x, w), k)
    tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
    for plan in every_plan(tiles, -(-k // 128), processors(x.device), shape):
        for early in (True, False):
            how = {"x_global_scale": tops, "bias": bias, "shape": shape, "plan": plan, "early": early}
            if into is None:
                assert within(fp4_gemm_sm90(x, f, **how), y, error) is None, plan
                continue
            result = Quantized.empty(m, n, into, gs if into == NVFP4 else None, x.device)
            fp4_gemm_sm90(x, f, into=result, **how)
            found = QTensor(result.codes, result.scales, into, (m, n), result.global_scale)
            assert compare_quantized(found, y, into, global_scale=result.global_scale, error=error) is None, (
                plan
            )


@pytest.mark.gpu
def test_who_does_not_wait_for_others_leaves_their_sums_to_them() -> None:
    """The paths of programs that come too early, which are rare, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.impatient"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
def test_launches_on_several_streams_and_in_graphs_do_not_meet() -> None:
    x, f = normal(300, 2048).bfloat16(), fragments(quantize(normal(5128, 2048, 1), NVFP4))
    expected = fp4_gemm_sm90(x, f, shape=SHAPES[-1])
    streams = [torch.cuda.Stream() for _ in range(3)]
    outs, graphs = [], []
    for _ in range(2):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs += [fp4_gemm_sm90(x, f, shape=SHAPES[-1]) for _ in range(2)]
        graphs.append(graph)
    torch.cuda.synchronize()
    for turn in range(30):
        with torch.cuda.stream(streams[turn % 3]):
            if turn % 3 < 2:
                graphs[turn % 3].replay()
            else:
                outs.append(fp4_gemm_sm90(x, f, shape=SHAPES[-1]))
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected) for out in outs)


FEW = [Few(2, 1, 8, 4), Few(2, 1, 4, 4, 2), Few(2, 2, 4, 6), Few(1, 2, 2, 4), Few(1, 4, 4, 3)]


@pytest.mark.gpu
@pytest.mark.parametrize("few", [None, *FEW], ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 20000, 128), (5, 1000, 1056), (16, 33, 8192), (8, 10240, 2048), (2, 30000, 1024), (64, 10240, 512)],
)
def test_hoppers_product_of_few_rows(m: int, n: int, k: int, fmt: Format, few: Few | None) -> None:
    if few and few.shared_memory(m) > 220_000:
        m = 16
    x, w, bias = normal(m, k).bfloat16(), quantize(normal(n, k, 1), fmt), normal(1, n, 2)[0]
    f = fragments(w)
    out = fp4_few_sm90(x, f, bias=bias, few=few)
    assert judge(out, x, w, bias) is None
    assert torch.equal(out, fp4_few_sm90(x, f, bias=bias, few=few, early=False))


@pytest.mark.gpu
@pytest.mark.parametrize("few", [None, *FEW, Few(2, 1, 2, 4, 1, 2), Few(2, 1, 1, 4, 1, 4)], ids=str)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1000, 512), (7, 4096, 4096), (64, 10240, 512), (65, 1000, 1056), (128, 8192, 1024)]
)
def test_hoppers_product_of_few_rows_over_a_global_scale_of_each(
    m: int, n: int, k: int, fmt: Format, few: Few | None
) -> None:
    if few and few.shared_memory(max(8, triton.next_power_of_2(m))) > 220_000:
        m = 7
    x, w, bias, tops = normal(m, k).bfloat16(), quantize(normal(n, k, 1), fmt), normal(1, n, 2)[0], by_rows(m)
    f, of_x = fragments(w), x.double() / tops.double()
    for early in (True, False):
        out = fp4_few_sm90(x, f, x_global_scale=tops, bias=bias, few=few, early=early)
        assert judge(out, of_x, w, bias) is None


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 8, 9, 17, 33, 65, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_hoppers_product_of_any_few_rows(m: int, dtype: torch.dtype) -> None:
    whole = torch.full((2 * m, 1100), torch.nan, device=DEVICE, dtype=dtype)
    for start in (8, 3):  # 16-byte aligned, and not
        x, w = whole[::2, start : start + 1040], quantize(normal(700, 1040, 1), NVFP4)
        x.copy_(normal(m, 1040))
        assert judge(fp4_few_sm90(x, fragments(w)), x, w) is None
    w.scale[7, 2] = 0x7F
    assert fp4_few_sm90(x, fragments(w)).isnan().nonzero()[:, 1].unique().tolist() == [7]


@pytest.mark.gpu
def test_hoppers_products_of_few_rows_on_several_streams_and_in_graphs() -> None:
    f = fragments(quantize(normal(10240, 1024, 1), NVFP4))
    xs = [normal(m, 1024, m).bfloat16() for m in (1, 9, 33, 64)]
    expected = [fp4_few_sm90(x, f) for x in xs]
    torch.cuda.synchronize()
    streams, graphs, found = [torch.cuda.Stream() for _ in xs], [], []
    for x in xs:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], stream=streams[0]):
            found.append([fp4_few_sm90(x, f) for _ in range(4)])
    for _ in range(20):
        eager = []
        for x, stream, graph in zip(xs, streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
                eager.append([fp4_few_sm90(x, f) for _ in range(4)])
        torch.cuda.synchronize()
        for outs, again, one in zip(found, eager, expected, strict=True):
            assert all(torch.equal(each, one) for each in (*outs, *again))

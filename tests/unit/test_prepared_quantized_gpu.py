"""The same on a GPU: results of the kernels beside the product's, the quantizer's, and a CPU's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qbench import gemm_error, poisoned_allocations
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4, NVFP4_1L, NVFP4_TOKEN, Format
from qkernels.prepared import fold, prepare, prepared_matmul, prepared_matmul_quantized
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from tests.unit.test_prepared_quantized import RESULTS, chain, chains, normal, same


def on_gpu(m: int, n: int, k: int, fmt: Format, activation: str):
    """(activations, weights, what is multiplied: for the reference, for the product) on the device."""
    w = quantize_exactly(normal(n, k, 1), fmt).to("cuda")
    if activation == "w4a16":
        x = normal(m, k).cuda()
        return x, w, x, prepare(w)
    if activation == "token":
        spread = torch.exp2(torch.arange(float(m)) % 60 - 30)[:, None]
        x = quantize_exactly(normal(m, k, dtype=torch.float32) * spread, NVFP4_TOKEN).to("cuda")
        return x, w, x, prepare(w)
    x = quantize_exactly(normal(m, k), fmt).to("cuda")
    p = prepare(w, activation)
    return x, w, fold(x) if p.folded else x, p


GPU = pytest.mark.gpu
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
KINDS = pytest.mark.parametrize(
    ("fmt", "activation"),
    [(NVFP4, "w4a16"), (NVFP4, "w4a4"), (NVFP4, "token"), (MXFP4, "w4a16"), (MXFP4, "w4a4")],
    ids=["nvfp4-w4a16", "nvfp4-w4a4", "nvfp4-token", "mxfp4-w4a16", "mxfp4-folded"],
)


def judged(found: QTensor, x, w: QTensor, gs: torch.Tensor | None, accumulator: str, bias=None) -> object:
    y = reference.matmul(x, w, bias=bias)
    error = gemm_error(y, reference.magnitude(x, w), w.shape[1], accumulator)
    return compare_quantized(found, y, found.format, global_scale=gs, error=error)


def static_scale(x, w: QTensor, result: Format) -> torch.Tensor | None:
    return (2688 / reference.matmul(x, w).abs().amax()).float() if result.levels == 2 else None


@GPU
@KINDS
@pytest.mark.parametrize("m", [1, 8, 17, 33, 64, 65, 127, 129, 300])
@pytest.mark.parametrize("n", [32, 96, 416, 8224])
def test_on_a_gpu_results_are_those_of_the_product(fmt: Format, activation: str, n: int, m: int) -> None:
    x, w, left, p = on_gpu(m, n, 1056, fmt, activation)
    bias = normal(1, n, 2)[0].cuda()
    accumulator = "fp8-fast" if p.folded else "fp32"
    for result in (NVFP4, MXFP4):
        gs = static_scale(x, w, result)
        with poisoned_allocations():
            found = prepared_matmul_quantized(left, p, result, global_scale=gs, bias=bias)
        wrong = judged(found, x, w, gs, accumulator, bias)
        assert wrong is None, f"{wrong}"
        assert same(found, prepared_matmul_quantized(left, p, result, global_scale=gs, bias=bias))


@GPU
@pytest.mark.skipif(not HOPPER, reason="the epilogue is of Hopper's products")
@pytest.mark.parametrize(
    ("columns", "rows", "warps"),
    [(128, r, 8) for r in (16, 32, 64, 128, 256)]
    + [(128, 64, 4), (128, 8, 2)]
    + [(64, r, 4) for r in (8, 32, 128)],
)
@pytest.mark.parametrize("halves", [False, True])
def test_on_a_gpu_the_epilogue_alone_is_the_quantizer(
    columns: int, rows: int, warps: int, halves: bool
) -> None:
    from tests.gluon_tiles import write

    for m, n in ((1, 32), (129, 416), (300, 224)):
        y = normal(m, n, dtype=torch.float32).cuda()
        y[0, 3], y[-1, n - 1] = float("nan"), float("inf")
        gs = torch.tensor(100.0, device="cuda")
        for found, wanted in (
            (
                write(y, NVFP4, gs, columns, rows, warps, halves=halves and rows > 8),
                nvfp4_quantize(y, global_scale=gs),
            ),
            (write(y, MXFP4, None, columns, rows, warps, halves=halves and rows > 8), mxfp4_quantize(y)),
        ):
            assert torch.equal(found.scale, wanted.scale)
            if found.format == MXFP4:
                assert torch.equal(found.data, wanted.data)
            else:  # its quantizer multiplies in another order, which decides ties
                assert compare_quantized(found, y, NVFP4, global_scale=gs) is None


@GPU
@RESULTS
@pytest.mark.parametrize("m", [3, 100])
def test_on_a_gpu_every_result_of_few_rows_is_the_quantizer_of_the_fp32_product(
    m: int, result: Format
) -> None:
    x, w, left, p = on_gpu(m, 160, 2048, NVFP4, "w4a16")
    gs = static_scale(x, w, result)
    y = prepared_matmul(
        left, p, out_dtype=torch.float32
    )  # the same kernel's sums, where it takes so few rows
    found = prepared_matmul_quantized(left, p, result, global_scale=gs)
    if m <= 64:
        if result.scale == "e4m3":
            wanted = nvfp4_quantize(y, fmt=NVFP4 if gs is not None else NVFP4_1L, global_scale=gs)
        else:
            wanted = mxfp4_quantize(y, rule=result.rule)
        if result.scale == "e8m0":  # NVFP4's kernel multiplies in another order, which decides ties
            assert torch.equal(found.data, wanted.data)
        assert torch.equal(found.scale, wanted.scale)
        assert compare_quantized(found, y, result, global_scale=gs) is None
    wrong = judged(found, x, w, gs, "fp32")
    assert wrong is None, f"{wrong}"


@GPU
@KINDS
@pytest.mark.parametrize("m", [5, 200])
def test_on_a_gpu_zeros_nan_and_saturation(fmt: Format, activation: str, m: int) -> None:
    x, _w, left, p = on_gpu(m, 160, 256, fmt, activation)
    if isinstance(x, torch.Tensor):
        x[1], x[2, 7] = 0.0, float("nan")
    else:
        x.data[1] = 0
        x.scale[2, 3] = 0xFF if fmt.scale == "e8m0" else 0x7F
        left = fold(x) if p.folded else x
    for result, gs in ((NVFP4, torch.tensor(1e24, device="cuda")), (MXFP4, None)):
        found = prepared_matmul_quantized(left, p, result, global_scale=gs)
        values = found.dequantize(torch.float64)
        assert not values[1].any()
        assert values[2].isnan().all()
        assert not values[[0, *range(3, m)]].isnan().any()
        if gs is not None:
            assert (found.scale[[0, *range(3, m)]] == 0x7E).all()


@GPU
@chains
@pytest.mark.parametrize("m", [1, 40, 200])
def test_on_a_gpu_a_chain_waits_for_nothing(kind, name, gs, m: int) -> None:
    one, two, *_ = chain(kind, name, gs, "cuda", 512, 288)
    seq, x = nn.Sequential(one, two), normal(m, 512).cuda()
    y = seq(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert seq(x) is not None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = seq(x)
    for _ in range(3):
        graph.replay()
    assert torch.equal(again, y)
    torch.compiler.reset()
    assert torch.equal(torch.compile(seq, fullgraph=True)(x), y)


@GPU
@pytest.mark.parametrize(("m", "k"), [(1, 32), (3, 160), (200, 8192), (5, 28672)])
def test_on_a_gpu_codes_are_folded_as_on_a_cpu(m: int, k: int) -> None:
    x = quantize_exactly(normal(m, k), MXFP4)
    x.scale[0, 0] = 255
    x.scale[-1, -1] = 3
    found, wanted = fold(x.to("cuda")), fold(x)
    bits = wanted.elements.view(torch.uint8)
    nan = bits & 0x7F == 0x7F
    assert torch.equal(found.elements.cpu().view(torch.uint8)[~nan], bits[~nan])
    assert found.elements.cpu().float()[nan].isnan().all()
    assert torch.equal(found.factor.cpu(), wanted.factor)

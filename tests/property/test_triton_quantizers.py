"""The Triton quantizers beyond what check_quantizer asks of every one (test_quantizers.py): named values, errors, and
on a GPU real sizes and graphs.

Interpreted on a CPU, compiled on a GPU: the same tests, and larger shapes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.api import TRITON_FORMATS
from qkernels.compare import compare_quantized
from qkernels.format import FORMATS, FP8, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, NVFP4, NVFP4_1L, Format
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.testing.strategies import DTYPES
from qkernels.triton import (
    fp4_rows,
    fp8_block,
    fp8_quantize,
    int8_quantize,
    mxfp4_quantize,
    nvfp4_quantize,
)
from qkernels.triton.amax import largest, partial_amax

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK_FORMATS = [fmt for fmt in TRITON_FORMATS if fmt.block]
SCALED = {  # every use of the FP8 and INT8 kernels: the format and its static arguments
    "fp8 dynamic": (FP8, {}),
    "fp8 static": (FP8, {"scale": 0.02}),
    "fp8 token": (FP8_TOKEN, {}),
    "int8 static": (INT8, {"scale": 0.03}),
    "int8 static asymmetric": (INT8_ASYM, {"scale": 0.03, "zero_point": -5}),
    "int8 token": (INT8_TOKEN, {}),
    "int8 token asymmetric": (INT8_ASYM, {}),
}
by_name = {"ids": lambda value: getattr(value, "name", None)}


@pytest.fixture(scope="module", autouse=True)
def repaired_interpreter_and_poisoned_memory() -> Iterator[None]:
    """What a kernel does not write is then wrong, instead of whatever an earlier test left there."""
    if triton.knobs.runtime.interpret:
        repair()
    with poisoned_allocations():
        yield


def run(x: Tensor, fmt: Format, **options: Any) -> QTensor:
    """`fmt` of x [M, K] by the Triton kernel."""
    if fmt.global_granularity == "row":
        return fp4_rows.nvfp4_token(x, **options)
    if fmt.scale == "e4m3":
        return nvfp4_quantize.nvfp4_quantize(x, fmt=fmt, **options)
    if fmt.scale == "e8m0":
        return mxfp4_quantize.mxfp4_quantize(x, rule=fmt.rule, **options)
    if fmt.block:
        return fp8_block.fp8_block_quantize(x, rows=fmt.block_rows, **options)
    if fmt.element.name == "e4m3":
        return fp8_quantize.fp8_quantize(x, per_token=fmt.granularity == "row", **options)
    return int8_quantize.int8_quantize(x, symmetric=fmt.symmetric, **options)


def check(x: Tensor, fmt: Format, **options: Any) -> QTensor:
    """Quantize x on the device of these tests; the comparator must find nothing."""
    x = x if x.device.type == DEVICE else x.to(DEVICE)
    q = run(x, fmt, **options)
    assert compare_quantized(q, x, fmt, **options) is None
    return q


def same(a: QTensor, b: QTensor) -> bool:
    pairs = (
        (a.data, b.data),
        (a.scale, b.scale),
        (a.zero_point, b.zero_point),
        (a.global_scale, b.global_scale),
    )
    return all(p is q or torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (p, q))) for p, q in pairs)


def normal(m: int, k: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


# Values ---------------------------------------------------------------------------------------------------


def test_nvfp4_of_zeros_is_zeros_under_a_global_scale_of_one() -> None:
    q = check(torch.zeros(3, 64), NVFP4)
    assert float(q.global_scale) == 1.0
    assert not q.data.any()
    assert not q.scale.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("fmt", [NVFP4, FORMATS["mxfp4"]], **by_name)
def test_a_rotation_spreads_a_non_finite_element_over_its_group_alone(fmt: Format, bad: float) -> None:
    for dtype in DTYPES:
        x = normal(2, 192, dtype)
        x[0, 70] = bad
        values = check(x, fmt, hadamard=64).dequantize()
        assert bool(values[0, 64:128].isnan().all())
        assert int(values.isnan().sum()) == 64


def test_static_scales_saturate_infinity_and_only_fp8_keeps_nan() -> None:
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 0.5]], device=DEVICE)
    for use, expected in (
        ("fp8 static", [torch.nan, 448.0, -448.0, 448.0, -448.0, 24.0]),
        ("int8 static", [0, 127, -128, 127, -128, 17]),
        ("int8 static asymmetric", [0, 127, -128, 127, -128, 12]),
    ):
        fmt, static = SCALED[use]
        codes = check(x, fmt, **static).data.float().cpu()[0]
        torch.testing.assert_close(codes, torch.tensor(expected).float(), rtol=0, atol=0, equal_nan=True)


def test_static_int8_reaches_minus_128_and_rounds_ties_to_even() -> None:
    x = torch.tensor([[-128.0, -127.5, 0.5, 1.5, 2.5, -0.5, -2.5, 126.5, 127.5]], device=DEVICE)
    codes = check(x, INT8, scale=1.0).data[0].tolist()
    assert codes == [-128, -128, 0, 2, 2, 0, -2, 126, 127]


@pytest.mark.parametrize("fmt", [FP8_TOKEN, INT8_TOKEN, INT8_ASYM], **by_name)
def test_scaled_rows_beyond_the_range_of_fp16_are_kept(fmt: Format) -> None:
    low = torch.linspace(-3.3e38, 3.3e38, 40)
    x = torch.stack([low, low * 1e-38, low * 1e-44, low.abs() + 1e37, torch.full((40,), 7e-46)])
    check(x, fmt)


def test_an_asymmetric_constant_row_survives() -> None:
    for value in (3.25, -1e-3, 6e4):
        x = torch.full((1, 33), value, dtype=torch.float16, device=DEVICE)
        assert torch.equal(check(x, INT8_ASYM).dequantize(), x.float())


@pytest.mark.parametrize("gs", [2.0**-20, 1.0, 57.3, 2.0**20, 3e38])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvfp4_under_any_static_global_scale(gs: float, dtype: torch.dtype) -> None:
    q = check(normal(3, 80, dtype), NVFP4, global_scale=gs)
    assert float(q.global_scale) == torch.tensor(gs).item()


def test_a_static_global_scale_may_be_a_tensor_and_is_used_as_it_is() -> None:
    x, gs = normal(2, 64), torch.tensor(123.0, device=DEVICE)
    assert same(check(x, NVFP4, global_scale=gs), check(x, NVFP4, global_scale=123.0))


# Shapes and layouts ---------------------------------------------------------------------------------------


def test_a_long_row_finds_its_extreme_in_every_piece() -> None:
    for place in (0, 8191, 8192, 16384, 19999):
        x = normal(1, 20000, torch.float32)
        x[0, place] = -77.0
        for fmt in (FP8_TOKEN, INT8_TOKEN, INT8_ASYM):
            check(x, fmt)


@pytest.mark.parametrize("fmt", TRITON_FORMATS, **by_name)
def test_a_transposed_matrix_is_refused_with_the_remedy(fmt: Format) -> None:
    static = {"scale": 0.03} if fmt == INT8 else {}
    x = normal(128, 256)
    with pytest.raises(ValueError, match=r"use x\.contiguous\(\)"):
        run(x.T, fmt, **static)
    check(x.T.contiguous(), fmt, **static)


@pytest.mark.parametrize("fmt", TRITON_FORMATS, **by_name)
def test_no_rows_give_an_empty_result(fmt: Format) -> None:
    static = {"scale": 0.03} if fmt == INT8 else {}
    x = torch.empty(0, 128, dtype=torch.float16, device=DEVICE)
    q = run(x, fmt, **static)
    assert q.shape == (0, 128)
    assert q.dequantize().shape == (0, 128)
    expected = quantize(x, fmt, **static)
    assert q.scale.shape == expected.scale.shape
    if fmt.global_granularity == "row":
        assert q.global_scale is not None
        assert q.global_scale.shape == (0, 1)
    else:
        assert q.global_scale is None or float(q.global_scale) == 1.0


# Rotations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [NVFP4, FORMATS["mxfp4"]], **by_name)
def test_rotation_beyond_one_tile_each_way(fmt: Format) -> None:
    check(normal(17, 1024 + 128), fmt, hadamard=128)
    check(normal(65, 1024 + 64, torch.bfloat16), fmt, hadamard=64)


@pytest.mark.parametrize("fmt", [NVFP4, FORMATS["mxfp4"]], **by_name)
def test_a_rotated_fp32_input_keeps_its_24_bits(fmt: Format) -> None:
    """Large parts that cancel: rounding x to bf16 before the rotation would leave nothing of the small ones."""
    x = torch.full((2, 64), 256.0) + torch.randn(2, 64, generator=torch.Generator().manual_seed(6))
    q = check(x, fmt, hadamard=32)
    assert q.hadamard == 32


# amax, casts, errors, providers ---------------------------------------------------------------------------


@triton.jit
def largest_kernel(partial_ptr, out_ptr, COUNT: tl.constexpr):
    tl.store(out_ptr, largest(partial_ptr, COUNT))


def amax(x: Tensor, **options: Any) -> float:
    partial = partial_amax(x.to(DEVICE), **options)
    out = torch.empty(1, dtype=torch.float32, device=DEVICE)
    largest_kernel[(1,)](partial, out, COUNT=partial.numel())
    return float(out)


@pytest.mark.parametrize("place", [(0, 0), (8, 1036), (4, 1023), (4, 1024)], ids=str)
def test_amax_finds_one_element_anywhere_and_propagates_nan(place: tuple[int, int]) -> None:
    x = torch.ones(9, 1037)
    x[place] = -2.5
    assert amax(x) == 2.5
    x[place] = torch.nan
    assert amax(x) != amax(x)
    assert amax(x, finite_only=True) == 1.0
    x[place] = -torch.inf
    assert amax(x) == torch.inf


@pytest.mark.parametrize(("most", "direct"), [(1 << 14, 0), (300, 0), (8, 8), (None, None)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_largest_of_many_tiles_is_found_by_groups_again_and_again(
    dtype: torch.dtype, most: int | None, direct: int | None
) -> None:
    """Counters of groups are left at zero: the second of two calls finds what the first does."""
    x = torch.ones(8 * 70, 128, dtype=dtype)
    for place in (0, 8 * 40 + 1, -1):
        x[place, 77] = -2.5
        assert [amax(x, most=most, direct=direct) for _ in range(2)] == [2.5, 2.5]
        x[place, 77] = 1.0


@pytest.mark.parametrize("hadamard", [16, 32, 64, 128])
@pytest.mark.parametrize("shape", [(1, 8192), (3, 64 * 2), (37, 256), (300, 1024)], ids=str)
def test_the_largest_of_a_rotated_tensor(shape: tuple[int, int], hadamard: int) -> None:
    """Also where there are fewer blocks than a program could have threads: 128 for [1, 8192]."""
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()
        wanted = float(rotate(x.double(), hadamard, torch.float64).abs().max())
        assert abs(amax(x, hadamard=hadamard) / wanted - 1) < 2.0**-20


def test_e4m3_by_arithmetic_equals_the_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cuda" and not fp8_quantize.has_e4m3_cast(torch.device(DEVICE)):
        pytest.skip("no correct e4m3 cast before sm_90 to compare with")
    x = normal(3, 500, torch.float32) * torch.exp2(torch.linspace(-16, 4, 500, device=DEVICE))
    x[1, 3] = torch.nan
    uses = [(fmt, static) for fmt, static in SCALED.values() if fmt.element.name == "e4m3"]
    cast = [run(x, fmt, **static) for fmt, static in uses]
    monkeypatch.setattr(fp8_quantize, "has_e4m3_cast", lambda device: False)
    assert all(same(q, run(x, fmt, **static)) for q, (fmt, static) in zip(cast, uses, strict=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: run(x.double(), NVFP4), TypeError, "cannot quantize torch.float64"),
        (lambda x: run(x[0], FP8), ValueError, r"takes \[M, K\]"),
        (lambda x: run(x[:, :40], NVFP4), ValueError, "K = 40 is not a multiple of the block 16"),
        (lambda x: run(x[:, :0], FP8), ValueError, "K must be at least one"),
        (lambda x: run(x, NVFP4, hadamard=128), ValueError, "K = 64 is not a multiple of the Hadamard size 128"),
        (lambda x: run(x, FORMATS["mxfp4"], hadamard=16), ValueError, "known: 32, 64, 128"),
        (lambda x: run(x, NVFP4_1L, global_scale=2.0), ValueError, "takes no global_scale"),
        (lambda x: run(x, NVFP4, global_scale=0.0), ValueError, "not a finite number > 0"),
        (lambda x: run(x, NVFP4, global_scale=torch.ones(2)), TypeError, "one float32 value"),
        (lambda x: mxfp4_quantize.mxfp4_quantize(x, rule="flor"), ValueError, "known: floor, ceil"),
        (lambda x: run(x, FP8_TOKEN, scale=0.1), ValueError, "a static scale is per tensor"),
        (lambda x: run(x, FP8, scale=torch.ones(1).half()), TypeError, "one float32 value"),
        (lambda x: run(x, INT8, per_token=False), ValueError, "static: pass scale="),
        (lambda x: run(x, INT8, scale=0.1, zero_point=3), ValueError, "symmetric is True"),
        (lambda x: run(x, INT8_ASYM, scale=0.1), ValueError, "together"),
        (lambda x: run(x, INT8_ASYM, scale=0.1, zero_point=1 << 23), ValueError, "beyond 2"),
        (lambda x: run(x, INT8_ASYM, scale=0.1, zero_point=torch.ones(1)), TypeError, "one int32 value"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(normal(2, 64))


# GPU only: real sizes -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 8192), (129, 28672), (4096, 8192), (4095, 11008)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_shapes_compiled(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape, device="cuda").to(dtype)
    for fmt in BLOCK_FORMATS:
        check(x, fmt)
    for fmt in (NVFP4, FORMATS["mxfp4"]):
        for n in fmt.hadamard:
            check(x, fmt, hadamard=n)
    for fmt, static in SCALED.values():
        check(x, fmt, **static)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fmt", [NVFP4, FORMATS["mxfp4"], FP8, FP8_TOKEN, FORMATS["fp8_block"], INT8_TOKEN], **by_name
)
def test_rows_beyond_two_to_the_31_elements_compiled(fmt: Format) -> None:
    rows, k = 65537, 32768
    x = torch.randn(rows, k, device="cuda", dtype=torch.float16)
    q = run(x, fmt)
    tail = x[-3:]
    options = (
        {"global_scale": q.global_scale} if fmt.levels == 2 else {"scale": q.scale} if fmt == FP8 else {}
    )
    assert same(q.rows(rows - 3, rows), run(tail, fmt, **options))


@pytest.mark.gpu
def test_captured_in_a_graph_the_dynamic_global_scale_follows_the_input() -> None:
    x = normal(64, 1024)
    run(x, NVFP4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        q = run(x, NVFP4)
    x.mul_(3)
    graph.replay()
    assert compare_quantized(q, x, NVFP4) is None

"""The FP8 and INT8 quantizers on every path: how a tensor or row is cut changes no bit, and results go where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

import qkernels
from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_BLOCK, FP8_BLOCK_2D, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.testing.strategies import DTYPES
from qkernels.triton import scaled_codes
from qkernels.triton.flat import Flat
from qkernels.triton.fp8_block import fp8_block_quantize
from qkernels.triton.fp8_held import LEAST_ELEMENTS, Held, holds
from qkernels.triton.fp8_quantize import fp8_quantize
from qkernels.triton.fp8_small import is_small
from qkernels.triton.int8_quantize import int8_quantize
from qkernels.triton.token_words import Row

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ZERO = torch.full((1,), -5, dtype=torch.int32, device=DEVICE)
Run = Callable[..., QTensor]
TENSORS: dict[str, tuple[Format, dict[str, Any], Run]] = {
    "fp8 static": (FP8, {"scale": 0.02}, lambda x, **o: fp8_quantize(x, 0.02, **o)),
    "fp8 dynamic": (FP8, {}, fp8_quantize),
    "int8 static": (INT8, {"scale": 0.03}, lambda x, **o: int8_quantize(x, 0.03, **o)),
    "int8 asymmetric": (
        INT8_ASYM,
        {"scale": 0.03, "zero_point": -5},
        lambda x, **o: int8_quantize(x, 0.03, zero_point=ZERO, symmetric=False, **o),
    ),
}
TOKENS: dict[str, tuple[Format, Run]] = {
    "fp8": (FP8_TOKEN, lambda x, **o: fp8_quantize(x, per_token=True, **o)),
    "int8": (INT8_TOKEN, int8_quantize),
    "int8 asymmetric": (INT8_ASYM, lambda x, **o: int8_quantize(x, symmetric=False, **o)),
}
FLATS = (Flat(1024, 4), Flat(2048, 8), Flat(512, 4))
ROWS = (Row(1), Row(2, 16), Row(4, 8), Row(16))


@pytest.fixture(scope="module", autouse=True)
def repaired_interpreter_and_poisoned_memory() -> Iterator[None]:
    if triton.knobs.runtime.interpret:
        repair()
    with poisoned_allocations():
        yield


def normal(m: int, k: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(m + k)).to(dtype).to(DEVICE)


def bits(q: QTensor) -> list[Tensor]:
    return [t.reshape(-1).view(torch.uint8) for t in (q.data, q.scale, q.zero_point) if t is not None]


def same(a: QTensor, b: QTensor) -> bool:
    return all(torch.equal(p, q) for p, q in zip(bits(a), bits(b), strict=True))


def gapped(x: Tensor) -> Tensor:
    """The same rows with others' elements between them."""
    wide = torch.full((x.shape[0], x.shape[1] + 16), 99.0, dtype=x.dtype, device=x.device)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


@pytest.mark.parametrize("use", TENSORS)
@pytest.mark.parametrize("shape", [(5, 1037), (8, 1024), (9, 1096)], ids=str)
def test_however_a_tensor_is_cut_its_bits_are_the_references(use: str, shape: tuple[int, int]) -> None:
    fmt, static, run = TENSORS[use]
    for dtype in DTYPES:
        x = normal(*shape, dtype)
        expected = quantize(x, fmt, **static)
        assert same(run(gapped(x)), expected)
        for cut in FLATS:
            assert same(run(x, flat=cut), expected), cut


@pytest.mark.parametrize("use", TOKENS)
@pytest.mark.parametrize("k", [8, 264, 1304, 4104])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_however_a_row_is_cut_its_bits_are_the_references(use: str, k: int, dtype: torch.dtype) -> None:
    fmt, run = TOKENS[use]
    x = normal(4, k, dtype)
    x[0, -1], x[1] = -77.0, x[1].abs() + 1
    x[2, 0], x[3] = torch.nan, 0.0
    expected = quantize(x, fmt)
    for cut in ROWS:
        assert same(run(x, row=cut), expected), cut
        assert same(run(gapped(x), row=cut), expected), cut


@pytest.mark.parametrize("fmt", [FP8_BLOCK, FP8_BLOCK_2D], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("rows", [1, 127, 130, 257])
def test_blocks_of_rows_in_any_dtype_and_cut(fmt: Format, rows: int) -> None:
    for dtype in DTYPES:
        x = normal(rows, 256, dtype) * torch.linspace(0.01, 3, rows, device=DEVICE)[:, None].to(dtype)
        x[0, 3], x[-1, 128:] = torch.inf, 0.0
        q = fp8_block_quantize(x, rows=fmt.block_rows)
        assert compare_quantized(q, x, fmt) is None
        assert same(fp8_block_quantize(gapped(x), rows=fmt.block_rows), q)
        if dtype != torch.float32:
            assert same(fp8_block_quantize(x, rows=fmt.block_rows, warps=2, parts=1), q)


@pytest.mark.parametrize("fmt", [FP8_BLOCK, FP8_BLOCK_2D], ids=lambda fmt: fmt.name)
def test_blocks_by_arithmetic_equal_the_cast(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(5, 256)
    cast = fp8_block_quantize(x, rows=fmt.block_rows)
    monkeypatch.setattr("qkernels.triton.fp8_block.has_e4m3_cast", lambda device: False)
    assert same(cast, fp8_block_quantize(x, rows=fmt.block_rows))
    assert scaled_codes.has_e4m3_cast(torch.device("cpu"))


@pytest.mark.parametrize(
    "shape", [(1, 8), (3, 40), (1, 4096), (2, 8192), (1, 20008), (4, 8192), (5, 8192)], ids=str
)
def test_a_small_tensor_in_one_launch_has_the_bits_of_two(shape: tuple[int, int]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = normal(*shape, dtype)
        x[-1, -1] = -99.0
        q = fp8_quantize(x)
        assert same(q, quantize(x, FP8))
        assert same(q, fp8_quantize(x, flat=Flat(4096, 4)))
        assert is_small(x) == (x.numel() <= 32768)
        assert not is_small(gapped(x)) or shape[0] == 1


FORMATS = (FP8, FP8_TOKEN, FP8_BLOCK, FP8_BLOCK_2D, INT8_TOKEN, INT8_ASYM)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_results_are_written_into_the_tensors_given(fmt: Format, backend: str) -> None:
    x = normal(256, 256).view(2, 128, 256)
    wanted = qkernels.quantize(x, fmt, backend=backend)
    out, scale = torch.empty_like(wanted.data), torch.empty_like(wanted.scale)
    zero = None if wanted.zero_point is None else torch.empty_like(wanted.zero_point)
    q = qkernels.quantize(x, fmt, out=out, scale_out=scale, zero_point_out=zero, backend=backend)
    assert same(q, wanted)
    assert q.data.data_ptr() == out.data_ptr()
    assert q.scale.data_ptr() == scale.data_ptr()
    assert zero is None or (q.zero_point is not None and q.zero_point.data_ptr() == zero.data_ptr())


def test_the_short_functions_write_into_the_tensors_given() -> None:
    x, fixed = normal(3, 64), torch.full((1,), 0.05, device=DEVICE)
    codes, small = (
        torch.empty(3, 64, dtype=torch.float8_e4m3fn, device=DEVICE),
        torch.empty(3, 1, device=DEVICE),
    )
    data, scale = qkernels.scaled_fp8_quant(x, per_token=True, out=codes, scale_out=small, backend="triton")
    assert data.data_ptr() == codes.data_ptr()
    assert scale.data_ptr() == small.data_ptr()
    assert torch.equal(scale, qkernels.scaled_fp8_quant(x, per_token=True, backend="torch")[1])
    whole = torch.empty(3, 64, dtype=torch.int8, device=DEVICE)
    data, scale, zero = qkernels.scaled_int8_quant(x, fixed, out=whole, backend="triton")
    assert data.data_ptr() == whole.data_ptr()
    assert zero is None
    assert torch.equal(whole, qkernels.scaled_int8_quant(x, fixed, backend="torch")[0])


def test_the_scale_of_no_rows_is_written_too() -> None:
    scale = torch.full((1,), 7.0, device=DEVICE)
    fp8_quantize(torch.empty(0, 64, device=DEVICE), scale_out=scale)
    assert scale.item() == 0.0


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("fmt", "options", "error", "words"),
    [
        ("fp8", {"out": torch.empty(4, 64, dtype=torch.int8)}, TypeError, "pass one of torch.float8_e4m3fn"),
        ("int8_token", {"out": torch.empty(4, 63, dtype=torch.int8)}, ValueError, r"pass one of \[4, 64\]"),
        ("int8_token", {"out": torch.empty(64, 4, dtype=torch.int8).T}, ValueError, "contiguous"),
        ("int8_token", {"zero_point_out": torch.empty(4, 1, dtype=torch.int32)}, ValueError, "leave zero_point_out"),
        ("fp8", {"scale": torch.ones(1), "scale_out": torch.ones(1)}, ValueError, "leave scale_out out"),
        ("nvfp4", {"out": torch.empty(4, 31, dtype=torch.uint8)}, ValueError, r"pass one of \[4, 32\]"),
        ("fp8_block", {"scale": torch.ones(1)}, ValueError, "computes its block scales"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_hold_a_result_are_refused(
    fmt: str, options: dict[str, Tensor], error: type[Exception], words: str, backend: str
) -> None:
    x = normal(4, 128 if fmt == "fp8_block" else 64)
    on_device = {name: t.T.to(DEVICE).T if t.ndim == 2 else t.to(DEVICE) for name, t in options.items()}
    with pytest.raises(error, match=words):
        qkernels.quantize(x, fmt, backend=backend, **on_device)  # type: ignore[arg-type]


def test_codes_over_x_are_refused() -> None:
    shared = torch.zeros(4, 256, dtype=torch.uint8, device=DEVICE)
    x, over = shared[:, :128].view(torch.float16), shared.view(-1)[64:320].view(torch.int8).view(4, 64)
    with pytest.raises(ValueError, match="shares memory with x"):
        qkernels.quantize(x, INT8_TOKEN, out=over, backend="triton")
    apart = shared.view(-1)[768:].view(torch.int8).view(4, 64)
    x = shared.view(-1)[:512].view(torch.float16).view(4, 64)
    assert qkernels.quantize(x, INT8_TOKEN, out=apart, backend="triton").data.data_ptr() == apart.data_ptr()


@pytest.mark.gpu
def test_what_the_kernel_before_writes_is_read_though_launches_overlap() -> None:
    a, b = (torch.randn(4096, 8192, device="cuda").half() for _ in range(2))
    x, out = torch.empty_like(a), torch.empty(4096, 8192, dtype=torch.float8_e4m3fn, device="cuda")
    wanted = [fp8_quantize(each, early=False) for each in (a, b)]
    for turn in range(20):
        x.copy_((a, b)[turn % 2])
        assert same(fp8_quantize(x), wanted[turn % 2])
        fp8_quantize((a, b)[turn % 2], out=out)  # its codes are x of the next, launched early too
        found = int8_quantize(out.view(torch.int32).view(torch.float16))
        assert same(
            found, int8_quantize(wanted[turn % 2].data.view(torch.int32).view(torch.float16), early=False)
        )


HELD = (
    (torch.float16, Held(1, 1, 2, 2)),
    (torch.bfloat16, Held(1, 1, 1, 3)),
    (torch.float16, Held(2, 1, 0, 1)),
)


@pytest.mark.parametrize(("dtype", "plan"), HELD, ids=str)
@pytest.mark.parametrize("shape", [(1, 8), (3, 1000), (2, 8 * 601)], ids=str)
def test_one_launch_that_holds_part_of_a_tensor_makes_what_two_do(
    shape: tuple[int, int], dtype: torch.dtype, plan: Held
) -> None:
    """The largest at either end, and what is not finite."""
    for place, value in ((0, 70.0), (-1, -70.0), (-1, torch.nan), (0, torch.inf)):
        x = normal(*shape, dtype)
        x.view(-1)[place] = value
        two = fp8_quantize(x, held=False)
        assert same(fp8_quantize(x, held=plan), two)


def test_large_tensors_without_gaps_are_held() -> None:
    large = torch.empty(LEAST_ELEMENTS // 8192, 8192, dtype=torch.float16)
    assert holds(large)
    assert not holds(large[:-1]) and not holds(large.float()) and not holds(large[:, :-8])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1024, 8192), (2049, 8200), (4096, 8192)], ids=str)
def test_a_graph_of_held_launches_leaves_its_counters_for_the_next_replay(shape: tuple[int, int]) -> None:
    x = normal(*shape)
    assert holds(x)
    two = fp8_quantize(x, held=False)
    one = fp8_quantize(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = [fp8_quantize(x) for _ in range(3)]
    for _ in range(3):
        for q in replayed:
            q.data.view(torch.uint8).fill_(7)
        graph.replay()
        assert same(one, two) and all(same(q, two) for q in replayed)

"""Blocked scales, tensors to write into, and cuts of a matrix that are not the usual: every FP4 quantizer by Triton.

What check_quantizer asks of every quantizer stands in test_quantizers.py. Interpreted on a CPU, compiled on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
from torch import Tensor

import qkernels
from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.api import TRITON_FORMATS
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4, NVFP4_2D, NVFP4_TOKEN, Format, get_format
from qkernels.swizzle import to_blocked
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FP4 = [fmt for fmt in TRITON_FORMATS if fmt.packed]
BLOCKED = [fmt for fmt in FP4 if fmt.block_rows == 1]
by_name = {"ids": lambda value: getattr(value, "name", str(value))}


@pytest.fixture(scope="module", autouse=True)
def repaired_interpreter_and_poisoned_memory() -> Iterator[None]:
    """Padding that a kernel does not write is not zero then."""
    if triton.knobs.runtime.interpret:
        repair()
    with poisoned_allocations():
        yield


def normal(m: int, k: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def same(a: QTensor, b: QTensor) -> bool:
    pairs = ((a.data, b.data), (a.scale, b.scale), (a.global_scale, b.global_scale))
    return all(p is q or torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("fmt", BLOCKED, **by_name)
def test_blocked_scales_are_the_linear_ones_in_tiles(fmt: Format) -> None:
    shapes = ((1, 32, torch.float16), (5, 96, torch.float32), (33, 160, torch.bfloat16))
    for m, k, dtype in (*shapes, *([(130, 64, torch.float16)] if fmt in (NVFP4, MXFP4, NVFP4_TOKEN) else [])):
        x = normal(m, k, dtype)
        linear = qkernels.quantize(x, fmt, backend="triton")
        blocked = qkernels.quantize(x, fmt, scale_layout="blocked", backend="triton")
        assert torch.equal(blocked.scale, to_blocked(linear.scale))
        assert torch.equal(blocked.data, linear.data)
        assert same(blocked.linear(), linear)
        assert torch.equal(blocked.dequantize(), linear.dequantize())
        assert compare_quantized(blocked, x, fmt, scale_layout="blocked") is None


@pytest.mark.parametrize(("fmt", "size"), [(f, n) for f in (NVFP4, MXFP4, NVFP4_TOKEN) for n in f.hadamard])
@pytest.mark.parametrize("m", [3, 36])
def test_rotated_blocks_meet_in_every_order(m: int, fmt: Format, size: int) -> None:
    x = normal(m, 2 * size)
    q = qkernels.quantize(x, fmt, hadamard=size, scale_layout="blocked", backend="triton")
    assert compare_quantized(q, x, fmt, hadamard=size, scale_layout="blocked") is None
    assert same(q.linear(), qkernels.quantize(x, fmt, hadamard=size, backend="triton"))


@pytest.mark.parametrize("size", NVFP4_2D.hadamard)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_rows_are_rotated_too(dtype: torch.dtype, size: int) -> None:
    x = normal(37, 256, dtype)
    q = qkernels.quantize(x, NVFP4_2D, hadamard=size, backend="triton")
    assert compare_quantized(q, x, NVFP4_2D, hadamard=size) is None


@pytest.mark.parametrize("shape", [(4, 16, 1), (8, 16, 2), (32, 4, 2), (64, 8, 4), (128, 4, 1)], ids=str)
def test_tiles_of_squares_of_any_size(shape: tuple[int, int, int]) -> None:
    x = normal(130, 256)
    for hadamard in (None, 64):
        made = nvfp4_quantize(x, global_scale=300.0, hadamard=hadamard)
        tiled = nvfp4_quantize(x, global_scale=300.0, hadamard=hadamard, scale_layout="blocked", shape=shape)
        assert same(tiled.linear(), made)
        assert torch.equal(tiled.scale, to_blocked(made.scale))
        made = mxfp4_quantize(x, hadamard=hadamard)
        assert same(mxfp4_quantize(x, hadamard=hadamard, scale_layout="blocked", shape=shape), made.blocked())


@pytest.mark.parametrize("hadamard", [None, 16, 128])
@pytest.mark.parametrize("scale", [300.0, None])
def test_tiles_of_rows_of_any_size_make_the_same(scale: float | None, hadamard: int | None) -> None:
    x = normal(19, 512)
    made = nvfp4_quantize(x, global_scale=scale, hadamard=hadamard)
    for shape in ((1, 32, 1), (2, 16, 1), (4, 32, 2)):
        assert same(nvfp4_quantize(x, global_scale=scale, hadamard=hadamard, shape=shape), made)


@pytest.mark.parametrize("rule", ["floor", "abs_max"])
@pytest.mark.parametrize("hadamard", [None, 32, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_threads_to_a_block_make_the_same(dtype: torch.dtype, hadamard: int | None, rule: str) -> None:
    x = normal(5, 384, dtype)
    x[1, 40] = torch.nan
    whole, halves = (mxfp4_quantize(x, rule=rule, hadamard=hadamard, halves=each) for each in (False, True))
    fmt = whole.format
    if hadamard is None:
        assert same(whole, halves)
    for q in (whole, halves):
        assert compare_quantized(q, x, fmt, hadamard=hadamard) is None


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("layout", ["linear", "blocked"])
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_token", "nvfp4_1l", "mxfp4"])
def test_results_are_written_into_given_tensors(name: str, layout: str, backend: str) -> None:
    fmt, x = get_format(name), normal(6, 64).reshape(2, 3, 64)
    made = qkernels.quantize(x, fmt, scale_layout=layout, backend=backend)
    given = {"out": torch.empty_like(made.data), "scale_out": torch.empty_like(made.scale)}
    if made.global_scale is not None:
        given["global_scale_out"] = torch.empty_like(made.global_scale)
    q = qkernels.quantize(x, fmt, scale_layout=layout, backend=backend, **given)
    assert same(q, made)
    assert q.data.data_ptr() == given["out"].data_ptr()
    assert q.scale.data_ptr() == given["scale_out"].data_ptr()
    if q.global_scale is not None:
        assert q.global_scale.data_ptr() == given["global_scale_out"].data_ptr()


def test_given_tensors_of_another_kind_are_refused() -> None:
    x, gs = normal(4, 64), torch.ones((), device=DEVICE)
    data = torch.empty(4, 32, dtype=torch.uint8, device=DEVICE)
    scale = torch.empty(4, 4, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match="out has shape"):
        qkernels.quantize(x, "nvfp4", out=data[:2])
    with pytest.raises(TypeError, match=r"scale_out is torch\.float32"):
        qkernels.quantize(x, "nvfp4", scale_out=scale.float())
    with pytest.raises(ValueError, match=r"pass one of \[512\]"):
        qkernels.quantize(x, "nvfp4", scale_out=scale, scale_layout="blocked")
    with pytest.raises(ValueError, match="no global scale is computed here"):
        qkernels.quantize(x, "nvfp4", global_scale=gs, global_scale_out=gs)
    with pytest.raises(ValueError, match="no global scale is computed here"):
        qkernels.quantize(x, "mxfp4", global_scale_out=gs)


def test_blocked_scales_are_undone_or_refused() -> None:
    x = normal(6, 64)
    q = qkernels.quantize(x, "nvfp4", scale_layout="blocked")
    w = qkernels.quantize(normal(16, 64, seed=1), "nvfp4")
    with pytest.raises(ValueError, match=r"take rows\(\) of linear"):
        q.rows(0, 2)
    with pytest.raises(ValueError, match="nvfp4_2d has no blocked scale layout"):
        qkernels.quantize(x, "nvfp4_2d", scale_layout="blocked")
    with pytest.raises(ValueError, match="fp8 has no blocked scale layout"):
        qkernels.quantize(x, "fp8", scale_layout="blocked")
    with pytest.raises(ValueError, match="unknown scale layout 'swizzled'; known: 'linear', 'blocked'"):
        qkernels.quantize(x, "nvfp4", scale_layout="swizzled")
    with pytest.raises(ValueError, match="scales of b are blocked"):
        qkernels.matmul(q.linear(), w.blocked(), backend="triton")
    with pytest.raises(ValueError, match="scales of x are blocked"):
        qkernels.prepared_matmul(q, qkernels.prepare(w))
    expected = qkernels.matmul(q.linear(), w, backend="torch")
    assert torch.equal(qkernels.matmul(q, w.blocked(), backend="torch"), expected)
    assert torch.equal(qkernels.prepare(w.blocked()).weight.data, qkernels.prepare(w).weight.data)


def test_the_comparator_sees_padding_and_layout() -> None:
    x = normal(5, 64)
    q = qkernels.quantize(x, "mxfp4", scale_layout="blocked")
    assert "scale layout is blocked" in str(compare_quantized(q, x, MXFP4))
    q.scale[5 * 16] = 7  # row 5 of 5
    assert "padding of the blocked scales" in str(compare_quantized(q, x, MXFP4, scale_layout="blocked"))

"""Blackwell's block-scaled product equals dequantize-then-matmul; interpreted on a CPU, and no other GPU runs it."""

from __future__ import annotations

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from qbench import Mismatch, Unsupported, gemm_error, within
from qbench.device import capability
from qbench.interpreter import repair
from qkernels import reference
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.triton.fp4_gemm_scaled import fp4_gemm_scaled

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ABLE = DEVICE == "cpu" or capability() >= (10, 0)
able = pytest.mark.skipif(not ABLE, reason="block-scaled products need a Blackwell GPU, or the interpreter")
FORMATS = [NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX]


def operand(rows: int, k: int, fmt: Format, seed: int, size: float = 1.0) -> QTensor:
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)) * size
    return quantize(x.to(DEVICE), fmt)


def judge(out: torch.Tensor, a: QTensor, b: QTensor, bias: torch.Tensor | None = None) -> Mismatch | None:
    expected = reference.matmul(a, b, bias=bias)
    return within(out, expected, gemm_error(expected, reference.magnitude(a, b), a.shape[1]))


@able
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("m", "n", "k"), [(3, 70, 160), (130, 136, 256), (1, 1, 32)])
def test_edges_of_tiles(m: int, n: int, k: int, fmt: Format) -> None:
    a, b = operand(m, k, fmt, 0), operand(n, k, fmt, 1)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    assert judge(fp4_gemm_scaled(a, b, bias=bias), a, b, bias) is None


@able
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.sampled_from(FORMATS), st.integers(-60, 60)
)
def test_any_shape_and_size(m: int, n: int, blocks: int, fmt: Format, exponent: int) -> None:
    a, b = operand(m, 32 * blocks, fmt, m, 2.0**exponent), operand(n, 32 * blocks, fmt, n, 2.0**-exponent)
    assert judge(fp4_gemm_scaled(a, b, out_dtype=torch.float32), a, b) is None


@able
def test_no_rows_give_no_rows() -> None:
    assert fp4_gemm_scaled(operand(4, 64, NVFP4, 0).rows(0, 0), operand(8, 64, NVFP4, 1)).shape == (0, 8)


@pytest.mark.gpu
@pytest.mark.skipif(ABLE, reason="this GPU has block-scaled products")
def test_another_gpu_is_told() -> None:
    with pytest.raises(Unsupported, match="sm_100 and on"):
        fp4_gemm_scaled(operand(4, 64, NVFP4, 0), operand(8, 64, NVFP4, 1))

"""Fragments unpacked by the kernel are what `dense` says they are; interpreted on a CPU."""

from __future__ import annotations

import pytest
import torch
import triton

from qbench.interpreter import repair
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.quantize import quantize
from qkernels.triton.fp4_fragments import dense, fragments
from qkernels.triton.fp4_unpack import fp4_unpack

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [(NVFP4, torch.bfloat16), (NVFP4, torch.float16), (MXFP4, torch.bfloat16)],
    ids=["nvfp4-bf16", "nvfp4-fp16", "mxfp4-bf16"],
)
@pytest.mark.parametrize(("n", "k"), [(16, 64), (40, 96), (7, 1056), (0, 64)])
def test_every_element(n: int, k: int, fmt: Format, dtype: torch.dtype) -> None:
    x = torch.randn(max(n, 1), k, generator=torch.Generator().manual_seed(0))[:n] * 3
    w = fragments(quantize(x.to(DEVICE), fmt)) if n else fragments(quantize(torch.ones(1, k), fmt).rows(0, 0))
    found = fp4_unpack(w, dtype)
    assert found.dtype == dtype
    assert torch.equal(found.double().cpu() * w.unit, dense(w).cpu())

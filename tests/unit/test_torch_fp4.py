"""The FP4 formulas in plain torch are right: what is slower than a kernel must at least compute the same."""

from __future__ import annotations

import pytest
import torch

from qbench import Workload
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.ops.fused import Norm, norm_tolerance, rms_norm_fp4, silu_mul_fp4, silu_tolerance
from qkernels.ops.quantize import QuantizeOptions
from qkernels.providers import torch_fp4
from qkernels.providers.torch_fp4 import TAKES, formula_of, torch_eager_fp4
from qkernels.tensor import QTensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("hadamard", [None, 32])
@pytest.mark.parametrize("fmt", TAKES, ids=lambda fmt: fmt.name)
def test_formulas_quantize_as_the_format_says(fmt: Format, hadamard: int | None) -> None:
    x = torch.randn(5, 192, generator=torch.Generator().manual_seed(3)).half().to(DEVICE)
    x[2] = 0
    shape = (5, 1) if fmt.global_granularity == "row" else ()
    scales = [None, torch.full(shape, 70.0, device=DEVICE)] if fmt.levels == 2 else [None]
    for gs in scales:
        q = torch_eager_fp4(x, QuantizeOptions(fmt, hadamard, global_scale=gs))()
        assert compare_quantized(q, x, fmt, hadamard=hadamard, global_scale=gs) is None


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_formulas_behind_a_norm_and_an_activation(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's C++ takes minutes on a CPU; the formulas are the same without."""
    monkeypatch.setattr(torch_fp4, "compiled", lambda formula, *key: formula)
    workload = Workload.of(0, m=3, k=128, dtype="half", residual=1)
    x, norm, options = rms_norm_fp4(fmt).inputs(workload, DEVICE)
    out = torch_fp4.torch_compile_norm(x, norm, options)()
    assert norm_tolerance(out, (x, norm, options), lambda: None, "fp32") is None
    wrong = norm_tolerance((out[0], x), (x, norm, options), lambda: None, "fp32")
    assert wrong is not None
    assert "x + residual" in str(wrong)
    plain = Norm(norm.weight, 0.5)
    assert norm_tolerance(out, (x, plain, options), lambda: None, "fp32") is not None
    x, options = silu_mul_fp4(fmt).inputs(workload, DEVICE)
    q = torch_fp4.torch_compile_silu(x, options)()
    assert isinstance(q, QTensor)
    assert silu_tolerance(q, (x, options), lambda: None, "fp32") is None
    assert silu_tolerance(q, (-x, options), lambda: None, "fp32") is not None


def test_a_formula_is_one_function() -> None:
    assert formula_of(NVFP4, 16) is formula_of(NVFP4, 16)
    assert formula_of(NVFP4, 16) is not formula_of(NVFP4, 32)

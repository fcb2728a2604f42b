"""The folding quantizer gives the MXFP4 quantizer's codes and scales as E4M3 rows, and says which rows do not fit."""

from __future__ import annotations

import pytest
import torch
import triton

from qbench.interpreter import repair
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4
from qkernels.triton.mxfp4_fold import mxfp4_fold
from qkernels.triton.mxfp4_folded import fold_rows
from qkernels.triton.mxfp4_quantize import mxfp4_quantize

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def spread(rows: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    """Blocks of magnitudes 2^-3 .. 2^3, a block of zeros, a row of zeros."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(-3, 4, (rows, k // 32), generator=generator).float()
    x = torch.randn(rows, k, generator=generator) * torch.exp2(blocks).repeat_interleave(32, dim=1)
    x[-2, 32:64] = 0
    x[-1] = 0
    return x.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("hadamard", [None, 32, 128])
@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "abs_max", "quest"])
def test_it_is_the_quantizers_output_folded(rule: str, hadamard: int | None, dtype: torch.dtype) -> None:
    x = spread(4, 384, dtype)
    folded = mxfp4_fold(x, rule=rule, hadamard=hadamard)
    expected = fold_rows(mxfp4_quantize(x, rule=rule, hadamard=hadamard))
    assert not folded.misfits.any()
    assert torch.equal(folded.rows.elements.float(), expected.elements.float())
    assert torch.equal(folded.rows.factor[:-1], expected.factor[:-1])  # zeros have any factor
    assert folded.rows.gain == expected.gain


@pytest.mark.parametrize("k", [32, 96, 160, 4096, 5152])
@pytest.mark.parametrize("m", [0, 1, 3])
def test_codes_and_scales_are_those_of_a_correct_quantizer(m: int, k: int) -> None:
    x = spread(max(m, 2), k, torch.bfloat16)[:m] if k > 32 else torch.ones(m, k, device=DEVICE)
    assert compare_quantized(mxfp4_fold(x).quantized(), x, MXFP4) is None


@pytest.mark.parametrize("hadamard", [None, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_that_spans_too_much_is_rounded_and_named(dtype: torch.dtype, hadamard: int | None) -> None:
    x = spread(6, 64, dtype)
    x[1, :32] *= 2.0**-10
    x[2, :32] *= 2.0**-18
    x[3, :32] *= 2.0**-50
    x[0, 3] = torch.nan
    folded = mxfp4_fold(x, hadamard=hadamard)
    assert folded.misfits.tolist() == [True, False, True, True, False, False]
    rounded = fold_rows(mxfp4_quantize(x, hadamard=hadamard), exact=False)
    assert torch.equal(folded.rows.elements.float().nan_to_num(7), rounded.elements.float().nan_to_num(7))
    assert torch.equal(folded.rows.factor, rounded.factor)
    assert folded.rows.elements.float().isnan().any(1).tolist() == [True] + 5 * [False]
    assert not folded.rows.elements[3, :32].float().any()


def test_what_is_not_taken_is_named() -> None:
    with pytest.raises(ValueError, match="K = 40960; a row of at most 32768"):
        mxfp4_fold(torch.zeros(1, 40960, device=DEVICE))
    with pytest.raises(ValueError, match="unknown MXFP4 rule 'flor'"):
        mxfp4_fold(torch.zeros(1, 64, device=DEVICE), rule="flor")

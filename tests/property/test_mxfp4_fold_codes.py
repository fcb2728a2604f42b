"""MXFP4 codes folded into E4M3 rows by the kernel are those that torch folds."""

from __future__ import annotations

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.format import MXFP4
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_fold_codes import fold_codes
from qkernels.triton.mxfp4_folded import fold_rows

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(data: torch.Tensor, scale: torch.Tensor) -> None:
    """Elements bit for bit (any NaN for a NaN) and factors."""
    with poisoned_allocations():
        found = fold_codes(data.to(DEVICE), scale.to(DEVICE))
    wanted = fold_rows(QTensor(data, scale, MXFP4, (len(data), 2 * data.shape[1])), exact=False)
    bits, right = found.elements.view(torch.uint8).cpu(), wanted.elements.view(torch.uint8)
    nan = right & 0x7F == 0x7F
    assert torch.equal(bits & 0x7F == 0x7F, nan)
    assert torch.equal(bits[~nan], right[~nan])
    assert torch.equal(found.factor.cpu(), wanted.factor)
    assert found.gain == 1


@pytest.mark.parametrize(("m", "k"), [(0, 64), (1, 32), (3, 160), (5, 1056), (2, 8192)])
def test_every_code_under_scales_near_and_far(m: int, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (m, k // 2), dtype=torch.uint8, generator=g)
    check(data, torch.randint(100, 125, (m, k // 32), dtype=torch.uint8, generator=g))
    check(data, torch.randint(0, 256, (m, k // 32), dtype=torch.uint8, generator=g))


def test_blocks_of_zeros_and_of_nan_leave_their_row_as_it_is() -> None:
    q = quantize(torch.ones(4, 96), MXFP4)
    q.data[0, :16], q.scale[0, 0] = 0x80, 250
    q.scale[1, 1] = 255
    q.data[2] = 0
    check(q.data, q.scale)
    found = fold_codes(q.data.to(DEVICE), q.scale.to(DEVICE))
    values = (found.elements.float() * found.factor[:, None]).cpu()
    assert torch.equal(values[0], torch.tensor([-0.0] * 32 + [1.0] * 64))
    assert values[1, 32:64].isnan().all()
    assert torch.equal(values[1, :32], torch.ones(32))
    assert torch.equal(values[2:], torch.tensor([[0.0] * 96, [1.0] * 96]))


@given(distances=st.lists(st.integers(0, 40), min_size=2, max_size=2), code=st.integers(0, 255))
def test_any_distance(distances: list[int], code: int) -> None:
    data = torch.full((1, 48), code, dtype=torch.uint8)
    data[0, :16] = 0x77
    check(data, torch.tensor([[200, *(200 - d for d in distances)]], dtype=torch.uint8))


def test_rows_that_are_views_are_folded_too() -> None:
    q = quantize(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)), MXFP4)
    whole = fold_codes(q.data.to(DEVICE), q.scale.to(DEVICE)).elements.view(torch.uint8)
    wide = torch.nn.functional.pad(q.data, (3, 5)).to(DEVICE)
    part = fold_codes(wide[1:, 3:-5], q.scale.to(DEVICE)[1:]).elements.view(torch.uint8)
    assert torch.equal(part, whole[1:])


def test_what_is_not_taken_is_said() -> None:
    data = torch.zeros(2, 32, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match="no MXFP4"):
        fold_codes(data, torch.zeros(2, 3, dtype=torch.uint8, device=DEVICE))
    long = torch.zeros(1, 16400, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match="K = 32800"):
        fold_codes(long, torch.zeros(1, 1025, dtype=torch.uint8, device=DEVICE))

"""nvfp4_rounded against the two kernels it stands for, nvfp4_token or nvfp4_quantize, then fp4_decode_rows, to the bit.

Those are held to the references elsewhere. Interpreted on a CPU, compiled on a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.format import NVFP4_1L
from qkernels.models.fast import nvfp4_token_rows
from qkernels.prepared_ops import fp4_rows, rows_of
from qkernels.quantize import quantize
from qkernels.triton.fp4_decode_rows import fp4_decode_rows
from qkernels.triton.fp4_rows import nvfp4_token
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from qkernels.triton.nvfp4_rounded import nvfp4_rounded

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def same(a: Tensor, b: Tensor) -> bool:
    """To the bit; which NaN is not asked."""
    return bool(((a.view(torch.int16) == b.view(torch.int16)) | (a.isnan() & b.isnan())).all())


def check(x: Tensor, hadamard: int | None = None, gs: float = 37.0) -> None:
    """Rows with a scale of their own, under a given one, and under none."""
    given = torch.tensor([gs], device=x.device)
    with poisoned_allocations():
        own, tops = nvfp4_rounded(x, hadamard=hadamard)
        under, kept = nvfp4_rounded(x, global_scale=given, by_row=False, hadamard=hadamard)
        none, nothing = nvfp4_rounded(x, by_row=False, hadamard=hadamard)
    q = nvfp4_token(x, hadamard=hadamard)
    assert tops is not None and torch.equal(tops, q.global_scale)
    assert kept is not None and torch.equal(kept, given) and nothing is None
    for found, wanted in (
        (own, q),
        (under, nvfp4_quantize(x, global_scale=given, hadamard=hadamard)),
        (none, nvfp4_quantize(x, fmt=NVFP4_1L, hadamard=hadamard)),
    ):
        assert same(found, fp4_decode_rows(replace(wanted, format=NVFP4_1L, global_scale=None)))


def normal(m: int, k: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Of sizes from 0.01 to 100, with zeros of both signs."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-2, 2, k)
    x[:, ::7] = 0.0
    x[:, 3::11] = -0.0
    return x.to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("m", "k"), [(1, 16), (3, 4480), (5, 240), (2, 1040)])
def test_it_is_a_quantizer_and_a_decoder(m: int, k: int, dtype: torch.dtype) -> None:
    check(normal(m, k, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hadamard", [16, 64, 128])
def test_rotated(hadamard: int, dtype: torch.dtype) -> None:
    check(normal(3, 640, dtype), hadamard)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_spoils_its_block_alone_and_zeros_stay_zeros(dtype: torch.dtype) -> None:
    x = normal(4, 64, dtype)
    x[0, 5], x[1, 20], x[2] = float("inf"), float("nan"), 0.0
    check(x)
    out, _ = nvfp4_rounded(x)
    bad = out.isnan()
    assert bad[0, :16].all() and bad[1, 16:32].all() and int(bad.sum()) == 32
    assert not out[2].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gs", [2.0**-30, 1e4, 2.0**60])
def test_scales_at_the_ends_of_what_a_block_can_have(gs: float, dtype: torch.dtype) -> None:
    check(normal(2, 96, dtype), gs=gs)


@pytest.mark.parametrize("gap", [1, 8])
def test_rows_with_gaps_and_off_their_alignment(gap: int) -> None:
    x = normal(3, 160 + gap, torch.bfloat16)[:, gap:]
    check(x)


@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from(DTYPES), st.integers(0, 1 << 20))
def test_any_shape(m: int, blocks: int, dtype: torch.dtype, seed: int) -> None:
    check(normal(m, 16 * blocks, dtype, seed))


def test_no_rows_and_what_is_not_taken() -> None:
    out, tops = nvfp4_rounded(torch.empty(0, 32, dtype=torch.bfloat16, device=DEVICE))
    assert out.shape == (0, 32) and tops is not None and tops.shape == (0, 1)
    with pytest.raises(ValueError, match="K = 32784; a row of at most 32768 elements"):
        nvfp4_rounded(torch.empty(1, 32784, dtype=torch.bfloat16, device=DEVICE))
    with pytest.raises(ValueError, match="leave one of them out"):
        nvfp4_rounded(normal(1, 16, torch.float32), global_scale=torch.ones(1, device=DEVICE))
    for scale in (torch.ones(2, 1), torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.int64)):
        with pytest.raises(TypeError, match="global_scale must be one float32 value"):
            nvfp4_rounded(normal(2, 16, torch.float32), global_scale=scale.to(DEVICE), by_row=False)
    with pytest.raises(ValueError, match="K = 24 is not a multiple of the block 16"):
        nvfp4_rounded(normal(1, 24, torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 64, 300, 4096])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_shapes_compiled(m: int, dtype: torch.dtype) -> None:
    check(normal(m, 8192, dtype))
    check(normal(m, 4480, dtype), 64)


@pytest.mark.gpu
@pytest.mark.parametrize("hadamard", [0, 64])
def test_the_operators_use_it_and_give_what_they_give_on_a_cpu(hadamard: int) -> None:
    """But for codes near a tie, which the reference may round the other way: a fraction."""
    x = normal(5, 1024, torch.bfloat16)
    rows, tops = nvfp4_token_rows(x, hadamard)
    wanted, wanted_tops = nvfp4_token_rows(x.cpu(), hadamard)
    torch.testing.assert_close(tops.cpu(), wanted_tops, rtol=1e-6, atol=0.0)
    assert float((rows.cpu() != wanted).float().mean()) < 0.01
    given_scale = torch.tensor(37.0)
    (found,) = fp4_rows(x, given_scale.cuda(), "nvfp4", hadamard)
    q = quantize(x.cpu(), "nvfp4", global_scale=given_scale, hadamard=hadamard or None)
    assert float((found.cpu() != rows_of(q)).float().mean()) < 0.01

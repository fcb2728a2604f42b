"""nvfp4_rounded against the two kernels it stands for, nvfp4_token, then fp4_decode_rows, to the bit.

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
from qkernels.triton.fp4_decode_rows import fp4_decode_rows
from qkernels.triton.fp4_rows import nvfp4_token
from qkernels.triton.nvfp4_rounded import nvfp4_rounded

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def same(a: Tensor, b: Tensor) -> bool:
    """To the bit; which NaN is not asked."""
    return bool(((a.view(torch.int16) == b.view(torch.int16)) | (a.isnan() & b.isnan())).all())


def check(x: Tensor, hadamard: int | None = None) -> None:
    with poisoned_allocations():
        found, tops = nvfp4_rounded(x, hadamard=hadamard)
    q = nvfp4_token(x, hadamard=hadamard)
    assert torch.equal(tops, q.global_scale)
    assert same(found, fp4_decode_rows(replace(q, format=NVFP4_1L, global_scale=None)))


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
@pytest.mark.parametrize("exponent", [-24, -12, 14])
def test_blocks_as_small_as_a_scale_can_tell_and_rows_at_the_ends_of_fp16(
    exponent: int, dtype: torch.dtype
) -> None:
    x = normal(2, 96, torch.float32)
    x[:, :16] *= 2.0**-20  # scales that are subnormal, or zero
    check((x / 512 * 2.0**exponent).to(dtype))


@pytest.mark.parametrize("gap", [1, 8])
def test_rows_with_gaps_and_off_their_alignment(gap: int) -> None:
    x = normal(3, 160 + gap, torch.bfloat16)[:, gap:]
    check(x)


@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from(DTYPES), st.integers(0, 1 << 20))
def test_any_shape(m: int, blocks: int, dtype: torch.dtype, seed: int) -> None:
    check(normal(m, 16 * blocks, dtype, seed))


def test_no_rows_and_what_is_not_taken() -> None:
    out, tops = nvfp4_rounded(torch.empty(0, 32, dtype=torch.bfloat16, device=DEVICE))
    assert out.shape == (0, 32) and tops.shape == (0, 1)
    with pytest.raises(ValueError, match="K = 32784; a row of at most 32768 elements"):
        nvfp4_rounded(torch.empty(1, 32784, dtype=torch.bfloat16, device=DEVICE))
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
def test_the_operator_gives_what_it_gives_on_a_cpu(hadamard: int) -> None:
    """But for codes within 2^-21 of a tie, one in 1000 under a computed scale (nvfp4_quantize says): ten times that."""
    x = normal(5, 1024, torch.bfloat16)
    rows, tops = nvfp4_token_rows(x, hadamard)
    wanted, wanted_tops = nvfp4_token_rows(x.cpu(), hadamard)
    torch.testing.assert_close(tops.cpu(), wanted_tops, rtol=2.0**-20, atol=0.0)
    assert float((rows.cpu() != wanted).float().mean()) < 0.01

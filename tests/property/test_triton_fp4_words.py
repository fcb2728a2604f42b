"""FP4 of sixteen-bit x by words: every fp16 and bf16 number is encoded exactly, bytes and rotations are in place.

Interpreted on a CPU, compiled on a GPU: there the same tests hold what inline assembly does to what it is said to mean.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,assignment"

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from qbench.interpreter import repair
from qkernels.codec import encode_e2m1
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4
from qkernels.hadamard import hadamard_matrix
from qkernels.tensor import QTensor
from qkernels.triton import fp4_words
from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if triton.knobs.runtime.interpret:
    repair()


@triton.jit
def words_kernel(x_ptr, factor_ptr, code_ptr, largest_ptr, BLOCKS: tl.constexpr, HALF: tl.constexpr):
    """Words of blocks of eight -> words of their codes under a factor each, and their largest magnitudes."""
    at = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    words = fp4_words.load_part(x_ptr + at * 8, at >= 0)
    size = words & 0x7FFF7FFF
    code = fp4_words.code_word(fp4_words.values(size, HALF), tl.load(factor_ptr + at))
    tl.store(code_ptr + at, code | fp4_words.sign_word(words))
    tl.store(largest_ptr + at, fp4_words.largest_value(fp4_words.largest_word(size, HALF), HALF))


@triton.jit
def rotate_kernel(x_ptr, out_ptr, sign_ptr, BLOCKS: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr):
    block = tl.arange(0, BLOCKS)
    at = block[:, None] * (8 * PARTS) + tl.arange(0, 8)[None, :]
    parts = ()
    for i in tl.static_range(PARTS):
        parts += (tl.load(x_ptr + at + 8 * i),)
    parts = rotate_parts(parts, PARTS, N)
    for i in tl.static_range(PARTS):
        tl.store(out_ptr + at + 8 * i, parts[i])
        tl.store(sign_ptr + block * PARTS + i, fp4_words.top_sign_word(parts[i]))


def nibbles(words: Tensor) -> Tensor:
    """int32 [...] -> int64 [..., 8], the lowest four bits first."""
    return words.long()[..., None] >> torch.arange(0, 32, 4, device=words.device) & 15


FACTORS = [1.0, 2.0**-149, 2.0**-127, 2.0**127, 3 * 2.0**12, 3.4e38, 1 / 3, 0.7, 1.3, 6e-5, 1e4]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_of_every_number_times_a_factor_are_those_of_the_exact_product(
    dtype: torch.dtype, factor: float
) -> None:
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).reshape(-1, 8)
    x = x[x.isfinite().all(dim=1)]
    x = torch.cat([x, torch.zeros(8192 - len(x), 8, dtype=dtype)]).to(DEVICE)
    scale = torch.full((8192,), factor, device=DEVICE)
    codes, largest = torch.empty(8192, dtype=torch.int32, device=DEVICE), torch.empty(8192, device=DEVICE)
    words_kernel[(64,)](x, scale, codes, largest, BLOCKS=128, HALF=dtype == torch.float16)
    product = x.double() * scale.double()[:, None]  # at most 11 + 24 bits: exact
    assert torch.equal(nibbles(codes), encode_e2m1(product).long())
    assert torch.equal(largest, x.float().abs().amax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ties_of_random_factors_go_to_even_codes(dtype: torch.dtype) -> None:
    """x is a power of two and factor a tie divided by it, or a neighbour of that in fp32."""
    tie = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(1024)
    away = torch.arange(8192) // 8 % 3
    tie = torch.where(away == 1, tie.nextafter(torch.zeros(1)), tie)
    tie = torch.where(away == 2, tie.nextafter(torch.full((1,), 9.0)), tie)
    power = 2.0 ** (torch.arange(8192) % 29 - 14)
    x = power[:, None].expand(-1, 8).to(dtype).contiguous().to(DEVICE)
    factor = (tie / power).to(DEVICE)
    codes, largest = torch.empty(8192, dtype=torch.int32, device=DEVICE), torch.empty(8192, device=DEVICE)
    words_kernel[(64,)](x, factor, codes, largest, BLOCKS=128, HALF=dtype == torch.float16)
    assert torch.equal(nibbles(codes), encode_e2m1(tie)[:, None].expand(-1, 8).long().to(DEVICE))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_largest_of_a_block_is_not_finite_wherever_one_element_is_not(
    dtype: torch.dtype, bad: float
) -> None:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    for i in range(8):
        x[2 * i, i] = bad
    codes, largest = torch.empty(16, dtype=torch.int32, device=DEVICE), torch.empty(16, device=DEVICE)
    words_kernel[(1,)](
        x.to(DEVICE), torch.ones(16, device=DEVICE), codes, largest, BLOCKS=16, HALF=dtype == torch.float16
    )
    assert largest.isfinite().tolist() == [False, True] * 8


@pytest.mark.parametrize(("parts", "n"), [(2, 16), (2, 32), (2, 64), (2, 128), (4, 32), (4, 64), (4, 128)])
def test_rotations_of_integers_are_exact_and_so_are_their_signs(parts: int, n: int) -> None:
    x = torch.randint(-99, 99, (32, 8 * parts), generator=torch.Generator().manual_seed(n)).float().to(DEVICE)
    out, signs = torch.empty_like(x), torch.empty(32, parts, dtype=torch.int32, device=DEVICE)
    rotate_kernel[(1,)](x, out, signs, BLOCKS=32, PARTS=parts, N=n)
    assert torch.equal(out.reshape(-1, n), x.reshape(-1, n) @ hadamard_matrix(n, device=DEVICE))
    assert torch.equal(nibbles(signs).reshape(out.shape), out.signbit() * 8)


def quantized(x: Tensor, block: int, hadamard: int | None) -> QTensor:
    if block == 16:
        return nvfp4_quantize(x, global_scale=300.0, hadamard=hadamard)
    return mxfp4_quantize(x, hadamard=hadamard)


@pytest.mark.parametrize("hadamard", [None, 32])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_that_are_not_words_take_the_general_path_to_the_same_codes(
    dtype: torch.dtype, block: int, hadamard: int | None
) -> None:
    whole = torch.randn(5, 193, generator=torch.Generator().manual_seed(2)).to(dtype).to(DEVICE)
    fmt, gs = (NVFP4, 300.0) if block == 16 else (MXFP4, None)
    shifted = whole.reshape(-1)[1 : 1 + 5 * 192].reshape(5, 192)
    for x in (whole[:, :192], whole[:, 1:], shifted):
        assert not fp4_words.words_fit(x)
        assert fp4_words.words_fit(x.clone())
        q, words = quantized(x, block, hadamard), quantized(x.clone(), block, hadamard)
        if hadamard is None:
            assert torch.equal(q.scale.view(torch.uint8), words.scale.view(torch.uint8))
            assert float((q.data != words.data).float().mean()) < (2e-3 if block == 16 else 1e-9)
        assert compare_quantized(words, x, fmt, hadamard=hadamard, global_scale=gs) is None

"""Device functions that the Triton quantizers share, over all codes, ties and scales; interpreted or compiled."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from qbench.interpreter import repair
from qkernels.codec import decode_e4m3, encode_e2m1, encode_e4m3
from qkernels.hadamard import hadamard_matrix
from qkernels.triton import fp4

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def encode_kernel(x_ptr, e2m1_ptr, e2m1_3_ptr, e4m3_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(e2m1_ptr + at, fp4.encode_e2m1(x).to(tl.uint8))
    tl.store(e2m1_3_ptr + at, fp4.encode_e2m1(x, 3.0).to(tl.uint8))
    tl.store(e4m3_ptr + at, fp4.encode_e4m3(x))


@triton.jit
def divide_kernel(x_ptr, scale_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(scale_ptr + tl.program_id(0))
    tl.store(out_ptr + at, fp4.divide_by_scale(tl.load(x_ptr + at), scale))


@triton.jit
def hadamard_kernel(out_ptr, N: tl.constexpr):
    index = tl.arange(0, N)
    tl.store(out_ptr + index[:, None] * N + index[None, :], fp4.hadamard_tile(N, out_ptr.dtype.element_ty))


def test_codes_of_all_bf16_numbers_and_the_neighbours_of_all_ties_are_exact() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    e4m3 = decode_e4m3(torch.arange(127, dtype=torch.uint8))
    halfway = torch.cat([(e4m3[1:] + e4m3[:-1]) / 2, torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])])
    halfway = torch.cat([halfway, halfway / 3])  # near the ties of 3*x, which fp32 does not hold
    near = torch.cat([halfway, halfway.nextafter(torch.zeros(1)), halfway.nextafter(torch.tensor(1e9))])
    x = torch.cat([every[~every.isnan()], near, -near])
    x = torch.cat([x, torch.zeros(-len(x) % 65536)]).to(DEVICE)
    out = [torch.empty(len(x), dtype=torch.uint8, device=DEVICE) for _ in range(3)]
    encode_kernel[(len(x) // 65536,)](x, *out, BLOCK=65536)
    assert torch.equal(out[0], encode_e2m1(x))
    assert torch.equal(out[1], encode_e2m1(3 * x.double()))
    assert torch.equal(out[2], encode_e4m3(x))


def test_e4m3_of_nan_is_nan_whatever_its_sign() -> None:
    x = (
        torch.tensor([0x7FC00000, -0x400000, 0x7F800001, -1], dtype=torch.int32)
        .view(torch.float32)
        .to(DEVICE)
    )
    out = [torch.empty(4, dtype=torch.uint8, device=DEVICE) for _ in range(3)]
    encode_kernel[(1,)](x, *out, BLOCK=4)
    assert out[2].tolist() == [0x7F] * 4


def test_division_by_a_scale_of_any_size_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(4)
    scale = torch.tensor(
        [2.0**-149, 3e-41, 1.7e-38, 1e-30, 3e-19, 7e-9, 0.1, 1.0, 3.0, 4e4, 2e18, 1e30, 3.4e38]
    )
    scale = torch.cat([scale, torch.rand(19, generator=generator) + 1]).to(DEVICE)
    quotient = torch.randn(32, 2048, generator=generator).to(DEVICE) * 100
    x = (quotient * scale[:, None]).clamp(-3.4e38, 3.4e38)
    x[:, 0], x[:, 1], x[:, 2] = torch.inf, -torch.inf, torch.nan
    out = torch.empty_like(x)
    divide_kernel[(32,)](x, scale, out, BLOCK=2048)
    limit = 2.0**23
    torch.testing.assert_close(out, (x / scale[:, None]).clamp(-limit, limit), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [16, 32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hadamard_tile_is_the_sylvester_matrix(n: int, dtype: torch.dtype) -> None:
    out = torch.empty(n, n, dtype=dtype, device=DEVICE)
    hadamard_kernel[(1,)](out, N=n)
    assert torch.equal(out.float(), hadamard_matrix(n, device=DEVICE))

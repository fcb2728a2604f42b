"""Toy kernels whose machine code is known, and their launchers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def copy_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0), mask=at < n)


def copy(x: Tensor, y: Tensor | None = None) -> Tensor:
    """One program for every 1024 elements of a vector."""
    if y is None:
        y = torch.empty_like(x)
    copy_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024)
    return y


@triton.jit
def product_kernel(
    a_ptr, b_ptr, out_ptr, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WIDEN: tl.constexpr
):
    rows, columns, inner = tl.arange(0, BM)[:, None], tl.arange(0, BN)[None, :], tl.arange(0, BK)
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        a = tl.load(a_ptr + rows * k + start + inner[None, :])
        b = tl.load(b_ptr + (start + inner[:, None]) * BN + columns)
        if WIDEN:
            a = a.to(b.dtype)
        sums = tl.dot(a, b, sums)
    tl.store(out_ptr + rows * BN + columns, sums)


def product(a: Tensor, b: Tensor, **options: int) -> Tensor:
    """fp32 [64, 64] from a [64, k] and b [k, 64] of one dtype, or a of int8."""
    out = torch.empty(64, 64, device=a.device)
    product_kernel[(1,)](
        a, b, out, a.shape[1], BM=64, BN=64, BK=64, WIDEN=a.dtype != b.dtype, num_warps=4, **options
    )
    return out


@triton.jit
def scaled_product_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    rows, columns = tl.arange(0, BM)[:, None], tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.float32)
    codes, blocks = tl.arange(0, BK // 2), tl.arange(0, BK // BLOCK)
    for start in range(0, k, BK):
        a = tl.load(a_ptr + rows * (k // 2) + start // 2 + codes[None, :])
        b = tl.load(b_ptr + columns[None, :] * (k // 2) + start // 2 + codes[:, None])
        a_scale = tl.load(a_scale_ptr + rows * (k // BLOCK) + start // BLOCK + blocks[None, :])
        b_scale = tl.load(b_scale_ptr + columns[:, None] * (k // BLOCK) + start // BLOCK + blocks[None, :])
        sums = tl.dot_scaled(a, a_scale, "e2m1", b, b_scale, "e2m1", sums)
    tl.store(out_ptr + rows * BN + columns[None, :], sums)


def scaled_product(k: int = 1024) -> Tensor:
    """fp32 [128, 128] from NVFP4 operands, one level."""
    codes, scales = (
        torch.empty(128, k // 2, dtype=torch.uint8),
        torch.empty(128, k // 16, dtype=torch.float8_e4m3fn),
    )
    out = torch.empty(128, 128)
    scaled_product_kernel[(1,)](
        codes, scales, codes, scales, out, k, BM=128, BN=128, BK=128, BLOCK=16, num_warps=4
    )
    return out


@triton.jit
def grid_stride_kernel(x_ptr, out_ptr, tiles, BLOCK: tl.constexpr):
    """Program p takes tiles p, p + P, ...; the first also writes where none other does."""
    best = tl.zeros((BLOCK,), tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        best = tl.maximum(best, tl.load(x_ptr + tile * BLOCK + tl.arange(0, BLOCK)).to(tl.float32))
    tl.store(out_ptr + tl.program_id(0), tl.max(best, axis=0))
    if tl.program_id(0) == 0:
        tl.store(out_ptr + tl.num_programs(0), 1.0)


@triton.jit
def walk_kernel(next_ptr, out_ptr):
    """Follows a list: how long it is, only the data knows."""
    at = tl.load(next_ptr)
    while at > 0:
        at = tl.load(next_ptr + at)
    tl.store(out_ptr, at)


@triton.jit
def undefined_kernel(x_ptr):
    tl.store(x_ptr, no_such_function(3))  # noqa: F821


@triton.jit
def missing_method(value):
    return value.no_such_method(3)


@triton.jit
def nested_error_kernel(x_ptr):
    tl.store(x_ptr, missing_method(tl.load(x_ptr)))


@triton.jit
def bad_assembly_kernel(x_ptr):
    at = tl.arange(0, 128)
    value = tl.inline_asm_elementwise(
        "frobnicate.f32 $0, $1;", "=f,f", [tl.load(x_ptr + at)], dtype=tl.float32, is_pure=True, pack=1
    )
    tl.store(x_ptr + at, value)


@triton.autotune([triton.Config({"BLOCK": 256}, num_warps=2), triton.Config({"BLOCK": 512})], key=["n"])
@triton.jit
def tuned_kernel(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 1.0, mask=at < n)

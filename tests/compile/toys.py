"""Small kernels for what this repository's own do not show: products that are scaled by the hardware."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

import qbench

ON_CHIP = "tcgen05.block_scale"


@triton.jit
def scaled_product(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, k, n,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, A: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [BM, BN] = a [BM, K] times b [K, BN], MXFP4 or NVFP4 weights; a in the format A."""
    rows, columns = tl.arange(0, BM), tl.program_id(0) * BN + tl.arange(0, BN)
    pack: tl.constexpr = 2 if A == "e2m1" else 1
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        inner = start // pack + tl.arange(0, BK // pack)
        a = tl.load(a_ptr + rows[:, None] * (k // pack) + inner[None, :])
        codes = start // 2 + tl.arange(0, BK // 2)
        b = tl.load(b_ptr + columns[None, :] * (k // 2) + codes[:, None])
        blocks = start // BLOCK + tl.arange(0, BK // BLOCK)
        b_scale = tl.load(b_scale_ptr + columns[:, None] * (k // BLOCK) + blocks[None, :])
        if A == "bf16":
            sums = tl.dot_scaled(a, None, "bf16", b, b_scale, "e2m1", acc=sums)
        else:
            a_scale = tl.load(a_scale_ptr + rows[:, None] * (k // BLOCK) + blocks[None, :])
            sums = tl.dot_scaled(a, a_scale, A, b, b_scale, "e2m1", acc=sums)
    tl.store(out_ptr + rows[:, None] * n + columns[None, :], sums.to(tl.bfloat16))


def multiply(bm: int = 128, a: str = "e2m1", block: int = 32, bk: int = 128, warps: int = 4) -> None:
    """Launch it for one tile of rows."""
    k, n = 4096, 4096
    width = k // 2 if a == "e2m1" else k
    dtype = torch.bfloat16 if a == "bf16" else torch.uint8 if a == "e2m1" else torch.float8_e4m3fn
    left = torch.empty(bm, width, dtype=dtype, device="cuda")
    a_scale, b_scale = (torch.empty(rows, k // block, dtype=torch.uint8, device="cuda") for rows in (bm, n))
    right = torch.empty(n, k // 2, dtype=torch.uint8, device="cuda")
    out = torch.empty(bm, n, dtype=torch.bfloat16, device="cuda")
    scaled_product[(n // 128,)](
        left, a_scale, right, b_scale, out, k, n, BM=bm, BN=128, BK=bk, A=a, BLOCK=block, num_warps=warps
    )


def toys() -> list[qbench.CompileCase]:
    expect = qbench.Expectation(
        {"sm_100": (ON_CHIP,), "sm_120": ("mma.sync.mxf4.block_scale",)}, spill_bytes={"sm_120": 256}
    )
    return [
        qbench.CompileCase("toy[e2m1]", multiply, {"scaled_product": expect}),
    ]

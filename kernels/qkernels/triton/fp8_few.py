"""out[M, N] = (x . wT) * x_scale * w_scale + bias for few rows of x (M <= 64) on Hopper, all codes E4M3, out bf16.

    out[m, n] = sum_k x[m, k] w[n, k] * w_scale[n] * x_scale[m] + bias[n]
With few rows a product is the reading of its weights, so everything here keeps that reading going. One warp fetches
with TMA, two copies a stage: DEPTH tiles of w, HEIGHT rows by 128 of K each, and x's columns beside them. One warpgroup
multiplies: w is the first operand of wgmma and x, of 8 to 64 rows, the second, both from shared memory; nothing is
decoded. A tile may be 32, 16 or 8 rows of w by 2, 4 or 8 parts of K, so that there are as many items as programs
(fp8_few_plan says how); the parts' sums are added through shared memory. Programs are persistent; what is split along K
among programs is summed in one order by whoever comes last (fp4_few_plan), so results repeat bit for bit.

A launch may begin while the kernel before it on the stream ends (`early`): it fetches weights at once and waits for
that kernel before it reads x or its scale, or writes anything. w, its scale and the bias must not be what that writes.

Layout: x [M, K] and w [N, K] float8_e4m3fn, rows without gaps, K a multiple of 16; scales float32, x's [M, 1] or [1],
w's [N, 1] or [1]; bias [N] of any floating dtype. Sums are wgmma's own FP8 accumulation ("fp8-fast": products are
exact, additions keep about 14 bits), over all of K, or over each of its parts, which are added in fp32.

Predicted (H200, us, M = 1, weights not in the L2 cache): 4096 x 4096 6.0, 1024 x 4096 3.8, 6144 x 4096 8, 14336 x 4096
16, 28672 x 4096 30, 4096 x 14336 16, 8192 x 8192 18; of these 3.9, 1, 5.8, 13.5, 27, 13.5, 15.4 are the memory's.

Measured (H200, torch 2.11, Triton 3.6, us in a CUDA graph, weights not in the L2 cache; M = 1, 16, 64; torch._scaled_mm
at M = 1, 64 and bf16 at M = 1 of the same run; the plans are the best of 13 to 15 each):

    N x K         M = 1  16    64    _scaled_mm  bf16
    4096 x 4096   5.6    6.3   8.8   13.4, 13.6  13.6
    1024 x 4096   3.3    3.6   9.5   13.2, 13.4  7.9
    6144 x 4096   7.1    7.5   9.1   13.8, 14.0  15.7
    14336 x 4096  14.4   15.3  17.4  20.5, 20.8  30.5
    28672 x 4096  27.5   28.9  31.8  50.8, 37.4  55.2
    4096 x 14336  14.5   15.5  20.1  37.6, 36.8  31.5
    8192 x 8192   16.1   16.7  18.5  37.5, 24.6  33.3

With the quantizer of a token's scale before each product 1.9 to 3 us more for both; without `early` 1.3 to 2.5 more.
Sums across programs cost 1.5 to 2 us at few rows.

Judged against a float64 product of the same codes within E = max(4 sqrt(K) 2^-24, 2^-9) |A||B|T + 3 2^-24 |ref|.
Source: the stages are those of fp4_few_sm90.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_wait

import qbench
from qkernels.format import FP8, FP8_TOKEN
from qkernels.ops.require import require_operands
from qkernels.tensor import QTensor
from qkernels.triton.early import after_previous
from qkernels.triton.fp4_few_plan import combine, steps_of
from qkernels.triton.fp8_few_plan import COLUMNS, MAX_ROWS, Few8, choose, share, width
from qkernels.triton.gluon_names import barrier, reinterpret, tma_load
from qkernels.triton.workspaces import processors, require_hopper, workspace

COUNTERS = 512  # of those that workspaces.workspace gives


@gluon.jit
def fetch_stage(desc, tiles, stages, full, stage, row, chunk, C: gl.constexpr, EVEN: gl.constexpr):
    """DEPTH tiles from chunk `chunk` of K on, from `row` on: one copy, or C where rows do not end with a tile."""
    if EVEN:
        tma_load(desc, [chunk, 0, row, 0], full.index(stage), stages.index(stage))
    else:
        for c in gl.static_range(C):
            tma_load(desc, [row, (chunk + c) * 128], full.index(stage), tiles.index(stage * C + c))


@gluon.jit
def fetch(
    x_desc, w_desc, x, x_stages, w, w_stages, full, empty, begin, end, steps,
    R: gl.constexpr, C: gl.constexpr, S: gl.constexpr, BYTES: gl.constexpr, EVEN: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: all of the program's steps, each into the next stage when its consumers have left it."""
    if EARLY:
        for i in range(min(end - begin, S)):
            step = begin + i
            mbarrier.expect(full.index(i), BYTES)
            fetch_stage(w_desc, w, w_stages, full, i, step // steps * R, step % steps * C, C, EVEN)
        gdc_wait()
        for i in range(min(end - begin, S)):
            fetch_stage(x_desc, x, x_stages, full, i, 0, (begin + i) % steps * C, C, EVEN)
    for i in range(S if EARLY else 0, end - begin):
        step = begin + i
        stage = i % S
        mbarrier.wait(empty.index(stage), ((i // S) & 1) ^ 1)
        mbarrier.expect(full.index(stage), BYTES)
        fetch_stage(w_desc, w, w_stages, full, stage, step // steps * R, step % steps * C, C, EVEN)
        fetch_stage(x_desc, x, x_stages, full, stage, 0, step % steps * C, C, EVEN)


@gluon.jit
def line(pointer, start, count, SIZE: gl.constexpr, EACH: gl.constexpr):
    """SIZE numbers from `start` on of a vector of `count`, or (not EACH) its one number; fp32, 0 beyond it."""
    at = start + gl.arange(0, SIZE, gl.BlockedLayout([1], [32], [4], [0]))
    return gl.load(pointer + (at if EACH else at * 0), mask=at < count, other=0.0).to(gl.float32)


@gluon.jit
def folded(sums, P: gl.constexpr):
    """Sums [P * R, P * BM] of every part of w with every part of x -> [R, BM], of like parts added."""
    if P == 1:
        return sums
    else:
        LAYOUT: gl.constexpr = sums.type.layout
        R: gl.constexpr = sums.shape[0] // P
        BM: gl.constexpr = sums.shape[1] // P
        of_w = gl.arange(0, P * R, gl.SliceLayout(1, LAYOUT)) // R
        of_x = gl.arange(0, P * BM, gl.SliceLayout(0, LAYOUT)) // BM
        like = gl.where(of_w.expand_dims(1) == of_x.expand_dims(0), sums, 0.0)
        return gl.sum(gl.sum(like.reshape([P, R, P, BM]), 2), 0)


@gluon.jit
def multiply(
    x, w, full, empty, out_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, work_ptr, counter_ptr,
    m, n, begin, end, steps, grain, grains,
    P: gl.constexpr, R: gl.constexpr, BM: gl.constexpr, C: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr,
    X_ROWS: gl.constexpr, W_ROWS: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The warpgroup: each of the program's steps as it comes."""
    first_item = begin // steps
    w_scale = line(w_scale_ptr, first_item * R, n, R, W_ROWS)
    bias = w_scale
    if bias_ptr is not None:
        bias = line(bias_ptr, first_item * R, n, R, True)
    after_previous(EARLY)
    x_scale = line(x_scale_ptr, 0, m, BM, X_ROWS)
    for item in range(first_item, (end - 1) // steps + 1):
        low, high = max(begin, item * steps), min(end, (item + 1) * steps)
        sums = gl.zeros([P * R, P * BM], gl.float32, layout=MMA)
        for turn in range(low - begin, high - begin):
            stage = turn % S
            mbarrier.wait(full.index(stage), (turn // S) & 1)
            for c in gl.static_range(C):
                at = stage * C + c
                sums = warpgroup_mma(w.index(at), x.index(at).permute([1, 0]), sums, is_async=True)
            sums = warpgroup_mma_wait(0, deps=[sums])
            mbarrier.arrive(empty.index(stage), count=1)
        total = folded(sums, P)
        LAYOUT: gl.constexpr = total.type.layout
        complete = True
        if high - low < steps:
            total, complete = combine(total, work_ptr, counter_ptr, item, steps, grain, grains, 1, LAYOUT)
        if complete:
            # one after the other: the product of two scales may leave the numbers where the result does not
            result = total * gl.convert_layout(w_scale, gl.SliceLayout(1, LAYOUT)).expand_dims(1)
            result *= gl.convert_layout(x_scale, gl.SliceLayout(0, LAYOUT)).expand_dims(0)
            if bias_ptr is not None:
                result += gl.convert_layout(bias, gl.SliceLayout(1, LAYOUT)).expand_dims(1)
            columns = item * R + gl.arange(0, R, gl.SliceLayout(1, LAYOUT))
            rows = gl.arange(0, BM, gl.SliceLayout(0, LAYOUT))
            place = out_ptr + (rows.to(gl.int64) * n).expand_dims(0) + columns.expand_dims(1)
            there = (rows < m).expand_dims(0) & (columns < n).expand_dims(1)
            gl.store(place, result.to(out_ptr.dtype.element_ty), mask=there)
        # asked for here, needed an item later
        w_scale = line(w_scale_ptr, item * R + R, n, R, W_ROWS)
        if bias_ptr is not None:
            bias = line(bias_ptr, item * R + R, n, R, True)


@gluon.jit(do_not_specialize=["m", "n", "steps", "grain", "grains"])
def fp8_few_kernel(
    x_desc, w_desc, out_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, work_ptr, counter_ptr, m, n, steps, grain, grains,
    P: gl.constexpr, R: gl.constexpr, BM: gl.constexpr, C: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr,
    TILE: gl.constexpr, STAGE: gl.constexpr, X_ROWS: gl.constexpr, W_ROWS: gl.constexpr, EVEN: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)
    w = gl.allocate_shared_memory(gl.float8e4nv, [S * C, P * R, 128], TILE)
    x = gl.allocate_shared_memory(gl.float8e4nv, [S * C, P * BM, 128], TILE)
    w_stages = reinterpret(w, gl.float8e4nv, [S, C, P, R, 128], STAGE)
    x_stages = reinterpret(x, gl.float8e4nv, [S, C, P, BM, 128], STAGE)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(S):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    fence_async_shared()
    barrier()
    BYTES: gl.constexpr = C * P * (R + BM) * 128
    gl.warp_specialize([
        (multiply, (x, w, full, empty, out_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, work_ptr, counter_ptr,
                    m, n, begin, end, steps, grain, grains, P, R, BM, C, S, MMA, X_ROWS, W_ROWS, EARLY)),
        (fetch, (x_desc, w_desc, x, x_stages, w, w_stages, full, empty, begin, end, steps,
                 R, C, S, BYTES, EVEN, EARLY)),
    ], [1], [24])  # fmt: skip


@lru_cache
def layouts(wide: int) -> tuple[Any, Any, Any]:
    """`MMA`, `TILE` and `STAGE` of the kernel for a second operand of so many rows."""
    mma = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, wide, 32])
    tile, stage = (
        gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=rank) for rank in (2, 4)
    )
    return mma, tile, stage


def descriptor(codes: Tensor, parts: int, rows: int, depth: int) -> TensorDescriptor:
    """Codes [rows of a matrix, K] as tiles of `rows` by 128 of K in `parts` parts, `depth` of them at a time; without
    parts and one by one where K does not end with a tile."""
    count, k = codes.shape
    _, tile, stage = layouts(8)
    if k % (COLUMNS * parts):
        return TensorDescriptor(codes, [count, k], [k, 1], [rows, COLUMNS], tile)
    shape, strides = [k // (COLUMNS * parts), parts, count, COLUMNS], [COLUMNS, k // parts, k, 1]
    return TensorDescriptor(codes, shape, strides, [depth, parts, rows, COLUMNS], stage)


def fp8_few(
    x_codes: Tensor, w_codes: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None = None,
    plan: Few8 | None = None, early: bool = True,
) -> Tensor:  # fmt: skip
    """bf16 [M, N] = x_codes [M, K] times w_codes [N, K] transposed, times the scales, plus bias [N]; rounded once.

    x_scale is [M, 1] or [1], w_scale [N, 1] or [1]. M <= 64, K a multiple of 16.
    early: may begin before the kernel launched before it has ended; w_codes, w_scale and bias are read at once.
    plan: for tests. Raises ValueError or TypeError for what is not taken, Unsupported on another GPU than Hopper.
    """
    m, n, k = check(x_codes, w_codes, x_scale, w_scale, bias)
    out = torch.empty((m, n), dtype=torch.bfloat16, device=x_codes.device)
    if not out.numel():
        return out
    require_hopper(out.device)
    x_codes = x_codes.contiguous()
    x_codes = x_codes.clone() if x_codes.data_ptr() % 16 else x_codes
    bm, sms = width(m), processors(out.device)
    few = plan or choose(m, n, k, sms)
    if not few.fits(bm, k):
        raise ValueError(f"{few} does not fit M = {m} and K = {k}")
    work = share(few, n, k, sms, COUNTERS)
    mma, tile, stage = layouts(few.parts * bm)
    with torch.cuda.device_of(out):
        split = work.grain < work.steps
        sums, counters = workspace(out.device, 2 * work.programs * few.rows * bm if split else 0)
        fp8_few_kernel[(work.programs,)](
            descriptor(x_codes, few.parts, bm, few.depth), descriptor(w_codes, few.parts, few.rows, few.depth),
            out, x_scale, w_scale, bias, sums, counters, m, n, work.steps, work.grain, work.grains,
            P=few.parts, R=few.rows, BM=bm, C=few.depth, S=few.stages, MMA=mma, TILE=tile, STAGE=stage,
            X_ROWS=x_scale.numel() > 1, W_ROWS=w_scale.numel() > 1, EVEN=k % (COLUMNS * few.parts) == 0,
            EARLY=early, num_warps=4, launch_pdl=early, maxnreg=128,
        )  # fmt: skip
    return out


def check(
    x_codes: Tensor, w_codes: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None
) -> tuple[int, int, int]:
    """(M, N, K) of operands that are taken; ValueError or TypeError otherwise."""
    for name, codes in (("x_codes", x_codes), ("w_codes", w_codes)):
        if codes.dtype != torch.float8_e4m3fn or codes.ndim != 2:
            raise TypeError(
                f"{name} is {codes.dtype} {list(codes.shape)}; it must be float8_e4m3fn with two dimensions"
            )
    (m, k), n = x_codes.shape, w_codes.shape[0]
    others = {"w_codes": w_codes, "x_scale": x_scale, "w_scale": w_scale, "bias": bias}
    for name, each in others.items():
        if each is not None and each.device != x_codes.device:
            raise ValueError(
                f"x_codes is on {x_codes.device} and {name} on {each.device}; move it with .to()"
            )
    if w_codes.shape[1] != k or k % 16 or not k:
        raise ValueError(f"x has K = {k} and w {w_codes.shape[1]}; they must be one multiple of 16")
    if m > MAX_ROWS:
        raise ValueError(f"M = {m}; this kernel takes up to {MAX_ROWS} rows")
    if not w_codes.is_contiguous() or w_codes.data_ptr() % 16:
        raise ValueError(
            "w_codes must lie without gaps, aligned to 16 bytes; call .contiguous().clone() once"
        )
    for name, scale, count in (("x_scale", x_scale, m), ("w_scale", w_scale, n)):
        if scale.dtype != torch.float32 or scale.numel() not in (1, count) or not scale.is_contiguous():
            raise ValueError(
                f"{name} is {scale.dtype} {list(scale.shape)}; it must be float32 [{count}, 1] or [1]"
            )
    if bias is not None and (bias.shape != (n,) or not bias.is_contiguous()):
        raise ValueError(f"bias is {list(bias.shape)}; it must be [{n}]")
    return m, n, k


@qbench.provider("triton", accumulator="fp8-fast", needs_capability=(9, 0), instead="torch-scaled-mm")
def gemm(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """Products of up to MAX_ROWS rows under scales of the tensor or of a row."""
    require_operands("the FP8 product of few rows", (FP8, FP8_TOKEN), a, b)
    if a.shape[0] > MAX_ROWS or a.shape[1] % 16:
        raise qbench.Unsupported(
            f"M = {a.shape[0]}, K = {a.shape[1]}: few rows are at most {MAX_ROWS}, and K a multiple of 16",
            "torch-scaled-mm",
        )
    scales = a.scale.reshape(-1), b.scale.reshape(-1)
    return lambda: fp8_few(a.data, b.data, *scales)

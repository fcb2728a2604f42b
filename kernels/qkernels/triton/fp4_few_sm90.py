"""few rows (prototype)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from qkernels.triton.fp4_fragments import COLUMNS, Fragments
from qkernels.triton.fp4_gemm_sm90 import layouts, reciprocal
from qkernels.triton.fp4_stream import DECODE_BF16, DECODE_FP16, FACTOR
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qkernels.triton.gluon_names import barrier, reinterpret, tma_load

if TYPE_CHECKING:
    from torch import Tensor


@gluon.jit
def decode(words, scales, base, DTYPE: gl.constexpr, STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr):
    T: gl.constexpr = L[0]
    words = gl.convert_layout(words.reshape([T, 8, 4, 4]), L[3], assert_trivial=True)
    scales = gl.convert_layout(scales.reshape([T, 8, 1, U, 1]), L[4], assert_trivial=True)
    step = gl.convert_layout(
        gl.arange(0, 4 // U, L[5]).reshape([1, 1, 1, 1, 4 // U]), L[4], assert_trivial=True
    )
    shape: gl.constexpr = [T, 8, 1, U, 4 // U]
    select = 0x4140 + 0x0202 * (step if U == 2 else step // 2)
    factors = gl.inline_asm_elementwise(
        FACTOR, "=r,r,r,r,r",
        [
            scales.broadcast_to(shape), select.broadcast_to(shape), gl.full(shape, STEP, gl.int32, L[4]),
            gl.full(shape, base, gl.int32, L[4]),
        ],
        dtype=gl.int32, is_pure=True, pack=1,
    )  # fmt: skip
    factors = gl.convert_layout(factors.reshape([T, 8, 1, 4]), L[3], assert_trivial=True)
    if DTYPE == gl.float16:
        v0, v1, v2, v3, v4, v5, v6, v7 = gl.inline_asm_elementwise(
            DECODE_FP16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors.broadcast_to([T, 8, 4, 4])],
            dtype=(gl.float16, gl.float16, gl.float16, gl.float16,
                   gl.float16, gl.float16, gl.float16, gl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        v0, v1, v2, v3, v4, v5, v6, v7 = gl.inline_asm_elementwise(
            DECODE_BF16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors.broadcast_to([T, 8, 4, 4])],
            dtype=(gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16,
                   gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16), is_pure=True, pack=1,
        )  # fmt: skip
    even = gl.join(gl.join(v0, v4), gl.join(v2, v6))
    odd = gl.join(gl.join(v1, v5), gl.join(v3, v7))
    w = gl.join(even, odd).permute(0, 5, 1, 3, 4, 2, 6).reshape([T * 16, 64])  # T s g, e h t j
    return gl.convert_layout(w, L[6], assert_trivial=True)


@gluon.jit
def fetch_weights(
    w_desc, s_desc, words, scales, full, begin, i, steps, U: gl.constexpr, C: gl.constexpr, S: gl.constexpr,
    WR: gl.constexpr, BYTES: gl.constexpr,
):  # fmt: skip
    stage = i % S
    tile = (begin + i) // steps * (4 * WR)
    chunk = (begin + i) % steps * C
    mbarrier.expect(full.index(stage), BYTES)
    tma_load(w_desc, [tile, chunk, 0], full.index(stage), words.index(stage))
    tma_load(s_desc, [tile, chunk * 8 * U], full.index(stage), scales.index(stage))


@gluon.jit
def fetch_x(x_desc, x, full, begin, i, steps, C: gl.constexpr, S: gl.constexpr, MODE: gl.constexpr):
    if MODE % 2 == 0:
        stage = i % S
        tma_load(x_desc, [(begin + i) % steps * C, 0, 0], full.index(stage), x.index(stage))


@gluon.jit
def fetch(
    x_desc, w_desc, s_desc, x, words, scales, full, empty, begin, end, steps,
    U: gl.constexpr, C: gl.constexpr, S: gl.constexpr, WR: gl.constexpr, BYTES: gl.constexpr, PDL: gl.constexpr,
    MODE: gl.constexpr,
):  # fmt: skip
    if PDL:
        for i in range(min(end - begin, S)):
            fetch_weights(w_desc, s_desc, words, scales, full, begin, i, steps, U, C, S, WR, BYTES)
        gdc_wait()
        for i in range(min(end - begin, S)):
            fetch_x(x_desc, x, full, begin, i, steps, C, S, MODE)
    for i in range(S if PDL else 0, end - begin):
        mbarrier.wait(empty.index(i % S), ((i // S) & 1) ^ 1)
        fetch_weights(w_desc, s_desc, words, scales, full, begin, i, steps, U, C, S, WR, BYTES)
        fetch_x(x_desc, x, full, begin, i, steps, C, S, MODE)


@gluon.jit
def finish(sums, out_ptr, bias_ptr, unit, x_gain, gain, m, n, stride_out, tile, BM: gl.constexpr, MMA: gl.constexpr):
    # one after the other: the product of two global scales may leave the numbers where the result does not
    result = sums * unit * x_gain * gain
    columns = tile * 16 + gl.arange(0, 64, gl.SliceLayout(1, MMA))
    rows = gl.arange(0, BM, gl.SliceLayout(0, MMA))
    if bias_ptr is not None:
        result += gl.load(bias_ptr + columns, mask=columns < n, other=0.0).to(gl.float32).expand_dims(1)
    target = out_ptr + rows.to(gl.int64).expand_dims(0) * stride_out + columns.expand_dims(1)
    gl.store(
        target, result.to(out_ptr.dtype.element_ty), mask=(rows < m).expand_dims(0) & (columns < n).expand_dims(1)
    )


@gluon.jit
def multiply(
    x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr,
    count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain,
    PART: gl.constexpr, STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, BM: gl.constexpr, C: gl.constexpr,
    S: gl.constexpr, WK: gl.constexpr, WR: gl.constexpr, MMA: gl.constexpr, PDL: gl.constexpr, MODE: gl.constexpr,
):  # fmt: skip
    KPART: gl.constexpr = PART // WR
    RPART: gl.constexpr = PART % WR
    DTYPE: gl.constexpr = x.dtype
    if PDL:
        gdc_wait()
    base = gl.load(base_ptr).to(gl.int32) * 0x01000100
    if DTYPE == gl.float16:
        base = 0
    x_gain = 1.0
    if x_gs_ptr is not None:
        x_gain = reciprocal(gl.load(x_gs_ptr))
    gain = 1.0
    if gs_ptr is not None:
        gain = reciprocal(gl.load(gs_ptr))
    P = gl.num_programs(0)
    first_item = begin // steps
    for s in range((end - 1) // steps - first_item + 1):
        item = first_item + s
        low = max(begin, item * steps)
        high = min(end, (item + 1) * steps)
        sums = gl.zeros([64, BM], gl.float32, layout=MMA)
        r = low - begin
        for i in range(r + (KPART + WK - r % WK) % WK, high - begin, WK):
            stage = i % S
            mbarrier.wait(full.index(stage), (i // S) & 1)
            if MODE < 2:
                held = ()
                for c in gl.static_range(C):
                    w = words.index(stage).slice(RPART * 4, 4, 0).slice(c, 1, 1).load(L[1])
                    f = scales.index(stage).slice(RPART * 4, 4, 0).slice(c * 8 * U, 8 * U, 1).load(L[2])
                    held += ((w, f),)
                for c in gl.static_range(C):
                    w, f = held[c]
                    a = decode(w, f, base, DTYPE, STEP, U, L)
                    sums = warpgroup_mma(a, x.index(stage * C + c).permute([1, 0]), sums, is_async=True)
                    if c > 0:
                        sums, last = warpgroup_mma_wait(1, deps=[sums, last])
                    last = a
                sums, last = warpgroup_mma_wait(0, deps=[sums, last])
            mbarrier.arrive(empty.index(stage), count=1)
        if KPART > 0:
            slot: gl.constexpr = (KPART - 1) * WR + RPART
            mbarrier.wait(red_empty.index(slot), (s & 1) ^ 1)
            red.index(slot).store(sums)
            barrier()
            mbarrier.arrive(red_full.index(slot), count=1)
        else:
            for other in gl.static_range(WK - 1):
                mbarrier.wait(red_full.index(other * WR + RPART), s & 1)
                sums += red.index(other * WR + RPART).load(MMA)
                barrier()
                mbarrier.arrive(red_empty.index(other * WR + RPART), count=1)
            tile = (item * WR + RPART) * 4
            if high - low == steps:
                finish(sums, out_ptr, bias_ptr, unit, x_gain, gain, m, n, stride_out, tile, BM, MMA)
            else:
                # of the programs that share this item the last to arrive adds all parts, in one order
                rows = gl.arange(0, 64, gl.SliceLayout(1, MMA)).expand_dims(1)
                place = rows * BM + gl.arange(0, BM, gl.SliceLayout(0, MMA)).expand_dims(0)
                own = (2 * gl.program_id(0) + (1 if low == item * steps else 0)) * WR + RPART
                gl.store(ws_ptr + own * (64 * BM) + place, sums)
                barrier()
                g0 = item * steps // grain
                g1 = (item + 1) * steps // grain - 1
                p0 = ((g0 + 1) * P - 1) // grains
                p1 = ((g1 + 1) * P - 1) // grains
                before = gl.atomic_add(count_ptr + item * WR + RPART, 1, sem="acq_rel")
                if before == p1 - p0:
                    gl.store(count_ptr + item * WR + RPART, 0)
                    total = gl.load(ws_ptr + ((2 * p0 + 1) * WR + RPART) * (64 * BM) + place, cache_modifier=".cg")
                    for p in range(p0 + 1, p1 + 1):
                        total += gl.load(ws_ptr + (2 * p * WR + RPART) * (64 * BM) + place, cache_modifier=".cg")
                    finish(total, out_ptr, bias_ptr, unit, x_gain, gain, m, n, stride_out, tile, BM, MMA)


@gluon.jit(do_not_specialize=["m", "n", "stride_out", "steps", "grains", "grain"])
def fp4_few_sm90_kernel(
    x_desc, w_desc, s_desc, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out,
    steps, grains, grain,
    STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, BM: gl.constexpr, C: gl.constexpr, S: gl.constexpr,
    WK: gl.constexpr, WR: gl.constexpr, MMA: gl.constexpr, RED: gl.constexpr, XL: gl.constexpr, X3: gl.constexpr, REGS: gl.constexpr, PDL: gl.constexpr, MODE: gl.constexpr,
):  # fmt: skip
    program, P = gl.program_id(0), gl.num_programs(0)
    begin = program * grains // P * grain
    end = (program + 1) * grains // P * grain
    if PDL:
        gdc_launch_dependents()
    x = gl.allocate_shared_memory(x_desc.dtype, [S * C, BM, 64], XL)
    x3 = reinterpret(x, x_desc.dtype, [S, C, BM, 64], X3)
    words = gl.allocate_shared_memory(gl.int32, [S, 4 * WR, C, 128], w_desc.layout)
    scales = gl.allocate_shared_memory(gl.int32, [S, 4 * WR, C * 8 * U], s_desc.layout)
    SLOTS: gl.constexpr = (WK - 1) * WR if WK > 1 else 1
    red = gl.allocate_shared_memory(gl.float32, [SLOTS, 64, BM if WK > 1 else 1], RED)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    red_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    red_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(S):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=WR)
    for i in gl.static_range(SLOTS):
        mbarrier.init(red_full.index(i), count=1)
        mbarrier.init(red_empty.index(i), count=1)
    fence_async_shared()
    barrier()
    BYTES: gl.constexpr = (BM * 128 if MODE % 2 == 0 else 0) * C + WR * 4 * C * (512 + 32 * U)
    if WK * WR == 1:
        gl.warp_specialize([
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 0, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (fetch, (x_desc, w_desc, s_desc, x3, words, scales, full, empty, begin, end, steps, U, C, S, WR, BYTES, PDL, MODE)),
        ], [1], [24])
    elif WK * WR == 2:
        gl.warp_specialize([
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 0, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 1, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (fetch, (x_desc, w_desc, s_desc, x3, words, scales, full, empty, begin, end, steps, U, C, S, WR, BYTES, PDL, MODE)),
        ], [4, 1], [REGS, 24])
    elif WK * WR == 3:
        gl.warp_specialize([
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 0, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 1, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 2, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (fetch, (x_desc, w_desc, s_desc, x3, words, scales, full, empty, begin, end, steps, U, C, S, WR, BYTES, PDL, MODE)),
        ], [4, 4, 1], [REGS, REGS, 24])
    else:
        gl.warp_specialize([
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 0, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 1, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 2, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (multiply, (x, words, scales, red, full, empty, red_full, red_empty, out_ptr, base_ptr, x_gs_ptr, gs_ptr, bias_ptr, ws_ptr, count_ptr, unit, m, n, stride_out, begin, end, steps, grains, grain, 3, STEP, U, L, BM, C, S, WK, WR, MMA, PDL, MODE)),
            (fetch, (x_desc, w_desc, s_desc, x3, words, scales, full, empty, begin, end, steps, U, C, S, WR, BYTES, PDL, MODE)),
        ], [4, 4, 4, 1], [REGS, REGS, REGS, 24])


@lru_cache
def few_layouts(u: int, bm: int) -> tuple[tuple[object, ...], object]:
    held, mma = layouts(4, u, bm, 4)
    lanes = [[0, 0, 1 << bit] for bit in range(2, 7)]
    words = gl.DistributedLinearLayout([[0, 0, 1], [0, 0, 2]], lanes, [[1, 0, 0], [2, 0, 0]], [], [4, 1, 128])
    return (4, words, *held[2:]), mma


@dataclass(frozen=True)
class Few:
    wk: int = 2
    wr: int = 1
    depth: int = 4  # units of 64 of K in a stage
    stages: int = 6
    split: int = 1  # parts of K that a program takes
    programs: int = 132
    per_sm: int = 1


_WS: dict[object, tuple[Tensor, Tensor]] = {}


def workspace(device: torch.device, floats: int, counts: int) -> tuple[Tensor, Tensor]:
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    found = _WS.get(key)
    if found is None or found[0].numel() < floats or found[1].numel() < counts:
        found = torch.empty(max(floats, 1), device=device), torch.zeros(max(counts, 1), dtype=torch.int32, device=device)
        _WS[key] = found
    return found


def plan(f, m, tiles, chunks):
    bm = max(8, triton.next_power_of_2(m))
    steps = triton.cdiv(chunks, f.depth)
    items = triton.cdiv(tiles, 4 * f.wr)
    split = f.split
    while split and steps % split:
        split -= 1
    assert f.stages % f.wk == 0
    grain = steps // split if split else 1
    grains = items * (steps // grain)
    programs = min(f.programs * f.per_sm, grains)
    return bm, steps, items, grain, grains, programs


def fp4_few_sm90(x: Tensor, w: Fragments, *, x_global_scale=None, bias=None, few: Few = Few(), mode: int = 0, pdl: bool = False, out_dtype=None) -> Tensor:
    m, (tiles, chunks) = x.shape[0], w.data.shape[:2]
    out = torch.empty((m, w.n), dtype=out_dtype or x.dtype, device=x.device)
    u = 2 if w.format.block == 16 else 1
    bm, steps, items, grain, grains, programs = plan(few, m, tiles, chunks)
    held, mma = few_layouts(u, bm)
    kind = gl.float16 if x.dtype == torch.float16 else gl.bfloat16
    if w.k % 64:
        x = torch.nn.functional.pad(x, (0, -w.k % 64))
    wide = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3)
    raw3 = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=3)
    raw = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    ws, count = workspace(x.device, programs * 2 * few.wr * 64 * bm, items * few.wr)
    with torch.cuda.device(x.device):
        fp4_few_sm90_kernel[(programs,)](
            TensorDescriptor(x, [chunks, m, COLUMNS], [COLUMNS, x.stride(0), 1], [few.depth, bm, COLUMNS], wide),
            TensorDescriptor.from_tensor(w.data.view(tiles, chunks, 128), [4 * few.wr, few.depth, 128], raw3),
            TensorDescriptor.from_tensor(w.scale.view(tiles, -1), [4 * few.wr, few.depth * 8 * u], raw),
            out, w.base, x_global_scale, w.global_scale, bias, ws, count, w.unit, m, w.n, out.stride(0),
            steps, grains, grain,
            STEP=128 if kind == gl.float16 or w.format.scale == "e8m0" else 16, U=u, L=held, BM=bm, C=few.depth, S=few.stages,
            WK=few.wk, WR=few.wr, MMA=mma, RED=gl.SwizzledSharedLayout(1, 1, 1, [1, 0]), X3=wide, XL=gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2), REGS=104 if few.per_sm == 2 else (232 if few.wk * few.wr < 3 else 152 if few.wk * few.wr == 3 else 112), PDL=pdl, MODE=mode, num_warps=4, launch_pdl=pdl, **({"maxnreg": 80} if few.per_sm == 2 else {}),
        )  # fmt: skip
    return out

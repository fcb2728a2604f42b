"""out[M, N] = (x . wT) * alpha + bias for few rows of x (M <= 128) on Hopper: bf16 or fp16, w in NVFP4 or MXFP4.

With few rows a product is the reading of its weights, so everything here keeps that reading going. A program takes
64 * WR rows of w, or a P-th of them with K in P parts beside each other (fp4_few_parts). One warp fetches with TMA,
three copies a stage: units of w (`Fragments`), their scales, and the columns of x beside them, DEPTH units of 64 of K
each. Warpgroups, WK for parts of K by WR for rows, turn codes into the register operand of wgmma; x is the other, of 8
to 128 rows, from shared memory. A warpgroup has stages of its own (WK divides the number of stages), so none waits for
another until the sums of the WK are added, through shared memory and in one order. Programs are persistent; what does
not fill a wave, and has one part, is split along K among programs (fp4_few_plan).

Waits, measured on an H200: few large copies (seven to a stage took 1 us more than three), large stages (DEPTH 8 beats 4
and 2 while it fits), and no more than 110 KB in flight for a matrix that is read in 10 us: with 200 KB the first stage
comes later. A launch may begin while the kernel before it on the stream ends (`early`): it fetches weights at once and
waits for that kernel before it reads x or writes anything. Weights must not be what that kernel writes.

A product is never carried over an iteration and its registers are written again after its end (see fp4_gemm_sm90).

SASS (sm_90, Triton 3.6), M <= 8: 650 instructions for 8 units, 20 for 8 weights a lane, of which decoding is 15: 7 on
the ALU, 4 multiply-adds, 4 of two bf16. Predicted (N = K = 8192, M = 1, 16, 64): 12.5 to 13.5, 14 to 15 and 22 us.

Measured (H200, Triton 3.6, torch 2.11; us in a CUDA graph, weights not in the L2 cache, NVFP4; `early`, without it;
cuBLAS bf16 of the same run):

    N x K         M = 1             16                32                64                128
    8192 x 8192   12.4, 13.3; 34.4  12.8, 14.0; 33.8  14.4, 15.2; 34.5  18.4, 19.2; 35.4  27.9, 28.8; 36.4
    10240 x 8192  15.6, 17.1; 45.1  16.7, 18.2; 46.9  20.0, 21.6; 48.6  27.2, 28.1; 42.3  42.5, 43.7; 46.7
    8192 x 28672  34.2, 35.2; 115   36.3, 37.1; 118   42.6, 42.8; 120   58.1, 58.6; 127   89.9, 90.8; 126
    57344 x 8192  65.2, 66.6; 225   70.8, 72.8; 242   84.6, 85.2; 240   112, 114; 236     176, 177; 251
    4096 x 4096   6.5; 12.5         6.9; 12.9         8.6, 9.7; 13.1    11.1; 12.2
    1024 x 8192   5.1; 9.8          5.9; 10.0         8.2, 9.4; 10.1    11.5; 10.6        20.3; 11.2

Behind another small kernel, whose time is taken off, as in a model (M = 1, 8, 16; in brackets the plans before, whose
sums cross programs): 4096 x 4096 in two parts 8.0, 7.8, 8.6 (9.6, 9.5, 10.1), 4096 x 14336 14.7, 15.0, 16.9 (15.9,
16.9, 17.7), 1024 x 4096 in four 5.8, 5.4, 6.6 (6.8, 7.0, 7.6), 6144 x 4096 in two, two programs a processor 10.6, 10.6
(10.9, 10.8), 28672 x 4096 by four warpgroups of rows 22.9, 24.7, 26.0 (24.3, 25.6, 27.0); 16 plans each. Predicted for
4096 x 4096, from FP8's 5.6 with twice the bytes: 6. What is left is not the sums: FP8 has nothing to decode.

M = 2 to 8 are as M = 1. Of 12.4 us, 11.3 are the kernel without decoding or products, and 8.8 the memory's.

Judged against a float64 product of the same operands within E = 4 sqrt(K) 2^-24 |A||B|T + 3 2^-24 |ref|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

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
from triton.language.extra.cuda import gdc_wait

from qkernels.triton.early import after_previous
from qkernels.triton.fp4_few_parts import all_parts, descriptors, fetch_weights, fetch_x, few_tiles, own_part
from qkernels.triton.fp4_few_plan import TILES, Few, choose, combine, share, steps_of
from qkernels.triton.fp4_fragments import Fragments, checked_rows
from qkernels.triton.fp4_operand_sm90 import decode, reciprocal, unit_layouts
from qkernels.triton.gluon_names import barrier, reinterpret
from qkernels.triton.mxfp4_operand_sm90 import decoded, keep, scaled
from qkernels.triton.quantized_result import Quantized, rule_of, written_to
from qkernels.triton.quantizing_epilogue import write_quantized
from qkernels.triton.workspaces import processors, require_hopper, workspace
from qkernels.triton.x_scales import one_or_rows

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 128
MAX_WIDE = 64  # of parts by rows of x
COUNTERS = 512  # of those that workspaces.workspace gives
SHARED = 226 << 10  # bytes of an SM for stages, sums and a piece of the result; its last KB is for barriers


@gluon.jit
def fetch(
    x_desc, w_desc, s_desc, x, words, scales, full, empty, begin, end, steps,
    BYTES: gl.constexpr, U: gl.constexpr, C: gl.constexpr, S: gl.constexpr, WR: gl.constexpr, P: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: all of the program's steps, each into the next stage when its consumers have left it."""
    if EARLY:
        for i in range(min(end - begin, S)):
            fetch_weights(w_desc, s_desc, words, scales, full, begin, i, steps, BYTES, U, C, S, WR, P)
        gdc_wait()
        for i in range(min(end - begin, S)):
            fetch_x(x_desc, x, full, begin, i, steps, C, S, P)
    for i in range(S if EARLY else 0, end - begin):
        mbarrier.wait(empty.index(i % S), ((i // S) & 1) ^ 1)
        fetch_weights(w_desc, s_desc, words, scales, full, begin, i, steps, BYTES, U, C, S, WR, P)
        fetch_x(x_desc, x, full, begin, i, steps, C, S, P)


@gluon.jit
def unit_of(
    words, scales, stage, RPART: gl.constexpr, c: gl.constexpr, U: gl.constexpr, L: gl.constexpr, FOLDED: gl.constexpr
):  # fmt: skip
    """(words, scales) that a warpgroup has of a stage's unit c; of folded weights bytes of codes and of spread."""
    tiles, of_tiles = words.index(stage).slice(RPART * 4, 4, 0), scales.index(stage).slice(RPART * 4, 4, 0)
    if FOLDED:
        return tiles.slice(c * 4, 4, 1).load(L[1]), of_tiles.slice(c, 1, 1).load(L[2])
    else:
        return tiles.slice(c, 1, 1).load(L[1]), of_tiles.slice(c * 8 * U, 8 * U, 1).load(L[2])


@gluon.jit
def ended(sums, a, PENDING: gl.constexpr, FOLDED: gl.constexpr):
    """The sums when no more than PENDING products are under way; a: the operand of the last that has ended."""
    if FOLDED:
        sums = warpgroup_mma_wait(PENDING, deps=[sums])
        keep(a)
    else:
        sums, a = warpgroup_mma_wait(PENDING, deps=[sums, a])
    return sums


@gluon.jit
def line(pointer, start, count, like, AXIS: gl.constexpr):
    """A vector of `count` from `start` on, from memory to each thread that has sums `like` these; 0 beyond it.

    AXIS: 1 of rows of w, 0 of rows of x.
    """
    at = start + gl.arange(0, like.shape[1 - AXIS], gl.SliceLayout(AXIS, like.type.layout))
    return gl.load(pointer + at, mask=at < count, other=0.0)


@gluon.jit
def multiply(
    x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr, row_gs_ptr,
    gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin, end, steps, grain, grains,
    PART: gl.constexpr, STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, BM: gl.constexpr, C: gl.constexpr,
    S: gl.constexpr, WK: gl.constexpr, WR: gl.constexpr, P: gl.constexpr, MMA: gl.constexpr, EARLY: gl.constexpr,
    RULE: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """A warpgroup: every WK-th of the program's steps, four tiles by parts of w of each."""
    KPART: gl.constexpr = PART // WR
    RPART: gl.constexpr = PART % WR
    ROWS: gl.constexpr = 64 // P
    FOLDED: gl.constexpr = x.dtype == gl.float8e4nv
    if FOLDED or x.dtype == gl.float16:
        base = 0
    else:
        base = gl.load(base_ptr).to(gl.int32) * 0x01000100
    after_previous(EARLY)
    x_gain = 1.0
    if x_gs_ptr is not None:
        x_gain = reciprocal(gl.load(x_gs_ptr))
    gain = 1.0
    if gs_ptr is not None:
        gain = reciprocal(gl.load(gs_ptr))
    out_ptr, scales_ptr, out_gs_ptr = target
    out_gs = 1.0
    if out_gs_ptr is not None:
        out_gs = gl.load(out_gs_ptr)
    first_item = begin // steps
    for number in range((end - 1) // steps - first_item + 1):
        item = first_item + number
        low, high = max(begin, item * steps), min(end, (item + 1) * steps)
        sums = gl.zeros([64, P * BM], gl.float32, layout=MMA)
        if FOLDED and KPART == 0:  # asked for here, needed at the end
            like = all_parts(own_part(sums, P), P)
            w_factor = line(factors[1], (item * WR + RPART) * ROWS, n, like, 1) * unit
            if BM <= 32:  # more would be too many registers
                x_factor = line(factors[0], 0, m, like, 0)
        first = low - begin
        for turn in range(first + (KPART + WK - first % WK) % WK, high - begin, WK):
            stage = turn % S
            mbarrier.wait(full.index(stage), (turn // S) & 1)
            units = ()
            for c in gl.static_range(C):
                units += (unit_of(words, scales, stage, RPART, c, U, L, FOLDED),)  # type: ignore[assignment]
            for c in gl.static_range(C):
                w, scale = units[c]  # type: ignore[var-annotated]
                if FOLDED:
                    a = decoded(w, scale, L)
                else:
                    a = decode(w, scale, base, x.dtype, STEP, U, L)
                sums = warpgroup_mma(a, x.index(stage * C + c).permute([1, 0]), sums, is_async=True)
                if c > 0:
                    sums = ended(sums, last, 1, FOLDED)  # type: ignore[has-type]  # noqa: F821
                last = a
            sums = ended(sums, last, 0, FOLDED)
            mbarrier.arrive(empty.index(stage), count=1)
        sums = own_part(sums, P)
        if KPART > 0:
            place: gl.constexpr = (KPART - 1) * WR + RPART
            mbarrier.wait(parts_empty.index(place), (number & 1) ^ 1)
            parts.index(place).store(sums)
            barrier()
            mbarrier.arrive(parts_full.index(place), count=1)
        else:
            for k in gl.static_range(WK - 1):
                mbarrier.wait(parts_full.index(k * WR + RPART), number & 1)
                sums += parts.index(k * WR + RPART).load(sums.type.layout)
                barrier()
                mbarrier.arrive(parts_empty.index(k * WR + RPART), count=1)
            complete = True
            if P > 1:
                sums = all_parts(sums, P)
            elif high - low < steps:
                sums, complete = combine(
                    sums,
                    work_ptr + RPART * (64 * BM),
                    counter_ptr + RPART,
                    item,
                    steps,
                    grain,
                    grains,
                    WR,
                    MMA,
                )
            if complete:
                # one after the other, w's first: both together, or sums over x's alone, may leave the numbers
                HELD: gl.constexpr = sums.type.layout
                if FOLDED:
                    if BM > 32:
                        x_factor = line(factors[0], 0, m, sums, 0)
                    result = scaled(sums, w_factor, x_factor, None)
                elif row_gs_ptr is None:
                    result = sums * unit * gain * x_gain
                else:  # from memory to each thread that needs them: stages leave little shared memory
                    of_x = gl.arange(0, BM, gl.SliceLayout(0, HELD))
                    x_gains = reciprocal(gl.load(row_gs_ptr + of_x, mask=of_x < m, other=1.0))
                    result = sums * unit * gain * x_gains.expand_dims(0)
                columns = (item * WR + RPART) * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, HELD))
                rows = gl.arange(0, BM, gl.SliceLayout(0, HELD))
                if bias_ptr is not None:
                    bias = gl.load(bias_ptr + columns, mask=columns < n, other=0.0)
                    result += bias.to(gl.float32).expand_dims(1)
                if RULE == "":
                    place = out_ptr + (rows.to(gl.int64) * stride_out).expand_dims(0) + columns.expand_dims(1)
                    there = (rows < m).expand_dims(0) & (columns < n).expand_dims(1)
                    gl.store(place, result.to(out_ptr.dtype.element_ty), mask=there)
                else:
                    column = (item * WR + RPART) * 64
                    write_quantized(result, out_ptr, scales_ptr, out_gs, 0, column, m, n, RULE, PIECE)


# stride_out is not specialized: neighbours in a thread are rows of the output, and each is written by itself.
@gluon.jit(do_not_specialize=["m", "n", "stride_out", "steps", "grain", "grains"])
def fp4_few_sm90_kernel(
    x_desc, w_desc, s_desc, out_ptr, scales_ptr, out_gs_ptr, base_ptr, x_gs_ptr, row_gs_ptr, gs_ptr,
    x_factor_ptr, w_factor_ptr, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, steps, grain, grains,
    STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, MMA: gl.constexpr, X: gl.constexpr, X_STAGE: gl.constexpr,
    W: gl.constexpr, W_STAGE: gl.constexpr, SCALES: gl.constexpr, BM: gl.constexpr, C: gl.constexpr, S: gl.constexpr,
    WK: gl.constexpr, WR: gl.constexpr, P: gl.constexpr, REGISTERS: gl.constexpr, EARLY: gl.constexpr,
    RULE: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)
    FOLDED: gl.constexpr = x_desc.dtype == gl.float8e4nv
    K: gl.constexpr = 128 if FOLDED else 64  # of a unit
    x = gl.allocate_shared_memory(x_desc.dtype, [S * C, P * BM, K], X)
    words = gl.allocate_shared_memory(gl.int32, [S, 4 * WR, C, 2 * K], W)
    scales = gl.allocate_shared_memory(gl.int32, [S, 4 * WR, C * 8 * U], SCALES)
    if P == 1:
        x_stages, w_stages, s_stages = reinterpret(x, x_desc.dtype, [S, C, BM, K], X_STAGE), words, scales
    else:
        x_stages = reinterpret(x, x_desc.dtype, [S, C, P, BM, K], X_STAGE)
        w_stages = reinterpret(words, gl.int32, [S, 4 * WR // P, P, C, 2 * K], W_STAGE)
        s_stages = reinterpret(scales, gl.int32, [S, 4 * WR // P, P, C * 8 * U], W)
    if FOLDED:
        in_order: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
        words = reinterpret(words, gl.uint8, [S, 4 * WR, C * 4, 256], in_order)
        scales = reinterpret(scales, gl.uint8, [S, 4 * WR, C, 64], in_order)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(S):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=WR)
    parts, parts_full, parts_empty = full, full, empty
    if WK > 1:  # barriers that nobody waits for would lie where the epilogue puts data
        PARTS: gl.constexpr = (WK - 1) * WR
        parts = gl.allocate_shared_memory(
            gl.float32, [PARTS, 64, BM], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
        )
        parts_full = gl.allocate_shared_memory(gl.int64, [PARTS, 1], mbarrier.MBarrierLayout())
        parts_empty = gl.allocate_shared_memory(gl.int64, [PARTS, 1], mbarrier.MBarrierLayout())
        for i in gl.static_range(PARTS):
            mbarrier.init(parts_full.index(i), count=1)
            mbarrier.init(parts_empty.index(i), count=1)
    fence_async_shared()
    barrier()
    target, factors = (out_ptr, scales_ptr, out_gs_ptr), (x_factor_ptr, w_factor_ptr)
    BYTES: gl.constexpr = C * (P * BM * 128 + WR * 4 * (8 * K + 32 * U))
    if WK * WR == 2:
        gl.warp_specialize([
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 0, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 1, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (fetch, (x_desc, w_desc, s_desc, x_stages, w_stages, s_stages, full, empty, begin, end, steps,
                     BYTES, U, C, S, WR, P, EARLY)),
        ], [4, 1], [REGISTERS, 24])  # fmt: skip
    else:
        gl.warp_specialize([
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 0, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 1, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 2, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (multiply, (x, words, scales, parts, full, empty, parts_full, parts_empty, target, base_ptr, x_gs_ptr,
                        row_gs_ptr, gs_ptr, factors, bias_ptr, work_ptr, counter_ptr, unit, m, n, stride_out, begin,
                        end, steps, grain, grains, 3, STEP, U, L, BM, C, S, WK, WR, P, MMA, EARLY, RULE, PIECE)),
            (fetch, (x_desc, w_desc, s_desc, x_stages, w_stages, s_stages, full, empty, begin, end, steps,
                     BYTES, U, C, S, WR, P, EARLY)),
        ], [4, 4, 4, 1], [REGISTERS, REGISTERS, REGISTERS, 24])  # fmt: skip


def fp4_few_sm90(
    x: Tensor, w: Fragments, *, x_global_scale: Tensor | None = None, bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None, few: Few | None = None, early: bool = True, into: Quantized | None = None,
) -> Tensor:  # fmt: skip
    """out_dtype (x's) [M, N] = x [M, K] times w [N, K] transposed, plus bias [N], summed in fp32 and rounded once.

    into: quantize the fp32 result there instead; returned are its codes.
    x_global_scale: of x, if that was NVFP4 (fp4_decode_rows), one or one a row [M, 1]; the product is divided by it.
    early: may begin before the kernel launched before it has ended; w (nothing else) is read at once.
    x is bf16 or fp16 (NVFP4 only), M <= 128. Rows that are not 16 bytes apart and aligned, and those of K that is no
    multiple of 64, are copied first. Raises ValueError or TypeError otherwise.
    """
    m, _ = checked_rows(x, w, MAX_ROWS)
    out = torch.empty((m, w.n), dtype=out_dtype or x.dtype, device=x.device) if into is None else into.codes
    if not out.numel():
        return out
    require_hopper(x.device)
    tiles, chunks = w.data.shape[:2]
    u, half = 2 if w.format.block == 16 else 1, x.dtype == torch.float16
    few = few or choose(m, tiles, chunks, processors(x.device), whole=into is not None)
    scales = (w.base, *one_or_rows(x_global_scale, x), w.global_scale, None, None)
    launch(
        few, x, (w.data.view(tiles, chunks, 128), w.scale), out, into, scales, bias, w.unit,
        partial(unit_layouts, TILES, u), early, STEP=128 if half or w.format.scale == "e8m0" else 16, U=u,
    )  # fmt: skip
    return out


def launch(
    few: Few, x: Tensor, w: tuple[Tensor, Tensor], out: Tensor, into: Quantized | None, scales: Sequence[Tensor | None],
    bias: Tensor | None, unit: float, layouts: Callable[[int], tuple[Any, Any]], early: bool, **constants: int,
) -> None:  # fmt: skip
    """The kernel for x [M, K] and w, words of codes and of scales [tiles, chunks, of a unit].

    out [M, N]: where the result goes, or its codes where it is quantized. scales: of the kernel, from base_ptr on.
    layouts: `L` and `MMA` for so many columns of x.
    """
    m, n, (tiles, chunks) = len(x), out.shape[1] * (2 if into else 1), w[0].shape[:2]
    sms, bm = processors(x.device), max(8, triton.next_power_of_2(m))
    if into or chunks % few.parts or few.parts * bm > MAX_WIDE:
        few = replace(few, parts=1)
    piece, memory = min(bm, 32), few.shared_memory(bm, constants["U"], w[0].shape[2])
    while into and piece > 8 and (memory + few.wr * 256 * piece) * few.resident > SHARED:
        piece //= 2
    held, mma = layouts(few.parts * bm)
    swizzled, raw = few_tiles(8 * x.element_size())
    registers = 104 if few.resident == 2 else 232 if few.wk * few.wr == 2 else 112
    with torch.cuda.device_of(x):
        plan = share(few, tiles, chunks, sms, COUNTERS)
        work, counters = workspace(
            x.device, 2 * plan.programs * few.wr * 64 * bm if plan.grain < plan.steps else 0
        )
        fp4_few_sm90_kernel[(plan.programs,)](
            *descriptors(x, *w, few, bm, swizzled, raw), *(written_to(into) if into else (out, None, None)), *scales,
            bias, work, counters, unit, m, n, 0 if into else out.stride(0), plan.steps, plan.grain, plan.grains,
            **constants, L=held, MMA=mma, X=swizzled[2], X_STAGE=swizzled[3 if few.parts == 1 else 4], W=raw[3],
            W_STAGE=raw[4], SCALES=raw[2], BM=bm, C=few.depth, S=few.stages, WK=few.wk, WR=few.wr, P=few.parts,
            REGISTERS=registers, EARLY=early, RULE=rule_of(into), PIECE=piece, num_warps=4, launch_pdl=early,
            maxnreg=80 if few.resident == 2 else None, enable_fp_fusion=into is None,
        )  # fmt: skip

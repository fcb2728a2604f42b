"""out[M, N] = (x . wT) * alpha + bias on Hopper's warpgroup MMA: x bf16 or fp16, w in NVFP4 or MXFP4 as `Fragments`.

A program computes tiles of 128 columns (rows of w) by 128 or 256 rows of x, one after the other, whole or a part of
their K (stream_k). One warp fetches with TMA, some steps of 64 of K ahead and into the next tile: a tile of x, and the
raw units of w, which need a ninth of the bytes. Eight others turn codes into the registers of wgmma's first operand
while the step before is multiplied; x is the second, from shared memory. Where parts of tiles are summed, two or four
more warps do that meanwhile. A launch may begin while the kernel before it ends (`early`): its first weights are
fetched at once, x after that kernel, and nothing is written before it has ended.

In flight. Products of one step run while registers of the next are made; wgmma reads its register operand until it
ends, and neither Triton nor ptxas keeps others from writing it (a loop that carries the operand across iterations
compiles to copies into registers that are being read). Here no operand of a product in flight crosses an iteration but
`last`, and steps alternate between two sets. tests/compile/test_gluon.py checks the machine code for it, and that ptxas
has not serialized the products (as it does where two partitions of warps multiply, C7512, and where a second operand is
made while two products are under way, C7513).

What a loop carries (`stage`) must not be copied to a second variable there: Triton takes that one for a constant.

SASS (sm_90, Triton 3.6), 256 rows: 203 instructions for two steps of 32 weights a thread, 3.2 a weight with all that is
not decoding; two warps a scheduler issue 400 of 2048 cycles. No spills in the loop. A global scale for each row of x
takes 20 to 90 instructions more, none of them in the loop.

Predicted (H200): MMA-bound from M = 128 on; o 29 us at M = 128, 43 at 256. Measured (torch 2.11, Triton 3.6,
graph replay, weights not in L2, NVFP4; four cards, cuBLAS bf16 in the same run), us and times cuBLAS:

      M    o 8192x8192        qkv 10240x8192       gate_up 57344x8192    down 8192x28672
    128    30.1   1.23        39.2   1.17          171    1.41-1.47      87.8  1.41
    256    48.2   0.99-1.01   62.4   0.97-0.98     290    1.08-1.11      148   1.14
    512    82.8   1.06        108    1.02          570    1.07           279   1.06
   1024    162    1.05        208    1.03
   4096    649    1.04        813    1.04

Without `early` 1 to 2 us more. The same with x in NVFP4 takes 2 to 16 us more, for it is decoded first
(fp4_decode_rows).

What bounds it (ncu, qkv): the tensor cores are busy 97% of the time at M = 4096 (cuBLAS 97%), 91 to 93% where a
program works at M = 256, the L2 cache 41 and 36% of its rate, memory 15 and 18%. The SM clock was 1.72 and 1.68 GHz
(cuBLAS 1.68 and 1.62, a product of one row 1.80) of 1.98: from M = 256 on the card seems to be at its power limit,
where time is energy, and what keeps more of it busy gains little. Tried for qkv at M = 256, us (cuBLAS 60 to 62):
four parts behind a wave of 128 rows, summed at the end by whoever came last 64.8, with early launches 63.5, summed
beside 62.3; two tiles of 256 rows by three programs 64.0; shared evenly 70.8; two products under way and eight stages
63.5; L2 prefetches 4 or 12 steps ahead 63.0 and 61.8; nine stages 62.6. Elsewhere slower: 16 tiles of w by 128 rows
(o 175 at M = 1024, 39 at 128), half a step ahead instead of a whole one (o 38 at M = 128).

Judged against a float64 product of the same operands within E = 4 sqrt(K) 2^-24 |A||B|T + 3 2^-24 |ref|.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_wait

from qkernels.triton.early import after_previous
from qkernels.triton.fp4_fragments import COLUMNS, ROWS, Fragments, checked_rows
from qkernels.triton.fp4_operand_sm90 import decode, layouts, reciprocal
from qkernels.triton.gluon_names import barrier, tma_load
from qkernels.triton.quantized_result import Quantized, rule_of, written_to
from qkernels.triton.quantizing_epilogue import write_tile
from qkernels.triton.stream_k import (
    add_up,
    contributors,
    deposit,
    following,
    join,
    piece,
    place,
    segment,
    segments,
)
from qkernels.triton.stream_plan import Plan, Shape, beside, choose
from qkernels.triton.workspaces import processors, require_hopper, workspace
from qkernels.triton.x_scales import one_or_rows

if TYPE_CHECKING:
    from torch import Tensor


@gluon.jit
def fetch_weights(
    w_desc, s_desc, words, scales, full, stage, tile, i, BYTES: gl.constexpr, U: gl.constexpr, T: gl.constexpr
):  # fmt: skip
    """Step i of a tile of w, and what its stage will hold."""
    mbarrier.expect(full.index(stage), BYTES)
    tma_load(w_desc, [tile * T, i * 128], full.index(stage), words.index(stage))
    tma_load(s_desc, [tile * T, i * 8 * U], full.index(stage), scales.index(stage))


@gluon.jit
def fetch(
    x_desc, w_desc, s_desc, x, words, scales, full, empty, m, n, steps, plan,
    U: gl.constexpr, T: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, GROUP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: the steps of all segments, each into the next stage when its consumers have left it.

    EARLY: weights of the first stages are fetched before the kernel before this one has ended, x after it.
    """
    BYTES: gl.constexpr = BM * 128 + T * (512 + 32 * U)
    across, down = (n + T * 16 - 1) // (T * 16), (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    tiles = across * down
    begin, stop = piece(plan, steps, program)
    shared, count = segments(tiles, plan[0], begin, stop, steps, program, programs)
    ahead = 0
    if EARLY:
        index, first, end = segment(0, shared, tiles, plan[0], begin, stop, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        ahead = min(S, 2 * (end - first))
        for i in range(ahead):
            fetch_weights(w_desc, s_desc, words, scales, full, i, tile, 2 * first + i, BYTES, U, T)
        gdc_wait()
        for i in range(ahead):
            tma_load(x_desc, [row * BM, (2 * first + i) * 64], full.index(i), x.index(i))
    stage = ahead % S
    phase = gl.where(ahead == S, 0, 1)
    for number in range(count):
        index, first, end = segment(number, shared, tiles, plan[0], begin, stop, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        for i in range(2 * first + gl.where(number == 0, ahead, 0), 2 * end):
            mbarrier.wait(empty.index(stage), phase)
            fetch_weights(w_desc, s_desc, words, scales, full, stage, tile, i, BYTES, U, T)
            tma_load(x_desc, [row * BM, i * 64], full.index(stage), x.index(stage))
            stage, phase = following(stage, phase, S)


@gluon.jit
def operand(
    words, scales, full, stage, phase, base, DTYPE: gl.constexpr, STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr
):  # fmt: skip
    """The first operand of a stage's product, when the stage has come."""
    mbarrier.wait(full.index(stage), phase)
    return decode(words.index(stage).load(L[1]), scales.index(stage).load(L[2]), base, DTYPE, STEP, U, L)


@gluon.jit
def row_gains(row_gs_ptr, row, m, ROWS: gl.constexpr, WARPS: gl.constexpr):
    """1 over the scales of rows of x from `row` on, a row by one thread: in the layout of sums each would have 64."""
    rows = row + gl.arange(0, ROWS, gl.BlockedLayout([1], [32], [WARPS], [0]))
    return reciprocal(gl.load(row_gs_ptr + rows, mask=rows < m, other=1.0))


@gluon.jit
def finish(sums, row, column, m, n, parameters, WARPS: gl.constexpr):
    """Sums of the output from (row, column) on times alpha, plus bias."""
    _, _, row_gs_ptr, _, _ = parameters
    if row_gs_ptr is None:
        return finished(sums, None, column, n, parameters)
    else:
        return finished(sums, row_gains(row_gs_ptr, row, m, sums.shape[1], WARPS), column, n, parameters)


@gluon.jit
def finished(sums, row_gain, column, n, parameters):
    """The same with what `row_gains` gave (or None)."""
    unit, x_gs_ptr, _, gs_ptr, bias_ptr = parameters
    # one after the other, w's first: both together, or sums over x's alone, may leave the numbers
    result = sums * unit
    if gs_ptr is not None:
        result *= reciprocal(gl.load(gs_ptr))
    if x_gs_ptr is not None:
        result *= reciprocal(gl.load(x_gs_ptr))
    if row_gain is not None:
        result *= gl.convert_layout(row_gain, gl.SliceLayout(0, sums.type.layout)).expand_dims(0)
    if bias_ptr is not None:
        columns = column + gl.arange(0, sums.shape[0], gl.SliceLayout(1, sums.type.layout))
        bias = gl.load(bias_ptr + columns, mask=columns < n, other=0.0)
        result += bias.to(gl.float32).expand_dims(1)
    return result


@gluon.jit
def multiply(
    x, words, scales, full, empty, deposited, target, work_ptr, counter_ptr, base, parameters,
    m, n, steps, plan,
    STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr,
    GROUP: gl.constexpr, MMA: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr, SUMMING: gl.constexpr,
    EARLY: gl.constexpr, RULE: gl.constexpr,
):  # fmt: skip
    """The consumer warps: decode a step, start its product, wait for the one before, free that one's stage."""
    T: gl.constexpr = L[0]
    FINISH: gl.constexpr = finish
    across, down = (n + T * 16 - 1) // (T * 16), (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    tiles = across * down
    begin, stop = piece(plan, steps, program)
    shared, count = segments(tiles, plan[0], begin, stop, steps, program, programs)
    _, _, row_gs_ptr, _, _ = parameters
    after_previous(EARLY)
    stage = 0
    phase = 0
    for number in range(count):
        index, first, end = segment(number, shared, tiles, plan[0], begin, stop, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        gl.assume(end > first)
        row_gain = None
        if row_gs_ptr is not None:  # asked for here, needed at the end, where it would make registers spill
            row_gain = row_gains(row_gs_ptr, row * BM, m, BM, WARPS)
        sums = gl.zeros([T * 16, BM], gl.float32, layout=MMA)
        last = gl.full([T * 16, 64], 0.0, x.dtype, layout=L[6])
        for i in range(first, end):
            a0 = operand(words, scales, full, stage, phase, base, x.dtype, STEP, U, L)
            sums = warpgroup_mma(a0, x.index(stage).permute([1, 0]), sums, is_async=True)
            sums, last = warpgroup_mma_wait(1, deps=[sums, last])
            mbarrier.arrive(empty.index((stage + S - 1) % S), count=1, pred=i > first)
            second, second_phase = following(stage, phase, S)
            a1 = operand(words, scales, full, second, second_phase, base, x.dtype, STEP, U, L)
            sums = warpgroup_mma(a1, x.index(second).permute([1, 0]), sums, is_async=True)
            sums, a0 = warpgroup_mma_wait(1, deps=[sums, a0])
            mbarrier.arrive(empty.index(stage), count=1)
            last = a1
            stage, phase = following(second, second_phase, S)
        sums, last = warpgroup_mma_wait(0, deps=[sums, last])
        mbarrier.arrive(empty.index((stage + S - 1) % S), count=1)
        complete = True
        if end - first < steps:
            inside = index - (tiles - plan[0])
            low, high = contributors(inside, plan, steps)
            if SUMMING == 0:
                sums, complete = join(sums, inside, low, high, row * BM, tile * (T * 16), m, n, target, work_ptr,
                                      counter_ptr, parameters, FINISH, RULE, SOME, WARPS)  # fmt: skip
            else:
                deposit(sums, work_ptr, low, WARPS)
                mbarrier.arrive(deposited, count=1)
                complete = False
        if complete:
            result = finished(sums, row_gain, tile * (T * 16), n, parameters)
            write_tile(result, target, row * BM, tile * (T * 16), m, n, RULE)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["m", "n", "steps", "split", "group", "members", "lead", "rest"])
def fp4_gemm_sm90_kernel(
    x_desc, w_desc, s_desc, out_desc, out_ptr, scales_ptr, out_gs_ptr, base_ptr, x_gs_ptr, row_gs_ptr, gs_ptr, bias_ptr,
    work_ptr, counter_ptr, unit, m, n, steps, split, group, members, lead, rest,
    STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr,
    GROUP: gl.constexpr, MMA: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr, SUMMING: gl.constexpr,
    EARLY: gl.constexpr, RULE: gl.constexpr,
):  # fmt: skip
    T: gl.constexpr = L[0]
    x = gl.allocate_shared_memory(x_desc.dtype, [S, BM, 64], x_desc.layout)
    words = gl.allocate_shared_memory(gl.int32, [S, T, 128], w_desc.layout)
    scales = gl.allocate_shared_memory(gl.int32, [S, T, 8 * U], s_desc.layout)
    if RULE == "":
        out = gl.allocate_shared_memory(out_desc.dtype, [BM, T * 16], out_desc.layout)
        target = (out, out_desc, out_ptr)
    else:
        target = (out_ptr, scales_ptr, out_gs_ptr)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    deposited = empty
    if SUMMING != 0:  # one that nobody waits for would lie where the epilogue puts data
        deposited = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(deposited, count=1)
    for i in gl.static_range(S):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    fence_async_shared()
    barrier()
    base = gl.load(base_ptr).to(gl.int32) * 0x01000100
    if x.dtype == gl.float16:
        base = base * 0
    FINISH: gl.constexpr = finish
    parameters = (unit, x_gs_ptr, row_gs_ptr, gs_ptr, bias_ptr)
    plan = (split, group, members, lead, rest)
    if SUMMING == 0:
        gl.warp_specialize([
            (multiply, (x, words, scales, full, empty, deposited, target, work_ptr, counter_ptr, base, parameters,
                        m, n, steps, plan, STEP, U, L, BM, S, GROUP, MMA, SOME, WARPS, SUMMING, EARLY, RULE)),
            (fetch, (x_desc, w_desc, s_desc, x, words, scales, full, empty, m, n, steps, plan,
                     U, T, BM, S, GROUP, EARLY)),
        ], [1], [24])  # fmt: skip
    else:
        gl.warp_specialize([
            (multiply, (x, words, scales, full, empty, deposited, target, work_ptr, counter_ptr, base, parameters,
                        m, n, steps, plan, STEP, U, L, BM, S, GROUP, MMA, SOME, WARPS, SUMMING, EARLY, RULE)),
            (fetch, (x_desc, w_desc, s_desc, x, words, scales, full, empty, m, n, steps, plan,
                     U, T, BM, S, GROUP, EARLY)),
            (add_up, (deposited, target, work_ptr, counter_ptr, parameters, m, n, steps, plan,
                      FINISH, RULE, T * 16, BM, GROUP, SOME, SUMMING, EARLY)),
        ], [1, SUMMING], [24 if SUMMING == 4 else 64, 80 if SUMMING == 4 else 64])  # fmt: skip


# What is chosen from; nanoseconds as measured on an H200.
SHAPES = (
    Shape(8, 128, 6, 8, 4, step_ns=715, part_ns=2500, slack_ns=1400, join_ns=4000),
    Shape(8, 256, 4, 8, 2, step_ns=1260, part_ns=4100, slack_ns=2500, join_ns=4500),
)


def fp4_gemm_sm90(
    x: Tensor, w: Fragments, *, x_global_scale: Tensor | None = None, bias: Tensor | None = None,
    shape: Shape | None = None, plan: Plan | None = None, early: bool = True,
    into: Quantized | None = None,
) -> Tensor:  # fmt: skip
    """x's dtype [M, N] = x [M, K] times w [N, K] transposed, plus bias [N], summed in fp32 and rounded once.

    x_global_scale: of x, if that was NVFP4 (fp4_decode_rows), one or one a row [M, 1]; the product is divided by it.
    shape, plan: for tests.
    into: quantize the fp32 result there instead; returned are its codes.
    early: may begin before the kernel launched before it has ended; w (nothing else) is read at once.
    x is bf16 or fp16 (NVFP4 only), M > 0, its rows 16 bytes apart and aligned, N a multiple of 8. Raises ValueError
    or TypeError otherwise.
    """
    m, _ = checked_rows(x, w)
    half = x.dtype == torch.float16
    if x.stride(1) != 1 or x.stride(0) % 8 or x.data_ptr() % 16 or w.n % 8:
        raise ValueError(
            f"x has strides {x.stride()} and begins {x.data_ptr() % 16} bytes off, N is {w.n}: TMA needs rows of x and "
            "of the output that begin at multiples of 16 bytes; use x.contiguous().clone(), and N in multiples of 8"
        )
    all_tiles, chunks = w.data.shape[:2]
    require_hopper(x.device)
    out = torch.empty((m, w.n), dtype=x.dtype, device=x.device) if into is None else into.codes
    steps = (chunks + 1) // 2
    shapes = SHAPES if shape is None else (shape,)
    shape, best = choose(shapes, m, w.n, steps, processors(x.device))
    plan = plan or best
    warps, at_once = beside(shape, plan, -(-m // shape.rows) * -(-w.n // (ROWS * shape.tiles)))
    u = 2 if w.format.block == 16 else 1
    rows, columns = shape.rows, shape.tiles * ROWS
    held, mma = layouts(shape.tiles, u, rows, shape.warps)
    wide = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    raw = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    with torch.cuda.device(x.device):
        work, counters = workspace(x.device, plan.workspace(rows * columns))
        fp4_gemm_sm90_kernel[(plan.programs,)](
            TensorDescriptor.from_tensor(x, [rows, COLUMNS], wide),
            TensorDescriptor.from_tensor(w.data.view(all_tiles, -1), [shape.tiles, 128], raw),
            TensorDescriptor.from_tensor(w.scale.view(all_tiles, -1), [shape.tiles, 8 * u], raw),
            None if into else TensorDescriptor.from_tensor(out, [rows, columns], wide),
            *(written_to(into) if into else (out, None, None)), w.base, *one_or_rows(x_global_scale, x),
            w.global_scale, bias, work, counters, w.unit, m, w.n, steps, *plan.arguments(),
            STEP=128 if half or w.format.scale == "e8m0" else 16, U=u, L=held, BM=rows, S=shape.stages,
            GROUP=16, MMA=mma, SOME=layouts(shape.tiles, u, at_once, warps or shape.warps)[1], WARPS=shape.warps,
            SUMMING=warps, EARLY=early, RULE=rule_of(into), num_warps=shape.warps, launch_pdl=early,
            enable_fp_fusion=into is None,
        )  # fmt: skip
    return out

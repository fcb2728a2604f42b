"""out[M, N] = (x . wT) * alpha in MXFP4 x MXFP4 on Hopper's FP8 tensor cores: both operands folded (mxfp4_folded).

The structure of fp4_gemm_sm90, with steps of 128 of K: one warp fetches with TMA, eight decode codes of w into E4M3
registers, wgmma's first operand, and x comes as E4M3 from shared memory. A code becomes a byte by prmt, with its
magnitude as the selector, from a table of the eight magnitudes that the block's d has moved down: 7 instructions for
eight codes, and two tables (4 instructions) for each row's 32 of K, of which a lane has eight codes.

Sums are wgmma's own FP8 accumulation over all of K: products are exact, additions keep about 14 bits ("fp8-fast").
The norm of the error is 1.7e-3 to 2.1e-3 of the result's, of which bf16 rounding is 1.7e-3 (K = 128 .. 8192).

SASS (sm_90, Triton 3.6), 256 rows: 245 instructions for two steps of 64 weights a thread. No spills in the loop.

Predicted (H200): MMA-bound, 1.7 times cuBLAS or more at M >= 1024. Measured as in fp4_gemm_sm90, operands in MXFP4, us
and times cuBLAS bf16 of the same run:

      M    o 8192x8192    qkv 10240x8192    gate_up 57344x8192    down 8192x28672
    128    21.2   1.75     28.0   1.66        104     2.31          54.8   2.26
    256    29.3   1.63     39.0   1.54        171     1.86          86.4   1.94
    512    46.4   1.88     60.3   1.83        313     1.93         151     1.97
   1024    87.9   1.94    115     1.88
   4096   347     1.93    432     1.96

Two products under way while the next two operands are decoded (stages of which four are in use): 1 to 4% quicker up
to 64 rows and at 128 for large matrices, 4% slower for small ones; not kept.
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
from qkernels.triton.gluon_names import barrier, reinterpret, tma_load
from qkernels.triton.mxfp4_folded import COLUMNS, ROWS, FoldedRows, FoldedWeights
from qkernels.triton.mxfp4_operand_sm90 import decode, keep, layouts, scaled
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

if TYPE_CHECKING:
    from torch import Tensor


@gluon.jit
def fetch_weights(
    w_desc, d_desc, codes, spread, full, stage, tile, i, BYTES: gl.constexpr, T: gl.constexpr
):  # fmt: skip
    """Step i of a tile of w, and what its stage will hold."""
    mbarrier.expect(full.index(stage), BYTES)
    tma_load(w_desc, [tile * T, i * 256], full.index(stage), codes.index(stage))
    tma_load(d_desc, [tile * T, i * 16], full.index(stage), spread.index(stage))


@gluon.jit
def fetch(
    x_desc, w_desc, d_desc, x, codes, spread, full, empty, m, n, steps, plan,
    T: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, GROUP: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """One warp: the steps of all segments, each into the next stage when its consumers have left it.

    EARLY: weights of the first stages are fetched before the kernel before this one has ended, x after it.
    """
    BYTES: gl.constexpr = BM * 128 + T * (1024 + 64)
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
            fetch_weights(w_desc, d_desc, codes, spread, full, i, tile, 2 * first + i, BYTES, T)
        gdc_wait()
        for i in range(ahead):
            tma_load(x_desc, [row * BM, (2 * first + i) * 128], full.index(i), x.index(i))
    stage = ahead % S
    phase = gl.where(ahead == S, 0, 1)
    for number in range(count):
        index, first, end = segment(number, shared, tiles, plan[0], begin, stop, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        for i in range(2 * first + gl.where(number == 0, ahead, 0), 2 * end):
            mbarrier.wait(empty.index(stage), phase)
            fetch_weights(w_desc, d_desc, codes, spread, full, stage, tile, i, BYTES, T)
            tma_load(x_desc, [row * BM, i * 128], full.index(stage), x.index(stage))
            stage, phase = following(stage, phase, S)


@gluon.jit
def operand(codes, spread, full, stage, phase, L: gl.constexpr):
    """The first operand of a stage's product, when the stage has come."""
    mbarrier.wait(full.index(stage), phase)
    return decode(codes.index(stage), spread.index(stage), L)


@gluon.jit
def line(pointer, start, count, SIZE: gl.constexpr, WARPS: gl.constexpr):
    """SIZE numbers from `start` on of a vector of `count`, fp32; 0 beyond it."""
    at = start + gl.arange(0, SIZE, gl.BlockedLayout([1], [32], [WARPS], [0]))
    return gl.load(pointer + at, mask=at < count, other=0.0).to(gl.float32)


@gluon.jit
def finish(sums, row, column, m, n, parameters, WARPS: gl.constexpr):
    """Sums of the output from (row, column) on times the factors of their rows of w and x, plus bias."""
    gain, x_factor_ptr, w_factor_ptr, bias_ptr = parameters
    BN: gl.constexpr = sums.shape[0]
    w_factor = line(w_factor_ptr, column, n, BN, WARPS) * gain
    x_factor = line(x_factor_ptr, row, m, sums.shape[1], WARPS)
    if bias_ptr is None:
        return scaled(sums, w_factor, x_factor, None)
    else:
        return scaled(sums, w_factor, x_factor, line(bias_ptr, column, n, BN, WARPS))


@gluon.jit
def multiply(
    x, codes, spread, full, empty, deposited, target, work_ptr, counter_ptr, parameters,
    m, n, steps, plan,
    L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr, SOME: gl.constexpr,
    GROUP: gl.constexpr, WARPS: gl.constexpr, SUMMING: gl.constexpr, EARLY: gl.constexpr,
    RULE: gl.constexpr,
):  # fmt: skip
    """The consumer warps: decode a step, start its product, wait for the one before, free that one's stage."""
    T: gl.constexpr = L[0]
    FINISH: gl.constexpr = finish
    across, down = (n + T * 16 - 1) // (T * 16), (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    tiles = across * down
    begin, stop = piece(plan, steps, program)
    shared, count = segments(tiles, plan[0], begin, stop, steps, program, programs)
    gain, x_factor_ptr, w_factor_ptr, bias_ptr = parameters
    after_previous(EARLY)
    stage = 0
    phase = 0
    for number in range(count):
        index, first, end = segment(number, shared, tiles, plan[0], begin, stop, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        gl.assume(end > first)
        # asked for here, needed at the end
        w_factor = line(w_factor_ptr, tile * (T * 16), n, T * 16, WARPS) * gain
        x_factor = line(x_factor_ptr, row * BM, m, BM, WARPS)
        bias = None
        if bias_ptr is not None:
            bias = line(bias_ptr, tile * (T * 16), n, T * 16, WARPS)
        sums = gl.zeros([T * 16, BM], gl.float32, layout=MMA)
        last = gl.full([T * 16, 128], 0.0, gl.float8e4nv, layout=L[4])
        for i in range(first, end):
            a0 = operand(codes, spread, full, stage, phase, L)
            sums = warpgroup_mma(a0, x.index(stage).permute([1, 0]), sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            keep(last)
            mbarrier.arrive(empty.index((stage + S - 1) % S), count=1, pred=i > first)
            second, second_phase = following(stage, phase, S)
            a1 = operand(codes, spread, full, second, second_phase, L)
            sums = warpgroup_mma(a1, x.index(second).permute([1, 0]), sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            keep(a0)
            mbarrier.arrive(empty.index(stage), count=1)
            last = a1
            stage, phase = following(second, second_phase, S)
        sums = warpgroup_mma_wait(0, deps=[sums])
        keep(last)
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
            result = scaled(sums, w_factor, x_factor, bias)
            write_tile(result, target, row * BM, tile * (T * 16), m, n, RULE)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["m", "n", "steps", "split", "group", "members", "lead", "rest"])
def mxfp4_gemm_sm90_kernel(
    x_desc, w_desc, d_desc, out_desc, out_ptr, scales_ptr, out_gs_ptr, x_factor_ptr, w_factor_ptr, bias_ptr, work_ptr,
    counter_ptr, gain, m, n, steps, split, group, members, lead, rest,
    L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr, SOME: gl.constexpr,
    GROUP: gl.constexpr, WARPS: gl.constexpr, SUMMING: gl.constexpr, EARLY: gl.constexpr,
    RULE: gl.constexpr,
):  # fmt: skip
    T: gl.constexpr = L[0]
    x = gl.allocate_shared_memory(gl.float8e4nv, [S, BM, 128], x_desc.layout)
    words = gl.allocate_shared_memory(gl.int32, [S, T, 256], w_desc.layout)
    spreads = gl.allocate_shared_memory(gl.int32, [S, T, 16], d_desc.layout)
    bytes_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=8, rank=2)
    # rows of 256 bytes: Triton cuts wider ones into columns of 256 elements, which the words above are not
    codes = reinterpret(words, gl.uint8, [S, T * 4, 256], bytes_layout)
    spread = reinterpret(spreads, gl.uint8, [S, T, 64], bytes_layout)
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
    FINISH: gl.constexpr = finish
    parameters = (gain, x_factor_ptr, w_factor_ptr, bias_ptr)
    plan = (split, group, members, lead, rest)
    if SUMMING == 0:
        gl.warp_specialize([
            (multiply, (x, codes, spread, full, empty, deposited, target, work_ptr, counter_ptr,
                        parameters, m, n, steps, plan, L, BM, S, MMA, SOME, GROUP, WARPS, SUMMING, EARLY, RULE)),
            (fetch, (x_desc, w_desc, d_desc, x, words, spreads, full, empty, m, n, steps, plan,
                     T, BM, S, GROUP, EARLY)),
        ], [1], [24])  # fmt: skip
    else:
        gl.warp_specialize([
            (multiply, (x, codes, spread, full, empty, deposited, target, work_ptr, counter_ptr,
                        parameters, m, n, steps, plan, L, BM, S, MMA, SOME, GROUP, WARPS, SUMMING, EARLY, RULE)),
            (fetch, (x_desc, w_desc, d_desc, x, words, spreads, full, empty, m, n, steps, plan,
                     T, BM, S, GROUP, EARLY)),
            (add_up, (deposited, target, work_ptr, counter_ptr, parameters, m, n, steps, plan,
                      FINISH, RULE, T * 16, BM, GROUP, SOME, SUMMING, EARLY)),
        ], [1, SUMMING], [24 if SUMMING == 4 else 72, 80 if SUMMING == 4 else 72])  # fmt: skip


# What is chosen from; nanoseconds as measured on an H200.
SHAPES = (
    Shape(8, 64, 8, 8, 4, step_ns=610, part_ns=3000, slack_ns=1400, join_ns=4800),
    Shape(8, 128, 7, 8, 4, step_ns=835, part_ns=3500, slack_ns=1400, join_ns=5000),
    Shape(8, 256, 3, 8, 2, step_ns=1440, part_ns=2000, slack_ns=2500, join_ns=4000),
)


def mxfp4_gemm_sm90(
    x: FoldedRows, w: FoldedWeights, *, bias: Tensor | None = None, shape: Shape | None = None,
    plan: Plan | None = None, early: bool = True,
    into: Quantized | None = None,
) -> Tensor:  # fmt: skip
    """bf16 [M, N] = x [M, K] times w [N, K] transposed, plus bias [N]. K is a multiple of 32, N of 8.

    into: quantize the fp32 result there instead; returned are its codes. shape, plan: for tests.
    early: may begin before the kernel launched before it has ended; the codes of w and their spread (nothing else) are
    read at once.
    """
    m, k = x.elements.shape
    if k != w.k or x.hadamard != w.hadamard:
        raise ValueError(f"x has K = {k} and rotation {x.hadamard}, w has {w.k} and {w.hadamard}")
    if k % 16 or w.n % 8:
        raise ValueError(
            f"K is {k} and N {w.n}: TMA needs rows of x and of the output that begin at multiples of 16 bytes, K in "
            "multiples of 16 and N of 8"
        )
    all_tiles, chunks = w.codes.shape[:2]
    device = x.elements.device
    out = torch.empty((m, w.n), dtype=torch.bfloat16, device=device) if into is None else into.codes
    if not out.numel():
        return out
    require_hopper(device)
    steps = (chunks + 1) // 2
    shapes = SHAPES if shape is None else (shape,)
    shape, best = choose(shapes, m, w.n, steps, processors(device))
    plan = plan or best
    warps, at_once = beside(shape, plan, -(-m // shape.rows) * -(-w.n // (ROWS * shape.tiles)))
    rows, columns = shape.rows, shape.tiles * ROWS
    held, mma = layouts(shape.tiles, rows, shape.warps)
    eight = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
    wide = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    raw = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    words = w.codes.view(torch.int32).view(all_tiles, -1)
    spread = w.spread.view(torch.int32).view(all_tiles, -1)
    with torch.cuda.device(device):
        work, counters = workspace(device, plan.workspace(rows * columns))
        mxfp4_gemm_sm90_kernel[(plan.programs,)](
            TensorDescriptor.from_tensor(x.elements, [rows, COLUMNS], eight),
            TensorDescriptor.from_tensor(words, [shape.tiles, 256], raw),
            TensorDescriptor.from_tensor(spread, [shape.tiles, 16], raw),
            None if into else TensorDescriptor.from_tensor(out, [rows, columns], wide),
            *(written_to(into) if into else (out, None, None)), x.factor, w.factor, bias, work, counters,
            1.0 / (x.gain * w.gain), m, w.n, steps, *plan.arguments(), L=held, BM=rows, S=shape.stages, MMA=mma,
            GROUP=16, SOME=layouts(shape.tiles, at_once, warps or shape.warps)[1], WARPS=shape.warps,
            SUMMING=warps, EARLY=early, RULE=rule_of(into), num_warps=shape.warps, launch_pdl=early,
            enable_fp_fusion=into is None,
        )  # fmt: skip
    return out

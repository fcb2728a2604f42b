"""out[M, N] = (x . wT) * alpha in MXFP4 x MXFP4 on Hopper's FP8 tensor cores: both operands folded (mxfp4_folded).

The structure of fp4_gemm_sm90, with steps of 128 of K: one warp fetches with TMA, eight decode codes of w into E4M3
registers, wgmma's first operand, and x comes as E4M3 from shared memory. A code becomes a byte by prmt, with its
magnitude as the selector, from a table of the eight magnitudes that the block's d has moved down: 7 instructions for
eight codes, and two tables (4 instructions) for each row's 32 of K, of which a lane has eight codes.

Sums are wgmma's own FP8 accumulation over all of K: products are exact, additions keep about 14 bits ("fp8-fast").

Predicted (H200): MMA-bound, 1.6 times cuBLAS bf16 or more at M >= 1024. Not measured yet.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import triton
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

from qkernels.triton.gluon_names import barrier, reinterpret, tma_load, tma_store
from qkernels.triton.mxfp4_folded import COLUMNS, ROWS, FoldedRows, FoldedWeights
from qkernels.triton.stream_k import combine, divide, pieces, place, processors, segment, workspace

if TYPE_CHECKING:
    from torch import Tensor


# Eight codes in $2; tables $3 (0, .5, 1, 1.5) and $7 (2, 3, 4, 6), each four times for four elements.
DECODE_E4M3 = gl.constexpr("""
{
.reg .b32 m, h, s;
and.b32 m, $2, 0x77777777;
prmt.b32 h, $3, $7, m;
lop3.b32 $0, $2, 0x80808080, h, 0xEA;
shr.u32 m, m, 16;
shl.b32 s, $2, 4;
prmt.b32 h, $3, $7, m;
lop3.b32 $1, s, 0x80808080, h, 0xEA;
}
""")


@gluon.jit
def load(codes_smem, spread_smem, L: gl.constexpr):
    """A step's units -> (codes and distances of one half of K, of the other), for `decode`.

    Axes: T tile, c half (two 32s), g, t, e which of the two, s, b byte.
    """
    T: gl.constexpr = L[0]
    codes = gl.convert_layout(codes_smem.load(L[1]).reshape([T, 2, 8, 4, 2, 2, 4]), L[3], assert_trivial=True)
    d = spread_smem.load(L[2]).to(gl.int32).reshape([T, 8, 2, 2, 2, 1, 1]).permute(0, 2, 1, 5, 3, 4, 6)
    d = gl.convert_layout(d, L[3], assert_trivial=True)
    codes0, codes1 = codes.permute(0, 2, 3, 4, 5, 6, 1).split()
    d0, d1 = d.broadcast_to([T, 2, 8, 4, 2, 2, 4]).permute(0, 2, 3, 4, 5, 6, 1).split()
    return codes0, d0, codes1, d1


@gluon.jit
def decode(codes, d, L: gl.constexpr):
    """Codes T g t e s b and distances -> E4M3 [16 * T, 64], wgmma's first operand. Stays where it is in the program."""
    T: gl.constexpr = L[0]
    low = 0x6C686000 - d * 0x08080800
    high = 0x7C787470 - d * 0x08080808
    first, second = gl.inline_asm_elementwise(
        DECODE_E4M3, "=r,=r,r,r,r,r,r,r,r,r,r", [codes, low, high],
        dtype=(gl.uint8, gl.uint8), is_pure=False, pack=4,
    )  # fmt: skip
    w = gl.join(first, second)  # T g t e s b upper
    w = w.permute(0, 4, 1, 3, 6, 2, 5).reshape([T * 16, 64]).to(gl.float8e4nv, bitcast=True)
    return gl.convert_layout(w, L[4], assert_trivial=True)


@gluon.jit
def keep(a):
    """The operand of a product that has ended, used once more: so its registers are its own until here.

    (Triton's wait for products takes operands of 16 bits and more as dependences, none of 8.)
    """
    gl.inline_asm_elementwise(
        "", "=r,0", [a.to(gl.uint8, bitcast=True)], dtype=gl.uint8, is_pure=False, pack=4
    )


@gluon.jit
def fetch(
    x_desc, w_desc, d_desc, x, codes, spread, full, empty, m, n, steps, split,
    T: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """One warp: the steps of all segments, each into the next stage when its consumers have left it."""
    across, down = (n + T * 16 - 1) // (T * 16), (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    partial, count = pieces(across * down, split, steps, program, programs)
    stage = 0
    phase = 1
    for number in range(count):
        index, first, end = segment(number, partial, split, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        for i in range(first, end):
            mbarrier.wait(empty.index(stage), phase)
            mbarrier.expect(full.index(stage), BM * 128 + T * (1024 + 64))
            tma_load(x_desc, [row * BM, i * 128], full.index(stage), x.index(stage))
            tma_load(w_desc, [tile * T, i * 256], full.index(stage), codes.index(stage))
            tma_load(d_desc, [tile * T, i * 16], full.index(stage), spread.index(stage))
            stage += 1
            phase = gl.where(stage == S, phase ^ 1, phase)
            stage = gl.where(stage == S, 0, stage)


@gluon.jit
def multiply(
    x, codes, spread, full, empty, out, out_desc, x_factor_ptr, w_factor_ptr, work_ptr, counter_ptr,
    gain, m, n, steps, split,
    L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """The consumer warps: all segments."""
    T: gl.constexpr = L[0]
    across, down = (n + T * 16 - 1) // (T * 16), (m + BM - 1) // BM
    program, programs = gl.program_id(0), gl.num_programs(0)
    partial, count = pieces(across * down, split, steps, program, programs)
    stage = 0
    phase = 0
    for number in range(count):
        index, first, end = segment(number, partial, split, steps, program, programs)
        tile, row = place(index, across, down, GROUP)
        gl.assume(end > first)
        sums = gl.zeros([T * 16, BM], gl.float32, layout=MMA)
        last = gl.full([T * 16, 64], 0.0, gl.float8e4nv, layout=L[4])
        for i in range(first, end):
            mbarrier.wait(full.index(stage), phase)
            codes0, d0, codes1, d1 = load(codes.index(stage), spread.index(stage), L)
            a0 = decode(codes0, d0, L)
            b = x.index(stage)
            sums = warpgroup_mma(a0, b.slice(0, 64, dim=1).permute([1, 0]), sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            keep(last)
            mbarrier.arrive(empty.index((stage + S - 1) % S), count=1, pred=i > first)
            # the second half is decoded when the one before it, with the same registers, has been multiplied
            a1 = decode(codes1, d1, L)
            sums = warpgroup_mma(a1, b.slice(64, 64, dim=1).permute([1, 0]), sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            keep(a0)
            last = a1
            stage += 1
            phase = gl.where(stage == S, phase ^ 1, phase)
            stage = gl.where(stage == S, 0, stage)
        sums = warpgroup_mma_wait(0, deps=[sums])
        keep(last)
        mbarrier.arrive(empty.index((stage + S - 1) % S), count=1)
        complete = True
        if end - first < steps:
            sums, complete = combine(sums, work_ptr, counter_ptr, index, split, steps, [T * 16, BM], MMA)
        if complete:
            columns = tile * (T * 16) + gl.arange(0, T * 16, gl.SliceLayout(1, MMA))
            rows = row * BM + gl.arange(0, BM, gl.SliceLayout(0, MMA))
            w_factor = gl.load(w_factor_ptr + columns, mask=columns < n, other=0.0) * gain
            x_factor = gl.load(x_factor_ptr + rows, mask=rows < m, other=0.0)
            # one after the other: the product of the two may leave the normal numbers where the result does not
            result = sums * w_factor.expand_dims(1) * x_factor.expand_dims(0)
            tma.store_wait(0)  # the tile before has left `out`
            barrier()
            out.permute([1, 0]).store(result.to(out.dtype))
            fence_async_shared()
            barrier()
            tma_store(out_desc, [row * BM, tile * (T * 16)], out)
    tma.store_wait(0)


@gluon.jit
def mxfp4_gemm_sm90_kernel(
    x_desc, w_desc, d_desc, out_desc, x_factor_ptr, w_factor_ptr, work_ptr, counter_ptr, gain, m, n, steps, split,
    L: gl.constexpr, BM: gl.constexpr, S: gl.constexpr, MMA: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    T: gl.constexpr = L[0]
    x = gl.allocate_shared_memory(gl.float8e4nv, [S, BM, 128], x_desc.layout)
    words = gl.allocate_shared_memory(gl.int32, [S, T, 256], w_desc.layout)
    spreads = gl.allocate_shared_memory(gl.int32, [S, T, 16], d_desc.layout)
    bytes_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=8, rank=2)
    # rows of 256 bytes: Triton cuts wider ones into columns of 256 elements, which the words above are not
    codes = reinterpret(words, gl.uint8, [S, T * 4, 256], bytes_layout)
    spread = reinterpret(spreads, gl.uint8, [S, T, 64], bytes_layout)
    out = gl.allocate_shared_memory(out_desc.dtype, [BM, T * 16], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(S):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    fence_async_shared()
    barrier()
    gl.warp_specialize([
        (multiply, (x, codes, spread, full, empty, out, out_desc, x_factor_ptr, w_factor_ptr, work_ptr, counter_ptr,
                    gain, m, n, steps, split, L, BM, S, MMA, GROUP)),
        (fetch, (x_desc, w_desc, d_desc, x, words, spreads, full, empty, m, n, steps, split, T, BM, S, GROUP)),
    ], [1], [24])  # fmt: skip


@lru_cache
def layouts(t: int, bm: int, warps: int) -> tuple[tuple[object, ...], object]:
    """`L` and `MMA` of the kernel: who holds what. t tiles are spread over the warps, the rest over registers."""
    spread = warps.bit_length() - 1
    held = [1 << bit for bit in range(t.bit_length() - 1)]

    def unit(rank: int, axis: int, value: int) -> list[int]:
        return [value if each == axis else 0 for each in range(rank)]

    def linear(registers: list[list[int]], lanes: list[list[int]], shape: list[int]) -> object:
        tile_bits = [unit(len(shape), 0, value * (shape[0] // t)) for value in held]
        return gl.DistributedLinearLayout(
            registers + tile_bits[spread:], lanes, tile_bits[:spread], [], shape
        )

    codes = linear([[0, 1], [0, 2], [0, 4], [0, 8], [2, 0]],
                   [[0, 16], [0, 32], [0, 64], [0, 128], [1, 0]], [4 * t, 256])  # fmt: skip
    distances = linear([[0, 1], [0, 2], [0, 4]], [[0, 0], [0, 0], [0, 8], [0, 16], [0, 32]], [t, 64])
    full = linear([unit(7, 6, 1), unit(7, 6, 2), unit(7, 5, 1), unit(7, 4, 1), unit(7, 1, 1)],
                  [unit(7, 3, 1), unit(7, 3, 2), unit(7, 2, 1), unit(7, 2, 2), unit(7, 2, 4)],
                  [t, 2, 8, 4, 2, 2, 4])  # fmt: skip
    mma = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, bm, 32])
    return (t, codes, distances, full, gl.DotOperandLayout(0, mma, 4)), mma


def mxfp4_gemm_sm90(
    x: FoldedRows, w: FoldedWeights, *, tiles: int = 8, rows: int = 256, stages: int = 3, warps: int = 8,
    group: int = 8, saved: int = 8, least: int = 4,
) -> Tensor:  # fmt: skip
    """bf16 [M, N] = x [M, K] times w [N, K] transposed. M > 0, K a multiple of 32, N of 8."""
    m, k = x.elements.shape
    if k != w.k or x.hadamard != w.hadamard:
        raise ValueError(f"x has K = {k} and rotation {x.hadamard}, w has {w.k} and {w.hadamard}")
    if k % 16 or w.n % 8:
        raise ValueError("TMA needs rows of x and of the output that begin at multiples of 16 bytes")
    all_tiles, chunks = w.codes.shape[:2]
    out = torch.empty((m, w.n), dtype=torch.bfloat16, device=x.elements.device)
    held, mma = layouts(tiles, rows, warps)
    eight = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
    wide = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    raw = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    words = w.codes.view(torch.int32).view(all_tiles, -1)
    spread = w.spread.view(torch.int32).view(all_tiles, -1)
    columns = tiles * ROWS
    plan = divide(triton.cdiv(m, rows) * triton.cdiv(w.n, columns), chunks, processors(out.device), saved, least)
    with torch.cuda.device(out.device):
        work, counters = workspace(out.device, 2 * plan.programs * rows * columns if plan.split else 0)
        mxfp4_gemm_sm90_kernel[(plan.programs,)](
            TensorDescriptor.from_tensor(x.elements, [rows, COLUMNS], eight),
            TensorDescriptor.from_tensor(words, [tiles, 256], raw),
            TensorDescriptor.from_tensor(spread, [tiles, 16], raw),
            TensorDescriptor.from_tensor(out, [rows, tiles * ROWS], wide),
            x.factor, w.factor, work, counters, 1.0 / (x.gain * w.gain), m, w.n, chunks, plan.split,
            L=held, BM=rows, S=stages, MMA=mma, GROUP=group, num_warps=warps,
        )  # fmt: skip
    return out

"""Largest magnitude of a matrix, without a host synchronization.

Programs take the tiles in turn and store the largest bits of |x| that each saw; the kernel that needs the maximum
reads these numbers again and takes the largest (`largest`). Bits of magnitudes order as the magnitudes do, and a
maximum does not depend on its order, so the result is exact and repeats. Where tiles are rotated, more programs pay:
the one that comes last of each of 32 groups reads its group's numbers and stores their largest, so that the next kernel
reads 32 and not thousands; a counter a group says who is last, and is left at zero (workspaces.py).

A NaN has larger bits than every number and therefore propagates. With FINITE_ONLY, inf and NaN count as zero:
that is how the dynamic global scale of NVFP4 keeps one bad block from taking the tensor with it.
With HADAMARD the matrix is rotated first, in fp32 as the quantizing kernel does, from the same tile. Sixteen-bit x
is read by words where its rows are, and compared two magnitudes at a time: 3.9 instructions an element in the loop.
A program has no more threads than rotated blocks: with 256 threads for 128 blocks maxima were too small on a GPU
(H200, Triton 3.6, Hadamard 32 on [1, 8192]), not with fewer; that tl.gather is to blame is inferred. The interpreter
has no threads and does not show it.

From sm_90 the kernel may begin while the one before it ends, and so may the one that needs the maximum (early.py,
where the rules stand): launched early too, it can read its first part of x before it waits for the maxima.

Measured (H200, torch 2.11, Triton 3.6, fp16 4096 x 8192 / 8192 x 16384): 256 programs 20.6 / 76.3 us, 512 21.7 / 71.7,
1024 18.4 / 66.7, 2048 18.0 / 62.8, where reading takes 15.5 / 62; in groups 20.7 / 70.6. With the kernel that follows,
FP8 per tensor: 512 programs 41.8 / 156, 1024 42.2 / 161, 2048 42.1 / 157, in groups 43.6 / 160.7; so 512 and no groups.
NVFP4 rotated by 16: 512 programs 53.6 / 195.5, in groups 50.6 / 176.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.triton.early import after_previous, early_launches
from qkernels.triton.expected import WARP_PRODUCTS, products, widths
from qkernels.triton.fp4 import hadamard_tile, magnitude_bits, rotate_tile
from qkernels.triton.fp4_words import largest_words, load_parts, magnitudes_and_signs, values, words_fit
from qkernels.triton.launch import choose_tile
from qkernels.triton.workspaces import counters

PROGRAMS = 512  # a power of two (read back as one vector); about four for each of 132 SMs
DIRECT = 128  # as many numbers of rotated tiles the next kernel reads itself
MOST = 16384  # programs with groups; more tiles are taken in turn
GROUPS = 32
_APART = 32  # counters, so that each has a cache line of its own


_GROUPS = tl.constexpr(GROUPS)
_STEP = tl.constexpr(_APART)


def expected(dtype: str, hadamard: int, k: int) -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to, for x of "bf16", "fp16" or "fp32"."""
    if dtype != "fp32" and k % 8 == 0:
        return {"amax_words_kernel": qbench.Expectation({}, load_bits={"*": 128})}
    spills = {WARP_PRODUCTS: 4096, "sm_90": 128} if hadamard == 128 else {}
    if k % 16:
        spills = {"*": 64}  # Triton 3.9: 32 bytes on sm_90
    found = qbench.Expectation(
        products("bf16") if hadamard else {}, load_bits=widths(k, 128), spill_bytes=spills
    )
    return {"amax_kernel": found}


@triton.jit
def store_largest(partial_ptr, counter_ptr, bits, MEMBERS: tl.constexpr):
    """A program's number among all (MEMBERS = 0), or, after room for one a group, with its group of up to MEMBERS."""
    program = tl.program_id(0)
    if MEMBERS == 0:
        tl.store(partial_ptr + program, bits)
    else:
        group = program % _GROUPS
        own_ptr = partial_ptr + _GROUPS + group * MEMBERS
        tl.store(own_ptr + program // _GROUPS, bits)
        members = (tl.num_programs(0) - group + _GROUPS - 1) // _GROUPS
        counter_ptr += group * _STEP
        if tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == members - 1:
            member = tl.arange(0, MEMBERS)  # written by other programs: not from this processor's first cache
            found = tl.load(own_ptr + member, mask=member < members, other=0, cache_modifier=".cg")
            tl.store(partial_ptr + group, tl.max(found, axis=0))
            tl.store(counter_ptr, 0)


@triton.jit(do_not_specialize=["m", "across", "tiles"])
def amax_kernel(
    x_ptr, partial_ptr, counter_ptr, m, k, stride, across, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, FINITE_ONLY: tl.constexpr,
    MEMBERS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [m, k] -> partial int32, as `store_largest`; tile t covers rows t // across, columns t % across."""
    after_previous(EARLY)
    program = tl.program_id(0)
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    if HADAMARD:
        matrix = hadamard_tile(HADAMARD, x_ptr.dtype.element_ty)
        best = tl.zeros((ROWS * COLUMNS // HADAMARD, HADAMARD), tl.int32)
    else:
        best = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tile in range(program, tiles, tl.num_programs(0)):
        row = (tile // across) * ROWS + rows
        column = (tile % across) * COLUMNS + columns
        at = row.to(tl.int64)[:, None] * stride + column[None, :]
        x = tl.load(x_ptr + at, mask=(row < m)[:, None] & (column < k)[None, :], other=0.0)
        if HADAMARD:
            y = rotate_tile(x, matrix, HADAMARD)
        else:
            y = x.to(tl.float32)
        bits = magnitude_bits(y)
        if FINITE_ONLY:
            bits = tl.where(bits < 0x7F800000, bits, 0)
        best = tl.maximum(best, bits)
    store_largest(partial_ptr, counter_ptr, tl.max(tl.max(best, axis=1), axis=0), MEMBERS)


@triton.jit(do_not_specialize=["m", "across", "tiles"])
def amax_words_kernel(
    x_ptr, partial_ptr, counter_ptr, m, k, stride, across, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, FINITE_ONLY: tl.constexpr,
    MEMBERS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The same of sixteen-bit x by words, two magnitudes to one; rotated as the quantizer does (butterflies.py)."""
    after_previous(EARLY)
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    program = tl.program_id(0)
    WIDTH: tl.constexpr = 16 if HADAMARD else 8  # elements of one row of a tile below
    index = tl.arange(0, ROWS * COLUMNS // WIDTH)
    down = index // (COLUMNS // WIDTH)
    along = index % (COLUMNS // WIDTH) * WIDTH
    if HADAMARD:
        best = tl.zeros((ROWS * COLUMNS // WIDTH, 8), tl.float32)
    else:
        best = tl.zeros((ROWS * COLUMNS // WIDTH, 4), tl.int32)
    for tile in range(program, tiles, tl.num_programs(0)):
        row = (tile // across) * ROWS + down
        column = (tile % across) * COLUMNS + along
        inside = (row < m) & (column < k)
        words = load_parts(x_ptr + row.to(tl.int64) * stride + column, inside, WIDTH // 8)
        if HADAMARD:
            sizes, _signs, _bits = magnitudes_and_signs(words, 2, HALF, HADAMARD)
            for i in tl.static_range(2):
                size = sizes[i]
                if FINITE_ONLY:
                    size = tl.where(magnitude_bits(size) < 0x7F800000, size, 0.0)
                best = tl.maximum(best, size, propagate_nan=tl.PropagateNan.ALL)
        else:
            best = largest_words(best, words[0] & 0x7FFF7FFF, HALF, FINITE_ONLY)
    if HADAMARD:
        bits = magnitude_bits(best)
    else:
        bits = magnitude_bits(values(best, HALF))
    store_largest(partial_ptr, counter_ptr, tl.max(tl.max(bits, axis=1), axis=0), MEMBERS)


@triton.jit
def largest(partial_ptr, COUNT: tl.constexpr):
    """The fp32 maximum from COUNT partial results: NaN if any was."""
    return tl.max(tl.load(partial_ptr + tl.arange(0, COUNT)), axis=0).to(tl.float32, bitcast=True)


def partial_amax(
    x: Tensor,
    *,
    hadamard: int | None = None,
    finite_only: bool = False,
    early: bool = True,
    most: int | None = None,
    direct: int | None = None,
) -> Tensor:
    """int32 [P] (P a power of two) whose maximum is the bits of max |x|; x [M, K] with M > 0, rows contiguous.

    early           the launch may begin while the kernel before it ends, where the GPU can
    most, direct    programs, and up to how many of them make no groups (None: as measured)
    """
    m, k = x.shape
    # a rotated tile of 8192 spills on sm_80; at Hadamard 128 choose_tile still takes 8192
    tile = choose_tile(m, k, hadamard=hadamard, elements=8192 if hadamard is None else 4096)
    # words hold two elements, and a part eight, wholly within a row
    by_words = words_fit(x) and k % (hadamard or 8) == 0
    kernel = amax_words_kernel if by_words else amax_kernel
    warps = min(8, max(1, tile.rows * tile.columns // 1024)) if by_words else 8
    most = most or (PROGRAMS if hadamard is None else MOST)
    direct = (PROGRAMS if hadamard is None else DIRECT) if direct is None else direct
    programs, members, shared = tile.programs, 0, None
    early = early and early_launches(x.device)
    if min(most, programs) <= direct:
        programs = min(triton.next_power_of_2(programs), triton.next_power_of_2(most))
        partial = torch.empty(programs, dtype=torch.int32, device=x.device)
    else:
        programs = min(most, programs)
        members = triton.next_power_of_2(triton.cdiv(programs, GROUPS))
        partial = torch.empty(GROUPS * (1 + members), dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        if members:
            shared = counters(x.device)
        kernel[(programs,)](
            x, partial, shared, m, k, x.stride(0), tile.across, tile.programs, ROWS=tile.rows, COLUMNS=tile.columns,
            HADAMARD=hadamard or 0, FINITE_ONLY=finite_only, MEMBERS=members, EARLY=early,
            num_warps=warps, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip
    return partial if members == 0 else partial[:GROUPS]

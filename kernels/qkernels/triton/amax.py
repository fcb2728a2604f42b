"""Largest magnitude of a matrix, without a host synchronization and without atomics.

A fixed number of programs each take every P-th tile and store the largest bits of |x| they saw; the kernel
that needs the maximum reads those P numbers again and takes the largest (`largest`). Bits of magnitudes order
as the magnitudes do, and a maximum does not depend on its order, so the result is exact and repeats.

A NaN has larger bits than every number and therefore propagates. With FINITE_ONLY, inf and NaN count as zero:
that is how the dynamic global scale of NVFP4 keeps one bad block from taking the tensor with it.
With HADAMARD the matrix is rotated first, in fp32 as the quantizing kernel does, from the same tile. Sixteen-bit x
is read by words where its rows are, and compared two magnitudes at a time: 3.9 instructions an element in the loop.

From sm_90 the kernel may begin while the one before it ends, and so may the one that needs the maximum (early.py,
where the rules stand): launched early too, it can read its first part of x before it waits for the maxima.
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

PROGRAMS = 512  # a power of two (read back as one vector); about four for each of 132 SMs


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


@triton.jit(do_not_specialize=["m", "across", "tiles"])
def amax_kernel(
    x_ptr, partial_ptr, m, k, stride, across, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, FINITE_ONLY: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """x [m, k] -> partial int32 [programs]; tile t covers rows t // across, columns t % across."""
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
    tl.store(partial_ptr + program, tl.max(tl.max(best, axis=1), axis=0))


@triton.jit(do_not_specialize=["m", "across", "tiles"])
def amax_words_kernel(
    x_ptr, partial_ptr, m, k, stride, across, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, FINITE_ONLY: tl.constexpr,
    EARLY: tl.constexpr,
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
    tl.store(partial_ptr + program, tl.max(tl.max(bits, axis=1), axis=0))


@triton.jit
def largest(partial_ptr, COUNT: tl.constexpr):
    """The fp32 maximum from COUNT partial results: NaN if any was."""
    return tl.max(tl.load(partial_ptr + tl.arange(0, COUNT)), axis=0).to(tl.float32, bitcast=True)


def partial_amax(
    x: Tensor, *, hadamard: int | None = None, finite_only: bool = False, early: bool = True
) -> Tensor:
    """int32 [P] (P a power of two) whose maximum is the bits of max |x|; x [M, K] with M > 0, rows contiguous.

    early: the launch may begin while the kernel before it ends, where the GPU can.
    """
    m, k = x.shape
    # a rotated tile of 8192 spills on sm_80; at Hadamard 128 choose_tile still takes 8192
    tile = choose_tile(m, k, hadamard=hadamard, elements=8192 if hadamard is None else 4096)
    programs = min(PROGRAMS, triton.next_power_of_2(tile.programs))
    partial = torch.empty(programs, dtype=torch.int32, device=x.device)
    # words hold two elements, and a part eight, wholly within a row
    by_words = words_fit(x) and k % (hadamard or 8) == 0
    kernel = amax_words_kernel if by_words else amax_kernel
    early = early and early_launches(x.device)
    with torch.cuda.device_of(x):
        kernel[(programs,)](
            x, partial, m, k, x.stride(0), tile.across, tile.programs, ROWS=tile.rows, COLUMNS=tile.columns,
            HADAMARD=hadamard or 0, FINITE_ONLY=finite_only, EARLY=early,
            num_warps=8, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip
    return partial

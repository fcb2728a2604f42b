# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.
"""Hadamard rotations in registers: sums and differences of fp32, for a thread that holds a block of 16 or 32 elements.

A block is PARTS (2 or 4) tensors [BLOCKS, 8], of which a thread holds whole rows. Stages within a block are one fp32
addition an element each and need no other thread; up to three stages between neighbouring blocks cost a shuffle and
two operations. For n = 16 (128) and blocks of 16 (32) that is 4 (5 + 2*3) operations an element and no tensor cores,
shared memory or conversion of layouts. The order of the sums is fixed: log2(n) roundings, each of 2^-24.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def butterfly(y):
    """fp32 [BLOCKS, 8] times H of eight, in three stages of sums and differences; each turns the bits of the index."""
    blocks: tl.constexpr = y.shape[0]
    for _stage in tl.static_range(3):
        even, odd = tl.split(tl.reshape(y, (blocks, 4, 2)))
        y = tl.reshape(tl.permute(tl.join(even + odd, even - odd), (0, 2, 1)), (blocks, 8))
    return y


@triton.jit
def across_blocks(y, AWAY: tl.constexpr):
    """One stage between block i and block i ^ AWAY: the other's value plus or minus one's own, with one rounding."""
    blocks: tl.constexpr = y.shape[0]
    span: tl.constexpr = 2 * AWAY
    y = tl.reshape(y, (blocks // span, span, 8))
    place = tl.arange(0, span)[None, :, None]
    other = tl.gather(y, tl.broadcast_to(place ^ AWAY, y.shape), axis=1)
    sign = 1.0 - 2.0 * (place // AWAY).to(tl.float32)
    return tl.reshape(tl.fma(y, sign, other), (blocks, 8))


@triton.jit
def rotate_parts(parts, PARTS: tl.constexpr, N: tl.constexpr):
    """PARTS (2 or 4) times fp32 [BLOCKS, 8] -> the same times H of N elements, not yet divided by sqrt(N)."""
    done = ()
    for i in tl.static_range(PARTS):
        done += (butterfly(parts[i]),)
    if PARTS == 2:
        done = (done[0] + done[1], done[0] - done[1])
    else:
        low, high = (done[0] + done[1], done[2] + done[3]), (done[0] - done[1], done[2] - done[3])
        done = (low[0] + low[1], high[0] + high[1], low[0] - low[1], high[0] - high[1])
    for stage in tl.static_range(3):
        if (8 * PARTS) << stage < N:
            more = ()
            for i in tl.static_range(PARTS):
                more += (across_blocks(done[i], 1 << stage),)
            done = more
    return done

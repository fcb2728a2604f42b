"""FP8 per tensor of a large sixteen-bit tensor without gaps in one launch, which keeps part of the tensor in registers.

    s = amax(x)/448, q = e4m3(clamp(x * (1/s)))          the formula of fp8_quantize.py, to the bit
Two programs a processor run through all tiles. Each first reads its own HELD tiles and keeps them, packed, then the
others, of which it keeps the maximum; it writes its maximum, waits until all have written theirs, and converts: what it
holds without reading it again, then the others from the last back, which the L2 cache still has. On Hopper
fp8_held_sm90.py, which holds more, is quicker for some sizes.

The launch is cooperative: all of its programs run at once or it fails, for each waits for all. Its counters are left at
zero (workspaces.py). The interpreter, which runs programs one after the other, takes the two phases as two launches.

Layout: q float8_e4m3fn of x's shape; s float32 [1]. A thread takes 8 elements of a tile. Tolerance: none.
Non-finite input: the scale NaN and codes 0.

Predicted for 4096 x 8192 fp16 (H200): 31 us: 64 MiB read once at 4.1 TB/s, 17 MiB of them held and a third of the rest
still in the cache. Measured (torch 2.11, Triton 3.6, graph replay, L2 cold): 39.1, and 154 at 8192 x 16384, 11.2 at
1024 x 8192. In the same runs two launches with maxima by groups took 43.7, 161 and 12.7; without groups, on another
card, 41.8 and 156. Tiles read at once matter more than what is held:
8 of 2048 elements 39.2, 4 41.2, 2 47; without holding any 41.2; one program of 512 threads 41.7, four of 128 40.7; 16
at once and 8 held 40.4. Of two launches the second is held up too: 20 us for what takes 24.5 where nothing is cached.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernel, which have no types.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.triton.flat import is_flat
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_words import largest_words, load_parts, values, words_fit
from qkernels.triton.scaled_codes import has_e4m3_cast, scale_of_tensor, tensor_codes
from qkernels.triton.workspaces import counters, processors

LEAST_ELEMENTS = 1 << 23  # of 512 x 8192, two launches that overlap are as quick


@dataclass(frozen=True)
class Held:
    """How the programs share a tensor.

    warps     of a program, of which each thread takes 8 elements of a tile
    resident  programs a processor
    held      tiles that a program keeps
    ahead     tiles of the others that it reads at once
    """

    warps: int = 8
    resident: int = 2
    held: int = 16
    ahead: int = 8


def holds(x: Tensor) -> bool:
    """Is x [M, K] taken by this kernel?"""
    large = x.numel() >= LEAST_ELEMENTS and x.numel() % 8 == 0
    hopper = not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (9, 0)
    return large and hopper and words_fit(x) and is_flat(x)


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to."""
    return {"fp8_held_kernel": qbench.Expectation({}, load_bits={"*": 128}, store_bits={"*": 64})}


@triton.jit
def load_units(x_ptr, tile, there, units, UNITS: tl.constexpr):
    """Words int32 [UNITS, 4] of a tile's units of 8 elements, 0 outside, where it is not there too."""
    unit = tile.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    inside = there & (unit < units)
    return load_parts(x_ptr + unit * 8, inside, 1)


@triton.jit
def store_units(
    out_ptr, words, tile, there, units, inverse, finite, UNITS: tl.constexpr, HALF: tl.constexpr, HARDWARE: tl.constexpr
):  # fmt: skip
    """Codes of a tile's units."""
    unit = tile.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    inside = there & (unit < units)
    codes = tensor_codes(values(words, HALF), inverse, finite, HARDWARE, True)
    tl.store(out_ptr + unit[:, None] * 8 + tl.arange(0, 8)[None, :], codes, mask=inside[:, None])


@triton.jit
def largest_of_tiles(
    x_ptr, held, units, turns, UNITS: tl.constexpr, HELD: tl.constexpr, AHEAD: tl.constexpr, HALF: tl.constexpr
):  # fmt: skip
    """Bits of the largest magnitude of what this program holds and of its other `turns` tiles, front to back."""
    programs = tl.num_programs(0)
    first = tl.program_id(0) + HELD * programs
    best = tl.zeros((UNITS, 4), tl.int32)
    for turn in range(0, turns, AHEAD):
        loaded = ()
        for i in tl.static_range(AHEAD):
            loaded += load_units(x_ptr, first + (turn + i) * programs, turn + i < turns, units, UNITS)
        for i in tl.static_range(AHEAD):
            best = largest_words(best, loaded[i] & 0x7FFF7FFF, HALF, False)
    for i in tl.static_range(HELD):
        best = largest_words(best, held[i] & 0x7FFF7FFF, HALF, False)
    return tl.max(tl.max(magnitude_bits(values(best, HALF)), axis=1), axis=0)


@triton.jit
def meet(partial_ptr, counter_ptr, bits, PARTIALS: tl.constexpr, PHASE: tl.constexpr):
    """Every program's maximum is written, then all are read: the largest in fp32, NaN if one is."""
    programs = tl.num_programs(0)
    if PHASE < 2:
        tl.store(partial_ptr + tl.program_id(0), bits)
    if PHASE == 0:
        there = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") + 1
        while there < programs:
            there = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
    place = tl.arange(0, PARTIALS)
    found = tl.load(partial_ptr + place, mask=place < programs, other=0, cache_modifier=".cg")
    return tl.max(found, axis=0).to(tl.float32, bitcast=True)


@triton.jit
def leave(counter_ptr, PHASE: tl.constexpr):
    """The last program to leave sets both counters back: all have seen the first."""
    if PHASE == 0:  # noqa: SIM102  (known when compiled)
        if tl.atomic_add(counter_ptr + 32, 1, sem="acq_rel", scope="gpu") == tl.num_programs(0) - 1:
            tl.store(counter_ptr, 0)
            tl.store(counter_ptr + 32, 0)


@triton.jit
def fp8_held_kernel(
    x_ptr, out_ptr, scale_ptr, partial_ptr, counter_ptr, units,
    UNITS: tl.constexpr, HELD: tl.constexpr, AHEAD: tl.constexpr, PARTIALS: tl.constexpr, PHASE: tl.constexpr,
    HARDWARE: tl.constexpr,
):  # fmt: skip
    """PHASE: 0 both, 1 the maxima, 2 the codes."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    program, programs = tl.program_id(0), tl.num_programs(0)
    rest = tl.cdiv(units, UNITS) - program - HELD * programs
    turns = tl.maximum(rest + programs - 1, 0).to(tl.int32) // programs
    held = ()
    for i in tl.static_range(HELD):
        held += load_units(x_ptr, program + i * programs, units > 0, units, UNITS)
    bits = tl.full((), 0, tl.int32)
    if PHASE < 2:
        bits = largest_of_tiles(x_ptr, held, units, turns, UNITS, HELD, AHEAD, HALF)
    amax = meet(partial_ptr, counter_ptr, bits, PARTIALS, PHASE)
    if PHASE != 1:
        scale, inverse, finite = scale_of_tensor(amax)
        if program == 0:
            tl.store(scale_ptr, scale)
        for i in tl.static_range(HELD):
            tile = program + i * programs
            store_units(out_ptr, held[i], tile, units > 0, units, inverse, finite, UNITS, HALF, HARDWARE)
        last = program + (HELD + turns - 1) * programs
        for turn in range(0, turns, AHEAD):
            loaded = ()
            for i in tl.static_range(AHEAD):
                loaded += load_units(x_ptr, last - (turn + i) * programs, turn + i < turns, units, UNITS)
            for i in tl.static_range(AHEAD):
                tile, there = last - (turn + i) * programs, turn + i < turns
                store_units(out_ptr, loaded[i], tile, there, units, inverse, finite, UNITS, HALF, HARDWARE)
        leave(counter_ptr, PHASE)


def fp8_held(x: Tensor, out: Tensor, scale: Tensor, plan: Held) -> None:
    """x [M, K] sixteen-bit, without gaps, a multiple of 8 elements, into uint8 codes [M, K] and float32 scale [1]."""
    units = x.numel() // 8
    tiles = triton.cdiv(units, 32 * plan.warps)
    programs = min(tiles, processors(x.device) * plan.resident if x.is_cuda else 3)
    partial = torch.empty(programs, dtype=torch.int32, device=x.device)
    options: dict[str, Any] = {
        "UNITS": 32 * plan.warps, "HELD": plan.held, "AHEAD": plan.ahead, "PARTIALS": triton.next_power_of_2(programs),
        "HARDWARE": has_e4m3_cast(x.device), "num_warps": plan.warps, "enable_fp_fusion": False,
        "maxnreg": min(255, 65536 // (32 * plan.warps * plan.resident)),
    }  # fmt: skip
    with torch.cuda.device_of(x):
        counter = counters(x.device)
        for phase in (0,) if x.is_cuda else (1, 2):
            more = {"launch_cooperative_grid": True} if phase == 0 else {}
            fp8_held_kernel[(programs,)](
                x, out, scale, partial, counter, units, PHASE=phase, **options, **more
            )

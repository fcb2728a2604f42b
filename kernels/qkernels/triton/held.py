"""A tensor under a scale of its own largest magnitude in one launch, which keeps part of the tensor in registers.

As many programs as fit the GPU run through all tiles of a sixteen-bit tensor without gaps. Each first reads its own
`held` tiles and keeps them, packed, then the others, of which it keeps the maximum; it writes its maximum, waits until
all have written theirs, and converts: what it holds without reading it again, then the others from the last back, which
the L2 cache still has. Of 4096 x 8192 fp16 a quarter is held; of two launches the second reads most from memory again.

A launch is cooperative: all of its programs run at once or it fails, for each waits for all. Counters are left at zero
(workspaces.py). The interpreter, which runs programs one after the other, takes the two phases as two launches.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkernels.triton.flat import is_flat
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_words import largest_words, load_parts, values, words_fit
from qkernels.triton.workspaces import counters, processors

LEAST_ELEMENTS = 1 << 23  # below, two launches that overlap are as quick


@dataclass(frozen=True)
class Held:
    """How the programs share a tensor.

    warps     of a program, of which each thread takes a unit of 8 elements (16 where PARTS is 2) of a tile
    resident  programs an SM
    held      tiles that a program keeps
    ahead     tiles of the others that it reads at once
    """

    warps: int = 8
    resident: int = 2
    held: int = 8
    ahead: int = 4


def holds(x: Tensor, parts: int) -> bool:
    """Is x [M, K] taken so?"""
    return (
        words_fit(x)
        and is_flat(x)
        and x.numel() % (8 * parts) == 0
        and x.numel() >= LEAST_ELEMENTS
        and (not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (9, 0))
    )


def launch(
    x: Tensor, parts: int, plan: Held, run: Callable[[tuple[int], Tensor, Tensor, dict[str, Any]], None]
) -> None:
    """Call `run(grid, partial, counter, options)` for one launch, or in the interpreter for each phase."""
    units = x.numel() // (8 * parts)
    tiles = triton.cdiv(units, 32 * plan.warps)
    programs = processors(x.device) * plan.resident if x.is_cuda else 3
    programs = min(programs, tiles)
    partial = torch.empty(programs, dtype=torch.int32, device=x.device)
    options = {
        "UNITS": 32 * plan.warps, "HELD": plan.held, "AHEAD": plan.ahead, "PARTIALS": triton.next_power_of_2(programs),
        "num_warps": plan.warps, "maxnreg": min(255, 65536 // (32 * plan.warps * plan.resident)),
        "enable_fp_fusion": False,
    }  # fmt: skip
    with torch.cuda.device_of(x):
        counter = counters(x.device)
        if x.is_cuda:
            run((programs,), partial, counter, {**options, "PHASE": 0, "launch_cooperative_grid": True})
        else:
            for phase in (1, 2):
                run((programs,), partial, counter, {**options, "PHASE": phase})


@triton.jit
def load_units(x_ptr, tile, there, units, UNITS: tl.constexpr, PARTS: tl.constexpr):
    """(PARTS words [UNITS, 4] of each unit of a tile, its units, which are inside)."""
    unit = tile.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    inside = there & (unit < units)
    return load_parts(x_ptr + unit * (8 * PARTS), inside, PARTS), unit, inside


@triton.jit
def hold(x_ptr, units, UNITS: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr):
    """The first HELD tiles of this program, PARTS words each."""
    held = ()
    for i in tl.static_range(HELD):
        tile = tl.program_id(0) + i * tl.num_programs(0)
        words, _unit, _inside = load_units(x_ptr, tile, tile >= 0, units, UNITS, PARTS)
        held += words
    return held


@triton.jit
def largest_of_all(
    x_ptr, held, units, turns,
    UNITS: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr, AHEAD: tl.constexpr, FINITE: tl.constexpr,
):  # fmt: skip
    """Bits of the largest magnitude of what this program holds and of its other `turns` tiles, front to back."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    programs = tl.num_programs(0)
    first = tl.program_id(0) + HELD * programs
    best = tl.zeros((UNITS, 4), tl.int32)
    for turn in range(0, turns, AHEAD):
        loaded = ()
        for i in tl.static_range(AHEAD):
            words, _unit, _inside = load_units(
                x_ptr, first + (turn + i) * programs, turn + i < turns, units, UNITS, PARTS
            )
            loaded += words
        for i in tl.static_range(AHEAD * PARTS):
            best = largest_words(best, loaded[i] & 0x7FFF7FFF, HALF, FINITE)
    for i in tl.static_range(HELD * PARTS):
        best = largest_words(best, held[i] & 0x7FFF7FFF, HALF, FINITE)
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
def turns_of(units, UNITS: tl.constexpr, HELD: tl.constexpr):
    """How many tiles a program has beside those it holds."""
    programs = tl.num_programs(0)
    rest = tl.cdiv(units, UNITS) - tl.program_id(0) - HELD * programs
    return tl.maximum(rest + programs - 1, 0).to(tl.int32) // programs

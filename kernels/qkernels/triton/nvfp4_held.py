"""NVFP4 under a computed global scale, of a large sixteen-bit tensor without gaps, in one launch: see held.py for how.

    gs = 448*6/amax(x) over the finite elements, then as nvfp4_quantize.py, to the bit
Layout: as there, scales row-major; no rotation. A thread takes a block of 16 elements of a tile.
"""

# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import Format
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4_parts import rotated_magnitudes
from qkernels.triton.held import Held, hold, largest_of_all, launch, leave, load_units, meet, turns_of
from qkernels.triton.nvfp4_codes import encode_scale_of, store_nvfp4


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to: codes of a block in one store."""
    spills = {"sm_100 sm_103 sm_120": 64}  # of 128 registers, which let two programs on a processor
    return {"nvfp4_held_kernel": replace(expected_words(64, on_chip=True), spill_bytes=spills)}


PLAN = Held(warps=8, resident=2, held=6, ahead=4)


@triton.jit
def store_units(
    data_ptr,
    scale_ptr,
    loaded,
    unit,
    inside,
    encode_scale,
    LEAST: tl.constexpr,
    SELECT: tl.constexpr,
    HALF: tl.constexpr,
):
    """Blocks of 16 elements, two words [UNITS, 4] each, as the blocks of one long row."""
    sizes, signs, amax = rotated_magnitudes(loaded, 2, True, HALF, 0)
    row = unit * 0
    store_nvfp4(
        data_ptr,
        scale_ptr,
        sizes,
        signs,
        amax,
        encode_scale,
        1.0,
        row,
        unit,
        inside,
        0,
        "rows",
        LEAST,
        SELECT,
        HALF,
    )


@triton.jit
def nvfp4_held_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, counter_ptr, units,
    UNITS: tl.constexpr, HELD: tl.constexpr, AHEAD: tl.constexpr, PARTIALS: tl.constexpr, PHASE: tl.constexpr,
    TOP: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr,
):  # fmt: skip
    """PHASE: 0 both, 1 the maxima, 2 the codes."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    program, programs = tl.program_id(0), tl.num_programs(0)
    turns = turns_of(units, UNITS, HELD)
    held = hold(x_ptr, units, UNITS, 2, HELD)
    bits = tl.full((), 0, tl.int32)
    if PHASE < 2:
        bits = largest_of_all(x_ptr, held, units, turns, UNITS, 2, HELD, AHEAD, True)
    amax = meet(partial_ptr, counter_ptr, bits, PARTIALS, PHASE)
    if PHASE != 1:
        encode_scale = encode_scale_of(amax, TOP)
        if program == 0:
            tl.store(global_ptr, encode_scale)
        for i in tl.static_range(HELD):
            unit = (program + i * programs).to(tl.int64) * UNITS + tl.arange(0, UNITS)
            words = (held[2 * i], held[2 * i + 1])
            store_units(data_ptr, scale_ptr, words, unit, unit < units, encode_scale, LEAST, SELECT, HALF)
        last = program + (HELD + turns - 1) * programs
        for turn in range(0, turns, AHEAD):
            loaded = ()
            for i in tl.static_range(AHEAD):
                words, _unit, _inside = load_units(
                    x_ptr, last - (turn + i) * programs, turn + i < turns, units, UNITS, 2
                )
                loaded += words
            for i in tl.static_range(AHEAD):
                unit = (last - (turn + i) * programs).to(tl.int64) * UNITS + tl.arange(0, UNITS)
                inside = (unit < units) & (turn + i < turns)
                words = (loaded[2 * i], loaded[2 * i + 1])
                store_units(data_ptr, scale_ptr, words, unit, inside, encode_scale, LEAST, SELECT, HALF)
        leave(counter_ptr, PHASE)


def nvfp4_held(
    x: Tensor, fmt: Format, data: Tensor, scale: Tensor, gs: Tensor, plan: Held | None = None
) -> None:
    """x [M, K] that `held.holds` (parts 2) into data, row-major scales and gs float32 [1]."""
    launch(
        x, 2, plan or PLAN,
        lambda grid, partial, counter, options: nvfp4_held_kernel[grid](
            x, data, scale, gs, partial, counter, x.numel() // 16, TOP=fmt.scale_max * 6.0, LEAST=fmt.min_scale,
            SELECT=fmt.select, **options
        ),
    )  # fmt: skip

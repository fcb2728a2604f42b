"""FP8 per tensor of a large sixteen-bit tensor without gaps in one launch: see held.py for how.

    s = amax(x)/448, q = e4m3(clamp(x * (1/s)))          the formula of fp8_quantize.py, to the bit
Layout: q float8_e4m3fn of x's shape; s float32 [1]. A thread takes 8 elements of a tile. Tolerance: none.
Non-finite input: the scale NaN and codes 0.
"""

# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.triton.fp4_words import values
from qkernels.triton.held import Held, hold, largest_of_all, launch, leave, load_units, meet, turns_of
from qkernels.triton.scaled_codes import has_e4m3_cast, scale_of_tensor, tensor_codes


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to."""
    return {"fp8_held_kernel": qbench.Expectation({}, load_bits={"*": 128}, store_bits={"*": 64})}


PLAN = Held(warps=8, resident=2, held=16, ahead=8)


@triton.jit
def store_fp8(out_ptr, words, unit, inside, inverse, finite, HALF: tl.constexpr, HARDWARE: tl.constexpr):
    """Codes of units of 8 elements, words [UNITS, 4]."""
    codes = tensor_codes(values(words, HALF), inverse, finite, HARDWARE, True)
    tl.store(out_ptr + unit[:, None] * 8 + tl.arange(0, 8)[None, :], codes, mask=inside[:, None])


@triton.jit
def fp8_held_kernel(
    x_ptr, out_ptr, scale_ptr, partial_ptr, counter_ptr, units,
    UNITS: tl.constexpr, HELD: tl.constexpr, AHEAD: tl.constexpr, PARTIALS: tl.constexpr, PHASE: tl.constexpr,
    HARDWARE: tl.constexpr,
):  # fmt: skip
    """PHASE: 0 both, 1 the maxima, 2 the codes."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    program, programs = tl.program_id(0), tl.num_programs(0)
    turns = turns_of(units, UNITS, HELD)
    held = hold(x_ptr, units, UNITS, 1, HELD)
    bits = tl.full((), 0, tl.int32)
    if PHASE < 2:
        bits = largest_of_all(x_ptr, held, units, turns, UNITS, 1, HELD, AHEAD, False)
    amax = meet(partial_ptr, counter_ptr, bits, PARTIALS, PHASE)
    if PHASE != 1:
        scale, inverse, finite = scale_of_tensor(amax)
        if program == 0:
            tl.store(scale_ptr, scale)
        for i in tl.static_range(HELD):
            unit = (program + i * programs).to(tl.int64) * UNITS + tl.arange(0, UNITS)
            store_fp8(out_ptr, held[i], unit, unit < units, inverse, finite, HALF, HARDWARE)
        last = program + (HELD + turns - 1) * programs
        for turn in range(0, turns, AHEAD):
            loaded = ()
            for i in tl.static_range(AHEAD):
                words, _unit, _inside = load_units(
                    x_ptr, last - (turn + i) * programs, turn + i < turns, units, UNITS, 1
                )
                loaded += words
            for i in tl.static_range(AHEAD):
                unit = (last - (turn + i) * programs).to(tl.int64) * UNITS + tl.arange(0, UNITS)
                inside = (unit < units) & (turn + i < turns)
                store_fp8(out_ptr, loaded[i], unit, inside, inverse, finite, HALF, HARDWARE)
        leave(counter_ptr, PHASE)


def fp8_held(x: Tensor, out: Tensor, scale: Tensor, plan: Held | None = None) -> None:
    """x [M, K] that `held.holds` (parts 1) into uint8 codes [M, K] and float32 scale [1]."""
    hardware = has_e4m3_cast(x.device)
    launch(
        x, 1, plan or PLAN,
        lambda grid, partial, counter, options: fp8_held_kernel[grid](
            x, out, scale, partial, counter, x.numel() // 8, HARDWARE=hardware, **options
        ),
    )  # fmt: skip

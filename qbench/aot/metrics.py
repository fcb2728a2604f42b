"""What a compiled kernel is made of: the figures that the compile gate stores and compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """One kernel, compiled for one launch and one target. All counts are static: each instruction once.

    registers              per thread
    spill_bytes            stored to and loaded from local memory, per thread: count times width
    stack_bytes            per thread
    shared_bytes           per block, static and dynamic
    tensor_memory_columns  per block; 0 before Blackwell
    warps                  per program
    instructions           without padding
    looped                 of them inside loops of the machine code
    overwritten            instructions that write an operand of a product in flight: a race (see in_flight)
    reused                 instructions that write data where a barrier lies (see reused)
    iterations             of the loops a program is in, counted in Triton's IR: 1 without a loop, None where unknown
    histogram              opcode, normalised over disassembler versions -> count
    global_loads, ...      width in bits -> count; bulk (TMA) copies carry no width and are in the histogram alone
    mma                    kind ("wgmma.bf16 A=registers") -> count
    bytes_read, ...        per program, counted in Triton's IR; None where a loop's trip count is unknown
    programs               of the launch's grid
    divisible              arguments that the launch specialized as divisible by 16
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    warps: int
    instructions: int
    looped: int
    overwritten: tuple[str, ...]
    iterations: int | None
    histogram: Mapping[str, int]
    global_loads: Mapping[int, int]
    global_stores: Mapping[int, int]
    shared_loads: Mapping[int, int]
    shared_stores: Mapping[int, int]
    barriers: int
    mma: Mapping[str, int]
    bytes_read: int | None
    bytes_written: int | None
    flops: int | None
    programs: int
    divisible: tuple[str, ...]
    reused: tuple[str, ...] = ()  # what was stored before has none

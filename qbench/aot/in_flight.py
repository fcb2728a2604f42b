"""Operands that are overwritten while an asynchronous product may still read them.

Hopper's wgmma takes its first operand from registers if asked to, and returns at once: the registers must stay as they
are until a wait for its group has ended (PTX ISA, wgmma.mma_async: accessing them before is undefined). Neither Triton
nor ptxas makes sure of it. On an H200 a loop of fp32 products compiled by Triton 3.6 gave wrong block scales in a tenth
of all blocks. In machine code: weights decoded into registers that a product still reads, and, where a loop carries the
operand, copies into them each time around. Correct results of a test do not exclude it, and no sanitizer sees it.

In SASS: HGMMA and its kin name the operand's first of four registers, `gsb0` ends a group, and
`WARPGROUP.DEPBAR.LE gsb0, n` waits until at most n groups run. Code is followed from top to bottom, loops three times,
both ways of a forward branch one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qbench.aot.branches import Instruction, loops

_PRODUCTS = {"HGMMA", "QGMMA", "IGMMA", "BGMMA"}
_OPERAND_REGISTERS = 4
_REGISTER = re.compile(r"R(\d+)\b")
_WIDE = {
    "IMAD.WIDE": 2,
    "CS2R": 2,
    "HMMA": 4,
    "IMMA": 4,
    "QMMA": 4,
    "DMMA": 4,
    "DADD": 2,
    "DMUL": 2,
    "DFMA": 2,
}
_NO_RESULT = {"ST", "STG", "STS", "STL", "STSM", "RED", "BAR", "SYNCS"}
_PREDICATE_FIRST = {"SHFL", "LOP3"}  # their result may come after a predicate


def overwritten(instructions: Sequence[Instruction]) -> tuple[str, ...]:
    """Instructions that write a register of an operand in flight, each once: "IMAD.MOV.U32 R152, RZ, RZ, R203"."""
    if not any(opcode.partition(".")[0] in _PRODUCTS for opcode, _ in instructions):
        return ()
    found: dict[str, None] = {}
    running: list[set[int]] = []  # the groups that were not waited for, oldest first
    group: set[int] = set()
    for opcode, operands in _unrolled(instructions):
        family = opcode.partition(".")[0]
        if family in _PRODUCTS:
            source = operands.split(",")[1].strip()
            if first := _REGISTER.match(source):
                group |= {int(first[1]) + each for each in range(_OPERAND_REGISTERS)}
            if "gsb0" in operands:
                running.append(group)
                group = set()
        elif opcode.startswith("WARPGROUP.DEPBAR"):
            left = int(operands.rpartition(",")[2], 0)
            running = running[max(0, len(running) - left) :]
        elif not _written(opcode, operands).isdisjoint(group.union(*running)):
            found[f"{opcode} {operands}"] = None
    return tuple(found)


def _unrolled(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """Top to bottom; at each branch back, what it repeats twice more (of nested loops the inner one)."""
    back = loops(instructions)
    for place, instruction in enumerate(instructions):
        yield instruction
        if place in back:
            for _ in range(2):
                yield from instructions[back[place] : place + 1]


def _written(opcode: str, operands: str) -> set[int]:
    """Registers that an instruction writes: its first operand, or the one after a predicate, where that is one."""
    family, *modifiers = opcode.split(".")
    if family in _PREDICATE_FIRST and operands.startswith("P"):
        operands = operands.partition(",")[2].strip()
    first = _REGISTER.match(operands)
    if first is None or family in _NO_RESULT:
        return set()
    count = next((n for name, n in _WIDE.items() if opcode.startswith(name)), 1)
    if family == "LDSM":
        count = int(modifiers[-1]) if modifiers[-1] in ("2", "4") else 1
    elif family in ("LDG", "LDS", "LDL", "LD", "LDC"):
        count = next((int(each) // 32 for each in modifiers if each in ("64", "128", "256")), 1)
    return set(range(int(first[1]), int(first[1]) + count))

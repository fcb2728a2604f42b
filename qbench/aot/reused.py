"""Memory of a barrier (mbarrier) that is used for data later, without having been invalidated.

PTX ISA, mbarrier: memory that held one may be used for something else after mbarrier.inval only. Triton gives memory
that is not used any more to whatever needs some, also a barrier's that was initialised and never waited for. On an H200
that was not noticed in any test: in one of some thousand launches eight bytes of a tile's factors, which lay there,
were others, often NaN, and only while other processes had the GPU in turns with this one.

In SASS: SYNCS.EXCH writes a barrier's first state at a constant offset of shared memory, STS and its kin write data at
one, SYNCS.CCTL.IV invalidates. Ranges that begin at a register are known by their offset alone, so a reuse is found
where one begins, which is where Triton has put it so far; not in the middle of a larger buffer. Of a barrier whose
address was computed nothing is said, nor where one lies at the very beginning, which looks the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qbench.aot.branches import Instruction

_BYTES = 8  # of a barrier
_PLACE = re.compile(r"\[([^\]]+?)(?:\+(0x[0-9a-f]+))?\]")
_DATA = ("STS", "STSM", "ATOMS", "LDGSTS")
_SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def reused(instructions: Sequence[Instruction]) -> tuple[str, ...]:
    """Instructions that write data where a barrier was initialised and not invalidated, each once."""
    begun, ended = (
        {_place(operands) for opcode, operands in instructions if opcode.startswith(f"SYNCS.{which}")}
        for which in ("EXCH", "CCTL.IV")
    )
    computed = {register for register, offset in begun if not offset}
    places = {offset for register, offset in begun if register not in computed} - {each for _, each in ended}
    found: dict[str, None] = {}
    for opcode, operands in instructions:
        if opcode.partition(".")[0] in _DATA:
            first = _place(operands)[1]
            if any(
                first <= place < first + _width(opcode) or place <= first < place + _BYTES for place in places
            ):
                found[f"{opcode} {operands}"] = None
    return tuple(found)


def _place(operands: str) -> tuple[str, int]:
    """(register, offset) of the first address; without an offset it is 0."""
    found = _PLACE.search(operands)
    return (found[1], int(found[2] or "0", 16)) if found else ("", 0)


def _width(opcode: str) -> int:
    """Bytes from a thread's address on; of STSM a row of a matrix."""
    family, *parts = opcode.split(".")
    return 16 if family == "STSM" else next((_SIZES[part] for part in parts if part in _SIZES), 4)

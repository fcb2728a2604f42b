"""Memory of a barrier (mbarrier) that is used for data later, without having been invalidated.

PTX ISA, mbarrier: memory that held one may be used for something else after mbarrier.inval only. Triton gives memory
that is not used any more to whatever needs some, also a barrier's that was initialised and never waited for. On an H200
that was not noticed in any test: eight bytes of a tile's factors were overwritten by the barrier's own state in one of
some thousand launches, and only while other processes had the GPU in turns with this one.

In SASS: SYNCS.EXCH writes a barrier's first state at a constant offset of shared memory, STS and its kin write data at
one, SYNCS.CCTL.IV invalidates. Ranges that begin at a register are known by their offset alone, so a reuse is found
where it begins: which is where Triton puts it. Without an offset a place is not known, and nothing is said of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qbench.aot.branches import Instruction

_BYTES = 8  # of a barrier
_OFFSET = re.compile(r"\[[^\]]*?(?:\+(0x[0-9a-f]+))?\]")
_DATA = ("STS", "STSM", "ATOMS")


def reused(instructions: Sequence[Instruction]) -> tuple[str, ...]:
    """Instructions that write data where a barrier was initialised and not invalidated, each once."""
    begun, ended = (
        {_offset(operands) for opcode, operands in instructions if opcode.startswith(f"SYNCS.{which}")}
        for which in ("EXCH", "CCTL.IV")
    )
    places = begun - ended - {0}
    found: dict[str, None] = {}
    for opcode, operands in instructions:
        if opcode.partition(".")[0] in _DATA:
            first = _offset(operands)
            if any(
                first <= place < first + _width(opcode) or place <= first < place + _BYTES for place in places
            ):
                found[f"{opcode} {operands}"] = None
    return tuple(found)


def _offset(operands: str) -> int:
    found = _OFFSET.search(operands)
    return int(found[1], 16) if found and found[1] else 0


def _width(opcode: str) -> int:
    """Bytes of a thread."""
    return next((int(part) // 8 for part in opcode.split(".") if part in ("64", "128")), 4)

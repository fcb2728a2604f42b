"""Loops of machine code, told by its branches."""

from __future__ import annotations

import re
from collections.abc import Sequence

Instruction = tuple[str, str]  # opcode with its modifiers, operands
_BYTES = 16  # of one instruction, since Volta


def loops(instructions: Sequence[Instruction]) -> dict[int, int]:
    """Place of each branch back -> place of its target. Code ends in a branch to itself: so its addresses are known."""
    branches = [
        (place, int(found[1], 16) // _BYTES)
        for place, (opcode, operands) in enumerate(instructions)
        if opcode.partition(".")[0] == "BRA" and (found := re.search(r"0x([0-9a-f]+)$", operands))
    ]
    if not branches:
        return {}
    begin = branches[-1][1] - branches[-1][0]
    return {place: target - begin for place, target in branches[:-1] if 0 <= target - begin < place}

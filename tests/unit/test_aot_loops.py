"""Loops of the machine code, and how often a program goes round them."""

from __future__ import annotations

import pytest

from qbench.aot.sass import looped, summarize
from qbench.aot.ttir import cost

# 0 LDC, 1 LDG, 2 FMUL, 3 BRA to 1, 4 BRA to 6 (forward), 5 STG, 6 EXIT, 7 BRA to itself, then padding
CODE = [("LDC", "R1"), ("LDG.E.128", "R2"), ("FMUL", "R3"), ("BRA", "!P0,{1}"), ("BRA", "{6}"), ("STG.E", "R4"),
        ("EXIT", ""), ("BRA", "{7}"), ("NOP", ""), ("NOP", "")]  # fmt: skip


def code(begin: int) -> list[tuple[str, str]]:
    """Addresses as of code that begins at this instruction of a file."""
    targets = {f"{{{place}}}": hex(16 * (begin + place)) for place in range(len(CODE))}
    return [
        (op, next((args.replace(old, new) for old, new in targets.items() if old in args), args))
        for op, args in CODE
    ]


@pytest.mark.parametrize("begin", [0, 5, 1200])
def test_what_lies_between_a_branch_and_its_target_is_in_a_loop(begin: int) -> None:
    assert looped(code(begin)) == 3
    assert summarize(code(begin)).looped == 3
    assert summarize(code(begin)).instructions == 8


def test_nested_loops_count_once_and_padding_never() -> None:
    inner = [
        ("MOV", ""),
        ("NOP", ""),
        ("FADD", ""),
        ("BRA", "0x10"),
        ("BRA", "0x0"),
        ("EXIT", ""),
        ("BRA", "0x60"),
    ]
    assert looped(inner) == 4


@pytest.mark.parametrize("straight", [[], [("EXIT", "")], [("EXIT", ""), ("BRA", "0x10")]])
def test_code_without_a_loop(straight: list[tuple[str, str]]) -> None:
    assert looped(straight) == 0


LOOP = """
module {
  tt.func public @kernel(%n: i32) {
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    scf.for %i = %c0 to %n step %c1 : i32 {
    }
    scf.for %j = %c0 to %c1 step %c1 : i32 {
    }
    tt.return
  }
}
"""


@pytest.mark.parametrize(("n", "rounds"), [(64, 64), (0, 1), (1, 1), (None, None)])
def test_a_program_goes_round_as_often_as_its_longest_loop(n: int | None, rounds: int | None) -> None:
    assert cost(LOOP, [n], (1, 1, 1)).iterations == rounds


def test_nested_iterations_multiply() -> None:
    nested = LOOP.replace(
        "step %c1 : i32 {\n    }\n    scf.for %j", "step %c1 : i32 {\n    scf.for %j", 1
    ).replace("to %c1 step %c1 : i32 {\n    }\n", "to %n step %c1 : i32 {\n    }\n    }\n", 1)
    assert cost(nested, [8], (1, 1, 1)).iterations == 64

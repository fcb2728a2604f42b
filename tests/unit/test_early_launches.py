"""A kernel lets the next one begin only behind its own wait, in all sources (the second rule of early.py).

Results seldom show a kernel that breaks it: the next one but one must read what an older kernel has not written yet.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((*(ROOT / "qbench").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")))
WAIT, BEGIN = "gdc_wait", "gdc_launch_dependents"


def too_early(source: str) -> list[int]:
    """Lines that let successors begin without a wait in the statement before, or in a way this does not follow."""
    tree = ast.parse(source)
    behind: set[ast.AST] = set()
    for statements in blocks(tree):
        for before, statement in pairwise(statements):
            if called(before, WAIT) and (call := called(statement, BEGIN)):
                behind.add(call.func)
    return sorted(
        getattr(node, "lineno", 0) for node in ast.walk(tree) if names(node, BEGIN) and node not in behind
    )


def blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """Statements that follow one another, with no way in between."""
    for node in ast.walk(tree):
        for statements in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(statements, list):
                yield statements


def called(statement: ast.stmt, name: str) -> ast.Call | None:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return call if isinstance(call, ast.Call) and names(call.func, name) else None


def names(node: ast.AST, name: str) -> bool:
    """Is it that function, under another name, or its instruction in PTX?"""
    if isinstance(node, ast.alias):
        return node.name == name and node.asname is not None
    if isinstance(node, ast.Constant):
        return name == BEGIN and "griddepcontrol.launch" in str(node.value)
    return name in (getattr(node, "id", ""), getattr(node, "attr", ""))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_kernel_lets_the_next_one_begin_before_it_has_waited(file: Path) -> None:
    assert too_early(file.read_text()) == []


def test_the_rule_is_about_kernels_that_there_are() -> None:
    found = [file.name for file in SOURCES if f"{BEGIN}()" in file.read_text()]
    assert found == ["early.py", "attend.py"]


@pytest.mark.parametrize(
    "body",
    [
        "    gdc_launch_dependents()",
        "    gdc_launch_dependents()\n    gdc_wait()",
        "    if EARLY:\n        gdc_wait()\n    gdc_launch_dependents()",
        "    gdc_wait()\n    if EARLY:\n        gdc_launch_dependents()",
        "    if x:\n        gdc_wait()\n    else:\n        gdc_launch_dependents()",
        "    gdc_wait()\n    cuda.gdc_launch_dependents(gdc_launch_dependents())",
        "    gdc_wait()\n    begin = gdc_launch_dependents",
        "    from triton.language.extra.cuda import gdc_launch_dependents as begin",
        "    gdc_wait()\n    tl.inline_asm_elementwise('griddepcontrol.launch_dependents;', '', [], 0, True, 1)",
    ],
)
def test_one_that_does_is_seen(body: str) -> None:
    assert too_early(f"def kernel(EARLY):\n{body}\n")


def test_one_that_waits_is_not() -> None:
    source = "def kernel(EARLY):\n    if EARLY:\n        cuda.gdc_wait()\n        gdc_launch_dependents()\n"
    assert too_early(f"from triton.language.extra.cuda import gdc_launch_dependents\n{source}") == []

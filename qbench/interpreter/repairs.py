"""All patches in the order in which they are applied."""

from __future__ import annotations

from qbench.interpreter.bounds import GUARDS
from qbench.interpreter.calls import CALLS
from qbench.interpreter.casts import CASTS
from qbench.interpreter.integers import INTEGERS
from qbench.interpreter.language import LANGUAGE
from qbench.interpreter.operators import OPERATORS
from qbench.interpreter.patch import Patch, PatchState, apply_patches
from qbench.interpreter.products import PRODUCTS
from qbench.interpreter.reductions import REDUCTIONS

ALL: tuple[Patch, ...] = (*CASTS, *OPERATORS, *INTEGERS, *REDUCTIONS, *PRODUCTS, *CALLS, *LANGUAGE, *GUARDS)
_states: tuple[PatchState, ...] = ()


def repair() -> None:
    """Patch the interpreter of the imported Triton, where it is wrong. Calling it again does nothing."""
    global _states
    if not _states:
        from triton.runtime import interpreter

        _states = apply_patches(interpreter, ALL)


def patches() -> tuple[PatchState, ...]:
    """Every patch, what it prevents, and whether this version of Triton needs it. Repairs, if that is not done."""
    repair()
    return _states

"""A patch of the stock interpreter as data: what it prevents, how to see that it is needed, how to apply it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One repair. `interpreter` is the module triton.runtime.interpreter, or a stand-in with its names.

    `defect(interpreter)` computes something small with the interpreter's builder and says whether the result is
    wrong; None for what is no defect upstream but an addition (guards, registries, speed): always applied.
    """

    name: str
    prevents: str
    defect: Callable[[Any], bool] | None
    apply: Callable[[Any], None]


@dataclass(frozen=True)
class PatchState:
    """What became of a patch on this version of Triton."""

    name: str
    prevents: str
    active: bool
    repairs_a_defect: bool


def apply_patches(interpreter: Any, patches: tuple[Patch, ...]) -> tuple[PatchState, ...]:
    """Apply each patch whose defect is there, in order; later probes see the effect of earlier patches."""
    states = []
    for patch in patches:
        active = patch.defect is None or patch.defect(interpreter)
        if active:
            patch.apply(interpreter)
        states.append(PatchState(patch.name, patch.prevents, active, patch.defect is not None))
    return tuple(states)

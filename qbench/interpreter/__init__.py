"""Triton's CPU interpreter, made right where the stock one is wrong, and kept beside the compiler.

    repair()                          patch the interpreter of the imported Triton; needed once in a process
    patches()                         what was wrong with it, and whether this version of Triton still is
    interpreted(*modules)             for a while, run the kernels of these modules on the CPU
    compiled(*modules)                for a while, compile them although TRITON_INTERPRET is set
    is_interpreted(kernel)            does launching this kernel interpret it?
    guards("view" | "storage")        how closely accesses are held to a kernel's arguments
    known_memory(*tensors)            tensors that kernels reach through addresses stored in memory
    register_inline_asm(asm, f)       what an inline assembly means, in numpy
    register_extern(symbol, f)        what a function of an external library (libdevice) means, in numpy
    OutOfBounds                       raised for an access outside the arguments' elements

Every repair carries a probe, a small computation on the stock interpreter: where upstream has put it right, the
patch is not applied. Sources of the rules: the PTX ISA for casts, OCP MX 1.0 for block scales.

Importing this package imports neither triton nor torch, for TRITON_INTERPRET is read when triton is imported;
the names below load what they need when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.later import later

if TYPE_CHECKING:
    from qbench.interpreter.bounds import OutOfBounds, guards, known_memory
    from qbench.interpreter.calls import register_extern, register_inline_asm
    from qbench.interpreter.patch import PatchState
    from qbench.interpreter.repairs import patches, repair
    from qbench.interpreter.swap import compiled, interpreted, is_interpreted

__all__ = [
    "OutOfBounds",
    "PatchState",
    "compiled",
    "guards",
    "interpreted",
    "is_interpreted",
    "known_memory",
    "patches",
    "register_extern",
    "register_inline_asm",
    "repair",
]

_HOME = {
    "OutOfBounds": "bounds",
    "PatchState": "patch",
    "compiled": "swap",
    "guards": "bounds",
    "interpreted": "swap",
    "is_interpreted": "swap",
    "known_memory": "bounds",
    "patches": "repairs",
    "register_extern": "calls",
    "register_inline_asm": "calls",
    "repair": "repairs",
}

__getattr__ = later(__name__, _HOME)

"""Inline assembly and functions of external libraries, by the meaning that numpy gives them.

The stock interpreter refuses both, and lets a function of `triton.language.extra.libdevice` return None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from qbench.interpreter.libdevice import FUNCTIONS
from qbench.interpreter.patch import Patch

Meaning = Callable[..., Any]
_assembly: dict[str, Meaning] = {}
_extern: dict[str, Meaning] = {}


def register_inline_asm(asm: str, function: Meaning) -> None:
    """What `tl.inline_asm_elementwise(asm, ...)` computes; white space does not matter, a later call replaces.

    `function` takes one numpy array for each argument, all of one shape whatever `pack` is, and returns the result,
    or a tuple of them, elementwise. bf16 arrives and leaves as uint16 bits, e4m3 and e5m2 as uint8 bits.
    """
    _assembly[" ".join(asm.split())] = function


def register_extern(symbol: str, function: Meaning) -> None:
    """What the function `symbol` of an external library computes, from and to numpy arrays as above."""
    _extern[symbol] = function


def _inline_asm(interpreter: Any, asm: str, values: Any, types: Any) -> Any:
    """An object whose get_result(i) is the i-th result, as the compiler's builder returns."""
    text = " ".join(asm.split())
    if text not in _assembly:
        raise NotImplementedError(
            f"nobody has said what the inline assembly {text!r} means; give it a meaning in numpy with "
            "qbench.interpreter.register_inline_asm(asm, function)"
        )
    results = _assembly[text](*(each.data for each in values))
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != len(types):
        raise ValueError(
            f"the meaning of {text!r} gave {len(results)} results, the kernel wants {len(types)}"
        )
    handles = [
        _handle(interpreter, each, kind, values, text) for each, kind in zip(results, types, strict=True)
    ]
    return _Results(handles)


class _Results:
    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles

    def get_result(self, index: int) -> Any:
        return self.handles[index]


def _handle(interpreter: Any, data: Any, kind: Any, values: Any, what: str) -> Any:
    """`data` as the interpreter's tensor of the type `kind`; ValueError for another shape or kind of number."""
    dtype = kind.scalar
    wanted, data = interpreter._get_np_dtype(dtype), np.asarray(data)
    shape = np.broadcast_shapes(*(each.data.shape for each in values)) if values else data.shape
    if data.shape != shape:
        raise ValueError(f"the meaning of {what!r} gave shape {data.shape} for arguments of shape {shape}")
    if data.dtype != wanted and not np.can_cast(data.dtype, wanted, "same_kind"):
        raise ValueError(f"the meaning of {what!r} gave {data.dtype}; convert it to {wanted} ({dtype})")
    return interpreter.TensorHandle(data.astype(wanted), dtype)


def _extern_elementwise(interpreter: Any, symbol: str, arguments: Any, kind: Any) -> Any:
    meaning = _extern.get(symbol) or FUNCTIONS.get(symbol)
    if meaning is None:
        raise NotImplementedError(
            f"nobody has said what the external function {symbol!r} means; give it a meaning in numpy with "
            "qbench.interpreter.register_extern(symbol, function)"
        )
    result = np.asarray(meaning(*(each.data for each in arguments)))
    return _handle(interpreter, result, kind, arguments, symbol)


def _assembly_is_refused(interpreter: Any) -> bool:
    try:
        interpreter.InterpreterBuilder().create_inline_asm("", "", [], [], True, 1)
    except NotImplementedError as error:
        return "register_inline_asm" not in str(error)
    return False


def _own_assembly(interpreter: Any) -> None:
    def create(self: Any, asm: Any, constraints: Any, values: Any, types: Any, pure: Any, pack: Any) -> Any:
        return _inline_asm(interpreter, asm, values, types)

    interpreter.InterpreterBuilder.create_inline_asm = create


def _extern_is_refused(interpreter: Any) -> bool:
    try:
        interpreter.InterpreterBuilder().create_extern_elementwise("", "", "", [], None, True)
    except NotImplementedError as error:
        return "register_extern" not in str(error)
    return False


def _own_extern(interpreter: Any) -> None:
    def create(self: Any, library: Any, path: Any, symbol: str, arguments: Any, kind: Any, pure: Any) -> Any:
        return _extern_elementwise(interpreter, symbol, arguments, kind)

    interpreter.InterpreterBuilder.create_extern_elementwise = create


def patch_libdevice(interpreter: Any, modules: list[Any], patched: set[int]) -> list[Any]:
    """Bind the functions of the libdevice modules among `modules` to the interpreter, for one launch.

    `triton.language.extra.libdevice` is a list of names that the compiler replaces by a target's functions; here
    they are CUDA's. Returns the scopes to restore.
    """
    cuda = sys.modules.get("triton.language.extra.cuda.libdevice")
    names = ("triton.language.extra.libdevice", "triton.language.extra.cuda.libdevice")
    scopes = []
    for module in modules:
        if cuda is None or id(module) in patched or module.__name__ not in names:
            continue
        scope = interpreter._LangPatchScope()
        for name, function in list(vars(cuda).items()):
            if interpreter.tl.core.is_builtin(function) and hasattr(module, name):
                scope.set_attr(module, name, _bound(interpreter, function))
        patched.add(id(module))
        scopes.append(scope)
    return scopes


def _bound(interpreter: Any, function: Any) -> Any:
    def call(*args: Any, **named: Any) -> Any:
        return function(*args, **{**named, "_semantic": interpreter.interpreter_semantic})

    call.__dict__.update(vars(function))  # still a builtin, so that the next module finds it here
    return call


CALLS = (
    Patch(
        "inline assembly",
        "refused; now numpy functions registered for it",
        _assembly_is_refused,
        _own_assembly,
    ),
    Patch("libdevice", "refused, or None; now numpy's functions", _extern_is_refused, _own_extern),
)

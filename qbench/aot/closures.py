"""Kernels defined inside a function, in a process that interprets: what they call is in their closure.

No module names such functions, so exchanging names (qbench.interpreter.compiled) does not reach them. A kernel that
closes over interpreted functions is made anew around a copy of its Python function, whose cells hold compilable ones.
"""

from __future__ import annotations

import types
from typing import Any

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction


def with_compilable_closure(kernel: JITFunction) -> JITFunction:
    """The kernel itself where it closes over nothing interpreted."""
    closed = any(isinstance(_content(cell), InterpretedFunction) for cell in kernel.fn.__closure__ or ())
    if not closed:
        return kernel
    return JITFunction(
        _copy(kernel.fn, {}),
        version=kernel.version,
        do_not_specialize=kernel.do_not_specialize,
        do_not_specialize_on_alignment=kernel.do_not_specialize_on_alignment,
        debug=kernel.debug,
        noinline=kernel.noinline,
        repr=kernel._repr,
        launch_metadata=kernel.launch_metadata,
    )


def _copy(fn: types.FunctionType, made: dict[int, Any]) -> types.FunctionType:
    """`made`: the new objects for what was met before, by id. (Triton compiles no recursion.)"""
    cells = tuple(types.CellType() for _ in fn.__closure__ or ())
    copy = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, cells)
    copy.__kwdefaults__, copy.__annotations__ = fn.__kwdefaults__, fn.__annotations__
    copy.__qualname__, copy.__module__, copy.__doc__ = fn.__qualname__, fn.__module__, fn.__doc__
    for cell, old in zip(cells, fn.__closure__ or (), strict=True):
        content = _content(old)
        if isinstance(content, InterpretedFunction):
            if id(content) not in made:
                made[id(content)] = None
                made[id(content)] = JITFunction(_copy(content.fn, made), **content.kwargs)
            content = made[id(content)]
        if content is not _EMPTY:
            cell.cell_contents = content
    return copy


_EMPTY = object()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY

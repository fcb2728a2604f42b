"""Interpreted and compiled kernels in one process: each @triton.jit object exchanged for its twin, for a while.

Triton decides when a function is decorated: with TRITON_INTERPRET it becomes an InterpretedFunction, otherwise a
JITFunction, also in `tl.sum` and the other helpers of triton.language. Setting the knob later changes neither. So
both are made from the same Python function, and every name that a kernel can reach is exchanged and put back:
the names of the given modules (and of a package's loaded submodules), of triton.language, of every module whose
device functions those kernels call, and all other loaded modules' names for the same kernels. Objects are told apart
by id, for the hash of a JITFunction is that of its source. Kernels held elsewhere (in a list, a closure, a class of
one's own) are not reached. A module imported inside is put right when the block ends. Not for use in threads.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from qbench.interpreter.repairs import repair

_ABSENT = object()
_OPTIONS = ("version", "do_not_specialize", "do_not_specialize_on_alignment", "debug", "noinline")
_twins: dict[int, dict[type, Any]] = {}  # by the id of the Python function, which its twins keep alive


def is_interpreted(kernel: Any) -> bool:
    """Does launching `kernel`, a @triton.jit function or an autotuner around one, interpret it?"""
    while not isinstance(kernel, (JITFunction, InterpretedFunction)) and hasattr(kernel, "fn"):
        kernel = kernel.fn
    if not isinstance(kernel, (JITFunction, InterpretedFunction)):
        raise TypeError(f"{kernel!r} is no kernel; pass a function decorated with @triton.jit")
    return isinstance(kernel, InterpretedFunction)


@contextmanager
def interpreted(*modules: types.ModuleType) -> Iterator[None]:
    """While this lasts, the kernels of `modules` run on the CPU, repaired; TRITON_INTERPRET is not set.

    triton.knobs.runtime.interpret is True meanwhile, which launchers may ask.
    """
    repair()
    with _exchanged(modules, InterpretedFunction):
        yield


@contextmanager
def compiled(*modules: types.ModuleType) -> Iterator[None]:
    """While this lasts, the kernels of `modules` can be compiled, in a process started with TRITON_INTERPRET.

    RuntimeError if a kernel was interpreted before `repair()`: that leaves triton.language patched for good.
    """
    if not triton.language.core.is_builtin(triton.language.core.load):
        raise RuntimeError(
            "a kernel was interpreted by the stock interpreter, which leaves triton.language patched, so that nothing "
            "can be compiled; call qbench.interpreter.repair() before the first launch"
        )
    repair()
    with _exchanged(modules, JITFunction):
        yield


@contextmanager
def _exchanged(modules: tuple[types.ModuleType, ...], kind: type) -> Iterator[None]:
    for module in modules:
        if not isinstance(module, types.ModuleType):
            raise TypeError(f"{module!r} is no module; pass the modules whose kernels are meant")
    knobs = vars(triton.knobs.runtime)  # set here and not by attribute, which would write the environment too
    before, loaded = knobs.get("interpret", _ABSENT), set(sys.modules)
    outside = InterpretedFunction if triton.knobs.runtime.interpret else JITFunction
    undo: list[tuple[Any, str, Any]] = []
    try:
        knobs["interpret"] = kind is InterpretedFunction
        _exchange(_namespaces(modules), kind, undo)
        yield
    finally:
        for owner, name, value in reversed(undo):
            _put(owner, name, value)
        if before is _ABSENT:
            del knobs["interpret"]
        else:
            knobs["interpret"] = before
        for name in set(sys.modules) - loaded:
            if (late := sys.modules.get(name)) is not None:
                _replace(vars(late), outside, None, [])
        if outside is InterpretedFunction:
            _forget_rewritten()


def _namespaces(modules: tuple[types.ModuleType, ...]) -> list[dict[str, Any]]:
    names = [*(module.__name__ for module in modules), "triton.language"]
    loaded = [
        m for name, m in list(sys.modules.items()) if any(f"{name}.".startswith(f"{n}.") for n in names)
    ]
    return [vars(module) for module in {id(m): m for m in (*modules, *loaded) if m is not None}.values()]


def _exchange(namespaces: list[dict[str, Any]], kind: type, undo: list[tuple[Any, str, Any]]) -> None:
    """Replace in these namespaces, in those that the kernels found there look names up in, and so on."""
    found: dict[int, Any] = {}
    waiting, seen = list(namespaces), set[int]()
    while waiting:
        namespace = waiting.pop()
        if id(namespace) in seen:
            continue
        seen.add(id(namespace))
        for kernel in _replace(namespace, kind, None, undo):
            found[id(kernel)] = kernel
            waiting += [kernel.fn.__globals__, *_modules_named_by(kernel.fn.__code__, kernel.fn.__globals__)]
            if kind is InterpretedFunction:
                _provide_for_rewriting(kernel.fn.__globals__, undo)
    for module in list(sys.modules.values()):
        if isinstance(module, types.ModuleType) and id(vars(module)) not in seen:
            _replace(vars(module), kind, found, undo)


def _replace(
    namespace: dict[str, Any], kind: type, only: dict[int, Any] | None, undo: list[tuple[Any, str, Any]]
) -> list[Any]:
    """Exchange what is not of `kind` here, all of it or those in `only`; returns the originals."""
    found = []
    for name, value in list(namespace.items()):
        holder, label = namespace, name
        while _is_wrapper(value):  # Autotuner, Heuristics: the kernel is in .fn
            holder, label, value = value, "fn", value.fn
        if _exchangeable(value, kind) and (only is None or id(value) in only):
            undo.append((holder, label, value))
            _put(holder, label, _twin(value, kind))
            found.append(value)
        elif (
            only is None
            and issubclass(type(value), type)
            and str(value.__module__).startswith("triton.language")
        ):
            found += _replace_methods(value, kind, undo)
    return found


def _exchangeable(value: Any, kind: type) -> bool:
    if kind is JITFunction:
        return type(value) is InterpretedFunction
    return type(value) is JITFunction  # not its subclasses: Gluon's cannot be interpreted


def _is_wrapper(value: Any) -> bool:
    kind = type(value)  # not isinstance: asking some lazy objects of other libraries for their class warns
    kernels = (JITFunction, InterpretedFunction)
    return issubclass(kind, triton.KernelInterface) and not issubclass(kind, kernels) and hasattr(value, "fn")


def _replace_methods(owner: type, kind: type, undo: list[tuple[Any, str, Any]]) -> list[Any]:
    """tl.tensor.sum and its like: a JITFunction for the compiler, a plain function around it in the interpreter."""
    found = []
    for name, value in list(vars(owner).items()):
        inner = _inside(value)
        kernel = value if inner is None else inner
        if _exchangeable(kernel, kind):
            undo.append((owner, name, value))
            twin = _twin(kernel, kind)
            setattr(owner, name, twin if kind is JITFunction else _method(twin))
            found.append(kernel)
    return found


def _inside(function: Any) -> Any:
    """The InterpretedFunction that Triton's wrapper of a method closes over, if it is one."""
    if not isinstance(function, types.FunctionType):
        return None
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return next((each for each in cells if isinstance(each, InterpretedFunction)), None)


def _method(twin: Any) -> Any:
    def method(*args: Any, **named: Any) -> Any:
        return twin(*args, **named)

    return method


def _twin(kernel: Any, kind: type) -> Any:
    """The other object of the same Python function, made once."""
    twins = _twins.setdefault(id(kernel.fn), {})
    twins.setdefault(type(kernel), kernel)
    if kind not in twins:
        if isinstance(kernel, JITFunction):
            options = {name: getattr(kernel, name) for name in _OPTIONS}
            options |= {"repr": kernel._repr, "launch_metadata": kernel.launch_metadata}
        else:
            options = kernel.kwargs
        twins[kind] = kind(kernel.fn, **options)
    return twins[kind]


def _modules_named_by(code: types.CodeType, names: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Namespaces of the modules that a kernel names, as in `helpers.load_tile(...)`."""
    nested = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    for name in code.co_names:
        if isinstance(names.get(name), types.ModuleType):
            yield vars(names[name])
    for each in nested:
        yield from _modules_named_by(each, names)


def _provide_for_rewriting(namespace: dict[str, Any], undo: list[tuple[Any, str, Any]]) -> None:
    """What the interpreter adds to a kernel's module when it first rewrites it, so that it can be taken out again."""
    for name, value in vars(interpreter).items():
        if name not in namespace:
            undo.append((namespace, name, _ABSENT))
            namespace[name] = value


def _forget_rewritten() -> None:
    """Kernels first run in a block that has ended are rewritten anew: their module lacks what that run added."""
    rewritten = InterpretedFunction.rewritten_fn
    added = [name for name in vars(interpreter) if not name.startswith("__")]
    for fn in [fn for fn in rewritten if any(name not in fn.__globals__ for name in added)]:
        del rewritten[fn]


def _put(owner: Any, name: str, value: Any) -> None:
    if not isinstance(owner, dict):
        setattr(owner, name, value)
    elif value is _ABSENT:
        owner.pop(name, None)
    else:
        owner[name] = value

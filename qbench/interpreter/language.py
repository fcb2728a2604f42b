"""Launches: patch `triton.language` once each and put it back, one clear error, no numpy warnings, less work."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np

from qbench.interpreter.calls import patch_libdevice
from qbench.interpreter.patch import Patch


class _Scopes:
    """What one launch has patched, newest last; the stock launch calls `restore` when it ends."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    def restore(self) -> None:
        while self.scopes:
            self.scopes.pop().restore()


def _patch_once_a_launch(interpreter: Any) -> None:
    """The stock interpreter patches the language again in every call of a device function, most of its time, and
    leaves there what the launch itself had not patched: a later compilation in the same process then fails.
    """
    stock_lang, stock_launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    known = (interpreter.tl, interpreter.tl.core)
    current: _Scopes | None = None
    patched: set[int] = set()  # languages and libdevice modules
    seen: set[int] = set()  # namespaces of functions whose languages are patched

    def patch_lang(fn: Any) -> Any:
        namespace = fn.__globals__
        if current is None:  # a device function called outside of any launch
            return stock_lang(fn)
        if id(namespace) in seen:
            return current
        modules = [each for each in namespace.values() if isinstance(each, types.ModuleType)]
        languages = {id(each) for each in modules if any(each is one for one in known)}
        if not languages or not languages <= patched:
            current.scopes.append(stock_lang(fn))
        current.scopes.extend(patch_libdevice(interpreter, modules, patched))
        patched.update(languages)
        seen.add(id(namespace))
        return current

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal current
        current = _Scopes()
        try:
            with np.errstate(all="ignore"):
                stock_launch(self, *args, **kwargs)
        except interpreter.InterpreterError as error:
            cause = _innermost(interpreter, error)
            if isinstance(cause, interpreter.InterpreterError):
                raise cause from None
            raise interpreter.InterpreterError(repr(cause)) from cause
        finally:
            current.restore()
            current = None
            patched.clear()
            seen.clear()

    interpreter._patch_lang = patch_lang
    interpreter.GridExecutor.__call__ = launch


def _innermost(interpreter: Any, error: BaseException) -> BaseException:
    """Each device function wraps the error of the one it called: what went wrong at first."""
    while type(error) is interpreter.InterpreterError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _index_is_refused(interpreter: Any) -> bool:
    """Does Python's `range` take a tensor? int() of an array with one dimension ended with numpy 2.4."""
    import warnings

    class Probe:
        handle = types.SimpleNamespace(data=np.array([3], dtype=np.int32))

    scope = interpreter._LangPatchScope()
    interpreter._patch_lang_tensor(Probe, scope)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return list(range(Probe())) != [0, 1, 2]  # type: ignore[call-overload]
    except (TypeError, DeprecationWarning):
        return True


def _own_index(interpreter: Any) -> None:
    stock = interpreter._patch_lang_tensor

    def patch_tensor(tensor: Any, scope: Any) -> None:
        stock(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor


def _skip_overflow_operands(interpreter: Any) -> None:
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=builder.options.debug)


LANGUAGE = (
    Patch("range of a tensor", "a TypeError, or a warning, of numpy >= 2.4", _index_is_refused, _own_index),
    Patch(
        "launches",
        "triton.language stayed patched, nested errors quoted each other, inf and NaN made numpy warn; and time",
        None,
        _patch_once_a_launch,
    ),
    Patch(
        "overflow checks",
        "operands of overflow assertions were computed though the assertions are off unless debugging: time",
        None,
        _skip_overflow_operands,
    ),
)

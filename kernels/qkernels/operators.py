"""Functions as operators of torch in the namespace qkernels, with little between a call and the function.

torch.library.custom_op wraps each call in a check for aliases, a switch for autograd and one for torch.compile: 0.53 of
the 0.66 ms that a product's call took the host in a profile (torch 2.11, beside an H200), which a profiler exaggerates.
Here the function is the operator's kernel itself, on every device. What custom_op checked must hold: results are new
tensors, arguments are not changed, and no gradient passes (what calls these detaches its input).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("qkernels", "FRAGMENT")


def operator(function: Callable[..., Any]) -> Any:
    """The function as qkernels::<its name>, with a schema of its annotations; torch.compile needs its `fake`."""
    name = function.__name__
    _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    return getattr(torch.ops.qkernels, name).default


def fake(of: Any) -> Callable[[Callable[..., Any]], None]:
    """The decorated function gives shapes and dtypes of that operator's results, as tensors without memory."""

    def register(function: Callable[..., Any]) -> None:
        torch.library.register_fake(of.name(), function, lib=_LIBRARY)

    return register

"""What the tests of providers share: operands of every format, and telling a refusal from a result."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import qkernels
from qbench import Provider, Unsupported
from qkernels.format import FORMATS, INT8, Format
from qkernels.tensor import QTensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NO_REASON = "no reason given"
every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)


def full_name(function: Any) -> str:
    return f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"


def normal(m: int, k: int = 128, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def quantized(x: Tensor, fmt: Format) -> QTensor:
    """By the reference, under the scale of `static`."""
    return qkernels.quantize(x, fmt, backend="torch", **static(fmt))


def static(fmt: Format) -> dict[str, Tensor]:
    """What a format cannot do without: INT8 has no dynamic scale."""
    return {"scale": torch.full((1,), 0.05, device=DEVICE)} if fmt == INT8 else {}


@cache
def operand(fmt: Format, rows: int, seed: int) -> QTensor:
    """The same [rows, 128] at every call: nobody may write into it."""
    return quantized(normal(rows, seed=seed), fmt)


def prepared(provider: Provider, *inputs: Any) -> tuple[Any, str]:
    """(what the provider made of the operands, "") or (None, the reason for which it does not take them)."""
    try:
        return provider(*inputs), ""
    except Unsupported as refusal:
        return None, refusal.reason or NO_REASON


def refused(provider: Provider, *inputs: Any) -> str:
    """The reason, or "" where the provider takes the operands."""
    reason = prepared(provider, *inputs)[1]
    assert reason != NO_REASON
    return reason

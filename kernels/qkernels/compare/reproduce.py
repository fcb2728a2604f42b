"""Python that rebuilds a few values exactly: a few lines to paste, which need nothing but this package.

Floats are written as hexadecimal literals where a person may want to read them and as raw bytes where there are many;
no value passes through decimal digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..format import FORMATS, Format
from ..tensor import QTensor

READABLE = 32  # values


def format_source(fmt: Format) -> str:
    """An expression for the format: by name if it is a known one."""
    if FORMATS.get(fmt.name) == fmt:
        return f'qkernels.get_format("{fmt.name}")'
    return repr(fmt).replace("Element(", "qkernels.format.Element(").replace("Format(", "qkernels.Format(", 1)


def tensor_source(t: Tensor) -> str:
    """An expression for the tensor, of any dtype and shape, bit for bit."""
    shape, kind = list(t.shape), str(t.dtype)
    flat = t.detach().cpu().contiguous().flatten()
    if t.numel() == 1 and t.dtype != torch.uint8 and t.element_size() > 1:
        value = flat.tolist()[0]
        text = repr(value) if math.isfinite(value) else f"float('{value}')"
        return f"torch.full({shape}, {text}, dtype={kind})"
    if t.dtype.is_floating_point and t.element_size() > 1 and (sparse := _sparse_source(flat, shape, kind)):
        return sparse
    if t.dtype.is_floating_point and t.element_size() > 1 and 0 < t.numel() <= READABLE:
        return f"torch.tensor({_hex_list(flat)}, dtype={kind}).reshape({shape})"
    if not t.numel():
        return f"torch.empty({shape}, dtype={kind})"
    raw = bytes(flat.view(torch.uint8).tolist()).hex()
    return f'torch.frombuffer(bytearray.fromhex("{raw}"), dtype=torch.uint8).view({kind}).reshape({shape})'


def _sparse_source(flat: Tensor, shape: list[int], kind: str) -> str:
    """Few numbers among many +0, "" otherwise."""
    places = ((flat != 0) | flat.signbit()).nonzero().flatten().tolist()
    if len(flat) < 8 or not 0 < len(places) <= 4:
        return ""
    values = f"torch.tensor({_hex_list(flat[places])}, dtype={kind})"
    return f"torch.zeros({len(flat)}, dtype={kind}).scatter(0, torch.tensor({places}), {values}).reshape({shape})"


def _hex_list(flat: Tensor) -> str:
    words = " ".join(hex_float(value) for value in flat.tolist())
    return f'[float.fromhex(v) for v in "{words}".split()]'


def hex_float(value: float) -> str:
    """The shortest hexadecimal literal: 0x1.8p+1, not 0x1.8000000000000p+1."""
    head, power, exponent = value.hex().partition("p")
    return head.rstrip("0").rstrip(".") + power + exponent if "." in head else value.hex()


def operand_source(name: str, t: Tensor | QTensor) -> list[str]:
    """Lines that assign the operand to `name`."""
    if isinstance(t, Tensor):
        return [f"{name} = {tensor_source(t)}"]
    parts = [f"{name}_data", f"{name}_scale", format_source(t.format), str(tuple(t.shape))]
    for key in ("global_scale", "zero_point"):
        value = getattr(t, key)
        if value is not None:
            parts.append(f"{key}={tensor_source(value)}")
    if t.hadamard is not None:
        parts.append(f"hadamard={t.hadamard}")
    return [
        f"{name}_data = {tensor_source(t.data)}",
        f"{name}_scale = {tensor_source(t.scale)}",
        f"{name} = qkernels.QTensor({', '.join(parts)})",
    ]


def indent(lines: list[str]) -> str:
    """The lines under a heading, indented, as they are read in a report."""
    return "\n".join(["  to reproduce:", *(f"    {line}" for line in lines)])

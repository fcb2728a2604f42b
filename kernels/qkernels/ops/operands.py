"""Operands made from a workload's seed: never zeros, the same for every provider.

Generated on the device they are used on; a seed gives the same values on every device of one kind.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from qbench import Unsupported
from qkernels.format import Format, get_format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

DTYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}


def dtype_of(name: object) -> torch.dtype:
    """The torch dtype of an axis value; ValueError lists the known names."""
    try:
        return DTYPES[str(name)]
    except KeyError:
        raise ValueError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}") from None


def normal(rows: int, columns: int, dtype: torch.dtype, what: str, seed: int, device: torch.device) -> Tensor:
    """Standard normal [rows, columns]; `what` keeps operands of one workload independent of each other."""
    text = f"{what} {seed} {rows} {columns}".encode()
    generator = torch.Generator(device).manual_seed(
        int.from_bytes(hashlib.sha256(text).digest()[:7], "little")
    )
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    return out.normal_(generator=generator)


def activations(rows: int, columns: int, dtype: torch.dtype, seed: int, device: torch.device) -> Tensor:
    """Standard normal activations with every 97th channel 8 times as large, as trained models have them."""
    x = normal(rows, columns, dtype, "activations", seed, device)
    x[:, ::97] *= 8
    return x


@lru_cache(maxsize=2)  # a sweep asks for the same weight at every batch size
def _weight(n: int, k: int, name: str, hadamard: int, seed: int, device: torch.device) -> QTensor:
    w = normal(n, k, torch.bfloat16, "weight", seed, device) * k**-0.5
    return quantize(w, get_format(name), hadamard=hadamard or None)


def weight(n: int, k: int, fmt: Format, hadamard: int, seed: int, device: torch.device) -> QTensor:
    """A quantized weight [n, k], rotated first where `hadamard` is not 0. Unsupported where that does not divide k."""
    if hadamard and k % hadamard:
        fitting = [str(size) for size in fmt.hadamard if k % size == 0]
        raise Unsupported(f"K = {k} is not a multiple of the Hadamard size {hadamard}", " or ".join(fitting))
    return _weight(n, k, fmt.name, hadamard, seed, device)

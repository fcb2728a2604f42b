"""What the tests of quantizers share: the quantizers under every option, groups of formats, and small helpers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from qbench import Provider
from qkernels.api import TRITON_FORMATS
from qkernels.codec import E2M1_VALUES
from qkernels.format import (
    FORMATS,
    FP8,
    INT8,
    INT8_ASYM,
    MXFP4,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_RCEIL,
    NVFP4,
    Format,
    get_format,
)
from qkernels.providers.torch_quantize import torch_exact
from qkernels.quantize import quantize
from qkernels.testing import CHECKS
from qkernels.testing.quantizer import make_subject

DYNAMIC = [f for f in FORMATS.values() if f is not INT8]
OCP = [MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL]
GRID = torch.tensor(sorted({s * v for v in E2M1_VALUES for s in (1.0, -1.0)}), dtype=torch.float64)
floats = st.floats(-10, 10, allow_nan=False)


def over(*formats: Format) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fmt", formats, ids=lambda f: f.name)


def values(x: Tensor, fmt: Format, **options: float) -> Tensor:
    return quantize(x, fmt, **options).dequantize(torch.float64)


def examples() -> int:
    """Drawn inputs a check and quantizer: QUANTIZER_EXAMPLES, or those of the hypothesis profile."""
    return int(os.environ.get("QUANTIZER_EXAMPLES", 0)) or settings().max_examples


@dataclass(frozen=True)
class Use:
    """A quantizer, its format and its options."""

    backend: str
    format: Format
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.backend, self.format.name, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def provider(self) -> Provider:
        return torch_exact if self.backend == "reference" else triton_provider(self.format)

    def applicable(self) -> list[str]:
        named = {"hadamard": None, "global_scale": None, "scale": None, "zero_point": None} | self.options
        subject = make_subject(torch_exact, self.format, device="cpu", **named)
        return [name for name, check in CHECKS.items() if not check.applies(subject)]


def triton_provider(fmt: Format) -> Provider:
    """The Triton quantizer of the format."""
    from qkernels.triton import fp4_rows, fp8_quantize, int8_quantize, mxfp4_quantize, nvfp4_quantize

    if fmt not in TRITON_FORMATS:
        raise ValueError(f"no Triton quantizer of {fmt.name}")
    if fmt in fp4_rows.TAKES:
        return fp4_rows.quantize_nvfp4_token
    if fmt.packed:
        return nvfp4_quantize.quantize_nvfp4 if fmt.scale == "e4m3" else mxfp4_quantize.quantize_mxfp4
    return int8_quantize.quantize_int8 if fmt.element.integer else fp8_quantize.quantize_fp8


STATIC: list[tuple[Format, dict[str, Any]]] = [
    (NVFP4, {"global_scale": 50.0}),
    (NVFP4, {"global_scale": 2.0**-20}),
    (FP8, {"scale": 0.07}),
    (INT8, {"scale": 2.0**-5}),
    (INT8_ASYM, {"scale": 0.03, "zero_point": -5}),
]
ROTATED: list[tuple[Format, dict[str, Any]]] = [
    *((fmt, {"hadamard": n}) for fmt in (NVFP4, MXFP4) for n in fmt.hadamard),
    *((get_format(name), {"hadamard": 32}) for name in ("nvfp4_1l", "mxfp4_abs_max", "mxfp4_quest")),
    (NVFP4, {"hadamard": 64, "global_scale": 50.0}),
]
TOKEN = (get_format("nvfp4_token"), {"global_scale": 50.0})
REFERENCES = [Use("reference", fmt) for fmt in FORMATS.values()]
REFERENCES += [Use("reference", fmt, options) for fmt, options in (*STATIC, *ROTATED, TOKEN)]
TRITON = [Use("triton", fmt) for fmt in TRITON_FORMATS]
TRITON += [Use("triton", fmt, options) for fmt, options in (*STATIC, *ROTATED, TOKEN)]

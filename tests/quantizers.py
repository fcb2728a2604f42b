"""What the tests of quantizers share: groups of formats, and how two results are compared."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from qkernels.codec import E2M1_VALUES
from qkernels.format import FORMATS, INT8, MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

DYNAMIC = [f for f in FORMATS.values() if f is not INT8]
OCP = [MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL]
GRID = torch.tensor(sorted({s * v for v in E2M1_VALUES for s in (1.0, -1.0)}), dtype=torch.float64)
floats = st.floats(-10, 10, allow_nan=False)


def over(*formats: Format) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fmt", formats, ids=lambda f: f.name)


def values(x: Tensor, fmt: Format, **options: float) -> Tensor:
    return quantize(x, fmt, **options).dequantize(torch.float64)


def block_amax(x: Tensor, fmt: Format) -> Tensor:
    """[r, C, 1] float64."""
    return x.double().unflatten(-1, (-1, fmt.block)).abs().amax(-1, keepdim=True)


def block_error(x: Tensor, fmt: Format) -> Tensor:
    """[r, C, block] float64."""
    return (values(x, fmt) - x.double()).abs().unflatten(-1, (-1, fmt.block))


def assert_same(a: QTensor, b: QTensor) -> None:
    assert torch.equal(a.data.view(torch.uint8), b.data.view(torch.uint8))
    assert torch.equal(a.scale, b.scale)
    assert a.zero_point is None or (b.zero_point is not None and torch.equal(a.zero_point, b.zero_point))

"""Elements more than 2^31 apart, without the memory for them: rows far from each other in a mapping never touched."""

from __future__ import annotations

import mmap
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from qkernels import QTensor
from qkernels.format import MXFP4, NVFP4_1L
from qkernels.triton.amax import partial_amax
from qkernels.triton.fp4_gemm import fp4_gemm
from tests.mutants.helpers import certified, difference, normal
from tests.mutants.subjects import SUBJECTS

FAR = 1 << 30  # elements between rows: the third row begins 2^31 elements on
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def _apart(shape: tuple[int, int], dtype: torch.dtype, distance: int = FAR) -> Tensor:
    """[rows, k] with `distance` elements between rows; only the pages that are written exist."""
    rows, k = shape
    size = ((rows - 1) * distance + k) * dtype.itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.frombuffer(pages, dtype=dtype).as_strided((rows, k), (distance, 1))


def _spread(x: Tensor) -> Tensor:
    far = _apart((x.shape[0], x.shape[1]), x.dtype)
    far.copy_(x)
    return far


def offsets() -> None:
    """Offsets beyond 2^31 elements in every kernel's rows: inputs, packed operands, their scales, the product."""
    x = normal(3, 128, torch.float16)
    far = _spread(x)
    for name in (
        "nvfp4 static",
        "nvfp4_1l",
        "mxfp4 floor",
        "fp8 static",
        "fp8_token",
        "fp8_block",
        "fp8_block_2d",
        "int8 static",
        "int8_token",
    ):
        subject = SUBJECTS[name]
        wrong = difference(subject.quantize(far), subject.quantize(x))
        assert not wrong, f"{name} of rows 2^30 elements apart: {wrong}"
    wide = normal(3, 128)  # fp32: the paths without words
    for name in ("fp8_token", "fp8_block", "fp8_block_2d", "int8_token"):
        wrong = difference(SUBJECTS[name].quantize(_spread(wide)), SUBJECTS[name].quantize(wide))
        assert not wrong, f"{name} of fp32 rows 2^30 elements apart: {wrong}"
    assert int(partial_amax(far).max()) == int(partial_amax(x).max()), (
        "the maximum of rows 2^30 elements apart"
    )
    for fmt in (NVFP4_1L, MXFP4):
        a, b = certified(3, 64, fmt, 1), certified(3, 64, fmt, 2)
        wanted = fp4_gemm(a, b, out_dtype=torch.float32)
        for side in ("data", "scale"):
            for left, right in ((_far(a, side), b), (a, _far(b, side))):
                found = fp4_gemm(left, right, out_dtype=torch.float32)
                assert torch.equal(found, wanted), (
                    f"product of {fmt.name} whose {side} rows are 2^30 bytes apart"
                )
        plain = a.exact_values(torch.float16)
        found = fp4_gemm(_spread(plain), b, out_dtype=torch.float32)
        assert torch.equal(found, fp4_gemm(plain, b, out_dtype=torch.float32)), (
            "product of rows 2^30 elements apart"
        )
        with patch.object(torch, "empty", _distant):
            found = fp4_gemm(a, b, out_dtype=torch.float32)
        assert torch.equal(found, wanted), f"product of {fmt.name} into rows 2^30 elements apart"


def _far(q: QTensor, part: str) -> QTensor:
    parts = {"data": q.data, "scale": q.scale} | {part: _spread(getattr(q, part))}
    return QTensor(parts["data"], parts["scale"], q.format, q.shape, q.global_scale)


def _distant(*size: Any, dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
    """What torch.empty allocates, with its rows far apart."""
    rows, k = size[0] if isinstance(size[0], tuple) else size
    return _apart((rows, k), dtype)

"""Where the quantizers write: tensors of their own, or the caller's, which are checked first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qkernels.format import (
    FORMATS,
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    Format,
)
from qkernels.swizzle import blocked_bytes
from qkernels.tensor import DATA_DTYPE, QTensor, ScaleLayout

FP4_FORMATS = tuple(fmt for fmt in FORMATS.values() if fmt.packed and not fmt.element.integer)
OUT_FORMATS = (*FP4_FORMATS, FP8, FP8_TOKEN, FP8_BLOCK, FP8_BLOCK_2D, INT8, INT8_TOKEN, INT8_ASYM)
"""The formats that can be written into tensors of the caller."""


def output(given: Tensor | None, name: str, shape: Sequence[int], dtype: torch.dtype, x: Tensor) -> Tensor:
    """`given`, checked, or an uninitialised tensor of that shape and dtype on x's device."""
    if given is None:
        return torch.empty(tuple(shape), dtype=dtype, device=x.device)
    check_output(given, name, shape, dtype, x)
    return given


def check_output(given: Tensor, name: str, shape: Sequence[int], dtype: torch.dtype, x: Tensor) -> None:
    """May what is computed from x be written into `given`?

    Raises TypeError for another dtype, ValueError for another shape or device, a gap between rows, or memory of x: a
    kernel's programs would read what others have overwritten.
    """
    if given.dtype != dtype:
        raise TypeError(f"{name} is {given.dtype}; pass one of {dtype}")
    if tuple(given.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(given.shape)}; pass one of {list(shape)}")
    if given.device != x.device:
        raise ValueError(f"{name} is on {given.device} and x on {x.device}; pass one on {x.device}")
    if not given.is_contiguous():
        raise ValueError(f"{name} has strides {given.stride()}; pass a contiguous tensor")
    if overlap(given, x):
        raise ValueError(f"{name} shares memory with x; nothing is quantized in place, pass another tensor")


def overlap(a: Tensor, b: Tensor) -> bool:
    """May two tensors share bytes? True for two column slices of one matrix, which are not told apart."""
    if not (a.numel() and b.numel()) or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    (a_first, a_end), (b_first, b_end) = (_extent(each) for each in (a, b))
    return a_first < b_end and b_first < a_end


def _extent(t: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


@dataclass(frozen=True)
class Outputs:
    """The caller's tensors for codes, computed scales, zero points and global scales, where given."""

    data: Tensor | None = None
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    global_scale: Tensor | None = None

    def check(self, x: Tensor, fmt: Format, *, static: bool, layout: ScaleLayout = "linear") -> None:
        """TypeError or ValueError unless those given are what a result of x in this format would hold.

        static: the scale of FP8 and INT8, or the global scale of NVFP4, is given.
        """
        if all(each is None for each in (self.data, self.scale, self.zero_point, self.global_scale)):
            return
        if fmt not in OUT_FORMATS:
            known = ", ".join(each.name for each in OUT_FORMATS)
            raise ValueError(
                f"{fmt.name} is not written into given tensors; leave out= away, or use one of {known}"
            )
        *lead, k = x.shape
        shape = fmt.scale_shape(x.shape)
        scales = (blocked_bytes(math.prod(lead), shape[-1]),) if layout == "blocked" else shape
        kind = torch.float32 if fmt.scale == "fp32" else torch.uint8
        top = (*lead, 1) if fmt.global_granularity == "row" else ()
        for name, given, computed, wanted, dtype in (
            ("out", self.data, True, (*lead, k // 2 if fmt.packed else k), DATA_DTYPE[fmt.element.name]),
            ("scale_out", self.scale, fmt.packed or not static, scales, kind),
            ("zero_point_out", self.zero_point, not static and not fmt.symmetric, shape, torch.int32),
            ("global_scale_out", self.global_scale, fmt.levels == 2 and not static, top, torch.float32),
        ):
            if given is None:
                continue
            if not computed:
                what = name.removesuffix("_out").replace("_", " ")
                raise ValueError(f"{name} is given but no {what} is computed here; leave {name} out")
            check_output(given, name, wanted, dtype, x)

    def filled(self, q: QTensor) -> QTensor:
        """q with its parts copied into those given."""
        parts = {
            name: given.copy_(getattr(q, name))
            for name in ("data", "scale", "zero_point", "global_scale")
            if (given := getattr(self, name)) is not None
        }
        return dataclasses.replace(q, **parts) if parts else q

    def as_rows(self, fmt: Format, layout: ScaleLayout) -> Outputs:
        """Views of two dimensions, for launchers take rows; what is one for the tensor, or blocked, stays."""

        def rows(given: Tensor | None, by_row: bool = True) -> Tensor | None:
            return given.view(-1, given.shape[-1]) if given is not None and by_row else given

        by_row = fmt.granularity != "tensor"
        return Outputs(
            rows(self.data),
            rows(self.scale, by_row and layout == "linear"),
            rows(self.zero_point, by_row),
            rows(self.global_scale, fmt.global_granularity == "row"),
        )

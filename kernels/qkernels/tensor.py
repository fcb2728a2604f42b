"""QTensor: quantized data, its scales and the `Format` that says what they mean.

value = code * block_scale * alpha. `exact_values` leaves alpha out: code * scale has at most 6 significant bits for
NVFP4 and MXFP4, so it is exact in bf16 and products are exact in fp32. alpha holds the tensor's 1/global_scale and
abs_max's 1/3. A global scale of each row is no factor of a whole product: it is divided out in `exact_values`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .codec import decode_e4m3, decode_e8m0, decode_float, round_to, unpack_e2m1
from .format import Format
from .swizzle import blocked_bytes, from_blocked, to_blocked

ScaleLayout = Literal["linear", "blocked"]

DATA_DTYPE = {
    "e2m1": torch.uint8,
    "e2m3": torch.uint8,
    "e3m2": torch.uint8,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "int4": torch.uint8,
    "uint4": torch.uint8,
}
"""Type of QTensor.data by the element's name."""


def check_scale_layout(layout: str, fmt: Format) -> None:
    """ValueError for an unknown layout, and for one that the format's scales cannot have."""
    if layout not in get_args(ScaleLayout):
        raise ValueError(
            f"unknown scale layout {layout!r}; known: {', '.join(map(repr, get_args(ScaleLayout)))}"
        )
    if layout == "blocked" and (fmt.scale == "fp32" or fmt.block is None or fmt.block_rows > 1):
        raise ValueError(f"{fmt.name} has no blocked scale layout: it is of one-byte scales of blocks of one row; "
                         "use scale_layout='linear'")  # fmt: skip


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor of logical `shape` [..., K].

    data         4 bits: uint8 [..., K/2], byte j = code[2j] | code[2j+1] << 4, INT4 in two's complement, asymmetric
                 INT4 as 0..15; 6 bits: uint8 [..., K], the low six; 8 bits: float8_e4m3fn, float8_e5m2 or int8 [..., K]
    scale        block formats: [..., ceil(M/block_rows), K/block] in linear layout, float32 or raw e4m3/e8m0 bits as
                 uint8 (no framework cast can touch those); row formats: float32 [..., 1]; tensor formats: float32 [1]
    global_scale float32 encode scale gs, value = code*s/gs: 0-dim, or [..., 1], one a row; None for one level
    hadamard     size of the rotation applied before quantizing; values stay rotated when decoded
    zero_point   int32, shape of `scale`: value = (code - zero_point)*scale; None when symmetric
    scale_layout "blocked": scale is flat, in the 128x4 tiles of `qkernels.to_blocked`, over the rows of all leading
                 axes, as Blackwell's tensor cores read it; one-byte scales of blocks of one row. `linear()` undoes it
    """

    data: Tensor
    scale: Tensor
    format: Format
    shape: tuple[int, ...]
    global_scale: Tensor | None = None
    hadamard: int | None = None
    zero_point: Tensor | None = None
    scale_layout: ScaleLayout = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        fmt = self.format
        *lead, k = self.shape
        width = k // 2 if fmt.packed else k
        if tuple(self.data.shape) != (*lead, width):
            raise ValueError(f"{fmt.name} data of shape {self.shape} must be {[*lead, width]}, "
                             f"got {list(self.data.shape)}; pass the logical shape, K counted in elements")  # fmt: skip
        if fmt.block is not None:
            shape, dtype = fmt.scale_shape(self.shape), torch.float32 if fmt.scale == "fp32" else torch.uint8
            check_scale_layout(self.scale_layout, fmt)
            if self.scale_layout == "blocked":
                shape = (blocked_bytes(math.prod(lead), shape[-1]),)
            if tuple(self.scale.shape) != shape or self.scale.dtype != dtype:
                raise ValueError(f"{fmt.name} scales must be {str(dtype)[6:]} {list(shape)}, got "
                                 f"{self.scale.dtype} {list(self.scale.shape)}; say scale_layout='blocked' of a "
                                 "swizzle, view e4m3 and e8m0 as uint8")  # fmt: skip
            if self.zero_point is not None and tuple(self.zero_point.shape) != shape:
                raise ValueError(f"{fmt.name} zero points must be {list(shape)} as the scales, "
                                 f"got {list(self.zero_point.shape)}")  # fmt: skip
        if (fmt.levels == 2) != (self.global_scale is not None):
            raise ValueError(f"{fmt.name} has {fmt.levels} scale level(s); "
                             f"global_scale must {'not ' if fmt.levels == 1 else ''}be given")  # fmt: skip
        if self._row_global() and tuple(self._global().shape) != (*lead, 1):
            raise ValueError(f"{fmt.name} has one global scale a row, {[*lead, 1]}; "
                             f"got {list(self._global().shape)}")  # fmt: skip

    def linear(self) -> QTensor:
        """The same with scales in linear layout: itself, or a copy of the scales out of their 128x4 tiles."""
        if self.scale_layout == "linear":
            return self
        *lead, columns = self.format.scale_shape(self.shape)
        scale = from_blocked(self.scale, math.prod(lead), columns).reshape(*lead, columns)
        return dataclasses.replace(self, scale=scale, scale_layout="linear")

    def blocked(self) -> QTensor:
        """The same with scales in the blocked layout; ValueError for scales that have none."""
        if self.scale_layout == "blocked":
            return self
        check_scale_layout("blocked", self.format)
        scale = to_blocked(self.scale.reshape(-1, self.scale.shape[-1]))
        return dataclasses.replace(self, scale=scale, scale_layout="blocked")

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of data, scales and zero points; a 6-bit code counts six bits, though a byte holds it."""
        rest = sum(t.nbytes for t in (self.scale, self.global_scale, self.zero_point) if t is not None)
        return rest + (self.data.numel() * 6 // 8 if self.format.element.bits == 6 else self.data.nbytes)

    @property
    def alpha(self) -> Tensor:
        """float64 0-dim factor left out of `exact_values`: 1/(gs * gain)."""
        return 1.0 / self._divisor()

    def _divisor(self) -> Tensor:
        one = torch.ones((), dtype=torch.float64, device=self.device)
        if self.global_scale is None or self._row_global():
            return one * self.format.gain
        return self.global_scale.reshape(()).to(torch.float64) * self.format.gain

    def _row_global(self) -> bool:
        return self.format.levels == 2 and self.format.global_granularity == "row"

    def _global(self) -> Tensor:
        assert self.global_scale is not None
        return self.global_scale

    def codes(self) -> Tensor:
        """Raw codes [..., K] as uint8: 0..15 for 4 bits, 0..63 for 6 (the upper two masked), the byte for 8."""
        if self.format.packed:
            return unpack_e2m1(self.data)
        return self.data & 0x3F if self.format.element.bits == 6 else self.data.view(torch.uint8)

    def code_values(self) -> Tensor:
        """float64 values of the codes [..., K], zero point not subtracted."""
        element, codes = self.format.element, self.codes()
        if not element.integer:
            return decode_float(codes, element).to(torch.float64)
        if element.least == 0:
            return codes.to(torch.float64)
        sign = 1 << (element.bits - 1)  # two's complement
        return ((codes.to(torch.int16) ^ sign) - sign).to(torch.float64)

    def _decoded_scale(self) -> Tensor:
        if self.scale_layout != "linear":
            return self.linear()._decoded_scale()
        if self.format.scale == "fp32":
            return self.scale.to(torch.float64)
        decode = decode_e4m3 if self.format.scale == "e4m3" else decode_e8m0
        return decode(self.scale).to(torch.float64)

    def _spread(self, scales: Tensor) -> Tensor:
        """Scales or zero points as float64 that broadcast against the codes; those of blocks [..., C, block]."""
        fmt, scales = self.format, scales.to(torch.float64)
        if fmt.block is None:
            return scales
        if fmt.block_rows > 1 and len(self.shape) > 1:
            scales = scales.repeat_interleave(fmt.block_rows, dim=-2)[..., : self.shape[-2], :]
        return scales.unsqueeze(-1)

    def scale_values(self) -> Tensor:
        """float64 decoded scales, shape of linear `scale`: without gs, abs_max's 1/3 included."""
        return self._decoded_scale() / self.format.gain

    def exact_values(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """code * scale [..., K] without alpha; exact in bf16 for NVFP4 and MXFP4, in float64 for all of one level.

        Divided by the row's global scale where there is one: that quotient is rounded to float64.
        """
        codes = self.code_values()
        if self.format.block is not None:
            codes = codes.unflatten(-1, (self.shape[-1] // self.format.block, self.format.block))
        if self.zero_point is not None:
            codes = codes - self._spread(self.zero_point)
        values = codes * self._spread(self._decoded_scale())
        if self.format.block is not None:
            values = values.flatten(-2)
        if self._row_global():
            values = values / self._global().to(torch.float64)
        return round_to(values, dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Values [..., K]: computed in float64 and rounded once to `dtype`. Still rotated if `hadamard` is set."""
        return round_to(self.exact_values() / self._divisor(), dtype)

    def rows(self, start: int, stop: int) -> QTensor:
        """Rows start:stop of a 2-D tensor, as views; `start` must begin a group of block_rows rows."""
        if len(self.shape) != 2:
            raise ValueError(
                f"rows() takes a 2-D QTensor, got shape {self.shape}; flatten the leading axes first"
            )
        if self.scale_layout != "linear":
            raise ValueError("blocked scales lie in tiles of 128 rows; take rows() of linear()")
        group = self.format.block_rows
        if start % group:
            raise ValueError(f"row {start} lies within a group of {group} rows that share {self.format.name} scales; "
                             f"start at {start // group * group}")  # fmt: skip
        cut = slice(start, stop)
        data = self.data[cut]
        shape = (data.shape[0], self.shape[1])
        if self.format.granularity == "tensor" or self.scale.ndim < 2:
            return dataclasses.replace(self, data=data, shape=shape)
        groups = slice(start // group, start // group + self.format.scale_shape(shape)[0])
        zero = None if self.zero_point is None else self.zero_point[groups]
        top = self._global()[cut] if self._row_global() else self.global_scale
        return dataclasses.replace(
            self, data=data, scale=self.scale[groups], shape=shape, global_scale=top, zero_point=zero
        )

    def to(self, device: torch.device | str) -> QTensor:
        """Copy on that device."""
        gs = None if self.global_scale is None else self.global_scale.to(device)
        zero = None if self.zero_point is None else self.zero_point.to(device)
        data, scale = self.data.to(device), self.scale.to(device)
        return dataclasses.replace(self, data=data, scale=scale, global_scale=gs, zero_point=zero)

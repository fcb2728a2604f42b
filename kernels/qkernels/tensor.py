"""QTensor: quantized data, its scales and the `Format` that says what they mean.

value = code * block_scale * alpha. `exact_values` leaves alpha out: code * scale has at most 6 significant bits for
the FP4 formats, so it is exact in bf16 and products are exact in fp32. alpha holds 1/global_scale and abs_max's 1/3.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import decode_e2m1, decode_e4m3, decode_e8m0, round_to, unpack_e2m1
from .format import Format


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized tensor of logical `shape` [..., K].

    data         FP4: uint8 [..., K/2], byte j = code[2j] | code[2j+1] << 4; else float8_e4m3fn or int8 [..., K]
    scale        block formats: raw e4m3/e8m0 bits as uint8 [..., K/block], linear layout (uint8, so that no framework
                 cast can touch them); row formats: float32 [..., 1]; tensor formats: float32 [1]
    global_scale float32 0-dim, the encode scale gs: value = code*s/gs; None for one level
    hadamard     size of the rotation applied before quantizing; values stay rotated when decoded
    zero_point   int32, shape of `scale`: value = (code - zero_point)*scale; None when symmetric
    """

    data: Tensor
    scale: Tensor
    format: Format
    shape: tuple[int, ...]
    global_scale: Tensor | None = None
    hadamard: int | None = None
    zero_point: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        *lead, k = self.shape
        width = k // 2 if self.format.packed else k
        if tuple(self.data.shape) != (*lead, width):
            raise ValueError(f"{self.format.name} data of shape {self.shape} must be {[*lead, width]}, "
                             f"got {list(self.data.shape)}; pass the logical shape, K counted in elements")  # fmt: skip
        if self.format.block is not None:
            expected = (*lead, k // self.format.block)
            if tuple(self.scale.shape) != expected or self.scale.dtype != torch.uint8:
                raise ValueError(f"{self.format.name} scales must be uint8 {list(expected)}, got "
                                 f"{self.scale.dtype} {list(self.scale.shape)}; "
                                 "undo a swizzle with from_blocked, view as uint8")  # fmt: skip
        if (self.format.levels == 2) != (self.global_scale is not None):
            raise ValueError(f"{self.format.name} has {self.format.levels} scale level(s); "
                             f"global_scale must {'not ' if self.format.levels == 1 else ''}be given")  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def nbytes(self) -> int:
        """Bytes held: data, scales, zero points and the global scale."""
        return sum(
            t.nbytes for t in (self.data, self.scale, self.global_scale, self.zero_point) if t is not None
        )

    @property
    def alpha(self) -> Tensor:
        """float64 0-dim factor left out of `exact_values`: 1/(gs * gain)."""
        return 1.0 / self._divisor()

    def _divisor(self) -> Tensor:
        gs = torch.ones((), device=self.device) if self.global_scale is None else self.global_scale
        return gs.reshape(()).to(torch.float64) * self.format.gain

    def codes(self) -> Tensor:
        """Raw codes [..., K] as uint8: 0..15 for FP4, the byte for FP8 and INT8."""
        return unpack_e2m1(self.data) if self.format.packed else self.data.view(torch.uint8)

    def _decoded_scale(self) -> Tensor:
        if self.format.scale == "fp32":
            return self.scale.to(torch.float64)
        decode = decode_e4m3 if self.format.scale == "e4m3" else decode_e8m0
        return decode(self.scale).to(torch.float64)

    def scale_values(self) -> Tensor:
        """float64 decoded scales, shape of `scale`: without gs, abs_max's 1/3 included."""
        return self._decoded_scale() / self.format.gain

    def exact_values(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """code * scale [..., K] without alpha; exact in bf16 for the FP4 formats, in float64 for all."""
        if self.format.packed:
            codes = decode_e2m1(self.codes()).to(torch.float64)
        elif self.format.element.name == "e4m3":
            codes = decode_e4m3(self.codes()).to(torch.float64)
        else:
            codes = self.data.to(torch.float64)
        if self.zero_point is not None:
            codes = codes - self.zero_point.to(torch.float64)
        if self.format.block is None:
            return round_to(codes * self._decoded_scale(), dtype)
        blocks = codes.unflatten(-1, (self.scale.shape[-1], self.format.block))
        return round_to((blocks * self._decoded_scale().unsqueeze(-1)).flatten(-2), dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Values [..., K]: computed in float64 and rounded once to `dtype`. Still rotated if `hadamard` is set."""
        return round_to(self.exact_values() / self._divisor(), dtype)

    def rows(self, start: int, stop: int) -> QTensor:
        """Rows start:stop of a 2-D tensor, as views."""
        if len(self.shape) != 2:
            raise ValueError(
                f"rows() takes a 2-D QTensor, got shape {self.shape}; flatten the leading axes first"
            )
        cut = slice(start, stop)
        shared = self.format.granularity == "tensor" or self.scale.ndim < 2
        data = self.data[cut]
        scale = self.scale if shared else self.scale[cut]
        zero = self.zero_point if shared or self.zero_point is None else self.zero_point[cut]
        return dataclasses.replace(
            self, data=data, scale=scale, shape=(data.shape[0], self.shape[1]), zero_point=zero
        )

    def to(self, device: torch.device | str) -> QTensor:
        """Copy on that device."""
        gs = None if self.global_scale is None else self.global_scale.to(device)
        zero = None if self.zero_point is None else self.zero_point.to(device)
        data, scale = self.data.to(device), self.scale.to(device)
        return dataclasses.replace(self, data=data, scale=scale, global_scale=gs, zero_point=zero)

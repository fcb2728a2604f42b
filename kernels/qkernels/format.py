"""Formats as data: one frozen `Format` states everything a quantizer, a kernel or a cost model needs to know.

Nothing infers a format from a dtype (uint8 holds NVFP4 as well as MXFP4), and every point on which the field
disagrees is a field here, never a hidden default. A new format is one more value in this file.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FLOAT32_MAX = 3.4028234663852886e38
"""Cap of the dynamic global scale: 2688/amax overflows fp32 below amax = 7.9e-36, and inf would give NaN."""

MIN_TOKEN_SCALE = 1.0 / (448.0 * 512.0)
"""Smallest per-token FP8 scale (vLLM `dynamic_per_token_scaled_fp8_quant`); rounded to fp32 where it is used."""


@dataclass(frozen=True)
class Element:
    """Element type: `bits` per code, `max` = the largest finite magnitude a symmetric scale maps amax to."""

    name: str
    bits: int
    max: float


E2M1 = Element("e2m1", 4, 6.0)
E4M3 = Element("e4m3", 8, 448.0)
S8 = Element("int8", 8, 127.0)


@dataclass(frozen=True)
class Format:
    """How a tensor [..., K] is stored. All quantization runs along the last axis.

    granularity   what shares one scale: a block of `block` elements along K, a row (token), or the tensor
    scale         type of that scale
    rule          MX only: how the shared exponent follows from amax (`floor` is OCP MX v1.0)
    levels        2: a per-tensor fp32 scale on top of the block scales (NVFP4)
    symmetric     False: an int32 zero point belongs to the scale
    global_scale  meaning of the second level: "encode" is gs = scale_max*max/amax, value = code*s/gs
    scale_max     block scale that the dynamic global scale gives to the block holding amax (256: four-over-six)
    min_scale     least block scale (0: blocks may underflow to zero; torchao clamps at 2^-6)
    hadamard      sizes of the rotation along K defined for this format; each a multiple of `block`
    """

    name: str
    element: Element
    granularity: Literal["block", "row", "tensor"]
    block: int | None = None
    scale: Literal["e4m3", "e8m0", "fp32"] = "fp32"
    rule: Literal["", "floor", "ceil", "even", "rceil", "abs_max", "quest"] = ""
    levels: Literal[1, 2] = 1
    symmetric: bool = True
    global_scale: Literal["encode"] = "encode"
    scale_max: float = 448.0
    min_scale: float = 0.0
    hadamard: tuple[int, ...] = ()

    @property
    def packed(self) -> bool:
        """Two codes a byte: byte j = code[2j] | code[2j+1] << 4."""
        return self.element.bits == 4

    @property
    def gain(self) -> float:
        """Codes hold gain*x/s; qutlass abs_max stores 3*x/s, hence GEMM alpha 1/9 when both operands use it."""
        return 3.0 if self.rule == "abs_max" else 1.0

    @property
    def scale_bytes(self) -> int:
        """Bytes of one scale together with its zero point."""
        return (4 if self.scale == "fp32" else 1) + (0 if self.symmetric else 4)

    def scale_count(self, shape: Sequence[int]) -> int:
        """Number of scales of a tensor of this shape (padding of a swizzled layout not counted)."""
        rows = math.prod(shape[:-1])
        if self.block is not None:
            return rows * (shape[-1] // self.block)
        return rows if self.granularity == "row" else 1

    def bits_per_element(self, k: int) -> float:
        """Bits per element of long rows of K elements, scales included; per-tensor values amortise to zero."""
        span = {"block": self.block or k, "row": k, "tensor": math.inf}[self.granularity]
        return self.element.bits + 8 * self.scale_bytes / span

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of data, scales, zero points and the global scale of a tensor of this shape."""
        data = math.prod(shape) * self.element.bits // 8
        return data + self.scale_count(shape) * self.scale_bytes + (4 if self.levels == 2 else 0)


_NV_HADAMARD = (16, 32, 64, 128)
_MX_HADAMARD = (32, 64, 128)

NVFP4 = Format("nvfp4", E2M1, "block", 16, "e4m3", levels=2, hadamard=_NV_HADAMARD)
NVFP4_1L = Format("nvfp4_1l", E2M1, "block", 16, "e4m3", hadamard=_NV_HADAMARD)
MXFP4 = Format("mxfp4", E2M1, "block", 32, "e8m0", rule="floor", hadamard=_MX_HADAMARD)
MXFP4_CEIL = Format("mxfp4_ceil", E2M1, "block", 32, "e8m0", rule="ceil", hadamard=_MX_HADAMARD)
MXFP4_EVEN = Format("mxfp4_even", E2M1, "block", 32, "e8m0", rule="even", hadamard=_MX_HADAMARD)
MXFP4_RCEIL = Format("mxfp4_rceil", E2M1, "block", 32, "e8m0", rule="rceil", hadamard=_MX_HADAMARD)
MXFP4_ABS_MAX = Format("mxfp4_abs_max", E2M1, "block", 32, "e8m0", rule="abs_max", hadamard=_MX_HADAMARD)
MXFP4_QUEST = Format("mxfp4_quest", E2M1, "block", 32, "e8m0", rule="quest", hadamard=_MX_HADAMARD)
FP8 = Format("fp8", E4M3, "tensor")
FP8_TOKEN = Format("fp8_token", E4M3, "row")
INT8 = Format("int8", S8, "tensor")
INT8_TOKEN = Format("int8_token", S8, "row")
INT8_ASYM = Format("int8_asym", S8, "row", symmetric=False)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (NVFP4, NVFP4_1L, MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, MXFP4_ABS_MAX, MXFP4_QUEST,
              FP8, FP8_TOKEN, INT8, INT8_TOKEN, INT8_ASYM)
}  # fmt: skip


def get_format(name: str) -> Format:
    """The format of that name; ValueError lists the known ones and the nearest."""
    try:
        return FORMATS[name]
    except KeyError:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown format {name!r}{hint}; known: {', '.join(FORMATS)}") from None

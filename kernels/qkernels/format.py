"""Formats as data: one frozen `Format` states everything a quantizer, a kernel or a cost model needs to know.

Nothing infers a format from a dtype (uint8 holds NVFP4 as well as MXFP4), and every point on which the field
disagrees is a field here, never a hidden default. A new format is one more value in this file.
"""

from __future__ import annotations

import dataclasses
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
    """Element type: `bits` per code, `max` = the magnitude that a scale maps amax to.

    Floats: sign, `exponent` and `mantissa` bits, bias 2^(exponent-1) - 1; max is the largest finite number.
    Integers (exponent 0): codes `least` .. `greatest`. INT4's max of 7.5 spreads amax over the 15 steps of -8 .. 7.
    """

    name: str
    bits: int
    max: float
    exponent: int = 0
    mantissa: int = 0
    least: int = 0
    greatest: int = 0

    @property
    def integer(self) -> bool:
        return self.exponent == 0

    @property
    def emax(self) -> int:
        """floor(log2 max): 2 for E2M1 and E2M3, 4 for E3M2, 8 for E4M3, 15 for E5M2."""
        return math.frexp(self.max)[1] - 1

    @property
    def emin(self) -> int:
        """Exponent of the least normal number; subnormals keep its quantum 2^(emin - mantissa)."""
        return 2 - (1 << (self.exponent - 1))


E2M1 = Element("e2m1", 4, 6.0, exponent=2, mantissa=1)
E2M3 = Element("e2m3", 6, 7.5, exponent=2, mantissa=3)
E3M2 = Element("e3m2", 6, 28.0, exponent=3, mantissa=2)
E4M3 = Element("e4m3", 8, 448.0, exponent=4, mantissa=3)
E5M2 = Element("e5m2", 8, 57344.0, exponent=5, mantissa=2)
S8 = Element("int8", 8, 127.0, least=-128, greatest=127)
S4 = Element("int4", 4, 7.5, least=-8, greatest=7)
U4 = Element("uint4", 4, 15.0, least=0, greatest=15)


@dataclass(frozen=True)
class Format:
    """How a tensor [..., K] is stored. All quantization runs along the last axis.

    granularity   what shares one scale: a block of `block` elements along K, a row (token), or the tensor
    scale         type of that scale
    rule          MX only: how the shared exponent follows from amax (`floor` is OCP MX v1.0)
    levels        2: fp32 scales on top of the block scales (NVFP4), one a tensor or one a row: `global_granularity`
    symmetric     False: an int32 zero point belongs to the scale
    global_scale  meaning of the second level: "encode" is gs = scale_max*max/amax, value = code*s/gs
    scale_max     block scale that the dynamic global scale gives to the block holding amax (256: four-over-six)
    min_scale     least block scale (0: blocks may underflow to zero; torchao clamps at 2^-6)
    hadamard      sizes of the rotation along K defined for this format; each a multiple of `block`
    block_rows    rows that share a block's scale (16: NVFP4 of weights, 128: DeepSeek's); the last group may be short
    select        four-over-six: of scale s and 1.5*s the one of less error ("mse" or "mae"); s if they are equal
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
    block_rows: int = 1
    select: Literal["", "mse", "mae"] = ""
    global_granularity: Literal["tensor", "row"] = "tensor"

    def __post_init__(self) -> None:
        shared = self.block_rows > 1 and (
            self.block is None or self.rule == "quest" or self.global_granularity == "row"
        )
        for wrong, words in (
            (shared, "rows share scales only in blocks, without quest's moments or global scales of rows"),
            (bool(self.select) and self.scale != "e4m3", "four-over-six chooses between e4m3 scales"),
            (self.rule in ("abs_max", "quest") and self.element is not E2M1, "qutlass's rules are for E2M1"),
            (self.levels == 2 and self.scale != "e4m3", "a global scale belongs to e4m3 block scales"),
            ((self.scale == "e8m0") != bool(self.rule), "e8m0 scales, and no others, need an MX rule"),
        ):
            if wrong:
                raise ValueError(f"format {self.name}: {words}")

    @property
    def packed(self) -> bool:
        """Two codes a byte: byte j = code[2j] | code[2j+1] << 4. (Six-bit codes take a byte each.)"""
        return self.element.bits == 4

    @property
    def gain(self) -> float:
        """Codes hold gain*x/s; qutlass abs_max stores 3*x/s, hence GEMM alpha 1/9 when both operands use it."""
        return 3.0 if self.rule == "abs_max" else 1.0

    @property
    def scale_bytes(self) -> int:
        """Bytes of one scale together with its zero point."""
        return (4 if self.scale == "fp32" else 1) + (0 if self.symmetric else 4)

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the dynamic scales of a tensor [..., M, K]: blocks [..., ceil(M/block_rows), K/block]."""
        *lead, k = shape
        if self.block is None:
            return (*lead, 1) if self.granularity == "row" else (1,)
        if lead:  # anew: under torch.compile, torch 2.11 takes what * collects for a tuple
            lead = [*lead[:-1], -(-lead[-1] // self.block_rows)]
        return (*lead, k // self.block)

    def scale_count(self, shape: Sequence[int]) -> int:
        """Number of scales of a tensor of this shape (padding of a swizzled layout not counted)."""
        return math.prod(self.scale_shape(shape))

    def bits_per_element(self, k: int) -> float:
        """Bits per element of many rows of K elements, scales included; per-tensor values amortise to zero."""
        span = {"block": (self.block or k) * self.block_rows, "row": k, "tensor": math.inf}[self.granularity]
        token = 32 / k if self.levels == 2 and self.global_granularity == "row" else 0.0
        return self.element.bits + 8 * self.scale_bytes / span + token

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of data, all scales and zero points of a tensor of this shape; an FP6 code counts six bits."""
        data = math.prod(shape) * self.element.bits // 8
        tops = 0 if self.levels == 1 else math.prod(shape[:-1]) if self.global_granularity == "row" else 1
        return data + self.scale_count(shape) * self.scale_bytes + 4 * tops


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

NVFP4_2D = dataclasses.replace(NVFP4, name="nvfp4_2d", block_rows=16)
NVFP4_MIN_SCALE = dataclasses.replace(NVFP4, name="nvfp4_min_scale", min_scale=2.0**-6)
NVFP4_4OVER6 = dataclasses.replace(NVFP4, name="nvfp4_4over6", scale_max=256.0, select="mse")
NVFP4_4OVER6_MAE = dataclasses.replace(NVFP4_4OVER6, name="nvfp4_4over6_mae", select="mae")
NVFP4_TOKEN = dataclasses.replace(NVFP4, name="nvfp4_token", global_granularity="row")
MXFP8 = Format("mxfp8", E4M3, "block", 32, "e8m0", rule="floor")
MXFP8_E5M2 = Format("mxfp8_e5m2", E5M2, "block", 32, "e8m0", rule="floor")
MXFP6_E3M2 = Format("mxfp6_e3m2", E3M2, "block", 32, "e8m0", rule="floor")
MXFP6_E2M3 = Format("mxfp6_e2m3", E2M3, "block", 32, "e8m0", rule="floor")
FP8_BLOCK = Format("fp8_block", E4M3, "block", 128)
FP8_BLOCK_2D = Format("fp8_block_2d", E4M3, "block", 128, block_rows=128)
INT4 = Format("int4", S4, "block", 128)
INT4_ASYM = Format("int4_asym", U4, "block", 128, symmetric=False)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (NVFP4, NVFP4_1L, NVFP4_2D, NVFP4_MIN_SCALE, NVFP4_4OVER6, NVFP4_4OVER6_MAE, NVFP4_TOKEN,
              MXFP8, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3,
              MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, MXFP4_ABS_MAX, MXFP4_QUEST,
              FP8, FP8_TOKEN, FP8_BLOCK, FP8_BLOCK_2D, INT4, INT4_ASYM, INT8, INT8_TOKEN, INT8_ASYM)
}  # fmt: skip


def get_format(name: str) -> Format:
    """The format of that name; ValueError lists the known ones and the nearest."""
    try:
        return FORMATS[name]
    except KeyError:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown format {name!r}{hint}; known: {', '.join(FORMATS)}") from None

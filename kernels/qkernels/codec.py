"""Element codecs: small floats, 4-bit codes in bytes, E8M0, and correct rounding from float64, by integer arithmetic.

No framework cast decides a rounding here: torch and ml_dtypes casts from float64 to bf16 or e4m3 pass through fp32
(double rounding), out-of-range e4m3 casts differ between CPU (448) and CUDA (NaN), and casts to e8m0 round half up.
Floating-point powers are built from exponent bits; a float log2 is wrong just below powers of two.
All functions work elementwise on CPU and CUDA tensors of any shape and keep the shape unless stated.

Rounding is to nearest even, or stochastic where `noise` (float64 of y's shape, uniform in [0, 1)) is given: up from the
neighbour nearer zero (integers: below) if noise < the distance to it in steps. Its mean is y within the range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .format import E4M3, E5M2, Element

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # tie i lies between codes i and i+1; the even code wins
E4M3_NAN, E8M0_NAN = 0x7F, 0xFF
_NAN = {E4M3: 0x7F, E5M2: 0x7F}  # the others have no NaN
_SIGNIFICAND = {
    torch.bfloat16: (8, -126),
    torch.float16: (11, -14),
    torch.float32: (24, -126),
}  # bits, least exponent


def floor_log2(x: Tensor) -> Tensor:
    """floor(log2|x|) as int64, exact for subnormals too; 0 gives -1087 (below every value), inf and NaN 1024."""
    wide = x.to(torch.float64).abs()
    small = wide < 2.0**-1000
    bits = torch.where(small, wide * 2.0**64, wide).view(torch.int64)
    return (bits >> 52) - 1023 - 64 * small.to(torch.int64)


def pow2(exponent: Tensor) -> Tensor:
    """2^exponent as float64, exact; the exponent (any integer dtype) must lie in -1022..1023."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def round_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 once, to nearest even, to bf16, fp16 or fp32 (subnormals, overflow to inf, NaN and -0 included)."""
    if dtype == torch.float64:
        return x.to(dtype)
    if dtype not in _SIGNIFICAND:
        raise TypeError(f"cannot round to {dtype}; use float64, float32, bfloat16 or float16")
    if dtype == torch.float32 or x.dtype != torch.float64:
        return x.to(dtype)  # one hardware rounding
    digits, least = _SIGNIFICAND[dtype]
    quantum = floor_log2(x).clamp_(least, 1000).sub_(digits - 1)
    exact = torch.round(x * pow2(-quantum)) * pow2(quantum)  # torch.round is half to even
    return torch.where(torch.isfinite(x), exact, x).to(dtype)


def encode_e2m1(y: Tensor) -> Tensor:
    """Codes 0..15 (uint8) of y: nearest, ties to even, saturating at 6, sign of zero kept.

    E2M1 has no NaN: a NaN becomes code 7 or 15, so callers must carry NaN in the scale.
    """
    if y.dtype not in (torch.float32, torch.float64):
        y = y.to(torch.float32)
    up = torch.tensor(math.inf, dtype=y.dtype)
    ties = [torch.tensor(t, dtype=y.dtype) for t in _E2M1_TIES]
    # Code i+1 starts at the tie itself when it is even, else at the next number of y's own dtype.
    starts = torch.stack([t if i % 2 else torch.nextafter(t, up) for i, t in enumerate(ties)]).to(y.device)
    magnitude = torch.bucketize(y.abs().contiguous(), starts, out_int32=True, right=True).to(torch.uint8)
    return magnitude | (torch.signbit(y).to(torch.uint8) << 3)


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """x * 2^exponent. torch's own (2.11) launches on the current device, whatever that of x is: an illegal access."""
    with torch.cuda.device_of(x):
        return torch.ldexp(x, exponent)


def decode_e2m1(codes: Tensor) -> Tensor:
    """float32 values of uint8 codes 0..15 (8 is -0)."""
    table = torch.tensor([*E2M1_VALUES, *(-v for v in E2M1_VALUES)], dtype=torch.float32, device=codes.device)
    return table[codes.to(torch.int32)]


def pack_e2m1(codes: Tensor) -> Tensor:
    """[..., K] 4-bit codes → [..., K/2] bytes, the even element in the low nibble. K must be even."""
    if codes.shape[-1] % 2:
        raise ValueError(
            f"K = {codes.shape[-1]} is odd; two 4-bit codes share a byte, pad K to an even number"
        )
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_e2m1(data: Tensor) -> Tensor:
    """[..., K/2] bytes → [..., K] codes 0..15 (uint8)."""
    return torch.stack([data & 0xF, data >> 4], dim=-1).flatten(-2)


def encode_float(y: Tensor, element: Element, noise: Tensor | None = None) -> Tensor:
    """Sign-magnitude codes (uint8) of y, rounded once from y's own precision, saturating at element.max; keeps -0.

    NaN gives 0x7f in E4M3 and E5M2; the others have none and give their largest code: carry NaN in the scale.
    """
    wide = y.to(torch.float64)
    nan = torch.isnan(wide)
    size = torch.where(nan, element.max, wide.abs().clamp_(max=element.max))
    binade = floor_log2(size).clamp_(min=element.emin)  # the subnormals' quantum is that of the least binade
    steps = round_steps(size * pow2(element.mantissa - binade), noise)
    # 2^m..2^(m+1) steps in a normal binade; the last carries into the next by itself
    bits = (binade - element.emin).mul_(1 << element.mantissa).add_(steps.to(torch.int64))
    bits = torch.where(nan, _NAN.get(element, (1 << (element.bits - 1)) - 1), bits).to(torch.uint8)
    return bits | ((torch.signbit(wide) & ~nan).to(torch.uint8) << (element.bits - 1))


def round_steps(y: Tensor, noise: Tensor | None = None) -> Tensor:
    """Whole numbers (float64) from float64 y: nearest even, or floor(y) + (noise < fraction)."""
    if noise is None:
        return torch.round(y)
    below = torch.floor(y)
    return below + (noise < y - below)  # y + noise would round; the difference is exact


def decode_float(codes: Tensor, element: Element) -> Tensor:
    """float32 values of uint8 codes of any float element; infinities and NaN of E5M2, NaN of E4M3 included."""
    values = []
    for code in range(1 << (element.bits - 1)):
        exponent, fraction = code >> element.mantissa, code & ((1 << element.mantissa) - 1)
        whole = fraction + ((1 << element.mantissa) if exponent else 0)
        value = math.ldexp(whole, max(exponent, 1) - 1 + element.emin - element.mantissa)
        values.append(value if value <= element.max else math.nan)
    if element is E5M2:
        values[0x7C] = (
            math.inf
        )  # the only one of these elements with infinities; never produced by encode_float
    table = torch.tensor([*values, *(-v for v in values)], dtype=torch.float32, device=codes.device)
    return table[codes.to(torch.int32)]


def encode_e4m3(y: Tensor) -> Tensor:
    """E4M3fn bits (uint8) of y, rounded to nearest even from y's own precision, saturating at 448; NaN → 0x7f."""
    return encode_float(y, E4M3)


def decode_e4m3(bits: Tensor) -> Tensor:
    """float32 values of E4M3fn bits (uint8); 0x7f and 0xff are NaN, subnormals keep their value."""
    return decode_float(bits, E4M3)


def encode_e8m0(exponent: Tensor) -> Tensor:
    """Byte of 2^exponent, the integer exponent clamped to -127..127 (byte 255 is NaN and never produced here)."""
    return (exponent.to(torch.int64) + 127).clamp_(0, 254).to(torch.uint8)


def decode_e8m0(bits: Tensor) -> Tensor:
    """float32 2^(byte-127): byte 0 is 2^-127 (an fp32 subnormal, not zero), 255 is NaN."""
    values = torch.where(bits == E8M0_NAN, math.nan, pow2(bits.to(torch.int64) - 127))
    return values.to(torch.float32)

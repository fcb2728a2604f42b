"""From packed E2M1 codes and scale bytes in memory to a tile of exact values in registers.

A value is e2m1 * scale. Both factors are decoded by placing their bits in the wider float's exponent and
mantissa fields and multiplying by one power of two, which also makes subnormals come out right; no
conversion instruction is involved, so every GPU and the interpreter agree.

Exactness. e2m1 (2 significant bits) times E4M3 (4 bits, 2^-9 .. 448) has 6 bits within 2^-10 .. 2688: exact
in fp16, bf16 and fp32. e2m1 times E8M0 (2^-127 .. 2^127) has 2 bits and reaches 6 * 2^127, which no fp32 holds;
tiles of MXFP4 are therefore a quarter of their values, 2^-130 .. 1.5 * 2^127: exact in bf16 and fp32, where the
least are subnormals (tensor cores and `mul.bf16` keep those). The epilogue multiplies by E8M0_UNIT. fp16 cannot
hold that range.
"""

from __future__ import annotations

import triton
import triton.language as tl

E8M0_UNIT = 4.0
"""What a tile of MXFP4 must be multiplied by."""


@triton.jit
def decode_e2m1(code, DTYPE: tl.constexpr, QUARTER: tl.constexpr):
    """Codes 0..15 in any integer dtype -> their values (or a quarter of them) in DTYPE (bf16, fp16 or fp32)."""
    unit: tl.constexpr = 2.0**124 if QUARTER else 2.0**126
    if tl.float32 == DTYPE:
        wide = code.to(tl.uint32)
        bits = ((wide & 7) << 22) | ((wide & 8) << 28)
        value = bits.to(tl.float32, bitcast=True) * unit
    elif tl.float16 == DTYPE:
        wide = code.to(tl.uint16)
        bits = ((wide & 7) << 9) | ((wide & 8) << 12)
        tl.static_assert(not QUARTER, "a quarter of e2m1 is for E8M0 scales, which fp16 cannot hold")
        value = bits.to(tl.float16, bitcast=True) * 16384.0  # 2^14
    else:
        wide = code.to(tl.uint16)
        bits = ((wide & 7) << 6) | ((wide & 8) << 12)
        value = bits.to(tl.bfloat16, bitcast=True) * unit
    return value


@triton.jit
def decode_e4m3(byte, DTYPE: tl.constexpr):
    """E4M3fn bytes -> their values in DTYPE; 0x7f and 0xff are NaN."""
    if tl.float32 == DTYPE:
        wide = byte.to(tl.uint32)
        bits = ((wide & 0x7F) << 20) | ((wide & 0x80) << 24)
        value = bits.to(tl.float32, bitcast=True) * 2.0**120  # 2^120
    elif tl.float16 == DTYPE:
        wide = byte.to(tl.uint16)
        bits = ((wide & 0x7F) << 7) | ((wide & 0x80) << 8)
        value = bits.to(tl.float16, bitcast=True) * 256.0
    else:
        wide = byte.to(tl.uint16)
        bits = ((wide & 0x7F) << 4) | ((wide & 0x80) << 8)
        value = bits.to(tl.bfloat16, bitcast=True) * 2.0**120
    return tl.where((byte & 0x7F) == 0x7F, float("nan"), value)


@triton.jit
def decode_e8m0(byte, DTYPE: tl.constexpr):
    """E8M0 bytes -> 2^(byte - 127) in DTYPE (bf16 or fp32); 0 is the subnormal 2^-127 and 255 is NaN."""
    tl.static_assert(tl.float16 != DTYPE, "E8M0 does not fit the range of fp16")
    if tl.float32 == DTYPE:
        bits = byte.to(tl.uint32) << 23
        bits = tl.where(byte == 0, 0x00400000, bits).to(tl.uint32)
        bits = tl.where(byte == 255, 0x7FC00000, bits).to(tl.uint32)
        value = bits.to(tl.float32, bitcast=True)
    else:
        bits = byte.to(tl.uint16) << 7
        bits = tl.where(byte == 0, 0x0040, bits).to(tl.uint16)
        bits = tl.where(byte == 255, 0x7FC0, bits).to(tl.uint16)
        value = bits.to(tl.bfloat16, bitcast=True)
    return value


@triton.jit
def dequantize_tile(packed, scale, E8M0: tl.constexpr, DTYPE: tl.constexpr):
    """Bytes uint8 [R, C/2] and scale bytes uint8 [R, C/block] -> values DTYPE [R, C], each exact.

    With E8M0 scales a quarter of the values.
    """
    rows: tl.constexpr = packed.shape[0]
    columns: tl.constexpr = packed.shape[1] * 2
    blocks: tl.constexpr = scale.shape[1]
    if E8M0:
        factor = decode_e8m0(scale, DTYPE)
    else:
        factor = decode_e4m3(scale, DTYPE)
    codes = tl.join(decode_e2m1(packed & 0xF, DTYPE, E8M0), decode_e2m1(packed >> 4, DTYPE, E8M0))
    values = tl.reshape(codes, (rows, blocks, columns // blocks)) * factor[:, :, None]
    return tl.reshape(values, (rows, columns))

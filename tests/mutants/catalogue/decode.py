"""Bugs in decoding packed FP4 operands: the codes, both scale types, the blocks."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4_decode.py")

MUTANTS = (
    _m(
        "decode-sign-lost-in-bf16",
        "bits = ((wide & 7) << 6) | ((wide & 8) << 12)",
        "bits = (wide & 7) << 6",
        "the sign of weights is lost beside bf16 activations",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-sign-lost-in-fp32",
        "bits = ((wide & 7) << 22) | ((wide & 8) << 28)",
        "bits = (wide & 7) << 22",
        "the sign of weights is lost beside fp32 activations",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-half-lost-in-fp16",
        "value = bits.to(tl.float16, bitcast=True) * 16384.0",
        "value = tl.where((wide & 7) == 1, 0.0, bits.to(tl.float16, bitcast=True)) * 16384.0",
        "the subnormal code 0.5 is decoded as 0 beside fp16 activations",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-nibbles-swapped",
        "tl.join(decode_e2m1(packed & 0xF, DTYPE, E8M0), decode_e2m1(packed >> 4, DTYPE, E8M0))",
        "tl.join(decode_e2m1(packed >> 4, DTYPE, E8M0), decode_e2m1(packed & 0xF, DTYPE, E8M0))",
        "the even element is read from the high nibble",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-high-nibble-unmasked",
        "decode_e2m1(packed & 0xF, DTYPE, E8M0)",
        "decode_e2m1(packed & 0x7, DTYPE, E8M0)",
        "the sign of every even element is lost",
        "gemm:certificate",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-e4m3-subnormal-zero",
        'return tl.where((byte & 0x7F) == 0x7F, float("nan"), value)',
        'return tl.where((byte & 0x7F) == 0x7F, float("nan"), tl.where((byte & 0x78) == 0, 0.0, value))',
        "subnormal E4M3 scales are decoded as 0",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-e4m3-bias",
        "value = bits.to(tl.bfloat16, bitcast=True) * 2.0**120",
        "value = bits.to(tl.bfloat16, bitcast=True) * 2.0**119",
        "E4M3 scales are half of what they are, beside bf16 activations",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "decode-e4m3-nan-finite",
        'return tl.where((byte & 0x7F) == 0x7F, float("nan"), value)',
        "return value",
        "the E4M3 NaN is decoded as 480",
        "gemm:nonfinite",
        "nvfp4 w4a4",
    ),
    _m(
        "decode-e8m0-zero-is-zero",
        "        bits = tl.where(byte == 0, 0x00400000, bits).to(tl.uint32)\n",
        "",
        "E8M0 byte 0 is decoded as 0 instead of 2^-127",
        "gemm:certificate",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-e8m0-zero-is-zero-in-bf16",
        "        bits = tl.where(byte == 0, 0x0040, bits).to(tl.uint16)\n",
        "",
        "E8M0 byte 0 is decoded as 0 beside bf16 activations",
        "gemm:certificate",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-e8m0-nan-is-inf",
        "        bits = tl.where(byte == 255, 0x7FC00000, bits).to(tl.uint32)\n",
        "",
        "E8M0 byte 255 is decoded as inf instead of NaN",
        "gemm:nonfinite",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-e8m0-nan-is-inf-in-bf16",
        "        bits = tl.where(byte == 255, 0x7FC0, bits).to(tl.uint16)\n",
        "",
        "E8M0 byte 255 is decoded as inf beside bf16 activations",
        "gemm:nonfinite",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-e8m0-bias",
        "bits = byte.to(tl.uint32) << 23",
        "bits = (byte.to(tl.uint32) + 1) << 23",
        "E8M0 is decoded with the bias 126",
        "gemm:certificate",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-quarter-not-undone",
        "E8M0_UNIT = 4.0",
        "E8M0_UNIT = 1.0",
        "MXFP4 tiles are quarters of their values and nothing multiplies them back",
        "gemm:values",
        "mxfp4 w4a16",
    ),
    _m(
        "decode-scale-of-another-block",
        "values = tl.reshape(codes, (rows, blocks, columns // blocks)) * factor[:, :, None]",
        "values = tl.trans(tl.reshape(codes, (rows, columns // blocks, blocks)), 0, 2, 1) * factor[:, :, None]",
        "elements are taken in strides instead of blocks",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
)

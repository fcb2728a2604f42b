"""Bugs in the device functions that encode NVFP4 blocks and rotate tiles."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4.py")

MUTANTS = (
    # --- NVFP4 blocks
    _m(
        "nvfp4-amax-without-abs",
        "nvfp4_scale(tl.max(magnitude_bits(y), axis=1), encode_scale)",
        "nvfp4_scale(tl.maximum(tl.max(y.to(tl.int32, bitcast=True), axis=1), 0), encode_scale)",
        "the block maximum is taken without abs",
        "gemm-quantize",
    ),
    _m(
        "nvfp4-scale-overflow",
        "    t = tl.minimum(t, 448.0)\n",
        "",
        "a block scale beyond 448 becomes NaN, or wraps",
        "quantizer:boundaries",
        "nvfp4_1l",
    ),
    _m(
        "nvfp4-scale-of-4",
        "correct_quotient(amax * encode_scale, 6.0, 1.0 / 6.0)",
        "correct_quotient(amax * encode_scale, 4.0, 1.0 / 4.0)",
        "the block maximum maps to 4 instead of 6",
        "quantizer:values",
        "nvfp4_1l",
    ),
    _m(
        "nvfp4-codes-without-global-scale",
        "codes = encode_e2m1((y * encode_scale) * inverse[:, None])",
        "codes = encode_e2m1(y * inverse[:, None])",
        "the codes ignore the global scale, the block scales have it",
        "gemm-quantize",
    ),
    _m(
        "nvfp4-scale-without-global-scale",
        "correct_quotient(amax * encode_scale, 6.0",
        "correct_quotient(amax, 6.0",
        "the block scales ignore the global scale, the codes have it",
        "quantizer:values",
        "nvfp4 static",
    ),
    _m(
        "nvfp4-zero-block-divides-by-zero",
        "coded = finite & (scale > 0.0)",
        "coded = finite",
        "a zero block gives 0/0 = NaN, the codes of 6",
        "exact",
        "nvfp4_1l",
    ),
    _m(
        "nvfp4-nonfinite-silently-finite",
        "tl.where(finite, byte, 0x7F)",
        "tl.where(finite, byte, 0x7E)",
        "a block with NaN or inf decodes to finite numbers without a word",
        "quantizer:nonfinite",
        "nvfp4_1l",
    ),
    _m(
        "nvfp4-nonfinite-codes-left",
        "coded = finite & (scale > 0.0)",
        "coded = scale > 0.0",
        "codes under a NaN scale are not 0",
        "quantizer:nonfinite",
        "nvfp4_1l",
    ),
    # --- rotation
    _m(
        "hadamard-bits-dropped",
        "    shared = shared ^ (shared >> 4)\n",
        "",
        "the parity of the upper index bits is lost: no Hadamard matrix from 32 up",
        "rotations",
    ),
    _m(
        "hadamard-not-normalised",
        "return total * root",
        "return total",
        "the factor 1/sqrt(n) is missing",
        "rotations",
    ),
    _m(
        "hadamard-normalised-in-bf16",
        "root: tl.constexpr = N**-0.5",
        "root: tl.constexpr = 0.1767578125 if N == 32 else 0.08837890625 if N == 128 else N**-0.5",
        "1/sqrt(n) is rounded to bf16, which is inexact for 32 and 128",
        "rotations",
    ),
    _m(
        "hadamard-across-rows",
        "    x = tl.reshape(x, (groups, N))\n",
        "    x = tl.reshape(tl.trans(tl.reshape(x, (N, groups))), (groups, N))\n",
        "the rotation mixes elements of different groups",
        "rotations",
    ),
    _m(
        "hadamard-of-fp32-in-sixteen-bits",
        "for _part in tl.static_range(3):",
        "for _part in tl.static_range(2):",
        "the lowest eight bits of fp32 input are lost in the rotation",
        "rotations",
    ),
    _m(
        "hadamard-of-fp32-in-bf16",
        "for _part in tl.static_range(3):",
        "for _part in tl.static_range(1):",
        "fp32 input is cut to bf16 before the rotation",
        "rotations",
    ),
    _m(
        "hadamard-sums-in-fp16",
        "total = tl.dot(x, matrix)",
        "total = tl.dot(x, matrix).to(tl.float16).to(tl.float32)",
        "rotated sums are rounded to fp16",
        "rotations",
    ),
)

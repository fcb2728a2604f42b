"""x [M, K] -> bf16 [M, K] of what NVFP4 with a global scale for each row keeps of it, code * scale (exact), and those.

The left operand of a product with NVFP4 weights: what fp4_rows.nvfp4_token and fp4_decode_rows.py give one after the
other, in one kernel and to the bit. A thread holds a block of 16; its codes are never stored, each pair becomes a word
of two bf16.

    value = sign * e2m1(code) * s,  the three bits of a code put into fp32's exponent and mantissa, times 2^126

A block that holds inf or NaN is NaN. Layout: x by rows, out without gaps.

Predicted (H200): a launch less in a step of decoding, 2 us a layer; 4096 x 8192 fp16 31 us for 41, of which 31 are the
memory's (64 MiB in, 64 out). Measured in a step of one token (torch 2.11, Triton 3.6, launches of a CUDA graph by the
profiler): 2.4 us for rows of 4096 and 14336 (Llama-3.1-8B), 2.9 for 4480 to 15680 (Nemotron-Nano). Large matrices were
not timed. Compiled for sm_90: 21.5 instructions an element of bf16, 22 us of issue slots at 4096 x 8192.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import NVFP4
from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4 import magnitude_bits, nvfp4_scale_of
from qkernels.triton.fp4_launch import begins
from qkernels.triton.fp4_parts import block_values, finite_amax, load_block, root_of
from qkernels.triton.fp4_words import (
    _HIGH_HALVES,
    join_words,
    part_magnitudes,
    raised_codes,
    word_magnitudes,
    words_fit,
)
from qkernels.triton.launch import check_hadamard, check_matrix
from qkernels.triton.nvfp4_codes import encode_scale_of

LONGEST = 32768  # elements of a row, as in fp4_rows.py


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to: two stores of 16 bytes a block, and no spill."""
    return {"nvfp4_rounded_kernel": expected_words(128, on_chip=True)}


@triton.jit
def rounded_words(part, factor, scale, signs):
    """fp32 [BLOCKS, 8] -> int32 [BLOCKS, 4], pairs of bf16 sign * e2m1(|part| * factor) * scale; the others [BLOCKS].

    fp32's bits of code c are c << 22 but for a factor of 2^126, half of which is multiplied into each side: the scale
    times all of it overflows. A product has six bits, so its upper half is all of it. signs: the sign bit, or 0 where
    a block has no codes; its scale is then 0 or NaN.
    """
    codes = raised_codes(tl.abs(part), factor[:, None]) << 22  # what is above the code is lost
    half = (scale * 9.223372036854775808e18)[:, None]  # 2^63
    bits = (codes.to(tl.float32, bitcast=True) * 9.223372036854775808e18 * half).to(tl.int32, bitcast=True)
    bits = bits | (part.to(tl.int32, bitcast=True) & signs[:, None])
    low, high = tl.split(tl.reshape(bits, (bits.shape[0], 4, 2)))
    return join_words(low, high, _HIGH_HALVES)


@triton.jit
def nvfp4_rounded_kernel(
    x_ptr, out_ptr, global_ptr, k, stride,
    LENGTH: tl.constexpr, TOP: tl.constexpr, HADAMARD: tl.constexpr, WORDS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    PACKED: tl.constexpr = WORDS and HADAMARD == 0
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, LENGTH)
    inside = block < k // 16
    loaded = load_block(x_ptr + row * stride + block * 16, inside, 2, WORDS)
    parts = block_values(loaded, 2, WORDS, HALF)
    if HADAMARD:
        parts = rotate_parts(parts, 2, HADAMARD)
    if PACKED:
        _sizes, _signs, amax = word_magnitudes(loaded, 2, HALF)
    else:
        _sizes, _signs, amax = part_magnitudes(parts, 2)
    rest = root_of(HADAMARD)
    finite = magnitude_bits(finite_amax(loaded, parts, 2, PACKED, HALF) * rest)
    encode_scale = encode_scale_of(tl.max(finite, axis=0).to(tl.float32, bitcast=True), TOP)
    tl.store(global_ptr + row, encode_scale)
    _byte, scale, whole = nvfp4_scale_of(magnitude_bits(amax * rest), encode_scale, 1.0, 0.0)
    coded = whole & (scale > 0.0)
    inverse = 1.0 / tl.where(coded, scale, 1.0)
    scale = tl.where(whole, scale, float("nan"))
    signs = tl.where(coded, -2147483648, 0)
    at = (out_ptr + row * k + block * 16).to(tl.pointer_type(tl.int32), bitcast=True)[:, None]
    at += tl.arange(0, 4)[None, :]
    for i in tl.static_range(2):
        if HALF:  # as store_nvfp4 has it
            words = rounded_words(parts[i], encode_scale * inverse * rest, scale, signs)
        else:
            words = rounded_words(parts[i] * encode_scale, inverse * rest, scale, signs)
        tl.store(at + i * 4, words, mask=inside[:, None])


def nvfp4_rounded(x: Tensor, *, hadamard: int | None = None, early: bool = True) -> tuple[Tensor, Tensor]:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 16 and of `hadamard` -> bf16 [M, K] and the rows' global
    scales, float32 [M, 1].

    hadamard      rotates first, as nvfp4_token does; early: see nvfp4_quantize
    Raises ValueError or TypeError for input the kernel does not take, a row of more than LONGEST elements too.
    """
    check_hadamard(hadamard, NVFP4.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    if k > LONGEST:
        raise ValueError(f"K = {k}; a row of at most {LONGEST} elements fits the registers")
    out = torch.empty(m, k, dtype=torch.bfloat16, device=x.device)
    tops = torch.empty(m, 1, device=x.device)
    if m > 0:
        length = max(32, (hadamard or 16) // 16, triton.next_power_of_2(k // 16))
        most = min(32, length // 32)  # a block to a thread
        warps = most if m < 264 else max(1, min(most, length // 64))
        with torch.cuda.device_of(x):
            nvfp4_rounded_kernel[(m,)](
                x, out, tops, k, x.stride(0), LENGTH=length, TOP=NVFP4.scale_max * 6.0, HADAMARD=hadamard or 0,
                WORDS=words_fit(x), enable_fp_fusion=False, num_warps=warps, **begins(early, x.device),
            )  # fmt: skip
    return out, tops

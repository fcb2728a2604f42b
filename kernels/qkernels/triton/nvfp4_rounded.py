"""x [M, K] -> bf16 [M, K] of what NVFP4 keeps of it, code * scale (exact), and the global scale it is a multiple of.

The left operand of a product with NVFP4 weights: what fp4_rows.nvfp4_token and fp4_decode_rows.py give one after the
other, in one kernel and to the bit. A row's global scale is its own, or one is given, or there is none. A thread holds
a block of 16; its codes are never stored, each pair becomes a word of two bf16.

    value = sign * e2m1(code) * s,  the three bits of a code put into fp32's exponent and mantissa, times 2^126

A block that holds inf or NaN is NaN. Layout: x by rows, out without gaps.

Predicted (H200): a launch less in a step of decoding, 2 us a layer; 4096 x 8192 fp16 31 us for 41, of which 31 are the
memory's (64 MiB in, 64 out). Not measured yet. Compiled for sm_90, instructions an element: 21.8 of bf16 under a row's
own scale, 19.4 of fp16 rotated by 16 under a given one: 20 to 22 us of issue slots at that size.
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
from qkernels.triton.fp4 import magnitude_bits, nvfp4_scale
from qkernels.triton.fp4_launch import begins
from qkernels.triton.fp4_parts import block_values, finite_amax, load_block, root_of
from qkernels.triton.fp4_words import (
    _HIGH_HALVES,
    join_words,
    largest_value,
    largest_word,
    largest_words,
    raised_codes,
    words_fit,
)
from qkernels.triton.launch import as_scale, check_hadamard, check_matrix
from qkernels.triton.nvfp4_codes import encode_scale_of

LONGEST = 32768  # elements of a row, as in fp4_rows.py


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to: two stores of 16 bytes a block, and no spill."""
    return {"nvfp4_rounded_kernel": expected_words(128, on_chip=True)}


@triton.jit
def amax_of(loaded, parts, PACKED: tl.constexpr, HALF: tl.constexpr):
    """The largest magnitude of each block, NaN if one is; of words as loaded (PACKED), or of its values."""
    if PACKED:
        word = largest_words(loaded[0] & 0x7FFF7FFF, loaded[1] & 0x7FFF7FFF, HALF, False)
        amax = largest_value(largest_word(word, HALF), HALF)
    else:
        best = tl.maximum(tl.abs(parts[0]), tl.abs(parts[1]), propagate_nan=tl.PropagateNan.ALL)
        amax = tl.max(magnitude_bits(best), axis=1).to(tl.float32, bitcast=True)
    return amax


@triton.jit
def scale_value(byte):
    """E4M3 bytes int32 [BLOCKS] -> fp32, 0x7f is NaN."""
    value = (byte << 20).to(
        tl.float32, bitcast=True
    ) * 1.329227995784916e36  # 2^120: the exponents' biases differ
    return tl.where(byte == 0x7F, float("nan"), value)


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
    LENGTH: tl.constexpr, TOKEN: tl.constexpr, TOP: tl.constexpr, HADAMARD: tl.constexpr, WORDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """A row. TOKEN: its global scale is made here; else one is read, or is 1 (global_ptr is None)."""
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
    rest = root_of(HADAMARD)
    amax = amax_of(loaded, parts, PACKED, HALF) * rest
    if TOKEN:
        finite = magnitude_bits(finite_amax(loaded, parts, 2, PACKED, HALF) * rest)
        encode_scale = encode_scale_of(tl.max(finite, axis=0).to(tl.float32, bitcast=True), TOP)
        tl.store(global_ptr + row, encode_scale)
    elif global_ptr is not None:
        encode_scale = tl.load(global_ptr)
    else:
        encode_scale = 1.0
    byte, inverse, coded = nvfp4_scale(magnitude_bits(amax), encode_scale)
    scale, signs = scale_value(byte), tl.where(coded, -2147483648, 0)
    at = (out_ptr + row * k + block * 16).to(tl.pointer_type(tl.int32), bitcast=True)[:, None]
    at += tl.arange(0, 4)[None, :]
    for i in tl.static_range(2):
        if HALF:  # as store_nvfp4 has it
            words = rounded_words(parts[i], encode_scale * inverse * rest, scale, signs)
        else:
            words = rounded_words(parts[i] * encode_scale, inverse * rest, scale, signs)
        tl.store(at + i * 4, words, mask=inside[:, None])


def nvfp4_rounded(
    x: Tensor,
    *,
    global_scale: Tensor | None = None,
    by_row: bool = True,
    hadamard: int | None = None,
    early: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 16 and of `hadamard` -> bf16 [M, K] and its global scale.

    by_row        a global scale for each row, float32 [M, 1], computed; else global_scale, float32 [1] or [], > 0 (not
                  checked), or none (one level)
    hadamard      rotates first, as nvfp4_token does; early: see nvfp4_quantize
    Raises ValueError or TypeError for input the kernel does not take, a row of more than LONGEST elements too.
    """
    check_hadamard(hadamard, NVFP4.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    if k > LONGEST:
        raise ValueError(f"K = {k}; a row of at most {LONGEST} elements fits the registers")
    if by_row and global_scale is not None:
        raise ValueError("a global scale is given and one for each row asked for; leave one of them out")
    out = torch.empty(m, k, dtype=torch.bfloat16, device=x.device)
    gs: Tensor | None = None
    if by_row:
        gs = torch.empty(m, 1, device=x.device)
    elif global_scale is not None:
        gs = as_scale(global_scale, "global_scale", x.device)
    if m > 0:
        length = max(32, (hadamard or 16) // 16, triton.next_power_of_2(k // 16))
        most = min(32, length // 32)  # a block to a thread
        warps = most if m < 264 else max(1, min(most, length // 64))
        with torch.cuda.device_of(x):
            nvfp4_rounded_kernel[(m,)](
                x, out, gs, k, x.stride(0), LENGTH=length, TOKEN=by_row, TOP=NVFP4.scale_max * 6.0,
                HADAMARD=hadamard or 0, WORDS=words_fit(x), enable_fp_fusion=False, num_warps=warps,
                **begins(early, x.device),
            )  # fmt: skip
    return out, gs

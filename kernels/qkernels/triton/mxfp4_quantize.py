"""x [M, K] -> MXFP4: E2M1 codes in blocks of 32 along K, one power-of-two scale (E8M0 byte) a block.

With E the exponent field of amax (fp32) and f its fraction field, the byte of the scale is
    floor E-2 | ceil E-2+(f>0) | even E-2+(f>=.75) | rceil E-2+(f>.5)                        code = e2m1(x/s)
    abs_max: exponent field of fl32(amax + 1e-8)                                            code = e2m1(3*x/s)
    quest:   exponent field of std*(2.92247856/6) + 1e-8, std = sqrt(E[x^2] - E[x]^2)       code = e2m1(x/s)
clamped at 0. All of it is integer arithmetic on exponent bits (a float log2 is wrong just below powers of
two); an fp32 subnormal has E = 0, and its byte is 0 under every rule whatever its fraction. x/s multiplies by
a power of two, which is exact, and 3*x/s is rounded once by a fused multiply-add inside the encoder.

With `hadamard` x is first rotated blockwise along K by H/sqrt(n), in the same kernel. A thread holds a block, or of few
elements half a block, from load to store, whatever x's dtype and alignment (see nvfp4_quantize.py).
Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/32], row-major, or blocked (128 x 4
tiles, padding zero).

Tolerance: none without a rotation, bytes and codes equal the reference's; except quest, whose fp32 sums have
an order of their own. A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
Non-finite input: a block holding inf or NaN gets the scale byte 0xff (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): 21.6 /
79.2 / 1.3 us, blocked 21.7 / 81.6 / 1.6, Hadamard 32 26.4 / 99.6 / 1.35, 128 31.9 / 118 / 1.5, quest rotated by 128
36.6 / 136 / 1.8. Predicted had been 26 / 97 for Hadamard 32, 30.5 / 113 for 128, 22.9 / 83 blocked. Compiled for
sm_90, instructions an element: 11.0, Hadamard 32 16.0, 128 20.3, blocked scales 12.1, quest 15.3; a thread's 384 for
half a block rotated by 128. Two warps to 32 blocks each (a thread has no whole block) take 152 us at Hadamard 128; a
warp a program 40.6 us.

Source: OCP Microscaling Formats v1.0, section 6.3 (floor); Castro et al., "Quartet" (arXiv 2505.14669), for
abs_max and quest as its qutlass kernels define them.
"""

# mypy: disable-error-code="assignment"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import E2M1, FLOAT32_MAX, FORMATS, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor, ScaleLayout
from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_launch import FEW, begins, cut, written
from qkernels.triton.fp4_parts import (
    block_values,
    largest_of_group,
    load_block,
    place_of_blocks,
    root_of,
    rotated_magnitudes,
    store_scales,
)
from qkernels.triton.fp4_words import part_magnitudes, store_codes, words_fit
from qkernels.triton.launch import check_hadamard, check_matrix
from qkernels.triton.outputs import Outputs

_BY_RULE: dict[str, Format] = {
    fmt.rule: fmt
    for fmt in FORMATS.values()
    if (fmt.element, fmt.block, fmt.block_rows, fmt.scale) == (E2M1, 32, 1, "e8m0")
}
TAKES = dict.fromkeys(_BY_RULE.values(), ("hadamard", "scale_layout"))
"""The formats of this kernel and the options of each."""


def expected(m: int, k: int) -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to: a block, or of few elements half a block, in one store."""
    return {"mxfp4_parts_kernel": expected_words(64 if m * k <= FEW else 128)}


_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def shared_exponent(y, amax_bits, RULE: tl.constexpr):
    """fp32 blocks [BLOCKS, 32] and bits of their maxima -> E8M0 bytes int32 [BLOCKS] for finite blocks."""
    exponent = amax_bits >> 23
    fraction = amax_bits & 0x7FFFFF
    if RULE == "floor":
        byte = exponent - 2
    elif RULE == "ceil":
        byte = exponent - 2 + (fraction > 0).to(tl.int32)
    elif RULE == "even":
        byte = exponent - 2 + (fraction >= 0x600000).to(tl.int32)
    elif RULE == "rceil":
        byte = exponent - 2 + (fraction > 0x400000).to(tl.int32)
    elif RULE == "abs_max":
        byte = magnitude_bits(amax_bits.to(tl.float32, bitcast=True) + 1e-8) >> 23
    else:
        tl.static_assert(RULE == "quest", "unknown rule")
        byte = quest_exponent(tl.sum(y, axis=1), tl.sum(y * y, axis=1))
    return tl.maximum(byte, 0)


@triton.jit
def quest_exponent(total, squares):
    """Sums over blocks of 32 of x and of x^2, fp32 -> E8M0 bytes int32 for finite blocks."""
    mean = total * (1.0 / 32)
    square = squares * (1.0 / 32)
    variance = square - mean * mean
    target = tl.sqrt_rn(tl.maximum(variance, 0.0)) * 0.48707976 + 1e-8  # 2.92247856 / 6
    byte = tl.where(variance >= 0.0, magnitude_bits(target) >> 23, 127)
    # E[x^2] overflows for |x| > 2^63: the largest scale keeps such a block finite
    return tl.where(magnitude_bits(square) < 0x7F800000, byte, 254)


@triton.jit
def quest_parts(parts, PARTS: tl.constexpr, HADAMARD: tl.constexpr):
    """(blocks divided by sqrt(HADAMARD), their quest bytes): of rotated sums E[x^2] would overflow too early."""
    scaled = ()
    total = tl.zeros((parts[0].shape[0],), tl.float32)
    squares = tl.zeros((parts[0].shape[0],), tl.float32)
    for i in tl.static_range(PARTS):
        part = parts[i] * root_of(HADAMARD)
        scaled += (part,)
        total += tl.sum(part, axis=1)
        squares += tl.sum(part * part, axis=1)
    return scaled, tl.maximum(quest_exponent(total, squares), 0)


@triton.jit
def inverse_of(scales):
    """1/s = 2^(127 - byte) of E8M0 bytes; of byte 254 that is the subnormal 2^-127, whose bits are no exponent."""
    return tl.maximum((254 - scales) << 23, 0x00400000).to(tl.float32, bitcast=True)


@triton.jit
def store_mxfp4(
    data_ptr, scale_ptr, sizes, signs, scales, finite, rest, row, unit, inside, blocks,
    ORDER: tl.constexpr, RULE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Scales and codes of blocks (PARTS 4) or halves of them (2) in threads, magnitudes sizes*rest: see store_nvfp4."""
    SPLIT: tl.constexpr = 4 // PARTS
    inverse = inverse_of(scales)
    if RULE == "abs_max":
        inverse = inverse * 3.0
    byte = tl.where(finite, scales, 0xFF)
    if SPLIT > 1:
        store_scales(scale_ptr, byte, row, unit // SPLIT, inside & (unit % SPLIT == 0), blocks, False)
    else:
        store_scales(scale_ptr, byte, row, unit, inside, blocks, ORDER == "squares")
    out_ptr = data_ptr + (row * (blocks * SPLIT) + unit) * (4 * PARTS)
    # of a zero block under a norm, 2^127 times 1/sqrt(eps): inf * 0 would be NaN
    factor = tl.minimum(inverse * rest, _LARGEST)
    store_codes(out_ptr, sizes, signs, None, factor, finite, inside, PARTS)


@triton.jit(do_not_specialize=["m"])
def mxfp4_parts_kernel(
    x_ptr, data_ptr, scale_ptr, m, k, stride,
    ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr, HADAMARD: tl.constexpr,
    RULE: tl.constexpr, PARTS: tl.constexpr, WORDS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile, a thread for each block (PARTS 4) or half of one (PARTS 2): see fp4_parts.py and fp4_words.py."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    SPLIT: tl.constexpr = 4 // PARTS
    blocks = k // 32
    after_previous(EARLY)
    row, unit = place_of_blocks(tl.program_id(0), tl.program_id(1), ROWS, ACROSS, ORDER, BESIDE)
    inside = (row < m) & (unit < blocks * SPLIT)
    row = row.to(tl.int64)
    loaded = load_block(x_ptr + row * stride + unit * (8 * PARTS), inside, PARTS, WORDS)
    root = root_of(HADAMARD)
    if RULE == "quest":
        parts = block_values(loaded, PARTS, WORDS, HALF)
        if HADAMARD:
            parts = rotate_parts(parts, PARTS, HADAMARD)
        parts, scales = quest_parts(parts, PARTS, HADAMARD)
        sizes, signs, amax = part_magnitudes(parts, PARTS)
        amax_bits = magnitude_bits(amax)
        root = 1.0
    else:
        sizes, signs, amax = rotated_magnitudes(loaded, PARTS, WORDS, HALF, HADAMARD)
        if SPLIT > 1:
            amax = largest_of_group(amax, SPLIT, 1)
        amax_bits = magnitude_bits(amax)
        scales = shared_exponent(sizes[0], amax_bits, RULE)
    store_mxfp4(
        data_ptr, scale_ptr, sizes, signs, scales, amax_bits < 0x7F800000, root, row, unit, inside, blocks,
        ORDER, RULE, PARTS,
    )  # fmt: skip


def mxfp4_quantize(
    x: Tensor,
    *,
    rule: str = "floor",
    hadamard: int | None = None,
    scale_layout: ScaleLayout = "linear",
    outputs: Outputs | None = None,
    shape: tuple[int, int, int] | None = None,
    halves: bool | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 32 and of `hadamard` -> MXFP4 under that rule.

    outputs        the caller's tensors to write, see `qkernels.quantize`
    shape, halves, early  for measurements: (rows, blocks, warps) of a tile, whether two threads share a block, and
                   whether the launch may begin before the kernel before it has ended
    Raises TypeError or ValueError for input the kernel does not take, ValueError for an unknown rule.
    """
    if rule not in _BY_RULE:
        raise ValueError(f"unknown MXFP4 rule {rule!r}; known: {', '.join(_BY_RULE)}")
    fmt = _BY_RULE[rule]
    check_hadamard(hadamard, fmt.hadamard)
    m, k = check_matrix(x, block=32, hadamard=hadamard)
    data, scale = written(m, k, fmt, x, scale_layout, outputs)
    blocked = scale_layout == "blocked"
    if m > 0:
        if halves is None:
            halves = m * k <= FEW and rule != "quest" and not blocked
        tile = cut(m, k, fmt, blocked=blocked, hadamard=hadamard, shape=shape, halves=halves)
        with torch.cuda.device_of(x):
            mxfp4_parts_kernel[(tile.down, tile.across)](
                x, data, scale, m, k, x.stride(0), **tile.constants, HADAMARD=hadamard or 0, RULE=rule,
                PARTS=2 if halves else 4, WORDS=words_fit(x), enable_fp_fusion=False, **begins(early, x.device),
            )  # fmt: skip
    return QTensor(data, scale, fmt, (m, k), hadamard=hadamard, scale_layout=scale_layout)


@qbench.provider("triton", needs_cuda=True)
def quantize_mxfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rotation and quantization in one kernel."""
    require(options, "the Triton MXFP4 quantizer", TAKES)
    return lambda: mxfp4_quantize(
        x, rule=options.format.rule, hadamard=options.hadamard, scale_layout=options.scale_layout
    )

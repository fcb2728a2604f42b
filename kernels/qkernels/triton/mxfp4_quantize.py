"""x [M, K] -> MXFP4: E2M1 codes in blocks of 32 along K, one power-of-two scale (E8M0 byte) a block.

With E the exponent field of amax (fp32) and f its fraction field, the byte of the scale is
    floor E-2 | ceil E-2+(f>0) | even E-2+(f>=.75) | rceil E-2+(f>.5)                        code = e2m1(x/s)
    abs_max: exponent field of fl32(amax + 1e-8)                                            code = e2m1(3*x/s)
    quest:   exponent field of std*(2.92247856/6) + 1e-8, std = sqrt(E[x^2] - E[x]^2)       code = e2m1(x/s)
clamped at 0. All of it is integer arithmetic on exponent bits (a float log2 is wrong just below powers of
two); an fp32 subnormal has E = 0, and its byte is 0 under every rule whatever its fraction. x/s multiplies by
a power of two, which is exact, and 3*x/s is rounded once by a fused multiply-add inside the encoder.

With `hadamard` x is first rotated blockwise along K by H/sqrt(n), in the same kernel. Sixteen-bit x whose rows are
whole words has a path of its own, a thread to a block, for every rule but quest (see nvfp4_quantize.py).
Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/32], row-major.

Tolerance: none without a rotation, bytes and codes equal the reference's; except quest, whose fp32 sums have
an order of their own. A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
Non-finite input: a block holding inf or NaN gets the scale byte 0xff (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): 22.4 / 82 /
2.1 us, with Hadamard 32 27.8 / 103 / 2.2, 128 34.4 / 127 / 2.4. The path without words takes 31.0 / 114 / 2.0, 42.6 /
160 / 2.5 and 90.3 / 352 / 4.5; quest 93.9 at 4096 x 8192. Compiled for sm_90 words take 11.0 instructions an element,
and 17.2 and 23.3 with Hadamard 32 and 128 (20.2 and 45.3 without); predicted from that were 23, 25 and 33 us.

Source: OCP Microscaling Formats v1.0, section 6.3 (floor); Castro et al., "Quartet" (arXiv 2505.14669), for
abs_max and quest as its qutlass kernels define them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import E2M1, FORMATS, MXFP4, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor
from qkernels.triton.expected import expected_tile, expected_words
from qkernels.triton.fp4 import encode_e2m1, hadamard_tile, magnitude_bits, pack_pairs, rotate_tile
from qkernels.triton.fp4_words import load_parts, magnitudes_and_signs, store_codes, words_fit
from qkernels.triton.launch import check_hadamard, check_matrix, choose_tile

_BY_RULE: dict[str, Format] = {
    fmt.rule: fmt
    for fmt in FORMATS.values()
    if (fmt.element, fmt.block, fmt.block_rows, fmt.scale) == (E2M1, 32, 1, "e8m0")
}
TAKES = dict.fromkeys(_BY_RULE.values(), ("hadamard",))
"""The formats of this kernel and the options of each."""


def expected(dtype: str, hadamard: int, rule: str = "floor") -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to, for x of "bf16", "fp16" or "fp32"."""
    if dtype == "fp32" or rule == "quest":
        return {"mxfp4_quantize_kernel": expected_tile(hadamard)}
    return {"mxfp4_words_kernel": expected_words(128)}


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
        mean = tl.sum(y, axis=1) * (1.0 / 32)
        square = tl.sum(y * y, axis=1) * (1.0 / 32)
        variance = square - mean * mean
        target = tl.sqrt_rn(tl.maximum(variance, 0.0)) * 0.48707976 + 1e-8  # 2.92247856 / 6
        byte = tl.where(variance >= 0.0, magnitude_bits(target) >> 23, 127)
        # E[x^2] overflows for |x| > 2^63: the largest scale keeps such a block finite
        byte = tl.where(magnitude_bits(square) < 0x7F800000, byte, 254)
    return tl.maximum(byte, 0)


@triton.jit(do_not_specialize=["m"])
def mxfp4_quantize_kernel(
    x_ptr, data_ptr, scale_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS x COLUMNS."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None]
    row = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + row * stride + column[None, :], mask=inside & (column < k)[None, :], other=0.0)
    if HADAMARD:
        y = rotate_tile(x, hadamard_tile(HADAMARD, x.dtype), HADAMARD)
    else:
        y = x.to(tl.float32)
    y = tl.reshape(y, (ROWS * COLUMNS // 32, 32))

    amax_bits = tl.max(magnitude_bits(y), axis=1)
    scales = shared_exponent(y, amax_bits, RULE)
    # 1/s = 2^(127 - byte); for byte 254 that is the subnormal 2^-127, whose bits are not an exponent field
    inverse = tl.maximum((254 - scales) << 23, 0x00400000).to(tl.float32, bitcast=True)
    codes = encode_e2m1(y * inverse[:, None], 3.0 if RULE == "abs_max" else 1.0)
    finite = amax_bits < 0x7F800000
    codes = tl.where(finite[:, None], codes, 0)
    scales = tl.where(finite, scales, 0xFF)

    byte = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    mask = inside & (byte < k // 2)[None, :]
    tl.store(data_ptr + row * (k // 2) + byte[None, :], pack_pairs(codes, ROWS, COLUMNS), mask=mask)
    block = tl.program_id(1) * (COLUMNS // 32) + tl.arange(0, COLUMNS // 32)
    scales = tl.reshape(scales, (ROWS, COLUMNS // 32)).to(tl.uint8)
    tl.store(scale_ptr + row * (k // 32) + block[None, :], scales, mask=inside & (block < k // 32)[None, :])


@triton.jit(do_not_specialize=["m"])
def mxfp4_words_kernel(
    x_ptr, data_ptr, scale_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS x COLUMNS of sixteen-bit x, a thread for each block: see fp4_words.py."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    index = tl.arange(0, ROWS * COLUMNS // 32)
    row = tl.program_id(0) * ROWS + index // (COLUMNS // 32)
    block = tl.program_id(1) * (COLUMNS // 32) + index % (COLUMNS // 32)
    inside = (row < m) & (block < k // 32)
    row = row.to(tl.int64)
    x_ptr += row * stride + block * 32
    words = load_parts(x_ptr, inside, 4)
    sizes, signs, amax_bits = magnitudes_and_signs(words, 4, HALF, HADAMARD)

    scales = shared_exponent(sizes[0], amax_bits, RULE)
    # 1/s = 2^(127 - byte); for byte 254 that is the subnormal 2^-127, whose bits are not an exponent field
    inverse = tl.maximum((254 - scales) << 23, 0x00400000).to(tl.float32, bitcast=True)
    if RULE == "abs_max":
        inverse = inverse * 3.0
    finite = amax_bits < 0x7F800000
    tl.store(scale_ptr + row * (k // 32) + block, tl.where(finite, scales, 0xFF).to(tl.uint8), mask=inside)
    store_codes(data_ptr + (row * (k // 32) + block) * 16, sizes, signs, None, inverse, finite, inside, 4)


def mxfp4_quantize(x: Tensor, *, rule: str = "floor", hadamard: int | None = None) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 32 and of `hadamard` -> MXFP4 under that rule.

    Raises TypeError or ValueError for input the kernel does not take, ValueError for an unknown rule.
    """
    if rule not in _BY_RULE:
        raise ValueError(f"unknown MXFP4 rule {rule!r}; known: {', '.join(_BY_RULE)}")
    check_hadamard(hadamard, MXFP4.hadamard)
    m, k = check_matrix(x, block=32, hadamard=hadamard)
    data = torch.empty(m, k // 2, dtype=torch.uint8, device=x.device)
    scale = torch.empty(m, k // 32, dtype=torch.uint8, device=x.device)
    if m > 0 and words_fit(x) and rule != "quest":
        tile = choose_tile(m, k, elements=4096)
        with torch.cuda.device_of(x):
            mxfp4_words_kernel[(tile.down, tile.across)](
                x, data, scale, m, k, x.stride(0), ROWS=tile.rows, COLUMNS=tile.columns,
                HADAMARD=hadamard or 0, RULE=rule, num_warps=tile.rows * tile.columns // 1024,
                enable_fp_fusion=False,
            )  # fmt: skip
    elif m > 0:
        tile = choose_tile(m, k, hadamard=hadamard)
        with torch.cuda.device_of(x):
            mxfp4_quantize_kernel[(tile.down, tile.across)](
                x, data, scale, m, k, x.stride(0), ROWS=tile.rows, COLUMNS=tile.columns,
                HADAMARD=hadamard or 0, RULE=rule, num_warps=4 if hadamard is None else 8, enable_fp_fusion=False,
            )  # fmt: skip
    return QTensor(data, scale, _BY_RULE[rule], (m, k), hadamard=hadamard)


@qbench.provider("triton", needs_cuda=True)
def quantize_mxfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rotation and quantization in one kernel."""
    require(options, "the Triton MXFP4 quantizer", TAKES)
    return lambda: mxfp4_quantize(x, rule=options.format.rule, hadamard=options.hadamard)

"""x [M, K] -> NVFP4: E2M1 codes in blocks of 16 along K, E4M3 block scales, one fp32 encode scale for the tensor.

    gs = 448*6/amax(x) (dynamic, over the finite elements), or given, or 1 (one level)
    s  = e4m3(min(amax_block*gs/6, 448)),  code = e2m1(x*gs/s),  value = code*s/gs
With `hadamard` x is first rotated blockwise along K by H/sqrt(n), in the same kernel.

Two paths. Sixteen-bit x whose rows are whole words: a thread holds a block from load to store (fp4_words.py), and
rotates it by butterflies (butterflies.py). Other x: a tile of any layout, rotated on tensor cores (x in its own
dtype, or fp32 as three bf16 parts, times +-1; fp32 sums).

Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/16], row-major. A program
reads a tile of rows x columns and writes both outputs of it. The dynamic global scale costs one more read of x
(amax.py); gs is computed on the device by every program from the partial maxima. Its tiles then run from the last
back, so that what was read last is still in the L2 cache.

Tolerance: fp32 operations in an order of their own, each within 2^-21 of the exact quotient before the final
rounding, so a scale byte or code may differ from the float64 reference where that lies within 2^-21 of a tie
(about one code in 10^3 when gs is dynamic). A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
A rotation overflows fp32 where a sum of n elements does: such blocks become NaN.

Non-finite input: a block holding inf or NaN gets the scale byte 0x7f (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
global scale 22.4 / 80 / 2.1 us, with Hadamard 16 27.8 / 102 / 2.3, 128 36.4 / 136 / 2.8; dynamic 42.5 / 146 / 4.0. The
path without words takes 33.7 / 125 / 2.1, 49.3 / 186 / 2.5 and 98.6 / 381 / 5.0. Compiled for sm_90 words take 13.3
instructions an element and 18.3 with Hadamard 16, half of which issue on the slower integer pipe (23.7 and 30.6
without); predicted from that were 24, 26 and 42 us.

Source: NVIDIA, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149), appendix on quantization;
the encode-scale convention is that of vLLM's `scaled_fp4_quant`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FLOAT32_MAX, NVFP4, NVFP4_1L
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor
from qkernels.triton.amax import largest, partial_amax
from qkernels.triton.expected import expected_tile, expected_words
from qkernels.triton.fp4 import encode_nvfp4, hadamard_tile, nvfp4_scale, pack_pairs, rotate_tile
from qkernels.triton.fp4_words import load_parts, magnitudes_and_signs, store_codes, words_fit
from qkernels.triton.launch import (
    as_scale,
    check_hadamard,
    check_matrix,
    choose_tile,
    second_pass,
    tile_of_program,
)

TAKES = {NVFP4: ("hadamard", "global_scale"), NVFP4_1L: ("hadamard",)}
"""The formats of this kernel and the options of each."""


def expected(dtype: str, hadamard: int, scale: str = "static") -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to, for x of "bf16", "fp16" or "fp32" and a global scale of that kind."""
    if dtype == "fp32":
        return {"nvfp4_quantize_kernel": expected_tile(hadamard)}
    return {"nvfp4_words_kernel": expected_words(64, on_chip=scale == "dynamic")}


_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def encode_scale_of(amax):
    """448*6/amax: it overflows for amax < 7.9e-36, and a zero tensor has no scale of its own."""
    return tl.where(amax > 0.0, tl.minimum(tl.div_rn(2688.0, amax), _LARGEST), 1.0)


@triton.jit
def global_scale_of(global_ptr, partial_ptr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr):
    """gs; the first program writes it where it is dynamic (PARTIALS > 0)."""
    if LEVELS == 1:
        encode_scale = 1.0
    elif PARTIALS > 0:
        amax = largest(partial_ptr, PARTIALS)
        encode_scale = encode_scale_of(amax)
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(global_ptr, encode_scale)
    else:
        encode_scale = tl.load(global_ptr)
    return encode_scale


@triton.jit(do_not_specialize=["m"])
def nvfp4_quantize_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr,
):  # fmt: skip
    """One tile. global_ptr: gs, written here if PARTIALS > 0 (dynamic), read otherwise; unused with one level."""
    encode_scale = global_scale_of(global_ptr, partial_ptr, LEVELS, PARTIALS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None]
    row = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + row * stride + column[None, :], mask=inside & (column < k)[None, :], other=0.0)
    if HADAMARD:
        y = rotate_tile(x, hadamard_tile(HADAMARD, x.dtype), HADAMARD)
    else:
        y = x.to(tl.float32)
    codes, scales = encode_nvfp4(tl.reshape(y, (ROWS * COLUMNS // 16, 16)), encode_scale)

    byte = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    mask = inside & (byte < k // 2)[None, :]
    tl.store(data_ptr + row * (k // 2) + byte[None, :], pack_pairs(codes, ROWS, COLUMNS), mask=mask)
    block = tl.program_id(1) * (COLUMNS // 16) + tl.arange(0, COLUMNS // 16)
    scales = tl.reshape(scales, (ROWS, COLUMNS // 16)).to(tl.uint8)
    tl.store(scale_ptr + row * (k // 16) + block[None, :], scales, mask=inside & (block < k // 16)[None, :])


@triton.jit(do_not_specialize=["m", "across"])
def nvfp4_words_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, m, k, stride, across,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr,
    REVERSED: tl.constexpr,
):  # fmt: skip
    """The same of sixteen-bit x, a thread for each block: see fp4_words.py."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    index = tl.arange(0, ROWS * COLUMNS // 16)
    down, along = tile_of_program(across, REVERSED)
    row = down * ROWS + index // (COLUMNS // 16)
    block = along * (COLUMNS // 16) + index % (COLUMNS // 16)
    inside = (row < m) & (block < k // 16)
    row = row.to(tl.int64)
    x_ptr += row * stride + block * 16
    words = load_parts(x_ptr, inside, 2)
    encode_scale = global_scale_of(global_ptr, partial_ptr, LEVELS, PARTIALS)
    sizes, signs, amax_bits = magnitudes_and_signs(words, 2, HALF, HADAMARD)

    byte, inverse, coded = nvfp4_scale(amax_bits, encode_scale)
    tl.store(scale_ptr + row * (k // 16) + block, byte.to(tl.uint8), mask=inside)
    out_ptr = data_ptr + (row * (k // 16) + block) * 8
    if HALF:  # magnitudes in [2^-28, 2^23], rotated or not: gs/s is a normal number wherever s > 0
        store_codes(out_ptr, sizes, signs, None, encode_scale * inverse, coded, inside, 2)
    else:  # gs/s can overflow
        store_codes(out_ptr, sizes, signs, encode_scale, inverse, coded, inside, 2)


def nvfp4_quantize(
    x: Tensor,
    *,
    global_scale: Tensor | float | None = None,
    hadamard: int | None = None,
    one_level: bool = False,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 16 and of `hadamard` -> NVFP4 (NVFP4_1L if one_level).

    global_scale: one fp32 encode scale, finite and > 0 (the value of a tensor is not checked); None computes it.
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if one_level and global_scale is not None:
        raise ValueError("nvfp4_1l has one scale level and takes no global_scale; drop it or one_level=True")
    check_hadamard(hadamard, NVFP4.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    data = torch.empty(m, k // 2, dtype=torch.uint8, device=x.device)
    scale = torch.empty(m, k // 16, dtype=torch.uint8, device=x.device)
    gs = partial = None
    partials = 0
    if not one_level:
        if global_scale is not None:
            gs = as_scale(global_scale, "global_scale", x.device)
        elif m == 0:
            gs = torch.ones(1, device=x.device)
        else:
            gs = torch.empty(1, dtype=torch.float32, device=x.device)
            partial = partial_amax(x, hadamard=hadamard, finite_only=True)
            partials = partial.numel()
    if m > 0 and words_fit(x):
        tile = choose_tile(m, k, elements=2048)  # 4096: 84 us for 80 at 8192 x 16384
        turned, grid = second_pass(partials > 0, tile)
        with torch.cuda.device_of(x):
            nvfp4_words_kernel[grid](
                x, data, scale, gs, partial, m, k, x.stride(0), tile.across, ROWS=tile.rows, COLUMNS=tile.columns,
                HADAMARD=hadamard or 0, LEVELS=1 if one_level else 2, REVERSED=turned, PARTIALS=partials,
                num_warps=tile.rows * tile.columns // 1024, enable_fp_fusion=False,
            )  # fmt: skip
    elif m > 0:
        tile = choose_tile(m, k, hadamard=hadamard)
        with torch.cuda.device_of(x):
            nvfp4_quantize_kernel[(tile.down, tile.across)](
                x, data, scale, gs, partial, m, k, x.stride(0), ROWS=tile.rows, COLUMNS=tile.columns,
                HADAMARD=hadamard or 0, LEVELS=1 if one_level else 2, PARTIALS=partials,
                num_warps=4 if hadamard is None else 8, enable_fp_fusion=False,
            )  # fmt: skip
    fmt = NVFP4_1L if one_level else NVFP4
    return QTensor(data, scale, fmt, (m, k), None if gs is None else gs.reshape(()), hadamard)


@qbench.provider("triton", needs_cuda=True)
def quantize_nvfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rotation, amax (unless the global scale is given) and quantization, as one call."""
    require(options, "the Triton NVFP4 quantizer", TAKES)
    one_level = options.format.levels == 1
    return lambda: nvfp4_quantize(
        x, global_scale=options.global_scale, hadamard=options.hadamard, one_level=one_level
    )

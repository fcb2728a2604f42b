"""x [M, K] -> NVFP4: E2M1 codes in blocks of 16 along K, E4M3 block scales, one fp32 encode scale for the tensor.

    gs = 448*6/amax(x) (dynamic, over the finite elements), or given, or 1 (one level)
    s  = e4m3(min(amax_block*gs/6, 448)),  code = e2m1(x*gs/s),  value = code*s/gs
With `hadamard` x is first rotated blockwise along K by H/sqrt(n), in the same kernel. The other rules of TAKES: a least
scale, four-over-six (the better of s and 1.5*s, by errors summed in fp32), and 16 x 16 blocks; quantize_block.py.

A thread holds a block from load to store (fp4_parts.py; sixteen-bit x by words, fp4_words.py) and rotates it by
butterflies (butterflies.py), whatever x's dtype and alignment. 1/sqrt(n) is multiplied into the block's factor.

Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/16], row-major, or blocked (128 x 4
tiles, padding zero). The dynamic global scale costs one more read of x (amax.py); every program computes gs from at
most 128 maxima, and the tiles run from the last back: what was read last is still in the L2 cache.

Tolerance: fp32 operations in an order of their own, each within 2^-21 of the exact quotient before the final
rounding, so a scale byte or code may differ from the float64 reference where that lies within 2^-21 of a tie
(about one code in 10^3 when gs is dynamic). A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
A rotation overflows fp32 where a sum of n elements does: such blocks become NaN.

Non-finite input: a block holding inf or NaN gets the scale byte 0x7f (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
global scale 21.9 / 81.8 / 1.3 us, blocked 24.0 / 90.5 / 1.7, Hadamard 16 23.9 / 89.4 / 1.4, 32 26.3 / 99.6 / 1.4, 64
29.0 / 109 / 1.4, 128 31.5 / 119 / 1.5, four-over-six 49.7 / 191 / 1.7, 16 x 16 blocks 28.9 / 109 / 2.4; dynamic and
Hadamard 16 50.7 / 175 / 2.7. Dynamic: 41.0 / 150 / 2.5 with two tiles a program of the second pass; one tile each, as
it is now, was not timed so. Tried for it and slower: maxima by groups 43.7 / 154, one launch that holds part of x as
fp8_held.py does 42.7 to 44.3 / 150 to 160, in which the codes take the registers, and one that holds 41 MiB in shared
memory and registers as fp8_held_sm90.py does 41.3 to 45.5 / 150 to 157: what follows the meeting is bound by issue.
Blocked scales cost a tenth, for 465 instructions a thread instead of 425: 4, 8 or 16 blocks beside each other and six
tiles differ by 3%. Compiled for sm_90, instructions an element: static 13.3, Hadamard 16 17.1, 128 23.9,
blocked scales 14.5, four-over-six 36, 16 x 16 blocks 13.9, fp32 15.6.

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
from qkernels.format import (
    NVFP4,
    NVFP4_1L,
    NVFP4_2D,
    NVFP4_4OVER6,
    NVFP4_4OVER6_MAE,
    NVFP4_MIN_SCALE,
    Format,
)
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor, ScaleLayout
from qkernels.triton.amax import partial_amax
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4_launch import begins, cut, written
from qkernels.triton.fp4_parts import (
    largest_of_group,
    load_block,
    place_of_blocks,
    root_of,
    rotated_magnitudes,
)
from qkernels.triton.fp4_words import words_fit
from qkernels.triton.launch import as_scale, check_hadamard, check_matrix
from qkernels.triton.nvfp4_codes import global_scale_of, store_nvfp4
from qkernels.triton.outputs import Outputs, output

TAKES = {
    NVFP4: ("hadamard", "global_scale", "scale_layout"),
    NVFP4_1L: ("hadamard", "scale_layout"),
    NVFP4_MIN_SCALE: ("hadamard", "global_scale", "scale_layout"),
    NVFP4_4OVER6: ("hadamard", "global_scale", "scale_layout"),
    NVFP4_4OVER6_MAE: ("hadamard", "global_scale", "scale_layout"),
    NVFP4_2D: ("hadamard", "global_scale"),
}
"""The formats of this kernel and the options of each."""


def expected(scale: str = "static") -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to, for a global scale of that kind."""
    return {"nvfp4_parts_kernel": expected_words(64, on_chip=scale == "dynamic")}


@triton.jit(do_not_specialize=["m"])
def nvfp4_parts_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, m, k, stride,
    ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr, HADAMARD: tl.constexpr,
    LEVELS: tl.constexpr, PARTIALS: tl.constexpr, TOP: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr,
    WORDS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A tile, a thread for each block; with a dynamic scale (PARTIALS > 0) from the end, where x was read last."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    blocks = k // 16
    if PARTIALS == 0:
        after_previous(EARLY)
        tile = tl.program_id(0)
    else:
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
    row, block = place_of_blocks(tile, tl.program_id(1), ROWS, ACROSS, ORDER, BESIDE)
    inside = (row < m) & (block < blocks)
    row = row.to(tl.int64)
    loaded = load_block(x_ptr + row * stride + block * 16, inside, 2, WORDS)
    if PARTIALS > 0:  # x is read before the maxima are complete: early.py, rule 3
        after_previous(EARLY)
    encode_scale = global_scale_of(global_ptr, partial_ptr, LEVELS, PARTIALS, TOP)
    sizes, signs, amax = rotated_magnitudes(loaded, 2, WORDS, HALF, HADAMARD)
    if ORDER == "groups":
        amax = largest_of_group(amax, 16, BESIDE)
    store_nvfp4(
        data_ptr, scale_ptr, sizes, signs, amax, encode_scale, root_of(HADAMARD), row, block, inside, blocks,
        ORDER, LEAST, SELECT, HALF,
    )  # fmt: skip


def nvfp4_quantize(
    x: Tensor,
    *,
    fmt: Format = NVFP4,
    global_scale: Tensor | float | None = None,
    hadamard: int | None = None,
    scale_layout: ScaleLayout = "linear",
    outputs: Outputs | None = None,
    shape: tuple[int, int, int] | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 16 and of `hadamard` -> a format of TAKES.

    global_scale  one fp32 encode scale, finite and > 0 (the value of a tensor is not checked); None computes it
    outputs       the caller's tensors to write, see `qkernels.quantize`
    shape, early  for measurements: (rows, blocks, warps) of a tile, and whether the launch may begin before the kernel
                  before it has ended
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if fmt not in TAKES:
        raise ValueError(f"{fmt.name} is not of this kernel; known: {', '.join(each.name for each in TAKES)}")
    if fmt.levels == 1 and global_scale is not None:
        raise ValueError("nvfp4_1l has one scale level and takes no global_scale; drop it or take nvfp4")
    check_hadamard(hadamard, fmt.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    data, scale = written(m, k, fmt, x, scale_layout, outputs)
    dynamic = fmt.levels == 2 and global_scale is None
    gs: Tensor | None = None
    if dynamic:
        given = None if outputs is None else outputs.global_scale
        gs = output(given, "global_scale_out", (), torch.float32, x).reshape(1)
    elif global_scale is not None:
        gs = as_scale(global_scale, "global_scale", x.device)
    if gs is not None and dynamic and m == 0:
        gs.fill_(1.0)
    if m > 0:
        partial = partial_amax(x, hadamard=hadamard, finite_only=True, early=early) if dynamic else None
        tile = cut(m, k, fmt, blocked=scale_layout == "blocked", hadamard=hadamard, shape=shape)
        with torch.cuda.device_of(x):
            nvfp4_parts_kernel[(tile.down, tile.across)](
                x, data, scale, gs, partial, m, k, x.stride(0), **tile.constants, HADAMARD=hadamard or 0,
                LEVELS=fmt.levels, PARTIALS=0 if partial is None else partial.numel(), TOP=fmt.scale_max * 6.0,
                LEAST=fmt.min_scale, SELECT=fmt.select, WORDS=words_fit(x), enable_fp_fusion=False,
                **begins(early, x.device),
            )  # fmt: skip
    top = None if gs is None else gs.reshape(())
    return QTensor(data, scale, fmt, (m, k), top, hadamard, scale_layout=scale_layout)


@qbench.provider("triton", needs_cuda=True)
def quantize_nvfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rotation, amax (unless the global scale is given) and quantization, as one call."""
    require(options, "the Triton NVFP4 quantizer", TAKES)
    return lambda: nvfp4_quantize(
        x, fmt=options.format, global_scale=options.global_scale, hadamard=options.hadamard,
        scale_layout=options.scale_layout,
    )  # fmt: skip

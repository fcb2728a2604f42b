"""x [M, K] -> NVFP4: E2M1 codes in blocks of 16 along K, E4M3 block scales, one fp32 encode scale for the tensor.

    gs = 448*6/amax(x) (dynamic, over the finite elements), or given, or 1 (one level)
    s  = e4m3(min(amax_block*gs/6, 448)),  code = e2m1(x*gs/s),  value = code*s/gs
With `hadamard` x is first rotated blockwise along K by H/sqrt(n), in the same kernel. The other rules of TAKES: a least
scale, four-over-six (the better of s and 1.5*s, by errors summed in fp32), and 16 x 16 blocks; quantize_block.py.

A thread holds a block from load to store (fp4_parts.py; sixteen-bit x by words, fp4_words.py) and rotates it by
butterflies (butterflies.py), whatever x's dtype and alignment. 1/sqrt(n) is multiplied into the block's factor.

Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/16], row-major, or blocked (128 x 4
tiles, padding zero). The dynamic global scale costs one more read of x (amax.py); gs is computed on the device by every
program from the partial maxima, once for several tiles, which run from the last back: what was read last is still in
the L2 cache.

Tolerance: fp32 operations in an order of their own, each within 2^-21 of the exact quotient before the final
rounding, so a scale byte or code may differ from the float64 reference where that lies within 2^-21 of a tie
(about one code in 10^3 when gs is dynamic). A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
A rotation overflows fp32 where a sum of n elements does: such blocks become NaN.

Non-finite input: a block holding inf or NaN gets the scale byte 0x7f (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
global scale 22.4 / 80 / 2.1 us; before rotations took one multiply-add a stage, few elements 16 to a thread and the
second pass several tiles to a program, Hadamard 16 27.8 / 102 / 2.3, 128 36.4 / 136 / 2.8, dynamic 42.5 / 146 / 4.0.
Compiled for sm_90, instructions an element: static 13.4, Hadamard 16 17.1 (18.3 before), 128 23.9, blocked scales 14.7,
four-over-six 36, 16 x 16 blocks 13.9, fp32 15.6; the second pass 12.8 in its loop (18.6 before, of which 5 made gs).
Predicted from these: Hadamard 16 26 / 96 / 2.05, dynamic 38 / 133 / 3.3, blocked 22.9 / 82 / 2.2, four-over-six 50.

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
    FLOAT32_MAX,
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
from qkernels.triton.amax import largest, partial_amax
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4_launch import begins, cut, written
from qkernels.triton.fp4_parts import (
    largest_of_group,
    load_block,
    nvfp4_block_scale,
    place_of_blocks,
    root_of,
    rotated_magnitudes,
    store_scales,
)
from qkernels.triton.fp4_words import store_codes, words_fit
from qkernels.triton.launch import as_scale, check_hadamard, check_matrix
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


IN_TURNS = 4224
"""Programs of a second pass, which take tiles in turn: 32 for each of 132 SMs. Making gs out of the partial maxima is
145 instructions a thread, as many as 11 elements."""

_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit
def encode_scale_of(amax, TOP: tl.constexpr = 2688.0):
    """TOP/amax (448*6): it overflows for amax < 7.9e-36, and a zero tensor has no scale of its own."""
    return tl.where(amax > 0.0, tl.minimum(tl.div_rn(TOP, amax), _LARGEST), 1.0)


@triton.jit
def global_scale_of(
    global_ptr, partial_ptr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr, TOP: tl.constexpr = 2688.0
):
    """gs; the first program writes it where it is dynamic (PARTIALS > 0)."""
    if LEVELS == 1:
        encode_scale = 1.0
    elif PARTIALS > 0:
        amax = largest(partial_ptr, PARTIALS)
        encode_scale = encode_scale_of(amax, TOP)
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(global_ptr, encode_scale)
    else:
        encode_scale = tl.load(global_ptr)
    return encode_scale


@triton.jit
def store_nvfp4(
    data_ptr, scale_ptr, sizes, signs, amax, encode_scale, rest, row, block, inside, blocks,
    ORDER: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Scales and codes of blocks in threads: magnitudes sizes*rest, signs, and amax, the largest of sizes*rest.

    rest is what is left to do of a rotation or a norm. HALF: gs/s*rest is a normal number wherever s > 0, as it is for
    magnitudes in [2^-28, 2^23], rotated or not; otherwise it can overflow, and gs is multiplied first.
    """
    byte, inverse, coded = nvfp4_block_scale(sizes, amax, encode_scale, encode_scale * rest, 2, LEAST, SELECT)
    if ORDER == "groups":  # one of the 16 rows that share it
        store_scales(scale_ptr, byte, row // 16, block, inside & (row % 16 == 0), blocks, False)
    else:
        store_scales(scale_ptr, byte, row, block, inside, blocks, ORDER == "squares")
    out_ptr = data_ptr + (row * blocks + block) * 8
    if HALF:
        store_codes(out_ptr, sizes, signs, None, encode_scale * inverse * rest, coded, inside, 2)
    else:
        store_codes(out_ptr, sizes, signs, encode_scale, inverse * rest, coded, inside, 2)


@triton.jit
def load_tile(
    x_ptr, down, along, m, k, stride,
    ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """(a tile, a thread for each block: see fp4_parts.py and fp4_words.py; its rows, blocks and which are inside)."""
    row, block = place_of_blocks(down, along, ROWS, ACROSS, ORDER, BESIDE)
    inside = (row < m) & (block < k // 16)
    row = row.to(tl.int64)
    return load_block(x_ptr + row * stride + block * 16, inside, 2, WORDS), row, block, inside


@triton.jit
def store_tile(
    loaded, row, block, inside, data_ptr, scale_ptr, encode_scale, k,
    ORDER: tl.constexpr, BESIDE: tl.constexpr, HADAMARD: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr,
    WORDS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """The scales and codes of what `load_tile` gave, under every scale rule and layout."""
    sizes, signs, amax = rotated_magnitudes(loaded, 2, WORDS, HALF, HADAMARD)
    if ORDER == "groups":
        amax = largest_of_group(amax, 16, BESIDE)
    store_nvfp4(
        data_ptr, scale_ptr, sizes, signs, amax, encode_scale, root_of(HADAMARD), row, block, inside, k // 16,
        ORDER, LEAST, SELECT, HALF,
    )  # fmt: skip


@triton.jit(do_not_specialize=["m", "down"])
def nvfp4_parts_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, m, k, stride, down,
    ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr, HADAMARD: tl.constexpr,
    LEVELS: tl.constexpr, PARTIALS: tl.constexpr, TOP: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr,
    WORDS: tl.constexpr, LOOPED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Tile d of `down` in the columns of along, or (LOOPED) d, d + programs, ...; dynamic (PARTIALS > 0) from the end,
    where x was read last."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    tile = tl.program_id(0)
    along = tl.program_id(1)
    if LOOPED:
        after_previous(EARLY)
        encode_scale = global_scale_of(global_ptr, partial_ptr, LEVELS, PARTIALS, TOP)
        for each in range(tile, down, tl.num_programs(0)):
            loaded, row, block, inside = load_tile(
                x_ptr, down - 1 - each if PARTIALS > 0 else each, along, m, k, stride,
                ROWS, ACROSS, ORDER, BESIDE, WORDS,
            )  # fmt: skip
            store_tile(
                loaded, row, block, inside, data_ptr, scale_ptr, encode_scale, k,
                ORDER, BESIDE, HADAMARD, LEAST, SELECT, WORDS, HALF,
            )  # fmt: skip
    else:
        if PARTIALS == 0:
            after_previous(EARLY)
        loaded, row, block, inside = load_tile(
            x_ptr,
            down - 1 - tile if PARTIALS > 0 else tile,
            along,
            m,
            k,
            stride,
            ROWS,
            ACROSS,
            ORDER,
            BESIDE,
            WORDS,
        )
        if PARTIALS > 0:  # x is read before the maxima are complete: early.py, rule 3
            after_previous(EARLY)
        encode_scale = global_scale_of(global_ptr, partial_ptr, LEVELS, PARTIALS, TOP)
        store_tile(
            loaded, row, block, inside, data_ptr, scale_ptr, encode_scale, k,
            ORDER, BESIDE, HADAMARD, LEAST, SELECT, WORDS, HALF,
        )  # fmt: skip


def _global_scale(
    x: Tensor, given: Tensor | float | None, hadamard: int | None, outputs: Outputs | None
) -> tuple[Tensor, Tensor | None]:
    """gs float32 [1], and the partial maxima from which the kernel makes it and writes it there."""
    if given is not None:
        return as_scale(given, "global_scale", x.device), None
    gs = output(
        None if outputs is None else outputs.global_scale, "global_scale_out", (), torch.float32, x
    ).reshape(1)
    if len(x) == 0:
        return gs.fill_(1.0), None
    return gs, partial_amax(x, hadamard=hadamard, finite_only=True)


def nvfp4_quantize(
    x: Tensor,
    *,
    fmt: Format = NVFP4,
    global_scale: Tensor | float | None = None,
    hadamard: int | None = None,
    scale_layout: ScaleLayout = "linear",
    outputs: Outputs | None = None,
    shape: tuple[int, int, int] | None = None,
    programs: int | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 16 and of `hadamard` -> a format of TAKES.

    global_scale  one fp32 encode scale, finite and > 0 (the value of a tensor is not checked); None computes it
    outputs       the caller's tensors to write, see `qkernels.quantize`
    shape, programs, early  for measurements: (rows, blocks, warps) of a tile, programs that take several tiles in
                  turn, and whether the launch may begin before the kernel before it has ended
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if fmt not in TAKES:
        raise ValueError(f"{fmt.name} is not of this kernel; known: {', '.join(each.name for each in TAKES)}")
    if fmt.levels == 1 and global_scale is not None:
        raise ValueError("nvfp4_1l has one scale level and takes no global_scale; drop it or take nvfp4")
    check_hadamard(hadamard, fmt.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    data, scale = written(m, k, fmt, x, scale_layout, outputs)
    gs = partial = None
    partials = 0
    if fmt.levels == 2:
        gs, partial = _global_scale(x, global_scale, hadamard, outputs)
        partials = 0 if partial is None else partial.numel()
    if m > 0:
        tile = cut(
            m, k, fmt, elements=2048, blocked=scale_layout == "blocked", hadamard=hadamard, shape=shape
        )
        turns = tile.turns(IN_TURNS if programs is None and partials > 0 else programs)
        with torch.cuda.device_of(x):
            nvfp4_parts_kernel[(turns, tile.across)](
                x, data, scale, gs, partial, m, k, x.stride(0), tile.down, **tile.constants,
                HADAMARD=hadamard or 0, LEVELS=fmt.levels, PARTIALS=partials, TOP=fmt.scale_max * 6.0,
                LEAST=fmt.min_scale, SELECT=fmt.select, WORDS=words_fit(x), LOOPED=turns < tile.down,
                enable_fp_fusion=False, **begins(early, x.device),
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

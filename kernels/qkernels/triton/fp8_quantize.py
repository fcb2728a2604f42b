"""x [M, K] -> FP8 E4M3 with fp32 scales: static, dynamic per tensor, or dynamic per token (row).

    static       q = e4m3(clamp(x * (1/s)))                      s given
    per tensor   the same with s = amax(x)/448                   amax by amax.py, one more read of x; or fp8_held*.py
    per token    q = e4m3(clamp(x / s)), s = max(amax(row)/448, 1/(448*512))
value = q*s. The reciprocal is capped at the largest fp32, so that a zero tensor (s = 0) gives zeros and not 0*inf.
Blocks: fp8_block.py.

Layout: q float8_e4m3fn [M, K]; s float32 [1] or [M, 1]. Per tensor a program takes a tile, of rows with gaps between
them, or (flat.py) of one long row where there are none. Per token a row: sixteen-bit x by words (token_words.py), held
packed in registers up to 32768 elements; other x as fp32, up to 16384 elements, and read twice beyond.

Launches overlap from sm_90 (early.py). The second kernel of a dynamic scale is brought in while the first, of the
maxima, runs, reads its first tile meanwhile, and goes from the last tile back, which is in the L2 cache. Up to 32768
elements take one launch (fp8_small.py).

Tolerance: none. Each formula is fp32 in the order written with correctly rounded division, so the bits equal
the reference's. The per-token quotient is `correct_quotient`: s >= 4e-6 and amax/s <= 448 keep it in range
wherever the quotient is not far below the smallest E4M3 number.

Non-finite input: a tensor (per token: a row) with a computed scale and inf or NaN has the scale NaN and codes
0. Under a static scale NaN stays NaN and inf saturates.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
24.4 / 92.7 / 1.25 us (97% of the copy's rate), dynamic per tensor 33.3 / 155 / 2.4 (by fp8_held_sm90.py, of 2^24 to
2^26 elements on Hopper, and fp8_held.py, other large ones), per token 24.9 / 93.6 / 1.6. A hint to the L2 cache that x
is read once made static tensors slower (26.4 us), written codes that do not stay nothing. Tried for small x and
slower: one cooperative launch, 4.5 us at 16 x 8192.

Source: vLLM csrc/quantization/w8a8/fp8/common.cu (the formulas, not the code).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FP8, FP8_BLOCK, FP8_BLOCK_2D, FP8_TOKEN, MIN_TOKEN_SCALE
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor
from qkernels.triton.amax import partial_amax
from qkernels.triton.early import after_previous, early_launches
from qkernels.triton.expected import BEFORE_HOPPER, widths
from qkernels.triton.flat import Flat, is_flat, load_tile, own_tile, store_tile
from qkernels.triton.fp4 import correct_quotient, magnitude_bits
from qkernels.triton.fp8_block import fp8_block_quantize
from qkernels.triton.fp8_held import Held, fp8_held, holds
from qkernels.triton.fp8_held_sm90 import fp8_held_sm90, holds_sm90
from qkernels.triton.fp8_small import choose_small, fp8_small_kernel, is_small
from qkernels.triton.launch import (
    as_scale,
    check_matrix,
    choose_row,
    choose_tile,
    second_pass,
    tile_of_program,
)
from qkernels.triton.outputs import output
from qkernels.triton.scaled_codes import has_e4m3_cast, tensor_codes, tensor_scale, to_e4m3
from qkernels.triton.token_words import Row, choose_words, fp8_token_words_kernel, row_fits

TAKES = {FP8: ("scale",), FP8_TOKEN: (), FP8_BLOCK: (), FP8_BLOCK_2D: ()}
"""The formats of these kernels and the options of each."""

STATIC = Flat(block=2048, warps=4)
DYNAMIC = Flat(block=4096, warps=4)
"""How tensors without gaps are cut under a given and under a computed scale."""


def expected(k: int, m: int = 4096, store_bits: int = 128) -> qbench.Expectation:
    """What the kernels must be compiled to: the hardware's cast from sm_90, arithmetic before."""
    cast = ("F2FP.E4M3",)
    return qbench.Expectation(
        required={"sm_90 sm_100 sm_103 sm_120": cast},
        forbidden={BEFORE_HOPPER: cast},
        load_bits=widths(k, 128),
        store_bits=widths(k, store_bits if m >= 1024 else 64),
    )


_LEAST_SCALE = tl.constexpr(MIN_TOKEN_SCALE)


@triton.jit(do_not_specialize=["m", "across"])
def fp8_tensor_kernel(
    x_ptr, out_ptr, scale_ptr, partial_ptr, m, k, stride, across,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTIALS: tl.constexpr, REVERSED: tl.constexpr, HARDWARE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One tile under one scale: written here if PARTIALS > 0 (dynamic), read otherwise."""
    down, along = tile_of_program(across, REVERSED)
    row = down * ROWS + tl.arange(0, ROWS)
    column = along * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None] & (column < k)[None, :]
    at = row.to(tl.int64)[:, None]
    after_previous(EARLY)
    x = tl.load(x_ptr + at * stride + column[None, :], mask=inside, other=0.0)
    inverse, finite = tensor_scale(scale_ptr, partial_ptr, PARTIALS)
    codes = tensor_codes(x, inverse, finite, HARDWARE, PARTIALS > 0)
    tl.store(out_ptr + at * k + column[None, :], codes, mask=inside)


@triton.jit
def fp8_flat_kernel(
    x_ptr, out_ptr, scale_ptr, partial_ptr, n,
    BLOCK: tl.constexpr, EVEN: tl.constexpr, PARTIALS: tl.constexpr, HARDWARE: tl.constexpr, EARLY: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """The same of n elements without gaps. AHEAD: x is read before the wait."""
    DYNAMIC: tl.constexpr = PARTIALS > 0
    tile = own_tile(DYNAMIC)
    if AHEAD:
        x = load_tile(x_ptr, tile, n, BLOCK, EVEN)
        after_previous(EARLY)
    else:
        after_previous(EARLY)
        x = load_tile(x_ptr, tile, n, BLOCK, EVEN)
    inverse, finite = tensor_scale(scale_ptr, partial_ptr, PARTIALS)
    store_tile(out_ptr, tile, n, tensor_codes(x, inverse, finite, HARDWARE, DYNAMIC), BLOCK, EVEN)


@triton.jit
def fp8_token_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    k,
    stride,
    LENGTH: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
    HARDWARE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One row, in one piece (WHOLE) or in pieces of LENGTH, of which the last is whole if EVEN."""
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    out_ptr += row * k
    column = tl.arange(0, LENGTH)
    inside = (column < k) | EVEN
    x = tl.load(x_ptr + column, mask=inside, other=0.0).to(tl.float32)
    bits = magnitude_bits(x)
    if not WHOLE:
        for start in range(LENGTH, k, LENGTH):
            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0).to(tl.float32)
            bits = tl.maximum(bits, magnitude_bits(more))
    amax_bits = tl.max(bits, axis=0)
    finite = amax_bits < 0x7F800000
    scale = tl.maximum(tl.div_rn(amax_bits.to(tl.float32, bitcast=True), 448.0), _LEAST_SCALE)
    tl.store(scale_ptr + row, tl.where(finite, scale, float("nan")))
    inverse = tl.div_rn(1.0, scale)
    y = tl.where(finite, correct_quotient(x, scale, inverse), 0.0)
    tl.store(out_ptr + column, to_e4m3(y, HARDWARE), mask=inside)
    if not WHOLE:
        for start in range(LENGTH, k, LENGTH):
            more = tl.load(x_ptr + start + column, mask=(start + column < k) | EVEN, other=0.0).to(tl.float32)
            y = tl.where(finite, correct_quotient(more, scale, inverse), 0.0)
            tl.store(out_ptr + start + column, to_e4m3(y, HARDWARE), mask=(start + column < k) | EVEN)


def fp8_quantize(
    x: Tensor,
    scale: Tensor | float | None = None,
    *,
    per_token: bool = False,
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    flat: Flat | None = None,
    row: Row | None = None,
    held: Held | bool | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32 -> FP8 with scale [1], or FP8_TOKEN with scale [M, 1].

    scale           one fp32, finite and > 0 (the value of a tensor is not checked), for the whole tensor
    out, scale_out  float8_e4m3fn [M, K] and (of a computed scale) float32 [1] or [M, 1] to write into; contiguous
    flat, row       how x is cut (None: as chosen for its shape); early: launches may overlap
    held            how one launch finds the scale of a tensor and uses it (fp8_held.py; True: as it does by itself;
                    False: never; None: as chosen for x, by fp8_held_sm90.py too)
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if per_token and scale is not None:
        raise ValueError("a static scale is per tensor; pass per_token=False or no scale")
    if scale is not None and scale_out is not None:
        raise ValueError("scale_out is given but the scale is static and not computed; leave scale_out out")
    m, k = check_matrix(x)
    codes = output(out, "out", (m, k), torch.float8_e4m3fn, x)
    early = early and early_launches(x.device)
    if per_token:
        scales = output(scale_out, "scale_out", (m, 1), torch.float32, x)
        if m > 0:
            _launch_token(x, codes.view(torch.uint8), scales, row, early)
        return QTensor(codes, scales, FP8_TOKEN, (m, k))
    if scale is not None:
        scales = as_scale(scale, "scale", x.device)
    else:
        scales = output(scale_out, "scale_out", (1,), torch.float32, x)
        if m == 0:
            scales.zero_()
    if m > 0:
        _launch_tensor(x, codes.view(torch.uint8), scales, scale is None, flat, held, early)
    return QTensor(codes, scales, FP8, (m, k))


def _launch_tensor(
    x: Tensor,
    out: Tensor,
    scales: Tensor,
    dynamic: bool,
    flat: Flat | None,
    held: Held | bool | None,
    early: bool,
) -> None:
    (m, k), hardware = x.shape, has_e4m3_cast(x.device)
    if dynamic and flat is None and held is None and holds_sm90(x):
        fp8_held_sm90(x, out, scales)
        return
    if dynamic and flat is None and held is not False and (held or holds(x)):
        fp8_held(x, out, scales, held if isinstance(held, Held) else Held())
        return
    if dynamic and flat is None and is_small(x):
        n, row = x.numel(), choose_small(x.numel())
        with torch.cuda.device_of(x):
            fp8_small_kernel[(row.parts(n),)](
                x, out, scales, n, THREADS=32 * row.warps, PARTS=row.parts(n), EVEN=row.even(n), HARDWARE=hardware,
                EARLY=early, num_warps=row.warps, enable_fp_fusion=False, launch_pdl=early,
            )  # fmt: skip
        return
    partial = partial_amax(x, early=early) if dynamic else None
    partials = 0 if partial is None else partial.numel()
    with torch.cuda.device_of(x):
        if is_flat(x):
            n = m * k
            flat = (flat or (DYNAMIC if dynamic else STATIC)).fit(n)
            fp8_flat_kernel[(triton.cdiv(n, flat.block),)](
                x, out, scales, partial, n, BLOCK=flat.block, EVEN=n % flat.block == 0, PARTIALS=partials,
                HARDWARE=hardware, EARLY=early, AHEAD=dynamic, num_warps=flat.warps, enable_fp_fusion=False,
                launch_pdl=early,
            )  # fmt: skip
            return
        tile = choose_tile(m, k)
        turned, grid = second_pass(dynamic, tile)
        fp8_tensor_kernel[grid](
            x, out, scales, partial, m, k, x.stride(0), tile.across, ROWS=tile.rows, COLUMNS=tile.columns,
            REVERSED=turned, PARTIALS=partials, HARDWARE=hardware, EARLY=early,
            num_warps=4, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip


def _launch_token(x: Tensor, out: Tensor, scales: Tensor, row: Row | None, early: bool) -> None:
    (m, k), hardware = x.shape, has_e4m3_cast(x.device)
    with torch.cuda.device_of(x):
        if row_fits(x):
            row = (row or choose_words(k)).fit(k)
            fp8_token_words_kernel[(m,)](
                x, out, scales, k, x.stride(0), THREADS=32 * row.warps, WIDTH=row.width, PARTS=row.parts(k),
                EVEN=row.even(k), HARDWARE=hardware, EARLY=early,
                num_warps=row.warps, enable_fp_fusion=False, launch_pdl=early,
            )  # fmt: skip
            return
        length, warps = choose_row(k)
        fp8_token_kernel[(m,)](
            x, out, scales, k, x.stride(0), LENGTH=length, WHOLE=k <= length, EVEN=k % length == 0,
            HARDWARE=hardware, EARLY=early, num_warps=warps, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip


@qbench.provider("triton", needs_cuda=True)
def quantize_fp8(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Static, per tensor, per token or per block, as the format and the given scale say."""
    require(options, "the Triton FP8 quantizer", TAKES)
    fmt = options.format
    if fmt.block:
        return lambda: fp8_block_quantize(x, rows=fmt.block_rows)
    return lambda: fp8_quantize(x, options.scale, per_token=fmt.granularity == "row")

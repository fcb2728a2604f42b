"""x [M, K] -> FP8 E4M3 with an fp32 scale for each 1 x 128 block (activations) or 128 x 128 block (weights).

    s = fl32(amax_block/448), q = e4m3(x / s), value = q*s
K is a multiple of 128; the last block of 128 rows may be short. A zero block has s = 0 and codes 0.

Layout: q float8_e4m3fn [M, K]; s float32 [M, K/128] or [ceil(M/128), K/128]. A program takes neighbouring blocks of
1 x 128, or one of 128 x 128, and reads x once. Sixteen-bit x goes by words (token_words.py): sixteen threads hold 128
elements of a row, packed, until the block's maximum is known; a block of 128 x 128 takes 32 registers a thread so, and
147 where x is widened first. fp32 x takes a tile of any layout.

Tolerance: q is e4m3 of a quotient rounded to fp32 (`correct_quotient`), the reference rounds the exact one once; they
differ only within 2^-22 of a tie. s equals the reference's bits.

Non-finite input: a block holding inf or NaN has the scale NaN and codes 0.

Predicted for an H200 (fp16 4096 x 8192): 26 us, for a 32nd more bytes than per token. Measured (torch 2.11, Triton 3.6,
graph replay, L2 cold, 4096 x 8192 / 8192 x 16384 / 16 x 8192): 25.6 / 96.8 / 1.4, 128 x 128 26.5 / 101 / 2.1.

Source: DeepSeek-V3 report (arXiv 2412.19437) section 3.3, the formulas; vLLM and DeepGEMM name the kernels
per_token_group_quant_fp8 and per_block_cast_to_fp8.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernel, which have no types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FP8_BLOCK, FP8_BLOCK_2D
from qkernels.tensor import QTensor
from qkernels.triton.early import after_previous, early_launches
from qkernels.triton.expected import BEFORE_HOPPER
from qkernels.triton.flat import is_flat
from qkernels.triton.fp4 import correct_quotient, magnitude_bits, scale_factor
from qkernels.triton.fp4_words import (
    _MAX_BF16,
    _MAX_F16,
    join_words,
    largest_value,
    load_part,
    values,
    words_fit,
)
from qkernels.triton.launch import check_matrix
from qkernels.triton.outputs import output
from qkernels.triton.scaled_codes import has_e4m3_cast, to_e4m3
from qkernels.triton.token_words import extreme_word

BLOCK = 128
_BLOCKS = 32  # of a program: 4096 elements of fp32, 32 a thread


def expected(dtype: str) -> qbench.Expectation:
    """What the kernels must be compiled to: the hardware's cast from sm_90, arithmetic before."""
    cast = ("F2FP.E4M3",)
    return qbench.Expectation(
        required={"sm_90 sm_100 sm_103 sm_120": cast},
        forbidden={BEFORE_HOPPER: cast},
        load_bits={"*": 128},
        store_bits={"*": 128 if dtype == "fp32" else 64},
    )


@triton.jit
def block_scale(amax, HALF: tl.constexpr):
    """fp32 amax of blocks, of fp16 (HALF) or wider x -> (stored scales, what to divide by, are there codes?)."""
    finite = magnitude_bits(amax) < 0x7F800000
    if HALF:
        scale = correct_quotient(amax, 448.0, 1.0 / 448.0)
    else:  # of bf16 and fp32 it may be subnormal
        scale = tl.div_rn(amax, 448.0)
    coded = finite & (scale > 0.0)
    return tl.where(finite, scale, float("nan")), tl.where(coded, scale, 1.0), coded


@triton.jit
def block_codes(y, divisor, coded, HALF: tl.constexpr, HARDWARE: tl.constexpr):
    """e4m3(y/divisor) of fp32 y, or zeros; HALF: y was fp16. The others have y's shape or one that broadcasts."""
    if not HALF:  # fp16's scales are normal numbers, and so are their reciprocals
        power = scale_factor(divisor)
        y, divisor = y * power, divisor * power
    inverse = 1.0 / divisor  # within two units in the last place, and within one after Newton's step
    inverse = tl.fma(tl.fma(-divisor, inverse, 1.0), inverse, inverse)
    y = correct_quotient(y, divisor, inverse)
    return to_e4m3(tl.where(coded, y, 0.0), HARDWARE)


@triton.jit(do_not_specialize=["blocks"])
def fp8_block_kernel(
    x_ptr, out_ptr, scale_ptr, blocks, k, stride, BLOCKS: tl.constexpr, HARDWARE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Blocks of 1 x 128, numbered along rows."""
    after_previous(EARLY)
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    row, column = block // (k // 128), block % (k // 128) * 128
    at = tl.arange(0, 128)[None, :]
    x = tl.load(x_ptr + (row * stride + column)[:, None] + at, mask=inside[:, None], other=0.0).to(tl.float32)
    amax = tl.max(magnitude_bits(x), axis=1).to(tl.float32, bitcast=True)
    scale, divisor, coded = block_scale(amax, False)
    tl.store(scale_ptr + block, scale, mask=inside)
    codes = block_codes(x, divisor[:, None], coded[:, None], False, HARDWARE)
    tl.store(out_ptr + (block * 128)[:, None] + at, codes, mask=inside[:, None])


@triton.jit(do_not_specialize=["m"])
def fp8_block_2d_kernel(x_ptr, out_ptr, scale_ptr, m, k, stride, HARDWARE: tl.constexpr, EARLY: tl.constexpr):
    """One block of 128 x 128."""
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64) * 128 + tl.arange(0, 128)
    column = tl.program_id(1) * 128 + tl.arange(0, 128)[None, :]
    inside = (row < m)[:, None]
    row = row[:, None]
    x = tl.load(x_ptr + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    amax = tl.max(tl.max(magnitude_bits(x), axis=1), axis=0).to(tl.float32, bitcast=True)
    scale, divisor, coded = block_scale(amax, False)
    tl.store(scale_ptr + tl.program_id(0) * (k // 128) + tl.program_id(1), scale)
    tl.store(out_ptr + row * k + column, block_codes(x, divisor, coded, False, HARDWARE), mask=inside)


@triton.jit
def store_group(out_ptr, codes, inside):
    """Codes [THREADS, WIDTH] to the byte pointers [THREADS]."""
    tl.store(out_ptr[:, None] + tl.arange(0, codes.shape[1])[None, :], codes, mask=inside[:, None])


@triton.jit(do_not_specialize=["m"])
def fp8_block_words_kernel(
    x_ptr, out_ptr, scale_ptr, m, k, stride,
    THREADS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, FLAT: tl.constexpr,
    HARDWARE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sixteen-bit x, eight elements to a thread at a time: PARTS times GROUPS blocks of 1 x 128 (ROWS = 1), or as many
    rows of one of 128 x 128. FLAT: rows follow each other."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    ASM: tl.constexpr = _MAX_F16 if HALF else _MAX_BF16
    GROUPS: tl.constexpr = THREADS // 16  # of threads that share 128 elements
    after_previous(EARLY)
    thread = tl.arange(0, THREADS)
    along = thread % 16 * 8
    across = k // 128
    words, places, insides = (), (), ()
    for i in tl.static_range(PARTS):
        group = i * GROUPS + thread // 16
        if ROWS == 1:
            block = tl.program_id(0) * (PARTS * GROUPS) + group
            inside = block < m * across
            place = block.to(tl.int64) * 128 + along
            if FLAT:
                source = place
            else:
                source = (block // across).to(tl.int64) * stride + block % across * 128 + along
        else:
            row = tl.program_id(0).to(tl.int64) * ROWS + group
            inside = row < m
            column = tl.program_id(1) * 128 + along
            place, source = row * k + column, row * stride + column
        insides += (inside,)
        places += (place,)
        words += (load_part(x_ptr + source, inside),)
    if ROWS == 1:
        for i in tl.static_range(PARTS):
            bits = magnitude_bits(largest_value(extreme_word(words[i] & 0x7FFF7FFF, ASM), HALF))
            bits = tl.max(tl.reshape(bits, (GROUPS, 16)), axis=1, keep_dims=True)
            bits = tl.reshape(tl.broadcast_to(bits, (GROUPS, 16)), (THREADS,))
            scale, divisor, coded = block_scale(bits.to(tl.float32, bitcast=True), HALF)
            tl.store(scale_ptr + places[i] // 128, scale, mask=insides[i] & (along == 0))
            codes = block_codes(values(words[i], HALF), divisor[:, None], coded[:, None], HALF, HARDWARE)
            store_group(out_ptr + places[i], codes, insides[i])
    else:
        best = words[0] & 0x7FFF7FFF
        for i in tl.static_range(1, PARTS):
            best = join_words(best, words[i] & 0x7FFF7FFF, ASM)
        bits = tl.max(magnitude_bits(largest_value(extreme_word(best, ASM), HALF)), axis=0)
        scale, divisor, coded = block_scale(bits.to(tl.float32, bitcast=True), HALF)
        tl.store(scale_ptr + tl.program_id(0) * across + tl.program_id(1), scale)
        for i in tl.static_range(PARTS):
            codes = block_codes(values(words[i], HALF), divisor, coded, HALF, HARDWARE)
            store_group(out_ptr + places[i], codes, insides[i])


def fp8_block_quantize(
    x: Tensor,
    *,
    rows: int = 1,
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    warps: int | None = None,
    parts: int = 2,
    early: bool = True,
) -> QTensor:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 128 -> FP8_BLOCK (rows = 1) or FP8_BLOCK_2D (128).

    out, scale_out  float8_e4m3fn [M, K] and float32 [ceil(M/rows), K/128] to write into; contiguous
    warps, parts    of a program; each warp takes two blocks (or rows of one) at a time, `parts` times (rows = 1)
    early           launches may overlap
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if rows not in (1, BLOCK):
        raise ValueError(f"blocks of {rows} rows have no format; use 1 (activations) or {BLOCK} (weights)")
    m, k = check_matrix(x, block=BLOCK)
    fmt = FP8_BLOCK if rows == 1 else FP8_BLOCK_2D
    codes = output(out, "out", (m, k), torch.float8_e4m3fn, x)
    scales = output(scale_out, "scale_out", fmt.scale_shape((m, k)), torch.float32, x)
    early = early and early_launches(x.device)
    if m > 0:
        with torch.cuda.device_of(x):
            _launch(x, codes.view(torch.uint8), scales, rows, warps, parts, early)
    return QTensor(codes, scales, fmt, (m, k))


def _launch(
    x: Tensor, out: Tensor, scales: Tensor, rows: int, warps: int | None, parts: int, early: bool
) -> None:
    (m, k), hardware = x.shape, has_e4m3_cast(x.device)
    count = m * (k // BLOCK)
    grid: tuple[int, ...] = (triton.cdiv(m, BLOCK), k // BLOCK)
    if words_fit(x):
        warps = warps or (4 if rows == 1 else 16)
        if rows == 1:
            while parts > 1 and triton.cdiv(count, 2 * warps * parts) < 512:
                parts //= 2
            grid = (triton.cdiv(count, 2 * warps * parts),)
        else:
            parts = BLOCK // (2 * warps)
        fp8_block_words_kernel[grid](
            x, out, scales, m, k, x.stride(0), THREADS=32 * warps, PARTS=parts, ROWS=rows,
            FLAT=is_flat(x), HARDWARE=hardware, EARLY=early, num_warps=warps, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip
    elif rows == 1:
        fp8_block_kernel[(triton.cdiv(count, _BLOCKS),)](
            x, out, scales, count, k, x.stride(0), BLOCKS=_BLOCKS, HARDWARE=hardware, EARLY=early,
            num_warps=4, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip
    else:
        fp8_block_2d_kernel[grid](
            x, out, scales, m, k, x.stride(0), HARDWARE=hardware, EARLY=early,
            num_warps=16, enable_fp_fusion=False, launch_pdl=early,
        )  # fmt: skip

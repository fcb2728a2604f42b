"""x [M, K] -> FP8 E4M3 with fp32 scales: static, dynamic per tensor, or dynamic per token (row).

    static       q = e4m3(clamp(x * (1/s)))                      s given
    per tensor   the same with s = amax(x)/448                   amax by amax.py, one more read of x
    per token    q = e4m3(clamp(x / s)), s = max(amax(row)/448, 1/(448*512))
value = q*s. Clamping precedes the cast, which then never meets a value beyond 448. The reciprocal is capped at
the largest fp32, so that a zero tensor (s = 0) gives zeros and not 0*inf.

Layout: q float8_e4m3fn [M, K]; s float32 [1] or [M, 1]. Per tensor a program takes a tile; per token a row,
held in registers up to 16384 elements and read twice beyond.

Tolerance: none. Each formula is fp32 in the order written with correctly rounded division, so the bits equal
the reference's. The per-token quotient is `correct_quotient`: s >= 4e-6 and amax/s <= 448 keep it in range
wherever the quotient is not far below the smallest E4M3 number.
The cast is the hardware's from sm_90; before, it is arithmetic, for sm_80 has none and Triton before 3.9
rounds twice on sm_89.

Non-finite input: a tensor (per token: a row) with a computed scale and inf or NaN has the scale NaN and codes
0. Under a static scale NaN stays NaN and inf saturates.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192 / 8192 x 16384 / 16 x 8192): static
25.7 / 97 / 2.0 us (4.1 TB/s), dynamic per tensor 42.8 / 153 / 3.9, per token 27.9 / 154 / 2.4. Tried for small x and
slower: one cooperative launch in which programs wait for each other, 4.5 us at 16 x 8192. Asking the L2 cache to keep
what the maxima read changed nothing.

Source: vLLM csrc/quantization/w8a8/fp8/common.cu (the formulas, not the code).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import FLOAT32_MAX, FP8, FP8_TOKEN, MIN_TOKEN_SCALE
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor
from qkernels.triton.amax import largest, partial_amax
from qkernels.triton.expected import BEFORE_HOPPER, widths
from qkernels.triton.fp4 import correct_quotient, encode_e4m3, magnitude_bits
from qkernels.triton.launch import (
    as_scale,
    check_matrix,
    choose_row,
    choose_tile,
    second_pass,
    tile_of_program,
)

TAKES = {FP8: ("scale",), FP8_TOKEN: ()}
"""The formats of these kernels and the options of each."""


def expected(k: int, m: int = 4096) -> qbench.Expectation:
    """What both kernels must be compiled to: the hardware's cast from sm_90, arithmetic before."""
    cast = ("F2FP.E4M3",)
    return qbench.Expectation(
        required={"sm_90 sm_100 sm_103 sm_120": cast},
        forbidden={BEFORE_HOPPER: cast},
        load_bits=widths(k, 128),
        store_bits=widths(k, 128 if m >= 1024 else 64),
    )


_LARGEST = tl.constexpr(FLOAT32_MAX)
_LEAST_SCALE = tl.constexpr(MIN_TOKEN_SCALE)


@triton.jit
def to_e4m3(y, HARDWARE: tl.constexpr):
    """fp32 -> E4M3 bytes (uint8), saturating, NaN kept."""
    if HARDWARE:
        bounded = tl.clamp(y, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        return bounded.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        return encode_e4m3(y)


@triton.jit(do_not_specialize=["m", "across"])
def fp8_tensor_kernel(
    x_ptr, out_ptr, scale_ptr, partial_ptr, m, k, stride, across,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTIALS: tl.constexpr, REVERSED: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """One tile under one scale: written here if PARTIALS > 0 (dynamic), read otherwise."""
    down, along = tile_of_program(across, REVERSED)
    row = down * ROWS + tl.arange(0, ROWS)
    column = along * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < m)[:, None] & (column < k)[None, :]
    at = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + at * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if PARTIALS > 0:
        amax = largest(partial_ptr, PARTIALS)
        finite = magnitude_bits(amax) < 0x7F800000
        scale = tl.where(finite, tl.div_rn(amax, 448.0), float("nan"))
        x = tl.where(finite, x, 0.0)  # the codes of a tensor without a scale
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(scale_ptr, scale)
    else:
        scale = tl.load(scale_ptr)
    inverse = tl.minimum(tl.div_rn(1.0, scale), _LARGEST)
    tl.store(out_ptr + at * k + column[None, :], to_e4m3(x * inverse, HARDWARE), mask=inside)


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
):
    """One row, in one piece (WHOLE) or in pieces of LENGTH, of which the last is whole if EVEN."""
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


def has_e4m3_cast(device: torch.device) -> bool:
    """Does the GPU cast fp32 to E4M3 correctly through Triton? The repaired interpreter does."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def fp8_quantize(x: Tensor, scale: Tensor | float | None = None, *, per_token: bool = False) -> QTensor:
    """x [M, K] float16, bfloat16 or float32 -> FP8 with scale [1], or FP8_TOKEN with scale [M, 1].

    scale: one fp32, finite and > 0 (the value of a tensor is not checked), for the whole tensor.
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if per_token and scale is not None:
        raise ValueError("a static scale is per tensor; pass per_token=False or no scale")
    m, k = check_matrix(x)
    out = torch.empty(m, k, dtype=torch.uint8, device=x.device)
    hardware = has_e4m3_cast(x.device)
    if per_token:
        scales = torch.empty(m, 1, dtype=torch.float32, device=x.device)
        if m > 0:
            length, warps = choose_row(k)
            with torch.cuda.device_of(x):
                fp8_token_kernel[(m,)](
                    x, out, scales, k, x.stride(0), LENGTH=length, WHOLE=k <= length, EVEN=k % length == 0,
                    HARDWARE=hardware,
                    num_warps=warps, enable_fp_fusion=False,
                )  # fmt: skip
        return QTensor(out.view(torch.float8_e4m3fn), scales, FP8_TOKEN, (m, k))
    partial = None
    if scale is not None:
        scales = as_scale(scale, "scale", x.device)
    else:
        allocate = torch.empty if m > 0 else torch.zeros
        scales = allocate(1, dtype=torch.float32, device=x.device)
        partial = partial_amax(x) if m > 0 else None
    if m > 0:
        tile = choose_tile(m, k)
        turned, grid = second_pass(partial is not None, tile)
        with torch.cuda.device_of(x):
            fp8_tensor_kernel[grid](
                x, out, scales, partial, m, k, x.stride(0), tile.across, ROWS=tile.rows, COLUMNS=tile.columns,
                REVERSED=turned, PARTIALS=0 if partial is None else partial.numel(), HARDWARE=hardware,
                num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return QTensor(out.view(torch.float8_e4m3fn), scales, FP8, (m, k))


@qbench.provider("triton", needs_cuda=True)
def quantize_fp8(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Static, per tensor or per token, as the format and the given scale say."""
    require(options, "the Triton FP8 quantizer", TAKES)
    return lambda: fp8_quantize(x, options.scale, per_token=options.format.granularity == "row")

"""x [M, K] -> NVFP4: E2M1 codes in blocks of 16 along K, E4M3 block scales, one fp32 encode scale for the tensor.

    gs = 448*6/amax(x) (dynamic, over the finite elements), or given, or 1 (one level)
    s  = e4m3(min(amax_block*gs/6, 448)),  code = e2m1(x*gs/s),  value = code*s/gs
With `hadamard` x is first rotated blockwise along K by H/sqrt(n); the same tile is rotated on tensor cores
(x in its own dtype, or fp32 as three bf16 parts, times +-1; fp32 sums) and quantized without leaving the chip.

Layout: data uint8 [M, K/2], byte j = code[2j] | code[2j+1] << 4; scale uint8 [M, K/16], row-major. A program
reads a tile of rows x columns (16 bytes a thread) and writes both outputs of it. The dynamic global scale
costs one more read of x (amax.py); gs is computed on the device by every program from the partial maxima.

Tolerance: fp32 operations in an order of their own, each within 2^-21 of the exact quotient before the final
rounding, so a scale byte or code may differ from the float64 reference where that lies within 2^-21 of a tie
(about one code in 10^3 when gs is dynamic). A rotation adds n*2^-23*(|x| @ |H|)/sqrt(n), absolute.
A rotation overflows fp32 where a sum of n elements does: such blocks become NaN.

Non-finite input: a block holding inf or NaN gets the scale byte 0x7f (NaN) and codes 0.

Measured (H200, torch 2.11, Triton 3.6, graph replay, L2 cold, fp16 4096 x 8192): static global scale 34.0 us
(2.5 TB/s of the 4.2 a copy reaches), dynamic 56.7; with Hadamard 16 50.2 and 76.5. 16 x 8192: 2.1 and 4.1 us.

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
from qkernels.triton.expected import WARP_PRODUCTS, products
from qkernels.triton.fp4 import encode_nvfp4, hadamard_tile, pack_pairs, rotate_tile
from qkernels.triton.launch import as_scale, check_hadamard, check_matrix, choose_tile

TAKES = {NVFP4: ("hadamard", "global_scale"), NVFP4_1L: ("hadamard",)}
"""The formats of this kernel and the options of each."""


def expected(dtype: str, hadamard: int, m: int = 4096) -> qbench.Expectation:
    """What the kernel must be compiled to, for x of "bf16", "fp16" or "fp32"."""
    spills = {WARP_PRODUCTS: 4096} if (dtype, hadamard) == ("fp32", 128) else {}
    operands = "f16" if dtype == "fp16" else "bf16"
    store_bits = {
        "*": 64 if m >= 1024 else 32
    }  # a small tile has 8 elements, so 4 bytes of codes, for a thread
    return qbench.Expectation(
        products(operands) if hadamard else {},
        load_bits={"*": 128},
        store_bits=store_bits,
        spill_bytes=spills,
    )


_LARGEST = tl.constexpr(FLOAT32_MAX)


@triton.jit(do_not_specialize=["m"])
def nvfp4_quantize_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, partial_ptr, m, k, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HADAMARD: tl.constexpr, LEVELS: tl.constexpr, PARTIALS: tl.constexpr,
):  # fmt: skip
    """One tile. global_ptr: gs, written here if PARTIALS > 0 (dynamic), read otherwise; unused with one level."""
    if LEVELS == 1:
        encode_scale = 1.0
    elif PARTIALS > 0:
        amax = largest(partial_ptr, PARTIALS)
        # 2688/amax overflows for amax < 7.9e-36; a zero tensor has no scale of its own
        encode_scale = tl.where(amax > 0.0, tl.minimum(tl.div_rn(2688.0, amax), _LARGEST), 1.0)
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(global_ptr, encode_scale)
    else:
        encode_scale = tl.load(global_ptr)

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
    if m > 0:
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

"""x [M, 2K], gate and up beside each other -> silu(gate) * up [M, K] in FP4, in one kernel that reads x once.

y = gate / (1 + exp(-gate)) * up in fp32, quantized as it is: y is not rounded to x's dtype in between, as it would be
by an activation of its own. A thread holds the block of 16 or 32 results that it quantizes, and reads both halves of it
(fp4_parts.py). Layout, scale rules and tiles: nvfp4_quantize.py and mxfp4_quantize.py; NVFP4 under a static global
scale. Tolerance of y: see qkernels.norms.

Predicted for 4096 x 2*8192 fp16 (H200): 40 us (44 us the memory's 4.3 TB/s, less what is hidden; about 22 instructions
a result, two of which take the special function unit four issue slots each). Measured (torch 2.11, Triton 3.6, graph
replay, L2 cold, 4096 x 2*8192 / 8192 x 2*16384 / 16 x 2*8192): NVFP4 37.4 / 141 / 1.6, MXFP4 42.5 / 145 / 1.8.
"""

# mypy: disable-error-code="assignment"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

import qbench
from qkernels.format import MXFP4_QUEST, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor, ScaleLayout
from qkernels.triton import mxfp4_quantize, nvfp4_quantize
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_launch import begins, cut, written
from qkernels.triton.fp4_parts import block_values, load_block, place_of_blocks
from qkernels.triton.fp4_rows import static_or_by_row
from qkernels.triton.fp4_words import part_magnitudes, words_fit
from qkernels.triton.launch import check_matrix
from qkernels.triton.mxfp4_quantize import shared_exponent, store_mxfp4
from qkernels.triton.nvfp4_codes import store_nvfp4

ACTIVATED = tuple(
    fmt
    for fmt in (*nvfp4_quantize.TAKES, *mxfp4_quantize.TAKES)
    if fmt.block_rows == 1 and fmt != MXFP4_QUEST
)
"""Formats that SiLU * up can be fused with."""


FUSES = dict.fromkeys(ACTIVATED, ("global_scale", "scale_layout"))


def expected(fmt: Format) -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to."""
    return {"fp4_silu_kernel": expected_words(64 if fmt.block == 16 else 128)}


# Flushed to zero below 2^-126, as silu is from -88 on; without that, both approximations are scaled and checked, which
# takes eight more instructions.
_SILU = tl.constexpr("""
{
.reg .f32 t;
mul.f32 t, $1, 0fBFB8AA3B;
ex2.approx.ftz.f32 t, t;
add.f32 t, t, 0f3F800000;
rcp.approx.ftz.f32 t, t;
mul.f32 $0, $1, t;
}
""")


def _silu(gate: NDArray[np.float32]) -> NDArray[np.float32]:
    one = np.float32(1)
    with np.errstate(over="ignore", invalid="ignore"):
        inverse = one / (one + np.exp2(gate * np.float32(-1.4426950408889634)))
        found: NDArray[np.float32] = gate * np.where(inverse < 2.0**-126, np.float32(0), inverse)
    return found


qbench.register_inline_asm(_SILU.value, _silu)


@triton.jit
def activated(gates, ups, PARTS: tl.constexpr):
    """silu(gate) * up, PARTS times fp32 [BLOCKS, 8]."""
    parts = ()
    for i in tl.static_range(PARTS):
        gate = tl.inline_asm_elementwise(_SILU, "=f,f", [gates[i]], dtype=tl.float32, is_pure=True, pack=1)
        parts += (gate * ups[i],)
    return parts


@triton.jit(do_not_specialize=["m"])
def fp4_silu_kernel(
    x_ptr, data_ptr, scale_ptr, global_ptr, m, k, stride,
    ROWS: tl.constexpr, ACROSS: tl.constexpr, ORDER: tl.constexpr, BESIDE: tl.constexpr, BLOCK: tl.constexpr,
    RULE: tl.constexpr, LEVELS: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr, WORDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of results, K of a row. RULE: of MXFP4, "" for NVFP4."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    PARTS: tl.constexpr = BLOCK // 8
    after_previous(EARLY)
    blocks = k // BLOCK
    row, block = place_of_blocks(tl.program_id(0), tl.program_id(1), ROWS, ACROSS, ORDER, BESIDE)
    inside = (row < m) & (block < blocks)
    row = row.to(tl.int64)
    x_ptr += row * stride + block * BLOCK
    gates = load_block(x_ptr, inside, PARTS, WORDS)
    ups = load_block(x_ptr + k, inside, PARTS, WORDS)
    parts = activated(block_values(gates, PARTS, WORDS, HALF), block_values(ups, PARTS, WORDS, HALF), PARTS)
    sizes, signs, amax = part_magnitudes(parts, PARTS)
    if RULE == "":
        if LEVELS == 2:
            encode_scale = tl.load(global_ptr)
        else:
            encode_scale = 1.0
        store_nvfp4(
            data_ptr, scale_ptr, sizes, signs, amax, encode_scale, 1.0, row, block, inside, blocks,
            ORDER, LEAST, SELECT, False,
        )  # fmt: skip
    else:
        amax_bits = magnitude_bits(amax)
        scales = shared_exponent(sizes[0], amax_bits, RULE)
        store_mxfp4(
            data_ptr, scale_ptr, sizes, signs, scales, amax_bits < 0x7F800000, 1.0, row, block, inside, blocks,
            ORDER, RULE, PARTS,
        )  # fmt: skip


def silu_mul_quantize(
    x: Tensor,
    fmt: Format,
    *,
    global_scale: Tensor | float | None = None,
    scale_layout: ScaleLayout = "linear",
    shape: tuple[int, int, int] | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, 2K], K a multiple of the block -> silu(x[:, :K]) * x[:, K:] in a format of ACTIVATED.

    global_scale: one fp32 encode scale for NVFP4. Raises TypeError or ValueError for input the kernel does not take.
    """
    if fmt not in ACTIVATED:
        raise ValueError(
            f"no activation is fused with {fmt.name}; known: {', '.join(each.name for each in ACTIVATED)}"
        )
    block = fmt.block or 1
    m, double = check_matrix(x, block=2 * block)
    k = double // 2
    data, scale = written(m, k, fmt, x, scale_layout, None)
    gs, _ = static_or_by_row(fmt, global_scale, x)
    if m > 0:
        tile = cut(m, k, fmt, blocked=scale_layout == "blocked", shape=shape)
        with torch.cuda.device_of(x):
            fp4_silu_kernel[(tile.down, tile.across)](
                x, data, scale, gs, m, k, x.stride(0), **tile.constants, BLOCK=block, RULE=fmt.rule,
                LEVELS=fmt.levels, LEAST=fmt.min_scale, SELECT=fmt.select, WORDS=words_fit(x), enable_fp_fusion=False,
                **begins(early, x.device),
            )  # fmt: skip
    return QTensor(
        data, scale, fmt, (m, k), None if gs is None else gs.reshape(()), scale_layout=scale_layout
    )


@qbench.provider("triton", needs_cuda=True)
def activate_quantize(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """SiLU * up and the quantizer in one kernel."""
    require(options, "the Triton SiLU and quantizer", FUSES)
    return lambda: silu_mul_quantize(
        x, options.format, global_scale=options.global_scale, scale_layout=options.scale_layout
    )

"""x [M, K] -> FP4, a row in a program's registers: a row's scale or norm is known before any of it is written.

    nvfp4_token        gs = 448*6/amax of each row's finite elements; then as nvfp4_quantize. Rotated if asked.
    rms_norm_quantize  y = x * rsqrt(mean(x^2) + eps) * weight in fp32, quantized as it is: y is not rounded to x's
                       dtype in between, as it would be by a norm of its own. With a residual, x is first replaced by
                       x + residual, rounded to x's dtype and written, which is what the next layer adds to.
                       Where x^2 overflows fp32, beyond 2^63, y is 0.

A norm of sixteen-bit words is norm_words.py's, with its figures; nvfp4_token, and a norm of fp32 or of tensors that
words do not fit (`fp4_words.words_fit`), is fp4_rows_kernel: a thread holds one block or more (fp4_parts.py), reads it
once and writes it once; the row's sum and maximum are the only things that threads exchange. rsqrt is not multiplied
into the elements of fp16 but into the blocks' factors. A program takes one row.

Layout and scale rules: nvfp4_quantize.py and mxfp4_quantize.py. Tolerance of y: see qkernels.norms.

Predicted for 4096 x 8192 fp16 (H200): nvfp4_token 24 us (13.7 instructions an element, a row's maximum more than
nvfp4_quantize). Measured (torch 2.11, Triton 3.6, graph replay, L2 cold, 4096 x 8192 / 8192 x 16384 / 16 x 8192):
24.9 / 94.1 / 1.84. A norm of fp16 words by this kernel took 29.2 / 112.6 / 2.08 to NVFP4, where 25 was predicted (16.6
instructions an element, of which 17.7 came out: 18 us of issue slots, and a row waits twice for all of its threads).
"""

# mypy: disable-error-code="assignment"
# Tuples grow by unrolled loops in the kernels, which have no types.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.format import MXFP4_QUEST, NVFP4_TOKEN, Format
from qkernels.norms import check_norm
from qkernels.ops.fused import Norm
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.tensor import QTensor, ScaleLayout
from qkernels.triton import mxfp4_quantize, nvfp4_quantize
from qkernels.triton.early import after_previous
from qkernels.triton.expected import expected_words
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_launch import begins, written
from qkernels.triton.fp4_parts import (
    block_values,
    finite_amax,
    load_block,
    load_values,
    root_of,
    rotated_magnitudes,
)
from qkernels.triton.fp4_words import part_magnitudes, words_fit
from qkernels.triton.launch import as_scale, check_hadamard, check_matrix
from qkernels.triton.mxfp4_quantize import shared_exponent, store_mxfp4
from qkernels.triton.norm_words import NormPlan, launch_norm_words, norm_plan
from qkernels.triton.nvfp4_codes import encode_scale_of, store_nvfp4
from qkernels.triton.outputs import Outputs, output

LONGEST = 32768
"""Elements of a row: two blocks of 16 for each of 1024 threads, of which a thread can hold 64 registers."""

NORMED = tuple(
    fmt
    for fmt in (*nvfp4_quantize.TAKES, NVFP4_TOKEN, *mxfp4_quantize.TAKES)
    if fmt.block_rows == 1 and fmt != MXFP4_QUEST
)
"""Formats that a norm can be fused with: quest takes moments of what is quantized, the others its maximum."""


FUSES = dict.fromkeys(NORMED, ("global_scale", "scale_layout"))


def expected(fmt: Format) -> dict[str, qbench.Expectation]:
    """What fp4_rows_kernel must be compiled to: codes of a block in one store, and no spill."""
    return {"fp4_rows_kernel": expected_words(64 if fmt.block == 16 else 128, on_chip=True)}


def expected_norm(k: int, fmt: Format, residual: bool) -> dict[str, qbench.Expectation]:
    """What norm_words_kernel must be compiled to: the codes of 16 elements in one store, or the sum of 8.

    A plan that limits registers spills a little: what was timed, Triton 3.6 for sm_90, 8 bytes of NVFP4 in fp16, none
    of MXFP4; 3.7.1 spills 40 of MXFP4 there and 164 for sm_100, which is untimed. For sm_100 and sm_103 ptxas settles
    for 64 registers unasked, and spills 44 bytes of MXFP4 in bf16.
    """
    limited = norm_plan(k, fmt, residual).registers > 0
    spill = {"*": 16 if residual else 168} if limited else {"sm_100 sm_103": 48}
    words = expected_words(128 if residual else 64, on_chip=True)
    return {"norm_words_kernel": replace(words, spill_bytes=spill)}


@triton.jit
def store_values(out_ptr, parts, inside, PARTS: tl.constexpr):
    """PARTS times fp32 [BLOCKS, 8] to the blocks that begin at out_ptr [BLOCKS], in its dtype."""
    blocks: tl.constexpr = parts[0].shape[0]
    for i in tl.static_range(PARTS):
        part = tl.permute(tl.reshape(parts[i].to(out_ptr.dtype.element_ty), (blocks, 2, 4)), (0, 2, 1))
        low, high = tl.split(part)
        at = (out_ptr + i * 8)[:, None] + tl.arange(0, 4)[None, :]
        tl.store(at, low, mask=inside[:, None])
        tl.store(at + 4, high, mask=inside[:, None])


@triton.jit
def added(parts, residual, DTYPE: tl.constexpr, PARTS: tl.constexpr):
    """fp32 sums, rounded to DTYPE."""
    sums = ()
    for i in tl.static_range(PARTS):
        sums += ((parts[i] + residual[i]).to(DTYPE).to(tl.float32),)
    return sums


@triton.jit
def normed(parts, weights, k, eps, HALF: tl.constexpr, PARTS: tl.constexpr):
    """A row and its weights -> (magnitudes, sign words, amax, what the magnitudes are still to be multiplied by)."""
    squares = tl.zeros((parts[0].shape[0], 4), tl.float32)
    products = ()
    for i in tl.static_range(PARTS):
        even, odd = tl.split(tl.reshape(parts[i], (parts[i].shape[0], 4, 2)))
        squares = tl.fma(odd, odd, tl.fma(even, even, squares))
        products += (parts[i] * weights[i],)
    rest = tl.rsqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / k + eps)
    sizes, signs, amax = part_magnitudes(products, PARTS)
    if not HALF:  # gs/s * rest can overflow
        scaled = ()
        for i in tl.static_range(PARTS):
            scaled += (sizes[i] * rest,)
        sizes = scaled
    return sizes, signs, amax * rest, rest if HALF else 1.0


@triton.jit(do_not_specialize=["m", "eps"])
def fp4_rows_kernel(
    x_ptr, residual_ptr, sum_ptr, weight_ptr, data_ptr, scale_ptr, global_ptr, m, k, stride, residual_stride, eps,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, RULE: tl.constexpr, TOKEN: tl.constexpr,
    ONE_GLOBAL: tl.constexpr, TOP: tl.constexpr, LEAST: tl.constexpr, SELECT: tl.constexpr, HADAMARD: tl.constexpr,
    WORDS: tl.constexpr, ORDER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row, or one of padding, whose scales are zero.

    RULE: of MXFP4, "" for NVFP4, whose global scale is one (ONE_GLOBAL), made here for each row (TOKEN), given for each
    row, or none (global_ptr is None).
    """
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    PARTS: tl.constexpr = BLOCK // 8
    after_previous(EARLY)
    row = tl.program_id(0)
    blocks = k // BLOCK
    block = tl.arange(0, LENGTH)
    inside = (block < blocks) & (row < m)
    wide = row.to(tl.int64)
    loaded = load_block(x_ptr + wide * stride + block * BLOCK, inside, PARTS, WORDS)
    if NORM:
        weights = load_values(weight_ptr + block * BLOCK, block < blocks, PARTS)
        parts = block_values(loaded, PARTS, WORDS, HALF)
        if residual_ptr is not None:
            beside = load_values(residual_ptr + wide * residual_stride + block * BLOCK, inside, PARTS)
            parts = added(parts, beside, x_ptr.dtype.element_ty, PARTS)
            store_values(sum_ptr + wide * k + block * BLOCK, parts, inside, PARTS)
        sizes, signs, amax, rest = normed(parts, weights, k, eps, HALF, PARTS)
    else:
        sizes, signs, amax = rotated_magnitudes(loaded, PARTS, WORDS, HALF, HADAMARD)
        rest = root_of(HADAMARD)
    if TOKEN:
        PACKED: tl.constexpr = WORDS and not NORM and HADAMARD == 0
        finite = magnitude_bits(finite_amax(loaded, sizes, PARTS, PACKED, HALF) * rest)
        encode_scale = encode_scale_of(tl.max(finite, axis=0).to(tl.float32, bitcast=True), TOP)
        tl.store(global_ptr + row, encode_scale, mask=row < m)
    elif ONE_GLOBAL:
        encode_scale = tl.load(global_ptr)
    elif RULE == "" and global_ptr is not None:
        encode_scale = tl.load(global_ptr + row, mask=row < m, other=1.0)
    else:
        encode_scale = 1.0
    places = tl.zeros((LENGTH,), tl.int64) + wide
    if RULE == "":
        store_nvfp4(
            data_ptr, scale_ptr, sizes, signs, amax, encode_scale, rest, places, block, inside, blocks,
            ORDER, LEAST, SELECT, HALF,
        )  # fmt: skip
    else:
        amax_bits = magnitude_bits(amax)
        scales = shared_exponent(sizes[0], amax_bits, RULE)
        store_mxfp4(
            data_ptr, scale_ptr, sizes, signs, scales, amax_bits < 0x7F800000, rest, places, block, inside, blocks,
            ORDER, RULE, PARTS,
        )  # fmt: skip


def warps_of(m: int, k: int, length: int, norm: bool, residual: bool) -> int:
    """Of a program: a thread has at least one of `length` blocks; one where rows are few or there is a residual.

    Of many rows 64 elements: at 8192 x 16384 half as many took NVFP4 with a global scale for each row from 94 to 152
    us (H200). A norm's never follow from m, for its sums would: 32 elements a thread.
    """
    most = min(32, length // 32)
    if residual or (m < 264 and not norm):
        return max(1, most)
    each = 64 if m >= 2048 and not norm else 32
    return max(1, min(most, int(triton.next_power_of_2(k)) // (32 * each)))


def _launch(
    x: Tensor,
    fmt: Format,
    data: Tensor,
    scale: Tensor,
    gs: Tensor | None,
    *,
    token: bool = False,
    hadamard: int | None = None,
    weight: Tensor | None = None,
    residual: Tensor | None = None,
    total: Tensor | None = None,
    eps: float = 0.0,
    blocked: bool,
    warps: int | None = None,
    early: bool,
) -> None:
    m, k = x.shape
    block = fmt.block or 1
    length = max(32, (hadamard or block) // block, triton.next_power_of_2(k // block))
    rows = triton.cdiv(m, 128) * 128 if blocked else m
    one = fmt.levels == 2 and fmt.global_granularity == "tensor"
    with torch.cuda.device_of(x):
        fp4_rows_kernel[(rows,)](
            x, residual, total, weight, data, scale, gs, m, k, x.stride(0),
            0 if residual is None else residual.stride(0), eps, LENGTH=length, BLOCK=block, NORM=weight is not None,
            RULE=fmt.rule, TOKEN=token, ONE_GLOBAL=one, TOP=fmt.scale_max * 6.0, LEAST=fmt.min_scale,
            SELECT=fmt.select, HADAMARD=hadamard or 0, WORDS=words_fit(x),
            ORDER="squares" if blocked else "rows", enable_fp_fusion=False,
            num_warps=warps or warps_of(m, k, length, weight is not None, residual is not None),
            **begins(early, x.device),
        )  # fmt: skip


def _check_length(k: int) -> None:
    if k > LONGEST:
        raise ValueError(
            f"K = {k}; a row of at most {LONGEST} elements fits the registers, use backend='torch'"
        )


TAKES: dict[Format, tuple[str, ...]] = {NVFP4_TOKEN: ("hadamard", "global_scale", "scale_layout")}
"""The formats quantized by rows without a norm, and the options of each."""


def nvfp4_token(
    x: Tensor,
    *,
    global_scale: Tensor | None = None,
    hadamard: int | None = None,
    scale_layout: ScaleLayout = "linear",
    outputs: Outputs | None = None,
    warps: int | None = None,
    early: bool = True,
) -> QTensor:
    """x [M, K], K a multiple of 16 and of `hadamard`, at most LONGEST -> NVFP4 with a global scale for each row.

    global_scale: float32 [M, 1], > 0 (not checked); None computes it. outputs, early: see nvfp4_quantize.
    """
    fmt = NVFP4_TOKEN
    check_hadamard(hadamard, fmt.hadamard)
    m, k = check_matrix(x, block=16, hadamard=hadamard)
    _check_length(k)
    data, scale = written(m, k, fmt, x, scale_layout, outputs)
    gs = _row_scales(global_scale, x, outputs)
    if m > 0:
        _launch(
            x, fmt, data, scale, gs, token=global_scale is None, hadamard=hadamard, blocked=scale_layout == "blocked",
            warps=warps, early=early,
        )  # fmt: skip
    return QTensor(data, scale, fmt, (m, k), gs, hadamard, scale_layout=scale_layout)


def _row_scales(given: Tensor | None, x: Tensor, outputs: Outputs | None) -> Tensor:
    if given is None:
        return output(
            None if outputs is None else outputs.global_scale,
            "global_scale_out",
            (len(x), 1),
            torch.float32,
            x,
        )
    if not isinstance(given, Tensor) or given.dtype != torch.float32 or tuple(given.shape) != (len(x), 1):
        found = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else repr(given)
        raise ValueError(f"global_scale of nvfp4_token must be float32 [{len(x)}, 1], one a row; got {found}")
    return given.to(x.device).contiguous()


@qbench.provider("triton", needs_cuda=True)
def quantize_nvfp4_token(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rotation, the rows' scales (unless they are given) and quantization, in one kernel."""
    require(options, "the Triton NVFP4 quantizer by rows", TAKES)
    return lambda: nvfp4_token(
        x, global_scale=options.global_scale, hadamard=options.hadamard, scale_layout=options.scale_layout
    )


def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    fmt: Format,
    *,
    eps: float = 1e-6,
    residual: Tensor | None = None,
    global_scale: Tensor | float | None = None,
    scale_layout: ScaleLayout = "linear",
    plan: NormPlan | None = None,
    early: bool = True,
) -> tuple[QTensor, Tensor | None]:
    """x [M, K] and weight [K] -> (norm of x, or of x + residual, in a format of NORMED; that sum, or None).

    global_scale  one fp32 encode scale for NVFP4, which is static here; nvfp4_token computes one for each row
    plan, early   for measurements: how norm_words_kernel is cut, and see nvfp4_quantize
    Raises TypeError or ValueError for input the kernel does not take.
    """
    if fmt not in NORMED:
        raise ValueError(
            f"no norm is fused with {fmt.name}; known: {', '.join(each.name for each in NORMED)}"
        )
    m, k = check_matrix(x, block=fmt.block or 1)
    check_norm(x, weight, residual, eps)
    _check_length(k)
    data, scale = written(m, k, fmt, x, scale_layout, None)
    gs, token = static_or_by_row(fmt, global_scale, x)
    total = None if residual is None else torch.empty(m, k, dtype=x.dtype, device=x.device)
    words = words_fit(x) and words_fit(weight[None]) and (residual is None or words_fit(residual))
    if m > 0 and words:
        launch_norm_words(
            x, fmt, data, scale, gs, plan or norm_plan(k, fmt, residual is not None), token=token, weight=weight,
            residual=residual, total=total, eps=eps, blocked=scale_layout == "blocked", early=early,
        )  # fmt: skip
    elif m > 0:
        _launch(
            x, fmt, data, scale, gs, token=token, weight=weight, residual=residual, total=total, eps=eps,
            blocked=scale_layout == "blocked", early=early,
        )  # fmt: skip
    top = gs if gs is None or token else gs.reshape(())
    return QTensor(data, scale, fmt, (m, k), top, scale_layout=scale_layout), total


def static_or_by_row(fmt: Format, given: Any, x: Tensor) -> tuple[Tensor | None, bool]:
    """The global scale of a fused quantizer, and whether it is computed for each row."""
    if fmt.levels == 1:
        if given is not None:
            raise ValueError(f"{fmt.name} has one scale level and takes no global_scale; leave it out")
        return None, False
    if fmt.global_granularity == "row":
        if given is not None:
            raise ValueError(f"the global scales of {fmt.name} are computed here; leave global_scale out")
        return torch.empty(len(x), 1, device=x.device), True
    if given is None:
        raise ValueError(f"{fmt.name} is fused with a static global_scale; pass one, or take nvfp4_token")
    return as_scale(given, "global_scale", x.device), False


@qbench.provider("triton", needs_cuda=True)
def norm_quantize(
    x: Tensor, norm: Norm, options: QuantizeOptions
) -> Callable[[], tuple[QTensor, Tensor | None]]:
    """The norm, with its residual, and the quantizer in one kernel."""
    require(options, "the Triton norm and quantizer", FUSES)
    return lambda: rms_norm_quantize(
        x, norm.weight, options.format, eps=norm.eps, residual=norm.residual, global_scale=options.global_scale,
        scale_layout=options.scale_layout,
    )  # fmt: skip

"""Bugs in the quantizer that folds MXFP4 into E4M3, and in the block-scaled product."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_f = partial(Mutant, file="qkernels/triton/mxfp4_fold.py")
_s = partial(Mutant, file="qkernels/triton/fp4_gemm_scaled.py")

MUTANTS = (
    # --- folding
    _f(
        "fold-against-the-smallest",
        "largest = tl.max(tl.where(used, scales, 0), axis=0)",
        "largest = tl.min(tl.where(used, scales, 255), axis=0)",
        "distances are to the smallest scale of a row",
        "fold",
    ),
    _f(
        "fold-blocks-of-zeros-count",
        "used = finite & (amax_bits.to(tl.float32, bitcast=True) * inverse * gain > 0.25)",
        "used = finite",
        "a block of zeros makes its row a misfit",
        "fold",
    ),
    _f(
        "fold-gain-of-small-blocks",
        "bitcast=True) * inverse * gain > 0.25)",
        "bitcast=True) * inverse > 0.25)",
        "small blocks of abs_max count as zeros though they are not",
        "fold",
    ),
    _f(
        "fold-infinite-blocks-count",
        "used = finite & (amax_bits",
        "used = (amax_bits",
        "a block of infinities makes the others of its row small",
        "fold-misfits",
    ),
    _f(
        "fold-factor-doubled",
        "low = ((half + 61) << 23)",
        "low = ((half + 62) << 23)",
        "rows are twice as large",
        "fold",
    ),
    _f(
        "fold-elements-doubled",
        "factor = ((133 - tl.minimum(d, 30)) << 23)",
        "factor = ((134 - tl.minimum(d, 30)) << 23)",
        "elements are twice as large, and saturate",
        "fold",
    ),
    _f(
        "fold-misfit-limit-off-by-one",
        "fits = finite & (d <= 14)",
        "fits = finite & (d <= 15)",
        "a row whose least block is rounded is not named",
        "fold-misfits",
    ),
    _f(
        "fold-misfits-raised",
        "tl.minimum(d, 30)",
        "tl.minimum(d, 14)",
        "far blocks are not rounded to zero but raised",
        "fold-misfits",
    ),
    _f(
        "fold-nan-lost",
        'factor = tl.where(finite, factor, float("nan"))',
        "factor = tl.where(finite, factor, 1.0)",
        "a block of NaN becomes numbers",
        "fold-misfits",
    ),
    _f(
        "fold-scale-of-nan-lost",
        "tl.where(finite, scales, 0xFF)",
        "scales",
        "the scale byte of a block of NaN is a number",
        "fold-misfits",
    ),
    _f(
        "fold-abs-max-without-gain",
        "encode_e2m1(y * inverse[:, None], gain)",
        "encode_e2m1(y * inverse[:, None], 1.0)",
        "abs_max forgets its factor three",
        "fold",
    ),
    _f(
        "fold-abs-max-in-pairs",
        'hadamard is None and rule != "abs_max"',
        "hadamard is None",
        "abs_max of bfloat16 is rounded by the code without its factor",
        "fold",
    ),
    _f(
        "fold-gain-lost",
        "FoldedRows(elements, factor, fmt.gain, hadamard)",
        "FoldedRows(elements, factor, 1.0, hadamard)",
        "products with abs_max activations are three times as large",
        "fold",
    ),
    _f(
        "fold-rows-dense",
        "x_ptr + row * stride + position",
        "x_ptr + row * k + position",
        "strided rows are read as if they were dense",
        "fold",
    ),
    _f(
        "fold-k-mask-off-by-one",
        "mask = (block < k // 32)[:, None]",
        "mask = (block <= k // 32)[:, None]",
        "a block after each row is read and written",
        "fold",
    ),
    _f(
        "fold-maximum-with-sign",
        "tl.max(x.to(tl.int16, bitcast=True) & 0x7FFF, axis=1)",
        "tl.max(x.to(tl.int16, bitcast=True), axis=1)",
        "the maximum of a block of bfloat16 is that of its positive numbers",
        "fold",
    ),
    # --- block-scaled product
    _s(
        "scaled-scales-of-a-for-b",
        "b_scale_at = b_scale_ptr + columns[:, None] * stride_b_scale",
        "b_scale_at = a_scale_ptr + columns[:, None] * 0",
        "b is multiplied by the scales of the first row of a",
        "gemm:certificate",
        "nvfp4 scaled",
    ),
    _s(
        "scaled-step-of-scales",
        "        b_scale_at += BK // BLOCK\n",
        "        b_scale_at += BK // 16\n",
        "later steps take other scales of MXFP4",
        "gemm:shapes",
        "mxfp4_abs_max scaled",
    ),
    _s(
        "scaled-k-tail-unmasked",
        "mask=codes[:, None] < left // 2, other=0)",
        "mask=codes[:, None] < BK // 2, other=0)",
        "what lies behind a row of b is read",
        "gemm:shapes",
        "nvfp4 scaled",
    ),
    _s(
        "scaled-tail-of-scales-zeroed",
        "b_scale = tl.load(b_scale_at, mask=blocks[None, :] < left // BLOCK, other=0)",
        "b_scale = tl.load(b_scale_at, mask=blocks[None, :] < left // BLOCK - 1, other=0)",
        "the last block of K is left out",
        "gemm:shapes",
        "nvfp4 scaled",
    ),
    _s(
        "scaled-gain-of-one-operand",
        "1.0 / (a.format.gain * b.format.gain), m",
        "1.0 / b.format.gain, m",
        "alpha is 1/3 where abs_max needs 1/9",
        "gemm:values",
        "mxfp4_abs_max scaled",
    ),
    _s(
        "scaled-row-mask-off-by-one",
        "inside = (out_rows < m)[:, None]",
        "inside = (out_rows <= m)[:, None]",
        "a row after the last is written",
        "gemm:shapes",
        "nvfp4 scaled",
    ),
    _s(
        "scaled-rows-past-the-edge-read",
        "tl.arange(0, BM), m - 1)",
        "tl.arange(0, BM), m)",
        "a row after the last of a is read",
        "gemm:shapes",
        "nvfp4 scaled",
    ),
    _s(
        "scaled-bias-left-out",
        "b_gs_ptr, bias_ptr, factor, out_columns, n)",
        "b_gs_ptr, None, factor, out_columns, n)",
        "the bias is not added",
        "gemm:values",
        "nvfp4 scaled bias fp32",
    ),
    _s(
        "scaled-output-through-bf16",
        "tl.store(target, result.to(out_ptr.dtype.element_ty), mask=inside)",
        "tl.store(target, result.to(tl.bfloat16).to(out_ptr.dtype.element_ty), mask=inside)",
        "fp32 outputs pass through bf16",
        "gemm:certificate",
        "nvfp4 scaled bias fp32",
    ),
)

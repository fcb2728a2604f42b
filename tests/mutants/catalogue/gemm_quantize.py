"""Bugs in the product with a quantizing epilogue."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4_gemm_quantize.py")
_ENCODE = "codes, scales = encode_nvfp4(tl.reshape(y, (BM * BN // 16, 16)), tl.load(gs_ptr))"

MUTANTS = (
    _m(
        "gemmq-rounded-to-bf16-first",
        _ENCODE,
        "y = y.to(tl.bfloat16).to(tl.float32)\n    " + _ENCODE,
        "the product is rounded to bf16 before it is quantized",
        "gemm-quantize",
    ),
    _m(
        "gemmq-global-scale-ignored",
        "tl.load(gs_ptr))",
        "1.0)",
        "the given global scale is ignored",
        "gemm-quantize",
    ),
    _m(
        "gemmq-global-scale-inverted",
        "tl.load(gs_ptr))",
        "1.0 / tl.load(gs_ptr))",
        "the given global scale is taken as a decode scale",
        "gemm-quantize",
    ),
    _m(
        "gemmq-blocks-along-m",
        "tl.reshape(y, (BM * BN // 16, 16))",
        "tl.reshape(tl.trans(y), (BM * BN // 16, 16))",
        "blocks run down the rows of the product",
        "gemm-quantize",
    ),
    _m(
        "gemmq-bias-dropped",
        "y = finish(sums, a_gs_ptr, b_gs_ptr, bias_ptr, factor, column0 + tl.arange(0, BN), n)",
        "y = finish(sums, a_gs_ptr, b_gs_ptr, None, factor, column0 + tl.arange(0, BN), n)",
        "the bias is not added",
        "gemm-quantize",
    ),
    _m(
        "gemmq-row-mask-off-by-one",
        "inside = (rows < m)[:, None]",
        "inside = (rows <= m)[:, None]",
        "a row after the last is written",
        "gemm-quantize",
    ),
    _m(
        "gemmq-last-row-unwritten",
        "inside = (rows < m)[:, None]",
        "inside = (rows < m - 1)[:, None]",
        "the last row is never written",
        "gemm-quantize",
    ),
    _m(
        "gemmq-code-mask-too-wide",
        "mask=inside & (packed < n // 2))",
        "mask=inside & (packed < n))",
        "codes are written over the next row's",
        "gemm-quantize",
    ),
    _m(
        "gemmq-scale-mask-too-wide",
        "mask=inside & (blocks < n // 16))",
        "mask=inside & (blocks < n // 8))",
        "scales are written over the next row's",
        "gemm-quantize",
    ),
    _m(
        "gemmq-scales-misplaced",
        "blocks = column0 // 16 + tl.arange(0, BN // 16)[None, :]",
        "blocks = column0 // 32 + tl.arange(0, BN // 16)[None, :]",
        "scales of every tile but the first lie elsewhere",
        "gemm-quantize",
    ),
    _m(
        "gemmq-alpha-dropped",
        "y = finish(sums, a_gs_ptr, b_gs_ptr,",
        "y = finish(sums, None, None,",
        "the operands' global scales are left out before quantizing",
        "gemm-quantize",
    ),
    _m(
        "gemmq-n-not-checked",
        "    if p.n % 16:\n",
        "    if False:\n",
        "N that is no multiple of 16 is taken",
        "refusals",
    ),
    _m(
        "gemmq-scale-dtype-not-checked",
        "if out_global_scale.dtype != torch.float32 or out_global_scale.numel() != 1:",
        "if out_global_scale.numel() != 1:",
        "an output scale in fp16 is read as fp32",
        "refusals",
    ),
)

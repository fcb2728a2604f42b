"""Products of weights that were laid out beforehand (qkernels.prepare): once for a model, so that is not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench import Unsupported, provider
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import names, require
from qkernels.prepared import (
    Prepared,
    prepare,
    prepared_matmul,
    prepared_matmul_quantized,
)
from qkernels.prepared_linear import PreparedLinear
from qkernels.tensor import QTensor
from qkernels.triton.quantized_result import TAKES

FP8_SUMS = "fp8-fast"


@provider("triton-prepared", needs_cuda=True)
def gemm(a: Tensor | QTensor, b: QTensor) -> Callable[[], Tensor]:
    """Exact products, fp32 sums; activations of 16 bits as they are, quantized ones decoded to bf16 within the call."""
    _require_sixteen(a, b)
    p = prepare(b)
    return lambda: prepared_matmul(a, p)


def _require_sixteen(a: Tensor | QTensor, b: QTensor) -> None:
    if isinstance(a, Tensor) and a.dtype not in (torch.bfloat16, torch.float16):
        raise Unsupported(f"prepared weights multiply bf16 and fp16 activations, not {a.dtype}", "triton")
    if isinstance(a, Tensor) and a.dtype == torch.float16 and b.format.scale == "e8m0":
        raise Unsupported("MXFP4's scales leave the range of float16", "triton")


@provider("triton-fp8", needs_cuda=True, accumulator=FP8_SUMS)
def fp8_gemm(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """MXFP4 times MXFP4 on FP8 tensor cores, both operands folded beforehand."""
    from qkernels.triton.mxfp4_folded import fold_rows

    p = _folded(b)
    rows = fold_rows(a)
    return lambda: prepared_matmul(rows, p)


@provider("triton-prepared", needs_cuda=True)
def gemm_quantize(a: Tensor | QTensor, b: QTensor, global_scale: Tensor | None) -> Callable[[], QTensor]:
    """The product of prepared weights, its fp32 sums quantized to b's format, on Hopper in the same kernel."""
    _require_result(b, global_scale)
    _require_sixteen(a, b)
    p = prepare(b)
    return lambda: prepared_matmul_quantized(a, p, b.format, global_scale=global_scale)


@provider("triton-fp8", needs_cuda=True, accumulator=FP8_SUMS)
def fp8_gemm_quantize(a: Tensor | QTensor, b: QTensor, global_scale: Tensor | None) -> Callable[[], QTensor]:
    """The same on FP8 tensor cores, both operands folded beforehand."""
    from qkernels.triton.mxfp4_folded import fold_rows

    _require_result(b, global_scale)
    if not isinstance(a, QTensor):
        raise Unsupported(f"folded weights multiply quantized activations, not {a.dtype}", "triton-prepared")
    p = _folded(b)
    rows = fold_rows(a)
    return lambda: prepared_matmul_quantized(rows, p, b.format, global_scale=global_scale)


def _require_result(b: QTensor, global_scale: Tensor | None) -> None:
    if b.format not in TAKES:
        raise Unsupported(f"a product is quantized to {names(TAKES)}, not to {b.format.name}", "torch-exact")
    if (b.format.levels == 2) != (global_scale is not None):
        raise Unsupported(f"{b.format.name} has {b.format.levels} scale level(s)", "torch-exact")


@provider("triton-prepared", needs_cuda=True)
def hadamard_gemm(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, QTensor]]:
    """Rotate, quantize and decode x, then multiply; the quantized x is returned to be checked too."""
    from qkernels.triton.fp4_gemm import QUANTIZES, quantize_fp4

    require(QuantizeOptions(w.format, w.hadamard), "the Triton FP4 product", QUANTIZES, instead="torch-eager")
    p = prepare(w)

    def run() -> tuple[Tensor, QTensor]:
        xq = quantize_fp4(x, w.format, hadamard=w.hadamard)
        return prepared_matmul(xq, p, out_dtype=x.dtype), xq

    return run


@provider("triton-fp8", needs_cuda=True, accumulator=FP8_SUMS)
def fp8_hadamard_gemm(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, Any]]:
    """x quantized to folded MXFP4 rows in one kernel, and their product on FP8 tensor cores."""
    from qkernels.triton.mxfp4_fold import mxfp4_fold

    p = _folded(w)

    def run() -> tuple[Tensor, Any]:
        folded = mxfp4_fold(x, rule=w.format.rule, hadamard=w.hadamard)
        return prepared_matmul(folded.rows, p, out_dtype=x.dtype), folded

    return run


@provider("prepared-layer", needs_cuda=True)
def linear(x: Tensor, layer: Any) -> Callable[[], Tensor]:
    """The layer's forward on prepared weights."""
    made = PreparedLinear(layer)
    if made.folded:
        raise Unsupported("its sums are those of FP8 products", "prepared-fp8-layer")
    return lambda: made(x)


@provider("prepared-fp8-layer", needs_cuda=True, accumulator=FP8_SUMS)
def fp8_linear(x: Tensor, layer: Any) -> Callable[[], Tensor]:
    """The same of a layer whose weights fold."""
    made = PreparedLinear(layer)
    if not made.folded:
        raise Unsupported(made.note or f"{layer.format.name} does not fold", "prepared-layer")
    return lambda: made(x)


def _folded(w: QTensor) -> Prepared:
    p = prepare(w, "w4a4")
    if not p.folded:
        raise Unsupported(p.note or f"{w.format.name} does not fold into E4M3", "triton-prepared")
    return p

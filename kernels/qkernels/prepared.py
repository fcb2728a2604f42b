"""Weights laid out once for this package's fastest products, and those products (their layer: prepared_linear).

    w = qkernels.quantize(weight, "nvfp4")
    p = qkernels.prepare(w)                      # once; as many bytes as w
    y = qkernels.prepared_matmul(x, p)           # x bf16, fp16, or quantized
    q = qkernels.prepared_matmul_quantized(x, p, "nvfp4", global_scale=gs)     # for the next product

"w4a16" weights are `Fragments`: exact with activations of 16 bits, and with quantized ones, which are decoded to bf16.
"w4a4" of MXFP4 are `FoldedWeights` for FP8 tensor cores, about 1.7 times cuBLAS bf16 on an H200; weights whose scales
spread too far for that become fragments, and `note` says why. Preparing waits for the device, products do not (but for
prepared_matmul of a QTensor and folded weights, which looks at its spreads; `fold` does not).

On Hopper a product of few rows may begin while earlier kernels of the stream end, and read its weights at once. So what
writes weights in place must be waited for before the next product; `prepare`, moving a layer and loading into it wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qbench import Unsupported

from . import prepared_ops as ops
from . import quantized_ops
from .format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, NVFP4_TOKEN, Format
from .ops.require import EXACT_PRODUCT, decodes_as
from .quantized_ops import Result
from .tensor import QTensor
from .triton.fp4_fragments import Fragments, fragments
from .triton.mxfp4_folded import FoldedRows, FoldedWeights, fold_rows, fold_weights

DECODES = (NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX)
MULTIPLIES = (*DECODES, NVFP4_TOKEN)  # activations: a row of weights has no global scale of its own
LONGEST = 32768  # what mxfp4_fold holds of a row


@dataclass(frozen=True, eq=False)
class Prepared:
    """Weights [n, k] of `format`. note: why they are fragments where folded ones were asked for, or ""."""

    weight: Fragments | FoldedWeights
    format: Format
    n: int
    k: int
    hadamard: int | None
    note: str = ""

    @property
    def folded(self) -> bool:
        return isinstance(self.weight, FoldedWeights)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


def prepare(w: QTensor, activation: str = "w4a16") -> Prepared:
    """w [N, K] in NVFP4 or MXFP4 (or a format whose bytes mean the same), on any device.

    ValueError for an unknown activation, Unsupported for other formats and for MXFP4 scales too far apart for bf16.
    """
    if activation not in ("w4a16", "w4a4"):
        raise ValueError(f"unknown activation {activation!r}; known: w4a16, w4a4")
    if not decodes_as(w.format, *DECODES):
        raise Unsupported(
            f"w is {w.format.name}; NVFP4 and MXFP4 are prepared, and formats of their bytes", EXACT_PRODUCT
        )
    w = w.linear()
    made: Fragments | FoldedWeights | None = None
    note = ""
    if activation == "w4a4" and w.format.scale == "e8m0":
        try:
            _require_foldable(w)
            made = fold_weights(w)
        except Unsupported as problem:
            note = problem.reason
    n, k = w.shape
    made = made or fragments(w)
    settle(w.device)
    return Prepared(made, w.format, n, k, w.hadamard, note)


def _require_foldable(w: QTensor) -> None:
    """Unsupported where no FP8 product of this package takes the shape or runs on the GPU."""
    if w.shape[0] % 8:
        raise Unsupported(f"N = {w.shape[0]} is no multiple of 8, which TMA stores")
    if w.device.type == "cuda" and torch.cuda.get_device_capability(w.device)[0] != 9:
        raise Unsupported(ops.NOT_HOPPER)
    if w.shape[1] > LONGEST:
        raise Unsupported(f"K = {w.shape[1]}; rows of at most {LONGEST} are folded when they are quantized")


def settle(device: torch.device) -> None:
    """Wait for what was written, and allocate what launches share: not while a graph is captured or warmed up."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] == 9:
            from .triton.workspaces import reserve

            reserve(device)
        torch.cuda.synchronize(device)


def prepared_matmul(
    x: Tensor | QTensor | FoldedRows,
    w: Prepared,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """out_dtype [M, N] (x's, or bf16) = x [M, K] times w [N, K] transposed, plus bias [N], rounded once.

    x: bf16 or, with NVFP4, fp16 for fragments; a QTensor of w's block and scale type, nvfp4_token too; FoldedRows with
    folded weights. A rotation of w is not undone. Folded products are rounded to bf16 first; their sums have no more.
    ValueError or TypeError for operands that do not go together, Unsupported for a QTensor whose scales span more in a
    row than folded operands hold.
    """
    y: Tensor = _matmul(x, w, bias, out_dtype)
    return y


def prepared_matmul_quantized(
    x: Tensor | QTensor | FoldedRows,
    w: Prepared,
    format: Format | str,
    *,
    global_scale: Tensor | float | None = None,
    bias: Tensor | None = None,
) -> QTensor:
    """x [M, K] times w [N, K] transposed, plus bias [N], quantized [M, N]: the fp32 sums, never a rounding to bf16.

    format: NVFP4 under a static encode scale (global_scale: one float32 on w's device, 448*6/amax for the amax
    expected of the result; its value is not looked at), nvfp4_1l, or MXFP4 by any rule but quest. N is a multiple of
    its block. Operands are those of prepared_matmul. On Hopper the product's kernel does it, on another GPU
    the quantizer's kernel from the product in fp32: the same contract. The result is not rotated.
    ValueError or TypeError for operands that do not go together, Unsupported for other formats.
    """
    q: QTensor = _matmul(x, w, bias, Result.of(format, global_scale, w.n, _device(w)))
    return q


def fold(x: QTensor) -> FoldedRows:
    """Activations [M, K] in MXFP4, folded for products with folded weights, without waiting for the device.

    So nobody looks whether a row's scales span more than the 2^14 that fold exactly: values of its smaller blocks are
    then rounded to what E4M3 holds beside the largest, multiples of 2^-9 where that reaches 256 to 384.
    """
    if not decodes_as(x.format, MXFP4, MXFP4_ABS_MAX):
        raise ValueError(f"x is {x.format.name}; MXFP4 is folded, and formats of its bytes")
    if x.scale_layout != "linear":
        raise ValueError(f"the scales of x are {x.scale_layout}; linear ones are folded, use x.linear()")
    elements, factor = quantized_ops.mxfp4_fold_codes(x.data, x.scale)
    return FoldedRows(elements, factor, x.format.gain, x.hadamard)


def _matmul(
    x: Tensor | QTensor | FoldedRows, w: Prepared, bias: Tensor | None, out_dtype: torch.dtype | Result | None
) -> Any:
    """The product in that dtype (None: x's, or bf16), or quantized."""
    shape = x.elements.shape if isinstance(x, FoldedRows) else x.shape
    if len(shape) != 2 or shape[1] != w.k:
        raise ValueError(f"x {list(shape)} must be [M, {w.k}], for w is [{w.n}, {w.k}]")
    bias = _checked_bias(bias, w)
    if isinstance(x, Tensor):
        if w.folded:
            raise TypeError(
                "folded weights multiply quantized activations; prepare(w, 'w4a16') takes 16-bit ones"
            )
        return product(sixteen(x, w.format), w, None, 1.0, bias, out_dtype or x.dtype)
    if x.hadamard != w.hadamard:
        raise ValueError(f"x is rotated by {x.hadamard} and w by {w.hadamard}: rotate both alike")
    dtype = out_dtype or torch.bfloat16
    if isinstance(x, QTensor):
        if x.scale_layout != "linear":
            raise ValueError(
                f"the scales of x are {x.scale_layout}; these kernels read linear ones, use x.linear()"
            )
        alike = (x.format.block, x.format.scale) == (w.format.block, w.format.scale)
        if not (alike and decodes_as(x.format, *MULTIPLIES)):
            raise ValueError(f"x is {x.format.name} and w is {w.format.name}: quantize both to one of them")
        if not w.folded:
            gs = None if x.global_scale is None else x.global_scale.contiguous()
            return product(ops.rows_of(x), w, gs, ops.row_unit(x.format), bias, dtype)
        x = fold_rows(x)
    if not w.folded:
        raise TypeError("folded activations multiply folded weights: prepare(w, 'w4a4')")
    return folded_product(x.elements, x.factor, x.gain, w, bias, dtype)


def sixteen(x: Tensor, fmt: Format) -> Tensor:
    """x, if fragments of a format multiply it: on every device what the kernels take."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"x is {x.dtype}; use bfloat16 or float16, or matmul with the weights as they were")
    if x.dtype == torch.float16 and fmt.scale == "e8m0":
        raise TypeError("MXFP4's scales leave the range of float16; use bfloat16")
    return x if x.stride(-1) == 1 else x.contiguous()


def _checked_bias(bias: Tensor | None, w: Prepared) -> Tensor | None:
    if bias is None:
        return None
    if tuple(bias.shape) != (w.n,) or not bias.is_floating_point() or bias.dtype == torch.float64:
        raise ValueError(f"bias is {bias.dtype} {list(bias.shape)}; it must be bf16, fp16 or fp32 [{w.n}]")
    if bias.device != _device(w):
        raise ValueError(
            f"bias is on {bias.device} and the weights on {_device(w)}; move one of them with .to()"
        )
    return bias.contiguous()


def _device(w: Prepared) -> torch.device:
    return w.weight.data.device if isinstance(w.weight, Fragments) else w.weight.codes.device


def product(
    x: Tensor, w: Prepared, gs: Tensor | None, factor: float, bias: Tensor | None, dtype: torch.dtype | Result
) -> Any:
    f = w.weight
    assert isinstance(f, Fragments)
    if isinstance(dtype, Result):
        parts = quantized_ops.fp4_product_quantized(
            x, f.data, f.scale, f.base, f.global_scale, gs, bias, dtype.global_scale, f.unit, factor, w.format.name,
            w.n, dtype.format.name,
        )  # fmt: skip
        return dtype.tensor(parts, w.n)
    y: Tensor = ops.fp4_product(
        x, f.data, f.scale, f.base, f.global_scale, gs, bias, f.unit, factor, w.format.name, w.n, dtype
    )
    return y


def folded_product(
    elements: Tensor,
    factor: Tensor,
    gain: float,
    w: Prepared,
    bias: Tensor | None,
    dtype: torch.dtype | Result,
) -> Any:
    f = w.weight
    assert isinstance(f, FoldedWeights)
    if isinstance(dtype, Result):
        parts = quantized_ops.mxfp4_folded_product_quantized(
            elements, factor, f.codes, f.spread, f.factor, bias, dtype.global_scale, gain * f.gain, w.n,
            dtype.format.name,
        )  # fmt: skip
        return dtype.tensor(parts, w.n)
    y: Tensor = ops.mxfp4_folded_product(
        elements, factor, f.codes, f.spread, f.factor, bias, gain * f.gain, w.n, dtype
    )
    return y


def with_parts(p: Prepared, parts: dict[str, Any]) -> Prepared:
    """p with parts of its weight replaced."""
    return replace(p, weight=replace(p.weight, **parts))

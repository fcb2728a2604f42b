"""Products of prepared weights as operators of torch, so that torch.compile and CUDA graphs take them as they are.

On CUDA tensors they launch this package's kernels, elsewhere they compute what these must give (in float64, slowly).
Each has a fake implementation: shapes and dtypes follow from those of the arguments.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qbench import Unsupported

from .codec import round_to
from .format import NVFP4_1L, Format, get_format
from .operators import fake, operator
from .quantize import quantize
from .tensor import QTensor

NOT_HOPPER = "the FP8 product of folded operands is written for Hopper (sm_90)"


@operator
def fp4_product(
    x: Tensor, data: Tensor, scale: Tensor, base: Tensor, global_scale: Tensor | None, x_global_scale: Tensor | None,
    bias: Tensor | None, unit: float, factor: float, format: str, n: int, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """out_dtype [M, n] = x [M, K] (bf16 or fp16) times the weights [n, K] transposed, times factor, over both global
    scales (0-dim or [1], that of x also one a row, [M, 1]; or None), plus bias [n]. data, scale, base, unit: of
    `Fragments`, in `format`."""
    from .triton.fp4_fragments import COLUMNS, Fragments, dense
    from .triton.x_scales import one_or_rows

    _check_depth(x, data, COLUMNS)
    one_or_rows(x_global_scale, x)
    w = Fragments(data, scale, base, unit, get_format(format), n, x.shape[1], global_scale)
    if x.device.type == "cuda":
        from .triton.prepared_product import product

        return product(x, replace(w, unit=unit * factor), x_global_scale, bias, out_dtype)
    y = x.to(torch.float64) @ dense(w).T * factor
    for gs in (x_global_scale, global_scale):
        if gs is not None:
            y = y / gs
    return round_to(y if bias is None else y + bias, out_dtype)


@fake(fp4_product)
def _(x, data, scale, base, global_scale, x_global_scale, bias, unit, factor, format, n, out_dtype):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], n), dtype=out_dtype)


def _check_depth(x: Tensor, units: Tensor, columns: int) -> None:
    if x.device != units.device:
        raise ValueError(f"x is on {x.device} and the weights on {units.device}; move one of them with .to()")
    if x.ndim != 2 or -(-x.shape[1] // columns) != units.shape[1]:
        held = f"{units.shape[1]} units of {columns}"
        raise ValueError(f"x {list(x.shape)} must be [M, K] with the K of the weights, {held}")


def row_unit(fmt: Format) -> float:
    """What a product with the rows below must be multiplied by, beside 1 over the global scale."""
    return (4.0 if fmt.scale == "e8m0" else 1.0) / fmt.gain


def rows_of(q: QTensor) -> Tensor:
    """bf16 [M, K]: code * scale, a quarter of it for E8M0 scales (6 * 2^127 is in no bf16); exact. Global scales,
    one or one a row, are not in it."""
    if q.format.global_granularity == "row":
        q = replace(q, format=NVFP4_1L, global_scale=None)
    if q.device.type == "cuda":
        from .triton.fp4_decode_rows import fp4_decode_rows

        return fp4_decode_rows(q)
    return (q.exact_values(torch.float64) / (row_unit(q.format) * q.format.gain)).to(torch.bfloat16)


def _quantized(x: Tensor, fmt: Format, global_scale: Tensor | None, hadamard: int) -> QTensor:
    if x.device.type == "cuda":
        from .triton.fp4_gemm import QUANTIZES, quantize_fp4

        if fmt in QUANTIZES:
            return quantize_fp4(x, fmt, global_scale=global_scale, hadamard=hadamard or None)
    return quantize(x, fmt, global_scale=global_scale, hadamard=hadamard or None)


@operator
def fp4_rows(x: Tensor, global_scale: Tensor | None, format: str, hadamard: int) -> list[Tensor]:
    """x [M, K] rotated (0: not), quantized to an FP4 format and decoded (`rows_of`); then, where the format has two
    levels and none was given, its global scale float32 []."""
    q = _quantized(x, get_format(format), global_scale, hadamard)
    rows = rows_of(q)
    return [rows] if q.global_scale is None or global_scale is not None else [rows, q.global_scale]


@fake(fp4_rows)
def _(x, global_scale, format, hadamard):  # type: ignore[no-untyped-def]
    rows = x.new_empty(x.shape, dtype=torch.bfloat16)
    dynamic = get_format(format).levels == 2 and global_scale is None
    return [rows, x.new_empty((), dtype=torch.float32)] if dynamic else [rows]


@operator
def mxfp4_folded_rows(x: Tensor, format: str, hadamard: int) -> tuple[Tensor, Tensor]:
    """x [M, K] rotated (0: not), quantized to MXFP4 and folded: float8_e4m3fn [M, K] and the rows' factors float32 [M].

    Where a block's scale is over 2^14 below the largest of its row, its values are rounded to what E4M3 holds there.
    """
    fmt = get_format(format)
    if x.device.type == "cuda":
        from .triton.mxfp4_fold import mxfp4_fold

        rows = mxfp4_fold(x, rule=fmt.rule, hadamard=hadamard or None).rows
    else:
        from .triton.mxfp4_folded import fold_rows

        rows = fold_rows(_quantized(x, fmt, None, hadamard), exact=False)
    return rows.elements, rows.factor


@fake(mxfp4_folded_rows)
def _(x, format, hadamard):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), x.new_empty(x.shape[:1], dtype=torch.float32)


@operator
def mxfp4_folded_product(
    x: Tensor, x_factor: Tensor, codes: Tensor, spread: Tensor, w_factor: Tensor, bias: Tensor | None, gain: float,
    n: int, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """[M, n] = folded rows [M, K] times folded weights [n, K] transposed, over gain, plus bias [n]; rounded to bf16,
    then to out_dtype, for the sums have no more: they are those of Hopper's FP8 products ("fp8-fast").

    codes, spread, w_factor: of `FoldedWeights`. Raises Unsupported on another GPU than Hopper.
    """
    from .triton.mxfp4_folded import COLUMNS, FoldedRows, FoldedWeights, dense

    _check_depth(x, codes, COLUMNS)
    rows = FoldedRows(x, x_factor, 1.0)
    w = FoldedWeights(codes, spread, w_factor, n, x.shape[1], gain)
    if x.device.type == "cuda":
        if torch.cuda.get_device_capability(x.device)[0] != 9:
            raise Unsupported(NOT_HOPPER, "prepare(w), whose fragments every GPU multiplies")
        from .triton.folded_product import product

        y = product(rows, w, bias=bias)
        return y if y.dtype == out_dtype else y.to(out_dtype)
    y = x.to(torch.float64) * x_factor[:, None].to(torch.float64) @ dense(w).T
    return round_to(y if bias is None else y + bias, torch.bfloat16).to(out_dtype)


@fake(mxfp4_folded_product)
def _(x, x_factor, codes, spread, w_factor, bias, gain, n, out_dtype):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], n), dtype=out_dtype)

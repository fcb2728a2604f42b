"""Products of prepared weights whose result is quantized, as operators of torch: see prepared_ops.

It is the sum in fp32, times alpha, plus bias, that is quantized, on every device: on Hopper in the product's own
kernel, on other GPUs by the quantizer's kernel from an fp32 product. On a CPU the exact product is rounded to fp32 and
goes to the exact quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench import Unsupported

from .codec import round_to
from .format import MXFP4, Format, get_format
from .operators import fake, operator
from .ops.require import names
from .prepared_ops import NOT_HOPPER, _check_depth, fp4_product, rows_of
from .quantize import quantize
from .quantize_scaled import static_scale
from .tensor import QTensor
from .triton.fp4_fragments import COLUMNS, Fragments
from .triton.mxfp4_folded import COLUMNS as FOLDED_COLUMNS
from .triton.mxfp4_folded import FoldedRows, FoldedWeights, dense, fold_rows
from .triton.quantized_result import TAKES, Quantized


@dataclass(frozen=True, eq=False)
class Result:
    """How a product is quantized: a format of TAKES and its static encode scale, float32 0-dim, if it has two
    levels."""

    format: Format
    global_scale: Tensor | None

    @classmethod
    def of(
        cls, format: Format | str, global_scale: Tensor | float | None, n: int, device: torch.device
    ) -> Result:
        """Of what a caller gave, for results of n columns."""
        fmt = get_format(format) if isinstance(format, str) else format
        if fmt not in TAKES:
            raise Unsupported(
                f"a product is quantized to {names(TAKES)}, not to {fmt.name}",
                "quantize(prepared_matmul(...))",
            )
        assert fmt.block is not None
        if n % fmt.block:
            raise ValueError(
                f"N = {n} is not a multiple of the {fmt.name} block {fmt.block}; pad the weight's rows"
            )
        if (fmt.levels == 2) != (global_scale is not None):
            takes = "needs a static global_scale" if fmt.levels == 2 else "takes no global_scale"
            raise ValueError(
                f"a result in {fmt.name} {takes}: its amax is known to no program of the product"
            )
        if isinstance(global_scale, float | int):
            global_scale = static_scale(float(global_scale), device)
        if global_scale is None:
            return cls(fmt, None)
        if global_scale.dtype != torch.float32 or global_scale.numel() != 1:
            shape = list(global_scale.shape)
            raise ValueError(f"global_scale is {global_scale.dtype} {shape}; it must be one float32")
        if global_scale.device != device:
            raise ValueError(f"global_scale is on {global_scale.device} and w on {device}; move it there")
        return cls(fmt, global_scale.reshape(()))

    def tensor(self, parts: tuple[Tensor, Tensor], n: int) -> QTensor:
        codes, scales = parts
        return QTensor(codes, scales, self.format, (codes.shape[0], n), self.global_scale)


@operator
def fp4_product_quantized(
    x: Tensor, data: Tensor, scale: Tensor, base: Tensor, global_scale: Tensor | None, x_global_scale: Tensor | None,
    bias: Tensor | None, out_global_scale: Tensor | None, unit: float, factor: float, format: str, n: int,
    out_format: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The product of `fp4_product`, quantized to out_format: codes uint8 [M, n/2], scales uint8 [M, n/block].

    out_global_scale: one float32, the static encode scale of a format of two levels, read on the device.
    """
    _check_depth(x, data, COLUMNS)
    fmt = get_format(out_format)
    if x.device.type == "cuda":
        from .triton.prepared_product import quantized_product

        w = Fragments(data, scale, base, unit, get_format(format), n, x.shape[1], global_scale)
        return quantized_product(
            x, replace(w, unit=unit * factor), x_global_scale, bias, fmt, out_global_scale
        )
    y = fp4_product(
        x, data, scale, base, global_scale, x_global_scale, bias, unit, factor, format, n, torch.float32
    )
    q = quantize(y, fmt, global_scale=out_global_scale)
    return q.data, q.scale


@fake(fp4_product_quantized)
def _(x, data, scale, base, global_scale, x_global_scale, bias, out_global_scale, unit, factor, format, n, out_format):  # type: ignore[no-untyped-def]  # fmt: skip
    return _like(x, n, out_format)


@operator
def mxfp4_folded_product_quantized(
    x: Tensor, x_factor: Tensor, codes: Tensor, spread: Tensor, w_factor: Tensor, bias: Tensor | None,
    out_global_scale: Tensor | None, gain: float, n: int, out_format: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The product of `mxfp4_folded_product`, quantized to out_format: codes uint8 [M, n/2], scales uint8 [M, n/block].

    The sums are those of Hopper's FP8 products ("fp8-fast"); they are not rounded to bf16 on the way. Raises
    Unsupported on another GPU than Hopper.
    """
    _check_depth(x, codes, FOLDED_COLUMNS)
    w, fmt = FoldedWeights(codes, spread, w_factor, n, x.shape[1], gain), get_format(out_format)
    if x.device.type == "cuda":
        if torch.cuda.get_device_capability(x.device)[0] != 9:
            raise Unsupported(NOT_HOPPER, "prepare(w), whose fragments every GPU multiplies")
        from .triton.folded_product import product

        into = Quantized.empty(x.shape[0], n, fmt, out_global_scale, x.device)
        product(FoldedRows(x, x_factor, 1.0), w, bias=bias, into=into)
        return into.codes, into.scales
    y = x.to(torch.float64) * x_factor[:, None].to(torch.float64) @ dense(w).T
    y = round_to(y if bias is None else y + bias, torch.float32)
    q = quantize(y, fmt, global_scale=out_global_scale)
    return q.data, q.scale


@fake(mxfp4_folded_product_quantized)
def _(x, x_factor, codes, spread, w_factor, bias, out_global_scale, gain, n, out_format):  # type: ignore[no-untyped-def]
    return _like(x, n, out_format)


def _like(x: Tensor, n: int, out_format: str) -> tuple[Tensor, Tensor]:
    block = get_format(out_format).block
    assert block is not None
    m = x.shape[0]
    return x.new_empty((m, n // 2), dtype=torch.uint8), x.new_empty((m, n // block), dtype=torch.uint8)


@operator
def mxfp4_fold_codes(data: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """MXFP4 as it is stored, codes uint8 [M, K/2] and scales uint8 [M, K/32], folded: float8_e4m3fn [M, K] and the
    rows' factors float32 [M].

    Exact where a row's scales span at most 2^14. Nothing waits for the device, so nobody hears of rows that span more:
    there the values of the small blocks are rounded to what E4M3 holds, as mxfp4_folded_rows does.
    """
    if data.device.type == "cuda":
        from .triton.mxfp4_fold_codes import fold_codes

        rows = fold_codes(data, scale)
    else:
        rows = fold_rows(QTensor(data, scale, MXFP4, (len(data), 2 * data.shape[1])), exact=False)
    return rows.elements, rows.factor


@fake(mxfp4_fold_codes)
def _(data, scale):  # type: ignore[no-untyped-def]
    m, half = data.shape
    return data.new_empty((m, 2 * half), dtype=torch.float8_e4m3fn), data.new_empty((m,), dtype=torch.float32)


@operator
def fp4_decoded_rows(data: Tensor, scale: Tensor, format: str) -> Tensor:
    """bf16 [M, K], see `rows_of`: codes uint8 [M, K/2] and scale bytes uint8 [M, K/block] of a format, decoded."""
    fmt = get_format(format)
    shape = (len(data), 1) if fmt.global_granularity == "row" else ()
    unused = None if fmt.levels == 1 else data.new_empty(shape, dtype=torch.float32)
    return rows_of(QTensor(data, scale, fmt, (len(data), 2 * data.shape[1]), unused))


@fake(fp4_decoded_rows)
def _(data, scale, format):  # type: ignore[no-untyped-def]
    return data.new_empty((data.shape[0], 2 * data.shape[1]), dtype=torch.bfloat16)

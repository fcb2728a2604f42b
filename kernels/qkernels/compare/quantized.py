"""Is this QTensor what a correct quantizer makes of x? The comparator for every format; bounds in bounds.py.

A tolerance on the decoded values would accept swapped nibbles of small codes, truncation and a scale byte off by one;
this judges every scale and every code. NaN and finite never agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch

from ..format import Format
from ..quantize import Rounding, check_input, chunk_rows
from ..quantize_scaled import static_scale, tensor_scale
from ..tensor import DATA_DTYPE, QTensor, ScaleLayout
from .bounds import Bounds, block_bounds
from .global_scale import compare_global_scale, rotated
from .report import describe
from .rows import row_bounds


def compare_quantized(
    output: QTensor,
    x: Tensor,
    fmt: Format,
    *,
    hadamard: int | None = None,
    global_scale: Tensor | float | None = None,
    scale: Tensor | float | None = None,
    zero_point: Tensor | int | None = None,
    error: Tensor | None = None,
    rounding: Rounding = "nearest",
    scale_layout: ScaleLayout = "linear",
) -> Mismatch | None:
    """None if `output` is a correct quantization of x [..., K] in `fmt`; else the first wrong place and a likely cause.

    global_scale, scale and zero_point: the static ones the quantizer was given (None: dynamic).
    scale_layout "blocked": scales in 128x4 tiles, whose padding must be zero.
    rounding "stochastic": a code may be either neighbour of what is rounded; scales are judged as ever.
    error, float64 of x's shape: x (then float64) is a result known only to within it, as the product that a fused
    epilogue quantizes is; block formats, not rotated. Raises as `quantize`
    does if fmt cannot hold x. x and output lie on one device; chunked, nothing larger than 2^25 elements is made.
    """
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"unknown rounding {rounding!r}; known: nearest, stochastic")
    check_input(x if error is None else x.to(torch.float32), fmt, hadamard)
    if problem := _structure(output, x, fmt, hadamard):
        return problem
    if output.scale_layout != scale_layout:
        return Mismatch(
            f"scale layout is {output.scale_layout}, expected {scale_layout}", x.numel(), x.numel()
        )
    if scale_layout == "blocked":
        if problem := _padding(output):
            return problem
        output = output.linear()
    k = x.shape[-1]
    rows = x.reshape(-1, k)
    top = output.global_scale
    if top is not None and fmt.global_granularity == "row":
        top = top.reshape(-1, 1)
    flat = QTensor(output.data.reshape(len(rows), output.data.shape[-1]), _flat(output.scale, fmt), fmt,
                   (len(rows), k), top, hadamard,
                   None if output.zero_point is None else _flat(output.zero_point, fmt))  # fmt: skip
    rooms = None if error is None else error.reshape(-1, k)
    if fmt.levels == 2 and (problem := compare_global_scale(flat, rows, fmt, hadamard, global_scale, rooms)):
        return problem
    expected = static_scale(scale, x.device) if scale is not None else None
    if scale is None and fmt.granularity == "tensor":
        expected = tensor_scale(list(rows.split(chunk_rows(k))), x.device)
    if zero_point is not None and flat.zero_point is not None:
        wrong = int((flat.zero_point != torch.as_tensor(zero_point).to(x.device)).sum())
        if wrong:
            return Mismatch(f"zero point is not the static {int(zero_point)}", wrong, flat.zero_point.numel())
    step = chunk_rows(k, fmt.block_rows)
    first: tuple[int, Bounds] | None = None
    wrong_scales = wrong_codes = 0
    for start in range(0, len(rows), step):
        part = flat.rows(start, start + step)
        piece = rows[start : start + step]
        if fmt.block is None:
            bounds = row_bounds(
                part, piece.to(torch.float32), fmt, expected, static=scale is not None, rounding=rounding
            )
        else:
            y, slack = rotated(piece, fmt, hadamard)
            if rooms is not None:
                assert slack is None and fmt.block is not None
                slack = rooms[start : start + step].unflatten(-1, (k // fmt.block, fmt.block)).amax(-1)
            bounds = block_bounds(part, y, slack, fmt, x.dtype, rounding)
        counts = torch.stack([bounds.scale_bad.sum(), bounds.code_bad.sum()]).tolist()
        wrong_scales, wrong_codes = wrong_scales + counts[0], wrong_codes + counts[1]
        if first is None and any(counts):
            first = start, bounds
    if first is None:
        return None
    return describe(flat, rows, fmt, *first, wrong_scales=wrong_scales, wrong_codes=wrong_codes)


def _padding(output: QTensor) -> Mismatch | None:
    """Bytes of blocked scales that belong to no block and are not zero."""
    wrong = output.scale != output.linear().blocked().scale
    count = int(wrong.sum())
    if not count:
        return None
    first = int(wrong.nonzero()[0])
    return Mismatch(f"{output.format.name}: padding of the blocked scales is not zero", count, wrong.numel(),
                    f"  at byte {first}: found 0x{int(output.scale[first]):02x}")  # fmt: skip


def _flat(scale: Tensor, fmt: Format) -> Tensor:
    return scale.reshape(-1, scale.shape[-1]) if fmt.block is not None or scale.ndim > 1 else scale


def _structure(output: QTensor, x: Tensor, fmt: Format, hadamard: int | None) -> Mismatch | None:
    total = x.numel()
    for what, found, wanted in (
        ("format", output.format.name, fmt.name),
        ("shape", output.shape, tuple(x.shape)),
        ("Hadamard size", output.hadamard, hadamard),
        ("data dtype", output.data.dtype, DATA_DTYPE[fmt.element.name]),
        ("scale dtype", output.scale.dtype, torch.float32 if fmt.scale == "fp32" else torch.uint8),
        ("device", output.device, x.device),
        ("zero point", output.zero_point is not None, not fmt.symmetric),
    ):
        if found != wanted:
            return Mismatch(f"{what} is {found}, expected {wanted}", total, total)
    rows = total // x.shape[-1]
    if fmt.element.bits == 6 and bool((over := output.data > 0x3F).any()):
        first = over.nonzero()[0].tolist()
        return Mismatch("a code has more than its low six bits set", int(over.sum()), total,
                        f"  at {first}: found byte 0x{int(output.data[tuple(first)]):02x}")  # fmt: skip
    if output.zero_point is not None and output.zero_point.dtype != torch.int32:
        return Mismatch(f"zero point dtype is {output.zero_point.dtype}, expected torch.int32", total, total)
    if fmt.block is None and output.scale.numel() not in ({rows, 1} if fmt.granularity == "row" else {1}):
        return Mismatch(f"{output.scale.numel()} scales for {rows} rows of {fmt.name}", total, total)
    return None

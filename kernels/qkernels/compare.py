"""Is this QTensor what a correct quantizer makes of x? The comparator for every format; bounds in compare_bounds.py.

A tolerance on the decoded values would accept swapped nibbles of small codes, truncation and a scale byte off by one;
this judges every scale and every code. NaN and finite never agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch

from .compare_bounds import EPS, Bounds, block_bounds
from .compare_report import describe
from .compare_rows import row_bounds
from .format import Format
from .hadamard import rotate
from .quantize import CHUNK_ELEMENTS, check_input
from .quantize_scaled import static_scale, tensor_scale
from .tensor import QTensor

_DATA = {"e2m1": torch.uint8, "e4m3": torch.float8_e4m3fn, "int8": torch.int8}


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
) -> Mismatch | None:
    """None if `output` is a correct quantization of x [..., K] in `fmt`; else the first wrong place and a likely cause.

    global_scale, scale and zero_point: the static ones the quantizer was given (None: dynamic).
    error, float64 of x's shape: x (then float64) is a result known only to within it, as the product that a fused
    epilogue quantizes is; block formats, not rotated. Raises as `quantize`
    does if fmt cannot hold x. x and output lie on one device; chunked, nothing larger than 2^25 elements is made.
    """
    check_input(x if error is None else x.to(torch.float32), fmt, hadamard)
    if problem := _structure(output, x, fmt, hadamard):
        return problem
    k = x.shape[-1]
    rows = x.reshape(-1, k)
    flat = QTensor(output.data.reshape(len(rows), output.data.shape[-1]), _flat(output.scale), fmt, (len(rows), k),
                   output.global_scale, hadamard,
                   None if output.zero_point is None else _flat(output.zero_point))  # fmt: skip
    if fmt.levels == 2 and (problem := _global_scale(flat, rows, fmt, hadamard, global_scale)):
        return problem
    expected = static_scale(scale, x.device) if scale is not None else None
    if scale is None and fmt.granularity == "tensor":
        expected = tensor_scale(list(rows.split(max(1, CHUNK_ELEMENTS // k))), x.device)
    if zero_point is not None and flat.zero_point is not None:
        wrong = int((flat.zero_point != torch.as_tensor(zero_point).to(x.device)).sum())
        if wrong:
            return Mismatch(f"zero point is not the static {int(zero_point)}", wrong, flat.zero_point.numel())
    step = max(1, CHUNK_ELEMENTS // k)
    first: tuple[int, Bounds] | None = None
    wrong_scales = wrong_codes = 0
    for start in range(0, len(rows), step):
        part = flat.rows(start, start + step)
        piece = rows[start : start + step]
        if fmt.block is None:
            bounds = row_bounds(part, piece.to(torch.float32), fmt, expected, static=scale is not None)
        else:
            y, slack = rotated(piece, fmt, hadamard)
            if error is not None:
                assert slack is None and fmt.block is not None
                rooms = error.reshape(-1, k)[start : start + step]
                slack = rooms.unflatten(-1, (k // fmt.block, fmt.block)).amax(-1)
            bounds = block_bounds(part, y, slack, fmt, x.dtype)
        counts = torch.stack([bounds.scale_bad.sum(), bounds.code_bad.sum()]).tolist()
        wrong_scales, wrong_codes = wrong_scales + counts[0], wrong_codes + counts[1]
        if first is None and any(counts):
            first = start, bounds
    if first is None:
        return None
    return describe(flat, rows, fmt, *first, wrong_scales=wrong_scales, wrong_codes=wrong_codes)


def rotated(x: Tensor, fmt: Format, hadamard: int | None) -> tuple[Tensor, Tensor | None]:
    """float64 y [r, K] = x rotated, and the slack [r, K/block] of an fp32 rotation: n * 2^-23 * (|x| @ |H|)/sqrt(n)."""
    wide = x.to(torch.float64)
    if hadamard is None:
        return wide, None
    assert fmt.block is not None
    total = wide.abs().unflatten(-1, (wide.shape[-1] // hadamard, hadamard)).sum(-1)
    slack = total * (hadamard**0.5 * 2.0**-23)
    return rotate(wide, hadamard, torch.float64), slack.repeat_interleave(hadamard // fmt.block, dim=-1)


def _flat(scale: Tensor) -> Tensor:
    return scale if scale.ndim < 2 else scale.reshape(-1, scale.shape[-1])


def _structure(output: QTensor, x: Tensor, fmt: Format, hadamard: int | None) -> Mismatch | None:
    total = x.numel()
    for what, found, wanted in (
        ("format", output.format.name, fmt.name),
        ("shape", output.shape, tuple(x.shape)),
        ("Hadamard size", output.hadamard, hadamard),
        ("data dtype", output.data.dtype, _DATA[fmt.element.name]),
        ("scale dtype", output.scale.dtype, torch.float32 if fmt.scale == "fp32" else torch.uint8),
        ("device", output.device, x.device),
        ("zero point", output.zero_point is not None, not fmt.symmetric),
    ):
        if found != wanted:
            return Mismatch(f"{what} is {found}, expected {wanted}", total, total)
    rows = total // x.shape[-1]
    if fmt.scale == "fp32" and output.scale.numel() not in ({rows, 1} if fmt.granularity == "row" else {1}):
        return Mismatch(f"{output.scale.numel()} scales for {rows} rows of {fmt.name}", total, total)
    return None


def _global_scale(
    output: QTensor, rows: Tensor, fmt: Format, hadamard: int | None, supplied: Tensor | float | None
) -> Mismatch | None:
    """The encode scale: bit-equal to a supplied one, else scale_max*max/amax to 2^-22 (and the slack of a rotation)."""
    assert output.global_scale is not None
    found = float(output.global_scale)
    if supplied is not None:
        wanted = float(static_scale(supplied, rows.device))
        return (
            None
            if found == wanted
            else Mismatch(f"global scale is {found!r}, the static one is {wanted!r}", 1, 1)
        )
    low = high = 0.0
    for start in range(0, len(rows), max(1, CHUNK_ELEMENTS // rows.shape[-1])):
        piece = rows[start : start + max(1, CHUNK_ELEMENTS // rows.shape[-1])]
        y, slack = rotated(piece, fmt, hadamard)
        amax = torch.where(torch.isfinite(y), y.abs(), 0.0).unflatten(-1, (-1, fmt.block or 1)).amax(-1)
        room = torch.zeros_like(amax) if slack is None else slack.nan_to_num(0.0, 0.0, 0.0)
        ends = torch.stack([(amax - room).amax(), (amax + room).amax()]).tolist()
        low, high = max(low, ends[0]), max(high, ends[1])
    top = fmt.scale_max * fmt.element.max
    least = top / high * (1 - EPS / 2) if high > 0 else 0.0
    most = top / low * (1 + EPS / 2) if low > 0 else float("inf")
    # Beyond 2^126 the reciprocal of gs is subnormal; where to cap it is the quantizer's choice.
    if 0 < found < float("inf") and min(least, 2.0**126) <= found <= most:
        return None
    hint = ""
    if found != found or found in (0.0, float("inf")):
        hint = "not a finite positive number"
    elif high > 0 and abs(found * top / high - 1) < 1e-3:
        hint = "inverted: it is the decode scale amax/2688"
    elif found == 1.0:
        hint = "dropped: it is 1"
    return Mismatch(
        f"global scale is {found!r}, expected {least!r} .. {most!r}", 1, 1, hint and f"  likely {hint}"
    )

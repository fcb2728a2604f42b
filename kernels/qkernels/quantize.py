"""The exact reference quantizer: float64 arithmetic, one rounding per code, integer exponents. Slow and plain.

quantize(x, fmt) covers every `Format`. Block formats: quantize_block.py; MX exponent rules: quantize_mx.py; FP8 and
INT8 per tensor and per row: quantize_scaled.py.

Non-finite input. A block, row or tensor that shares a computed scale and holds NaN or inf decodes to NaN: its scale is
NaN (e4m3 0x7f, e8m0 0xff, fp32 NaN), its codes and zero point are 0. The NVFP4 dynamic global scale, of a tensor or a
row, is taken over the finite elements alone, so that one bad block does not take the others with it. Under a static
scale FP8 keeps NaN as NaN and saturates inf; static INT8 has no place for NaN and stores the code of 0.

Zero input. Zero blocks get scale 0 (e8m0: byte 0; abs_max and quest: what their formula gives; min_scale where there is
one), zero point 0 and codes ±0; the dynamic global scale of a zero tensor or row is 1. Nothing finite ever decodes to
NaN.

Stochastic rounding rounds the codes alone; scales and four-over-six's choice stay as they are for nearest. Its mean is
x where x/s lies within the element's range: beyond it, as in a block of MX floor whose amax/s exceeds the largest
number, codes saturate as they do for nearest. The draws follow from the generator and the shape of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .codec import pack_e2m1
from .format import FLOAT32_MAX, Format
from .hadamard import rotate
from .quantize_block import from_blocks, quantize_blocks, to_blocks
from .quantize_scaled import divide, quantize_scaled, static_scale, uniform
from .tensor import DATA_DTYPE, QTensor

CHUNK_ELEMENTS = 1 << 25  # float64 temporaries of 256 MiB each; [57344, 8192] whole would take 3.5 GiB each

Rounding = Literal["nearest", "stochastic"]


@torch.no_grad()  # x may be a parameter; gradients through rounding mean nothing
def quantize(
    x: Tensor,
    fmt: Format,
    *,
    global_scale: Tensor | float | None = None,
    hadamard: int | None = None,
    scale: Tensor | float | None = None,
    zero_point: Tensor | int | None = None,
    rounding: Rounding = "nearest",
    generator: torch.Generator | None = None,
) -> QTensor:
    """Quantize x [..., K] (float16, bfloat16 or float32; any strides; CPU or CUDA) along its last axis.

    global_scale  two-level formats: static encode scale gs (fp32, > 0; one, or [..., 1] where each row has its own);
                  None computes scale_max*max/amax
    hadamard      rotate K blockwise by this size first, in float64
    scale, zero_point  static per-tensor scale (value = code*scale) of FP8, INT8, INT8_ASYM; INT8 has no dynamic form
    rounding      of the codes; "stochastic" takes its draws from `generator`, which lies on x's device
    Raises TypeError for a wrong dtype, ValueError for a shape or argument the format does not take.
    """
    check_input(x, fmt, hadamard)
    check_rounding(rounding, generator)
    if global_scale is not None and fmt.levels == 1:
        raise ValueError(f"{fmt.name} has one scale level and takes no global_scale; use nvfp4 or drop it")
    draws = generator if rounding == "stochastic" else None
    if fmt.block is None:
        return quantize_scaled(
            x, fmt, scale=scale, zero_point=zero_point, chunk=CHUNK_ELEMENTS, generator=draws
        )
    if scale is not None or zero_point is not None:
        raise ValueError(
            f"{fmt.name} computes its block scales; scale and zero_point belong to FP8 and INT8 formats"
        )
    gs: Tensor | None = None
    if global_scale is not None:
        gs = static_global_scale(global_scale, fmt, x)
    elif fmt.levels == 2:
        gs = dynamic_global_scale(x, fmt, hadamard)
    return _quantize_in_blocks(x, fmt, gs, hadamard, draws)


@torch.no_grad()
def quantize_values(y: Tensor, fmt: Format, *, global_scale: Tensor | float | None = None) -> QTensor:
    """The same of float64 values [..., K], as of a result that no dtype has rounded yet; block formats, not rotated."""
    check_input(y.to(torch.float32), fmt, None)
    if fmt.block is None:
        raise ValueError(f"{fmt.name} has no block scales; round the values to a dtype and take quantize")
    gs: Tensor | None = None
    if global_scale is not None:
        gs = static_global_scale(global_scale, fmt, y)
    elif fmt.levels == 2:
        gs = dynamic_global_scale(y, fmt)
    return _quantize_in_blocks(y, fmt, gs, None, None)


def _quantize_in_blocks(
    x: Tensor, fmt: Format, gs: Tensor | None, hadamard: int | None, draws: torch.Generator | None
) -> QTensor:
    k = x.shape[-1]
    rows, width = x.numel() // k, k // 2 if fmt.packed else k
    by_row = gs is not None and fmt.global_granularity == "row"
    tops = None if gs is None else gs.reshape(-1, 1)  # [rows, 1] or [1, 1]
    data = torch.empty(rows, width, dtype=torch.uint8, device=x.device)
    dtype = torch.float32 if fmt.scale == "fp32" else torch.uint8
    scales = torch.empty(fmt.scale_shape((rows, k)), dtype=dtype, device=x.device)
    zeros = None if fmt.symmetric else torch.empty(scales.shape, dtype=torch.int32, device=x.device)
    for start, y in float64_chunks(x, hadamard, fmt.block_rows):
        blocks = to_blocks(y, fmt)
        top = tops[start : start + len(y)] if by_row and tops is not None else tops
        noise = None if draws is None else uniform(blocks, draws)
        codes, found, zero = quantize_blocks(blocks, fmt, top, noise)
        codes = from_blocks(codes, fmt, len(y))
        data[start : start + len(y)] = pack_e2m1(codes) if fmt.packed else codes
        first = start // fmt.block_rows
        scales[first : first + len(found)] = found
        if zeros is not None and zero is not None:
            zeros[first : first + len(found)] = zero
    shape = fmt.scale_shape(x.shape)
    return QTensor(
        data.view(DATA_DTYPE[fmt.element.name]).view(*x.shape[:-1], width),
        scales.view(shape),
        fmt,
        tuple(x.shape),
        gs,
        hadamard,
        None if zeros is None else zeros.view(shape),
    )


def dynamic_global_scale(x: Tensor, fmt: Format, hadamard: int | None = None) -> Tensor:
    """float32 gs = scale_max*max/amax, amax over the finite elements of the (rotated) x: 0-dim, or [..., 1] by row.

    1 for zeros; capped at the largest fp32 for amax below 7.9e-36.
    """
    by_row = fmt.global_granularity == "row"
    parts: list[Tensor] = []
    for _, y in float64_chunks(x, hadamard):
        size = torch.where(torch.isfinite(y), y.abs(), 0.0)
        parts.append(size.amax(-1) if by_row else size.amax().reshape(1))
    amax = (
        torch.cat(parts) if parts else torch.zeros(0 if by_row else 1, dtype=torch.float64, device=x.device)
    )
    amax = amax.view(*x.shape[:-1], 1) if by_row else amax.amax()
    gs = divide(fmt.scale_max * fmt.element.max, amax).clamp(max=FLOAT32_MAX)
    return torch.where(amax > 0, gs, 1.0).to(torch.float32)


def static_global_scale(value: Tensor | float, fmt: Format, x: Tensor) -> Tensor:
    """A supplied encode scale: float32 0-dim, or [..., 1] where each row of x has its own; finite and > 0."""
    if fmt.global_granularity == "tensor":
        return static_scale(value, x.device).reshape(())
    shape = (*x.shape[:-1], 1)
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or tuple(value.shape) != shape:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{fmt.name} has one global scale a row: pass a float32 tensor {list(shape)}, not {found}"
        )
    if not bool(((value > 0) & torch.isfinite(value)).all()):
        raise ValueError(
            "a global scale is not a finite number > 0; a NaN or negative scale decodes to nonsense"
        )
    return value.to(x.device)


def float64_chunks(x: Tensor, hadamard: int | None = None, group: int = 1) -> Iterator[tuple[int, Tensor]]:
    """(first row, float64 [r, K]) over the rows of x, rotated; about CHUNK_ELEMENTS elements, whole groups of rows."""
    rows = x.reshape(-1, x.shape[-1])
    step = chunk_rows(x.shape[-1], group)
    for start in range(0, len(rows), step):
        part = rows[start : start + step].to(torch.float64)
        yield start, part if hadamard is None else rotate(part, hadamard, torch.float64)


def chunk_rows(k: int, group: int = 1) -> int:
    """Rows taken at once: a multiple of `group`, at most CHUNK_ELEMENTS elements where one group allows it."""
    return max(1, CHUNK_ELEMENTS // (k * group)) * group


def check_rounding(rounding: str, generator: torch.Generator | None) -> None:
    """ValueError for an unknown rounding, or draws that nobody could repeat."""
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"unknown rounding {rounding!r}; known: nearest, stochastic")
    if rounding == "stochastic" and generator is None:
        raise ValueError(
            "stochastic rounding needs generator=torch.Generator(device).manual_seed(...), to be repeatable"
        )


def check_input(x: Tensor, fmt: Format, hadamard: int | None) -> None:
    """TypeError/ValueError unless fmt can quantize x along its last axis with that rotation."""
    if not isinstance(x, Tensor):
        raise TypeError(f"cannot quantize a {type(x).__name__}; pass a torch.Tensor")
    if hadamard is not None and (isinstance(hadamard, bool) or not isinstance(hadamard, int)):
        raise TypeError(
            f"Hadamard size {hadamard!r} is a {type(hadamard).__name__}; pass a whole number or None"
        )
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"cannot quantize {x.dtype}; convert to float16, bfloat16 or float32 first")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"cannot quantize shape {list(x.shape)}; the last axis (K) must hold at least one element"
        )
    k = x.shape[-1]
    if fmt.block is not None and k % fmt.block:
        raise ValueError(f"K = {k} is not a multiple of the {fmt.name} block {fmt.block}; pad K with zeros to "
                         f"{-(-k // fmt.block) * fmt.block}")  # fmt: skip
    if fmt.block_rows > 1 and x.ndim > 2 and x.shape[-2] % fmt.block_rows:
        raise ValueError(f"{list(x.shape)} has {x.shape[-2]} rows a matrix, {fmt.name} shares scales among "
                         f"{fmt.block_rows}; pad the rows or quantize each matrix by itself")  # fmt: skip
    if hadamard is None:
        return
    if hadamard not in fmt.hadamard:
        known = ", ".join(map(str, fmt.hadamard)) or "none"
        raise ValueError(f"{fmt.name} takes no Hadamard size {hadamard}; known: {known}")
    if k % hadamard:
        raise ValueError(f"K = {k} is not a multiple of the Hadamard size {hadamard}; pad K or take one of "
                         f"{', '.join(map(str, fmt.hadamard))} that divides it")  # fmt: skip

"""Inputs that lie on the ties of an element type, and one unit in the last place to either side.

The first element of every block (row, tensor) sets its scale: the largest code times a power of two, so that the scale
is that power and `x/scale` runs through the ties themselves. Scales that are no power of two follow, down to the least
subnormal E4M3 number, where the comparator judges instead of bit equality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels.codec import decode_float
from qkernels.format import Element, Format

_EXPONENTS = {"e4m3": (0, -9, -8, -7, -6, 5), "e8m0": (0, -7, -20, 3), "fp32": (0, -7, 3)}


def element_values(element: Element) -> Tensor:
    """float64 magnitudes of all codes, ascending; for integers 0 .. greatest of either sign."""
    if element.integer:
        return torch.arange(max(element.greatest, -element.least) + 1, dtype=torch.float64)
    codes = torch.arange(1 << (element.bits - 1), dtype=torch.uint8)
    values = decode_float(codes, element).to(torch.float64)
    return values[values <= element.max]


def near_ties(element: Element, scale: float, dtype: torch.dtype, *, below: float = torch.inf) -> Tensor:
    """[6, n] in `dtype`: scale times each tie, the neighbours below and above it, and all of these negated.

    below: ties from there on are left out, for they would set another scale.
    """
    values = element_values(element)
    middle = (values[1:] + values[:-1]) / 2
    middle = (middle[middle < below] * scale).to(torch.float32).to(dtype)
    middle = middle[(middle > 0) & middle.isfinite()]
    bits = middle.view(torch.int32 if dtype == torch.float32 else torch.int16)
    three = torch.stack([bits, bits - 1, bits + 1]).view(dtype)
    return torch.cat([three, -three])


def ties(
    fmt: Format, k: int, dtype: torch.dtype, *, global_scale: float | None = None, scale: float | None = None
) -> dict[str, Tensor]:
    """[rows, a multiple of k] in `dtype` by name; the encode scale of two-level formats is 1 if none is given.

    scale: a static scale; then nothing has to set it.
    """
    if scale is not None:
        near = near_ties(fmt.element, scale, dtype)
        return {"static scale": _fill(None, near, fmt, k)} if near.numel() else {}
    factors = [2.0**e for e in _EXPONENTS[fmt.scale]]
    if fmt.scale == "e4m3":
        factors = [f for f in factors if f >= fmt.min_scale] + [m * 2.0**-9 for m in (3, 5, 6, 7)] + [13.0]
    encode = 1.0 if global_scale is None else global_scale
    made = {
        f"scale {f:g}": rows for f in factors if (rows := _rows_for(fmt, f / encode, k, dtype)) is not None
    }
    if fmt.block is None or not made:
        return made
    width = max(rows.shape[1] for rows in made.values())
    body = torch.cat([_widen(rows, width) for rows in made.values()])
    if fmt.levels == 1 or global_scale is not None:
        others = {"thresholds of the scale": _thresholds(fmt, k, dtype)} if fmt.scale == "e8m0" else {}
        return {"scales one below another": body} | others
    # the first block of each row takes the largest scale, which makes the dynamic global scale 1
    head = torch.zeros(len(body), k, dtype=dtype)
    head[:, 0] = fmt.scale_max * fmt.element.max
    return {"global scale 1": torch.cat([head, body], dim=1)}


def _thresholds(fmt: Format, k: int, dtype: torch.dtype) -> Tensor:
    """Rows of blocks whose amax is at, below and above every mantissa at which an exponent rule adds one.

    From 2^4 up the number below a power of two has a float log2 that is that power's.
    """
    element = fmt.element
    mantissas = (1.0, 2.0 - 2.0 ** -(element.mantissa + 1), element.max / 2.0**element.emax)
    amax = torch.tensor([m * 2.0**e for e in (-10, -3, 0, 1, 5, 10) for m in mantissas]).to(dtype)
    bits = amax.view(torch.int32 if dtype == torch.float32 else torch.int16)
    amax = torch.stack([bits, bits - 1, bits + 1], dim=1).view(dtype).reshape(-1, 1)
    x = (amax.float() / 4).to(dtype).repeat(1, k)
    x[:, :: fmt.block or k] = -amax
    return x.repeat_interleave(fmt.block_rows, dim=0)


def _rows_for(fmt: Format, scale: float, k: int, dtype: torch.dtype) -> Tensor | None:
    """None where `dtype` does not reach what sets the scale."""
    element = fmt.element
    half = (element.greatest - element.least + 1) // 2
    ends = [element.max] if fmt.symmetric else [-half, half - 1]
    first = (torch.tensor(ends, dtype=torch.float64) * scale).to(torch.float32).to(dtype)
    near = near_ties(element, scale, dtype, below=ends[-1])
    return _fill(first, near, fmt, k) if bool(first.isfinite().all()) and near.numel() else None


def _fill(first: Tensor | None, near: Tensor, fmt: Format, k: int) -> Tensor:
    """Rows whose blocks each begin with `first` and go on with the numbers of `near`, as many as these need."""
    flat = near.reshape(-1)
    head = flat[:0] if first is None else first
    span = (fmt.block or max(k, 128)) - len(head)
    flat = torch.cat([flat, flat[:1].expand(-len(flat) % span)])
    blocks = torch.cat([head.expand(len(flat) // span, -1), flat.view(-1, span)], dim=1)
    if fmt.block is None:
        width = -(-blocks.shape[1] // k) * k
        return _widen(blocks, width)
    row = blocks.reshape(1, -1)
    return _widen(row, -(-row.shape[1] // k) * k).expand(fmt.block_rows, -1)


def _widen(rows: Tensor, width: int) -> Tensor:
    """Repeat the first columns, whole blocks of them, up to the width."""
    times = -(-width // rows.shape[1])
    return rows.repeat(1, times)[:, :width]

"""Is the global scale of a two-level format right? One of the tensor, or one of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch

from ..format import Format
from ..hadamard import rotate
from ..quantize import chunk_rows, static_global_scale
from ..tensor import QTensor
from .scales import EPS


def compare_global_scale(
    output: QTensor,
    rows: Tensor,
    fmt: Format,
    hadamard: int | None,
    supplied: Tensor | float | None,
    error: Tensor | None = None,
) -> Mismatch | None:
    """The encode scale: bit-equal to a supplied one, else scale_max*max/amax to 2^-22 (and the slack of a rotation, or
    of rows [R, K] that are known to within `error`)."""
    assert output.global_scale is not None
    by_row = fmt.global_granularity == "row"
    found = output.global_scale.reshape(-1).to(torch.float64)
    if supplied is not None:
        static = supplied.reshape(-1, 1) if by_row and isinstance(supplied, Tensor) else supplied
        wanted = static_global_scale(static, fmt, rows).reshape(-1).to(torch.float64)
        return _describe(found, wanted, wanted, found != wanted, by_row, "the static one is")
    lows, highs = [], []
    step = chunk_rows(rows.shape[-1])
    for start in range(0, len(rows), step):
        y, slack = rotated(rows[start : start + step], fmt, hadamard)
        if error is not None:
            slack = error[start : start + step].unflatten(-1, (-1, fmt.block or 1)).amax(-1)
        amax = torch.where(torch.isfinite(y), y.abs(), 0.0).unflatten(-1, (-1, fmt.block or 1)).amax(-1)
        room = torch.zeros_like(amax) if slack is None else slack.nan_to_num(0.0, 0.0, 0.0)
        lows.append((amax - room).amax(-1))
        highs.append((amax + room).amax(-1))
    empty = [torch.zeros(0, dtype=torch.float64, device=rows.device)]
    low, high = torch.cat(lows or empty).clamp(min=0), torch.cat(highs or empty)
    if not by_row:
        low, high = (torch.cat([end, end.new_zeros(1)]).amax().reshape(1) for end in (low, high))
    top = fmt.scale_max * fmt.element.max
    least = torch.where(high > 0, top / high * (1 - EPS / 2), 0.0)
    most = torch.where(low > 0, top / low * (1 + EPS / 2), torch.inf)
    # Beyond 2^126 the reciprocal of gs is subnormal; where to cap it is the quantizer's choice.
    right = (found > 0) & torch.isfinite(found) & (found >= least.clamp(max=2.0**126)) & (found <= most)
    return _describe(found, least, most, ~right, by_row, "expected")


def rotated(x: Tensor, fmt: Format, hadamard: int | None) -> tuple[Tensor, Tensor | None]:
    """float64 y [r, K] = x rotated, and the slack [r, K/block] of an fp32 rotation: n * 2^-23 * (|x| @ |H|)/sqrt(n)."""
    wide = x.to(torch.float64)
    if hadamard is None:
        return wide, None
    assert fmt.block is not None
    total = wide.abs().unflatten(-1, (wide.shape[-1] // hadamard, hadamard)).sum(-1)
    slack = total * (hadamard**0.5 * 2.0**-23)
    return rotate(wide, hadamard, torch.float64), slack.repeat_interleave(hadamard // fmt.block, dim=-1)


def _describe(
    found: Tensor, least: Tensor, most: Tensor, bad: Tensor, by_row: bool, words: str
) -> Mismatch | None:
    """The first wrong global scale, and what it looks like."""
    wrong = bad.nonzero().flatten()
    if not len(wrong):
        return None
    row = int(wrong[0])
    here, low, high = (float(t[row]) for t in (found, least, most))
    wanted = repr(low) if low == high else f"{low!r} .. {high!r}"
    hint = ""
    if here != here or here in (0.0, float("inf")):
        hint = "not a finite positive number"
    elif low > 0 and abs(here * low - 1) < 1e-3:
        hint = "inverted: it is the decode scale amax/2688"
    elif here == 1.0:
        hint = "dropped: it is 1"
    elif by_row and bool(((least <= here) & (here <= most)).any()):
        hint = "that of another row"
    where = f" of row {row}" if by_row else ""
    return Mismatch(
        f"global scale{where} is {here!r}, {words} {wanted}",
        len(wrong),
        len(found),
        hint and f"  likely {hint}",
    )

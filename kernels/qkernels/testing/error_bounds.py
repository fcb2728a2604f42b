"""The largest error that a correct quantizer can make, by format.

MX against the block's amax: floor max(2^-(m+1), 1 - max/2^(emax+1)), which is 1/4 for E2M1; E2M1 under other rules 1/5.
NVFP4: 3/17 of the block's amax; under a scale in the subnormal range max(t + 2^-10, 6*2^-10)/gs, t = amax/6*gs.
FP8: max(|x|/17, s*2^-10). Integers: s/2, and 1e-6 of amax. What saturates has no bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels.format import Format
from qkernels.quantize_block import from_blocks, to_blocks
from qkernels.testing.subject import Subject

_SLACK = 1 + 1e-6


def has_error_bound(fmt: Format) -> bool:
    """quest takes its scale from the deviation, four-over-six the better of two: neither bounds its error by amax."""
    if fmt.rule:
        return fmt.rule == "floor" or (fmt.packed and fmt.rule != "quest")
    return not fmt.select


def per_element(fmt: Format, per_scale: Tensor, rows: int) -> Tensor:
    """[scale rows, K/block] of a block format as [rows, K]."""
    span = (fmt.block or 1) * fmt.block_rows
    return from_blocks(per_scale.unsqueeze(-1).expand(*per_scale.shape, span), fmt, rows)


def error_bound(subject: Subject, x: Tensor, scale: Tensor, gs: Tensor | None) -> Tensor:
    """float64 [M, K] for x float64 [M, K] and the scales found (float64, decoded); inf where no bound is claimed."""
    fmt, size = subject.format, x.abs()
    if fmt.block is not None:
        amax = per_element(fmt, to_blocks(size, fmt).amax(-1), len(x))
        step = per_element(fmt, scale, len(x))
    else:
        amax = size.amax(-1, keepdim=True) if fmt.granularity == "row" else size.amax()
        step = scale
    if fmt.scale == "e8m0":
        return _mx(fmt, amax)
    if fmt.scale == "e4m3":
        return _nvfp4(fmt, amax, step, torch.ones((), device=x.device) if gs is None else gs)
    if fmt.element.integer:
        return _integers(subject, x, step, amax)
    bound = torch.maximum(size / 17, step * 2.0**-10) * _SLACK
    return torch.where(size <= step * fmt.element.max * _SLACK, bound, torch.inf)


def _mx(fmt: Format, amax: Tensor) -> Tensor:
    if fmt.rule == "floor":
        top = 2.0 ** (fmt.element.emax + 1)
        share = max(2.0 ** -(fmt.element.mantissa + 1), 1 - fmt.element.max / top)
        return amax * (share * _SLACK)
    # abs_max adds 1e-8 to amax, which swallows blocks of that size
    counted = amax > 2.0**-10 if fmt.rule == "abs_max" else amax >= 0
    return torch.where(counted, amax * (0.2 * _SLACK), torch.inf)


def _nvfp4(fmt: Format, amax: Tensor, step: Tensor, gs: Tensor) -> Tensor:
    encode = gs.to(torch.float64)
    t = amax / fmt.element.max * encode
    low = (t + 2.0**-10).clamp(min=6 * 2.0**-10) / encode
    bound = torch.where(step >= 2.0**-6, amax * (3 / 17), low) * _SLACK
    lifted = (step <= fmt.min_scale) & (fmt.min_scale > 0)
    return torch.where((t > 448.0) | lifted, torch.inf, bound)


def _integers(subject: Subject, x: Tensor, step: Tensor, amax: Tensor) -> Tensor:
    bound = (step / 2 + 1e-6 * amax).expand_as(x)
    if subject.scale is None:
        return bound
    element, zero = subject.format.element, subject.zero_point
    code = x / step + (0.0 if zero is None else zero.to(torch.float64))
    return torch.where((code >= element.least) & (code <= element.greatest), bound, torch.inf)

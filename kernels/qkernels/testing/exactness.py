"""Where no order of operations can round: there a tie is a tie, and a correct quantizer's bits are the reference's.

The comparator lets a code go either way at a tie, because the quotient that is rounded is itself rounded in an order
of the quantizer's own. If the block scale and the global scale are powers of two, and an fp32 scale is amax/max
without a remainder, every such quotient is exact: rounding ties away from zero is then told from rounding to even.
MX formats and static scales are exact everywhere; the comparator holds them to the bit already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch
from qkernels.format import Format
from qkernels.quantize import quantize
from qkernels.quantize_block import from_blocks, to_blocks
from qkernels.tensor import QTensor
from qkernels.testing.subject import Subject


def exact_mismatch(q: QTensor, x: Tensor, subject: Subject) -> Mismatch | None:
    """The first code that differs from the reference's where all arithmetic is exact."""
    fmt = subject.format
    judged = fmt.scale in ("e4m3", "fp32") and not fmt.select
    if (
        not judged
        or subject.hadamard is not None
        or subject.scale is not None
        or x.numel() == 0
        or x.dim() != 2
    ):
        return None
    expected = quantize(x, fmt, **subject.named(x))
    same = _spread(expected, q.scale == expected.scale) & exact_elements(expected, x)
    if expected.global_scale is not None and q.global_scale is not None:
        same = same & (q.global_scale == expected.global_scale)
    if expected.zero_point is not None and q.zero_point is not None:
        same = same & _spread(expected, q.zero_point == expected.zero_point)
    bad = (q.codes() != expected.codes()) & same
    if not bool(bad.any()):
        return None
    at = tuple(bad.nonzero()[0].tolist())
    found, wanted = q.exact_values(), expected.exact_values()
    lines = [f"  at {at}: x = {float(x[at])!r}, found code 0x{int(q.codes()[at]):02x}, "
             f"expected 0x{int(expected.codes()[at]):02x}; the scales there are powers of two, so nothing but "
             "the code is rounded"]  # fmt: skip
    return Mismatch(f"{fmt.name}: wrong code where arithmetic is exact", int(bad.sum()), bad.numel(),
                    "\n".join([*lines, *_cause(found[bad], wanted[bad])]))  # fmt: skip


def exact_elements(expected: QTensor, x: Tensor) -> Tensor:
    """bool [M, K]: the quotient that the code rounds is exact in fp32, whatever the order of operations."""
    fmt = expected.format
    scale = expected.scale_values()
    exact = _power_of_two(scale)
    if fmt.scale == "fp32":
        exact = exact & _divides(x, fmt, scale)
    exact = _spread(expected, exact)
    if expected.global_scale is not None:
        gs = expected.global_scale.to(torch.float64)
        exact = exact & _power_of_two(gs) & (gs > 2.0**-60) & (gs < 2.0**60)
    return exact & x.isfinite()


def _divides(x: Tensor, fmt: Format, scale: Tensor) -> Tensor:
    """Where the fp32 scale times the element's range is exactly what the scale was computed from."""
    wide = x.to(torch.float64)
    if fmt.block is not None:
        wide = to_blocks(wide, fmt)
    elif fmt.granularity == "tensor":
        wide = wide.reshape(1, -1)
    if fmt.symmetric:
        return wide.abs().amax(-1).view(scale.shape) == scale * fmt.element.max
    low, high = wide.amin(-1), wide.amax(-1)
    if fmt.block is not None:  # INT4: the range includes zero
        low, high = low.clamp(max=0), high.clamp(min=0)
    return (high - low).view(scale.shape) == scale * (fmt.element.greatest - fmt.element.least)


def _power_of_two(scale: Tensor) -> Tensor:
    return (torch.frexp(scale).mantissa == 0.5) & scale.isfinite()


def _spread(q: QTensor, per_scale: Tensor) -> Tensor:
    """A value per scale as one per element [M, K]."""
    m, k = q.shape
    if q.format.block is None:
        return per_scale.expand(m, k)
    wide = per_scale.unsqueeze(-1).expand(*per_scale.shape, q.format.block * q.format.block_rows)
    return from_blocks(wide, q.format, m)


def _cause(found: Tensor, wanted: Tensor) -> list[str]:
    if bool((found.abs() > wanted.abs()).all()):
        return ["  every wrong code is too large: likely ties rounded away from zero"]
    if bool((found.abs() < wanted.abs()).all()):
        return ["  every wrong code is too small: likely ties rounded toward zero, or truncation"]
    return []

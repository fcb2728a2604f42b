"""Shared exponents of MX blocks, by integer arithmetic on exponent bits (a float log2 is wrong just below 2^k).

With e = floor(log2 amax), m = amax/2^e and emax of the element (E2M1 and E2M3 2, E3M2 4, E4M3 8, E5M2 15):
    floor (OCP MX v1.0)  e - emax                 amax/s up to 2^(emax+1) maps onto the largest number: saturates
    ceil                 e - emax + (m > 1)       scale never saturates
    even                 e - emax + (m >= half)   as if amax were first rounded to the element's significant bits
    rceil                e - emax + (m > top)     least scale that does not saturate
    abs_max (qutlass)    floor(log2(fl32(amax + 1e-8))), codes hold 3*x/s; E2M1 only, as is
    quest (qutlass)      floor(log2(std*2.92247856/6 + 1e-8)), std = sqrt(E[x²]-E[x]²) in fp32; s = 1 if that is < 0
half = 2 - 2^-(mantissa bits + 1), 1.75 for E2M1; top = max/2^emax, 1.5 for E2M1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import floor_log2, pow2
from .format import Element

QUEST_GAIN = 2.92247856 / 6.0


def shared_exponents(blocks: Tensor, rule: str, element: Element) -> Tensor:
    """float64 blocks [..., block] → int64 exponents [...], not yet clamped to E8M0; ValueError for an unknown rule."""
    if rule == "quest":
        return quest_exponents(*quest_moments(blocks))
    return amax_exponents(blocks.abs().amax(-1), rule, element)


def amax_exponents(amax: Tensor, rule: str, element: Element) -> Tensor:
    """float64 amax → int64 exponents, for every rule that depends on amax alone; never decreases with amax."""
    if rule == "abs_max":
        return floor_log2(amax.to(torch.float32) + 1e-8)
    # m above (or at, if inclusive) the threshold adds one to the exponent; m never reaches 2
    thresholds = {
        "floor": (2.0, True),
        "ceil": (1.0, False),
        "even": (2.0 - 2.0 ** -(element.mantissa + 1), True),
        "rceil": (element.max / 2.0**element.emax, False),
    }
    if rule not in thresholds:
        raise ValueError(f"unknown MX rule {rule!r}; known: {', '.join(thresholds)}, abs_max, quest")
    exponent = floor_log2(amax)
    threshold, inclusive = thresholds[rule]
    limit = threshold * pow2(exponent.clamp(-1022, 1022))
    return exponent - element.emax + (amax >= limit if inclusive else amax > limit).to(torch.int64)


def quest_moments(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (variance, E[x²]) of float64 blocks: E[x²] - E[x]², each in fp32, sums in float64 rounded once.

    The order of fp32 sums is not part of the rule; a sum rounded once is the same on every device.
    """
    x = blocks.to(torch.float32)
    n = x.shape[-1]
    mean = x.sum(-1, dtype=torch.float64).to(torch.float32) / n
    square = (x * x).sum(-1, dtype=torch.float64).to(torch.float32) / n
    return square - mean * mean, square


def quest_exponents(variance: Tensor, square: Tensor) -> Tensor:
    """int64 exponents of the quest scale from fp32 moments.

    Where E[x²] overflows fp32 (|x| > 2^63) the rule has no value; the largest finite scale keeps the block finite.
    """
    scale = torch.sqrt(variance.clamp(min=0)) * QUEST_GAIN + 1e-8
    exponent = torch.where(variance >= 0, floor_log2(scale), 0)
    return torch.where(torch.isfinite(square), exponent, 127)

"""Samples of one case and the few numbers made of them. Values in, values out; times are nanoseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """Time of one call in nanoseconds, one value a burst (each the mean over the burst's launches)."""

    ns: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ns or not all(value > 0 and math.isfinite(value) for value in self.ns):
            raise ValueError(f"samples must be positive finite nanoseconds, got {self.ns[:5]!r}")

    @property
    def median_ns(self) -> float:
        return quantile(self.ns, 0.5)

    @property
    def p20_ns(self) -> float:
        return quantile(self.ns, 0.2)

    @property
    def p80_ns(self) -> float:
        return quantile(self.ns, 0.8)

    @property
    def spread(self) -> float:
        """Half width of the median's 95% interval, relative: 1.57 IQR / sqrt(n) (McGill, Tukey, Larsen 1978)."""
        iqr = quantile(self.ns, 0.75) - quantile(self.ns, 0.25)
        return 1.57 * iqr / math.sqrt(len(self.ns)) / self.median_ns


def quantile(values: tuple[float, ...] | list[float], q: float) -> float:
    """Linear interpolation between order statistics (Hyndman & Fan type 7, numpy's default)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take a quantile of")
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: list[float]) -> float:
    """Unbiased sample variance; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    center = mean(values)
    return math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)


def moderated_sd(values: list[float], prior_sd: float, prior_df: float) -> tuple[float, float]:
    """Standard deviation shrunk toward a prior, and its degrees of freedom (Smyth 2004, limma).

    s^2 = (d0 s0^2 + d s^2) / (d0 + d): with few runs the prior speaks, with many the data do.
    """
    df = max(0, len(values) - 1)
    pooled = (prior_df * prior_sd**2 + df * variance(values)) / (prior_df + df)
    return math.sqrt(pooled), prior_df + df

"""Differences of accuracy: problem by problem where both sides' answers are known, of counts alone where they are not.

Pairing is far sharper, for most problems are answered alike by both. Counts are what published tables give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from qbench.model.accuracy.mcnemar import paired, wilson

Z = NormalDist().inv_cdf(0.975)  # 95%, two-sided


@dataclass(frozen=True)
class Difference:
    """The recipe's share of right answers less the baseline's, its 95% interval and two-sided p.

    `lost` and `gained` count the problems that the baseline or the recipe alone got right; None where unpaired.
    """

    difference: float
    low: float
    high: float
    p: float
    lost: int | None = None
    gained: int | None = None

    @property
    def is_paired(self) -> bool:
        return self.lost is not None

    @property
    def test(self) -> str:
        return "McNemar" if self.is_paired else "Fisher"


def interval(right: int, of: int) -> tuple[float, float]:
    """95% interval of one share, Wilson's."""
    if not 0 <= right <= of or of == 0:
        raise ValueError(f"{right} right of {of}: give 0 <= right <= of and of > 0")
    return wilson(right, of, Z)


def per_problem(baseline: Sequence[bool], recipe: Sequence[bool]) -> Difference:
    """Exact McNemar and its interval (qbench.model.accuracy.mcnemar)."""
    found = paired(baseline, recipe)
    return Difference(found.difference, found.low, found.high, found.p, found.only_a, found.only_b)


def of_counts(baseline: tuple[int, int], recipe: tuple[int, int]) -> Difference:
    """(right, of) each, unpaired: Newcombe's interval of two independent shares (1998, method 10), Fisher's exact p."""
    from scipy.stats import fisher_exact

    (right_a, of_a), (right_b, of_b) = baseline, recipe
    (low_a, high_a), (low_b, high_b) = interval(right_a, of_a), interval(right_b, of_b)
    a, b = right_a / of_a, right_b / of_b
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    p = fisher_exact([[right_a, of_a - right_a], [right_b, of_b - right_b]]).pvalue
    return Difference(b - a, low, high, float(p))

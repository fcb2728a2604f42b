"""Two recipes on the same problems: which got worse, judged per problem.

Two unpaired accuracies of 1319 problems differ by up to 3 points by chance; on the same problems most of that is
common to both, and only the problems on which the two disagree say anything (McNemar 1947). Hence:

p          exact McNemar, two-sided: of the n10 + n01 problems on which they disagree, each is a fair coin if neither is
           better. The exact form and not mid-p: mid-p has more power, and holds its level on average only; a gate
           that must never cry wolf needs the level held always, also for three discordant problems.
interval   of the difference of accuracies b - a: Newcombe's square-and-add (1998, Statistics in Medicine 17:2635,
           method 10), one of those that Fagerland, Lydersen and Laake (2014, Statistics in Medicine 33:2850) recommend
           for paired data; it stays inside [-1, 1] and has a width where nothing disagrees, as Wald's has not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Paired:
    """n problems; only_a, only_b: solved by that one alone. difference, low, high: of accuracies, b - a, as fractions.

    p is that of exact McNemar, two-sided; level is the interval's, 0.95 for 95%.
    """

    n: int
    both: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float
    level: float = 0.95

    @property
    def accuracy_a(self) -> float:
        return (self.both + self.only_a) / self.n

    @property
    def accuracy_b(self) -> float:
        return (self.both + self.only_b) / self.n

    def line(self) -> str:
        """`0.978 against 1.000: -2.2 points, 95% CI [-4.2, -0.8], p = 0.0039 (9 lost, 0 gained of 400)`."""
        return (
            f"{self.accuracy_b:.3f} against {self.accuracy_a:.3f}: {100 * self.difference:+.1f} points, "
            f"{100 * self.level:g}% CI [{100 * self.low:+.1f}, {100 * self.high:+.1f}], p = {self.p:.2g} "
            f"({self.only_a} lost, {self.only_b} gained of {self.n})"
        )


def paired(correct_a: Sequence[bool], correct_b: Sequence[bool], *, level: float = 0.95) -> Paired:
    """Compare b with a, problem by problem; both in the same order. ValueError for unequal or no problems."""
    if len(correct_a) != len(correct_b):
        raise ValueError(
            f"{len(correct_a)} and {len(correct_b)} problems: a paired comparison needs the same ones, in one order"
        )
    for name, values in (("a", correct_a), ("b", correct_b)):
        if bad := [value for value in values if not isinstance(value, bool)]:
            raise TypeError(f"correct_{name} holds {bad[0]!r}; give one bool a problem")
    pairs = list(zip(correct_a, correct_b, strict=True))
    both = pairs.count((True, True))
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    return of_counts(both, only_a, only_b, len(pairs), level=level)


def of_counts(both: int, only_a: int, only_b: int, n: int, *, level: float = 0.95) -> Paired:
    """The comparison from its table: solved by both, by a alone, by b alone, of n."""
    neither = n - both - only_a - only_b
    if n <= 0 or min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"both={both}, only_a={only_a}, only_b={only_b} of n={n} is no table of problems")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not in (0, 1); 0.95 is a 95% interval")
    low, high = difference_interval(both, only_a, only_b, neither, level=level)
    difference = (only_b - only_a) / n
    return Paired(n, both, only_a, only_b, difference, low, high, exact_p(only_a, only_b), level)


def exact_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p: twice the smaller tail of Binomial(only_a + only_b, 1/2), at most 1."""
    return min(1.0, 2 * tail(only_a + only_b, min(only_a, only_b)))


def tail(n: int, k: int) -> float:
    """P(X <= k) of X ~ Binomial(n, 1/2), in whole numbers until the one division."""
    term, total = 1, 0
    for i in range(k + 1):
        total += term
        term = term * (n - i) // (i + 1)
    return total / (1 << n)


def difference_interval(
    both: int, only_a: int, only_b: int, neither: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Newcombe's method 10 for p_b - p_a: Wilson intervals of both, added in squares, less what is common to them."""
    n = both + only_a + only_b + neither
    z = NormalDist().inv_cdf((1 + level) / 2)
    a, b = (both + only_a) / n, (both + only_b) / n
    (low_a, high_a), (low_b, high_b) = wilson(both + only_a, n, z), wilson(both + only_b, n, z)
    phi = _phi(both, only_a, only_b, neither)
    down, up = b - low_b, high_b - b
    less, more = a - low_a, high_a - a
    delta = math.sqrt(max(0.0, down**2 - 2 * phi * down * more + more**2))
    epsilon = math.sqrt(max(0.0, up**2 - 2 * phi * up * less + less**2))
    return max(-1.0, b - a - delta), min(1.0, b - a + epsilon)


def wilson(successes: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's (1927) score interval of a proportion, no continuity correction."""
    center = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(successes * (n - successes) / n + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the two, corrected for continuity where it is positive; 0 where a margin is empty."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - only_a * only_b)
    if product > 0:
        product = max(0.0, product - (both + only_a + only_b + neither) / 2)
    return product / math.sqrt(margins)

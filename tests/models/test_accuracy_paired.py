"""The paired comparison: against published tables, scipy, counting by hand, and its own promises by simulation."""

import random

import pytest
from scipy.stats import binomtest

from qbench.model.accuracy.mcnemar import exact_p, of_counts, paired, tail


@pytest.mark.parametrize(
    ("table", "interval"),
    [  # both, a alone, b alone, neither; difference b - a
        ((36, 2, 12, 0), (0.0569, 0.3404)),  # Newcombe 1998, table II, method 10
        ((18, 2, 12, 18), (0.0562, 0.3290)),  # the same
        ((1, 7, 1, 12), (-0.507, -0.026)),  # Fagerland et al. 2014: Bentur's airways, square-and-add
    ],
)
def test_the_interval_is_the_published_one(table, interval):
    both, only_a, only_b, _ = table
    pair = of_counts(both, only_a, only_b, sum(table))
    digits = 1e-4 if interval[0] > 0 else 1e-3
    assert (pair.low, pair.high) == pytest.approx(interval, abs=digits)
    assert pair.difference == pytest.approx((only_b - only_a) / sum(table))


def test_p_counted_by_hand():
    # of 5 coins, 0 or 1 heads on one side: (1 + 5) of 32, twice for both sides
    assert exact_p(4, 1) == exact_p(1, 4) == 2 * 6 / 32
    assert exact_p(0, 0) == exact_p(3, 3) == 1.0  # twice the smaller tail is more than 1
    assert tail(3, 3) == 1.0 and tail(3, -1) == 0.0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (9, 0), (23, 7), (7, 23), (50, 49), (700, 600)])
def test_p_is_scipys(only_a, only_b):
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert exact_p(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_what_is_paired_is_problems_not_scores():
    """Two of equal accuracy that solve other problems: no difference, and ten disagreements are counted."""
    a = [True] * 5 + [False] * 5 + [True] * 10
    b = [False] * 5 + [True] * 5 + [True] * 10
    pair = paired(a, b)
    assert (pair.n, pair.both, pair.only_a, pair.only_b, pair.difference, pair.p) == (20, 10, 5, 5, 0.0, 1.0)
    assert pair.low < 0 < pair.high
    assert pair.accuracy_a == pair.accuracy_b == 0.75


def test_swapping_the_two_mirrors_the_result():
    there, back = of_counts(300, 30, 8, 400), of_counts(300, 8, 30, 400)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p and there.difference == -back.difference


def test_no_disagreement_still_leaves_room():
    """Wald's interval would be [0, 0] here: 400 problems do not prove equality."""
    pair = of_counts(400, 0, 0, 400)
    assert pair.p == 1.0 and -0.02 < pair.low < 0 < pair.high < 0.02


def test_the_line_says_everything():
    line = of_counts(391, 9, 0, 400).line()
    assert line == (
        "0.978 against 1.000: -2.2 points, 95% CI [-4.2, -0.8], p = 0.0039 (9 lost, 0 gained of 400)"
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: paired([True], [True, False]), ValueError, "same ones, in one order"),
        (lambda: paired([], []), ValueError, "no table of problems"),
        (lambda: paired([1], [True]), TypeError, "one bool a problem"),
        (lambda: of_counts(5, 3, 3, 10), ValueError, "no table of problems"),
        (lambda: of_counts(5, 1, 1, 10, level=95), ValueError, "not in"),
    ],
)
def test_refuses(make, error, words):
    with pytest.raises(error, match=words):
        make()


def _tables(n, only_a, only_b, both, draws, seed):
    draw = random.Random(seed)
    weights = (both, only_a, only_b, 1 - both - only_a - only_b)
    for _ in range(draws):
        cells = draw.choices(range(4), weights, k=n)
        yield [cells.count(i) for i in range(3)]


@pytest.mark.parametrize(
    ("n", "both", "only_a", "only_b"),
    [(400, 0.9, 0.06, 0.02), (400, 0.96, 0.02, 0.0), (100, 0.5, 0.15, 0.15)],
)
def test_the_interval_covers_the_truth(n, both, only_a, only_b):
    """95% nominal; 1000 draws have a standard error of 0.7 points. Halving its width must fail this."""
    covered = halved = 0
    for x, y, z in _tables(n, only_a, only_b, both, draws=1000, seed=7):
        pair = of_counts(x, y, z, n)
        truth = only_b - only_a
        covered += pair.low <= truth <= pair.high
        low, high = ((edge + pair.difference) / 2 for edge in (pair.low, pair.high))
        halved += low <= truth <= high
    assert covered >= 930 and halved < 900


def test_p_holds_its_level_when_nothing_is_worse():
    """Exact: at most 5% below 0.05, with few discordant problems as well (mid-p would be allowed to pass it)."""
    below = [
        of_counts(x, y, z, 200).p < 0.05 for x, y, z in _tables(200, 0.02, 0.02, 0.9, draws=1000, seed=3)
    ]
    assert sum(below) <= 50

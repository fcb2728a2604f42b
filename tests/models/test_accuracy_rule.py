"""The rule that fails a recipe: what it lets pass, what it catches, and how often it is wrong."""

import random

import pytest

from qbench.model.accuracy.rule import ALPHA, Finding, detectable, judge


def _outcome(n, lost, gained=0, reference_wrong=0):
    """Booleans of reference and recipe: `lost` and `gained` problems, and others both get wrong."""
    a = [True] * (n - gained - reference_wrong) + [False] * (gained + reference_wrong)
    b = [False] * lost + [True] * (n - lost - reference_wrong) + [False] * reference_wrong
    return a, b


@pytest.mark.parametrize(
    ("n", "lost", "gained", "margin", "finding"),
    [
        (400, 0, 0, 0.02, Finding.OK),
        (400, 3, 3, 0.02, Finding.OK),
        (400, 6, 0, 0.02, Finding.INCONCLUSIVE),  # p = 0.016, and 1.5 points are allowed
        (400, 30, 0, 0.02, Finding.WORSE),
        (400, 30, 0, 0.12, Finding.OK),  # certainly worse, and allowed to be
        (400, 400, 0, 0.10, Finding.WORSE),
        (40, 5, 0, 0.05, Finding.INCONCLUSIVE),  # 12.5 points of so few problems prove nothing
    ],
)
def test_findings(n, lost, gained, margin, finding):
    judged = judge(*_outcome(n, lost, gained), margin=margin)
    assert judged.finding is finding
    assert f"{lost} lost" in judged.line() and "would have failed" in judged.line()


def test_gains_never_fail():
    a, b = _outcome(400, 0, gained=100)
    assert judge(a, b, margin=0.02).finding is Finding.OK
    assert judge(b, a, margin=0.02).finding is Finding.WORSE  # the same numbers, the other way round


def test_detectable_is_the_least_that_fails():
    least = round(400 * detectable(1.0, 400, 0.05))
    assert judge(*_outcome(400, least), margin=0.05).finding is Finding.WORSE
    assert judge(*_outcome(400, least - 1), margin=0.05).finding is not Finding.WORSE
    assert judge(*_outcome(400, 0), margin=0.05).detectable == least / 400


@pytest.mark.parametrize(
    ("outcome", "options", "words"),
    [
        (_outcome(400, 0), {"margin": 0.01}, "rescaling alone"),
        (_outcome(400, 0), {"margin": 0.05, "alpha": 0.5}, "alpha"),
        (_outcome(400, 0, reference_wrong=390), {"margin": 0.05}, "better reference"),
        (_outcome(5, 0), {"margin": 0.05}, "more problems"),
    ],
)
def test_a_rule_that_could_not_fail_is_refused(outcome, options, words):
    with pytest.raises(ValueError, match=words):
        judge(*outcome, **options)


def _share_failed(loss, gain, margin, draws, n=400, alpha=ALPHA):
    draw = random.Random(11)
    failed = 0
    for _ in range(draws):
        cells = draw.choices(range(3), (loss, gain, 1 - loss - gain), k=n)
        found = judge(*_outcome(n, cells.count(0), cells.count(1)), margin=margin, alpha=alpha)
        failed += found.finding is Finding.WORSE
    return failed / draws


def test_it_does_not_cry_wolf():
    """Nothing lost, or exactly the margin lost: no more failures than alpha, here 1%, and three standard errors."""
    assert _share_failed(0.03, 0.03, 0.02, 300) == 0.0
    assert _share_failed(0.05, 0.0, 0.05, 300, alpha=0.01) <= 0.03


def test_it_does_see_the_wolf():
    assert _share_failed(0.15, 0.0, 0.05, 100) > 0.95

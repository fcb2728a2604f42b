"""When a quantized model is too wrong: a rule over problems solved, whose false alarms are bounded.

`judge` fails a recipe only if both hold:
    1. exact McNemar, one-sided: it lost more problems than it gained, with p < alpha (0.001 unless told otherwise)
    2. the loss is larger than the margin: the interval of the difference, at level 1 - 2*alpha, lies below -margin
The first bounds false alarms: a recipe that loses nothing is failed at most once in 1/alpha runs, exactly, at any
number of problems. The second says what loss is allowed: four-bit formats do lose something, and a loss within the
margin is no bug. An undecided result is no failure: `inconclusive` says that more problems are needed. `ok` is
non-inferiority proven: the interval of 95% lies above -margin, as a trial of non-inferiority would ask.

What neither covers: retraining a four-bit model, or rescaling its weights in a way that changes no function, moves its
score by about a point (.008 to .013 on 400 problems). So no margin below 2 points is taken.

Seen by it: what spoils a model grossly, as nibbles swapped, one operand rotated, both operands truncated instead of
rounded, scales shifted by a block. Not seen, or by KL alone (`likelihood.answer_windows`): weights truncated. Seen by
neither: scales by another rule, a missing global scale; a model takes those for noise of another kind, and they are the
work of the kernels' own references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qbench.model.accuracy.mcnemar import Paired, of_counts, paired, tail

ALPHA = 1e-3
LEAST_MARGIN = 0.02


class Finding(StrEnum):
    OK = "ok"
    INCONCLUSIVE = "inconclusive"
    WORSE = "worse"


@dataclass(frozen=True)
class Judged:
    """What was found of a recipe, and what it rests on. p: one-sided, of a loss; detectable: see `detectable`."""

    finding: Finding
    pair: Paired
    p: float
    margin: float
    detectable: float

    def line(self) -> str:
        return (
            f"{self.finding}: {self.pair.line()}; allowed -{100 * self.margin:g} points, "
            f"a loss of {100 * self.detectable:.1f} or more would have failed"
        )


def judge(
    reference: Sequence[bool], correct: Sequence[bool], *, margin: float, alpha: float = ALPHA
) -> Judged:
    """Judge the problems solved under a recipe against those of the reference, in one order. margin: a fraction.

    ValueError for a margin below 0.02, or one that allows everything that could be lost.
    """
    pair = paired(list(reference), list(correct))
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is not in (0, 0.5)")
    if margin < LEAST_MARGIN:
        raise ValueError(
            f"margin {margin} is below {LEAST_MARGIN}, which rescaling alone can cost; give a larger one"
        )
    if (least := detectable(pair.accuracy_a, pair.n, margin, alpha)) is None:
        raise ValueError(
            f"the reference solves {pair.both + pair.only_a} of {pair.n} problems: losing them all is no proof of "
            f"a loss above {margin}; take a better reference or more problems"
        )
    p = tail(pair.only_a + pair.only_b, pair.only_b)
    if _worse(pair, margin, alpha):
        finding = Finding.WORSE
    else:
        finding = Finding.OK if pair.low > -margin else Finding.INCONCLUSIVE
    return Judged(finding, pair, p, margin, least)


def detectable(accuracy: float, n: int, margin: float, alpha: float = ALPHA) -> float | None:
    """The least loss, a fraction, that fails: problems lost of those the reference solves, none gained.

    None where even losing all of them would not.
    """
    solved = round(accuracy * n)
    for lost in range(1, solved + 1):
        if _worse(of_counts(solved - lost, lost, 0, n), margin, alpha):
            return lost / n
    return None


def _worse(pair: Paired, margin: float, alpha: float) -> bool:
    if tail(pair.only_a + pair.only_b, pair.only_b) >= alpha:
        return False
    wide = of_counts(pair.both, pair.only_a, pair.only_b, pair.n, level=1 - 2 * alpha)
    return wide.high < -margin

"""When do pairs of runs prove a slowdown? A sequential test a case, with one promise for the whole suite.

A pair is one fresh process of the base (A) and one of the candidate (B), next to each other in time on the same card;
its datum is d = log(B median) - log(A median). Stored baselines are not compared with: two cards of one model differ by
3-4% in some cases (H200, cuBLAS at M = 1), which a comparison across days would call a change of the code. They give
each case's run-to-run standard deviation instead.

For each case Wald's sequential probability ratio test weighs "slower by at most h0" against "slower by delta":
    llr = sum over pairs of clip( (delta - h0) / (2 s^2) * (d - (h0 + delta)/2), low, high )
where s^2 is the variance of one run, moderated (Smyth 2004) over the suite, the case's stored runs and the pairs
themselves. A case is SLOWER at llr >= log((1 - beta) / (alpha / 2 / cases)) (Bonferroni: alpha is the chance of any
false alarm in a suite, half of it for the ranks of all pairs at the end), not slower at llr <= log(beta). Run times
have rare large deviations and some have two modes, for which the normal likelihood is wrong; so a pair's word is
bounded (clip), bounded tighter where the case is noisy, the median must lie beyond half of delta, and there is a least
number of pairs, more where few runs are stored: by chance a few pairs lie close together, and would prove anything
(normal noise of 1%, nothing stored, five pairs enough: one suite of 14 with a false alarm; with least_df none of 4000).
The clip is asymmetric: one clear pair may acquit, none may convict.

delta follows the noise: max(least effect, h0 + reach * s). What a case can detect is stated by `detectable`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_NORMAL_MAD = 1.4826  # median absolute deviation to standard deviation, normal
_ENOUGH_FOR_MAD = 4
_LEAST_FOR_RANKS = 20  # 2^-20 is about alpha over a hundred cases
SAME, SLOWER, FASTER, OPEN = -1, 1, 2, 0


@dataclass(frozen=True)
class GatePolicy:
    """All in natural-log ratios (0.01 is 1%). Read from the base revision, see `policy_from`."""

    alpha: float = 1e-4  # chance of any false alarm in one suite
    beta: float = 0.003  # chance to acquit a case that is slower by its delta
    h0: float = 0.003  # a slowdown of at most this is none
    least_effect: float = 0.012
    reach: float = 2.6  # delta in run-to-run standard deviations
    sure_reach: float = 4.0  # see `detectable`
    estimate: float = 0.55  # the median must exceed this share of delta
    acquit: float = 6.0  # bound of one pair's evidence for "not slower"
    convict: float = 3.0  # for "slower", where the case is quiet
    convict_noisy: float = 2.0
    noisy_sd: float = 0.004
    min_pairs: int = 5
    least_df: float = (
        16.0  # of stored runs and pairs together, from which on a variance is believed and may convict
    )
    max_pairs: int = 64
    shift: float = 0.007  # of the whole suite: from here on it is looked into
    prior_sd: float = 0.0025  # of one run, where the suite is too small to tell
    prior_df: float = 3.0

    @classmethod
    def for_kind(cls, kind: str) -> GatePolicy:
        """A shared CPU's runs differ by several percent; asking less of it is honest."""
        return (
            cls()
            if kind == "cuda"
            else cls(least_effect=0.15, h0=0.02, prior_sd=0.05, noisy_sd=0.1, shift=0.1)
        )


@dataclass(frozen=True)
class Prior:
    """Distribution of run-to-run variances over the suite: s^2 ~ sd^2 * d0 / chi^2(d0)."""

    sd: float
    df: float


@dataclass(frozen=True)
class State:
    """Where each case stands after its pairs; arrays over cases."""

    verdict: NDArray[np.int64]
    llr: Array
    delta: Array
    sd: Array  # of one run
    df: Array  # degrees of freedom of sd
    estimate: Array  # median of d


def fit_prior(variances: Array, df: Array, policy: GatePolicy) -> Prior:
    """Moments of log s^2 (Smyth 2004, section 6.2). Fewer than ten cases with two runs or more: the policy's prior."""
    from scipy.special import digamma, polygamma

    known = (df >= 1) & (variances > 0)
    if int(known.sum()) < 10:
        return Prior(policy.prior_sd, policy.prior_df)
    half = df[known] / 2
    e = np.log(variances[known]) - digamma(half) + np.log(half)
    excess = float(e.var(ddof=1) - polygamma(1, half).mean())
    if excess <= 0:
        return Prior(math.sqrt(math.exp(float(e.mean()))), 50.0)
    d0 = min(50.0, 2 * _trigamma_inverse(excess))
    return Prior(math.sqrt(math.exp(float(e.mean() + digamma(d0 / 2) - math.log(d0 / 2)))), d0)


def decide(pairs: Array, variances: Array, df: Array, prior: Prior, cases: int, policy: GatePolicy) -> State:
    """pairs [c, k]: k log ratios of each of c cases, in order. variances, df [c]: of the stored runs (df 0: none).

    cases: how many the suite has, decided ones included. Looks at all pairs anew, for the variance moves with them.
    """
    count = pairs.shape[1]
    estimate = np.median(pairs, axis=1)
    weight = prior.df + df + (count - 1)
    known = prior.df * prior.sd**2 + df * variances
    full = pairs.var(axis=1, ddof=1) / 2 if count > 1 else np.zeros(len(pairs))
    variance = (known + (count - 1) * full) / weight
    # One run that lay far off makes the full variance large and every slowdown small against it: it may keep a case
    # from conviction, and must not acquit it.
    typical = (_NORMAL_MAD * np.median(np.abs(pairs - estimate[:, None]), axis=1)) ** 2 / 2
    steady = (
        (known + (count - 1) * np.minimum(full, typical)) / weight if count >= _ENOUGH_FOR_MAD else variance
    )
    sd = np.sqrt(variance)
    delta, least = effect(sd, policy), effect(np.sqrt(steady), policy)
    bound = np.where(sd > policy.noisy_sd, policy.convict_noisy, policy.convict)
    slower, faster = (_evidence(sign * pairs, variance, delta, bound, policy) for sign in (1, -1))
    not_slower, not_faster = (_evidence(sign * pairs, steady, least, bound, policy) for sign in (1, -1))
    accuse, acquit = math.log(2 * (1 - policy.beta) * cases / policy.alpha), math.log(policy.beta)
    sure = (count >= policy.min_pairs) & (df + (count - 1) >= policy.least_df)
    if count == policy.max_pairs:
        slower_rank, faster_rank = _signed_ranks(pairs, policy.alpha / cases / 2)
    else:
        slower_rank = faster_rank = np.zeros(len(pairs), dtype=bool)
    matters = policy.estimate * least
    convicted = (((slower >= accuse) & (estimate > policy.estimate * delta) & sure) | slower_rank) & (
        estimate > matters
    )
    improved = (((faster >= accuse) & (-estimate > policy.estimate * delta) & sure) | faster_rank) & (
        -estimate > matters
    )
    verdict = np.full(len(pairs), OPEN)
    # what looks faster is asked on: an improvement is worth some pairs, for it becomes the next baseline
    verdict[(not_slower <= acquit) & ((not_faster <= acquit) | (-estimate <= matters))] = SAME
    verdict[improved] = FASTER
    verdict[convicted] = SLOWER
    return State(verdict, slower, delta, sd, weight, estimate)


def _signed_ranks(pairs: Array, alpha: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Wilcoxon's signed-rank test, exact: were base and candidate the same code, either order of a pair were as
    likely, whatever the distribution of times. Its word counts once, at the last pair.
    """
    from scipy.stats import wilcoxon

    if pairs.shape[1] < _LEAST_FOR_RANKS:
        return np.zeros(len(pairs), dtype=bool), np.zeros(len(pairs), dtype=bool)
    tests = [wilcoxon(pairs, axis=1, alternative=side, method="exact").pvalue for side in ("greater", "less")]
    return tests[0] <= alpha, tests[1] <= alpha


def effect(sd: Array, policy: GatePolicy) -> Array:
    """delta: the slowdown that a case of this run-to-run standard deviation is tested for."""
    found: Array = np.maximum(policy.least_effect, policy.h0 + policy.reach * sd)
    return found


def detectable(sd: Array, df: Array, policy: GatePolicy) -> Array:
    """The slowdown (0.02: 2%) that is found 99 times of 100 in cases of this run-to-run standard deviation.

    The deviation is itself an estimate on df degrees of freedom: its upper 99.9% bound counts, because few runs do not
    show the rare large deviations. The factor was fitted on replays of recorded noise (see `replay`); the least is a
    quarter above `least_effect`.
    """
    from scipy.stats import chi2

    upper = sd * np.sqrt(df / chi2.ppf(0.001, df))
    found: Array = np.expm1(np.maximum(1.25 * policy.least_effect, policy.h0 + policy.sure_reach * upper))
    return found


def _evidence(pairs: Array, variance: Array, delta: Array, bound: Array, policy: GatePolicy) -> Array:
    slope = (delta - policy.h0) / (2 * variance)
    each = slope[:, None] * (pairs - (policy.h0 + delta)[:, None] / 2)
    total: Array = np.clip(each, -policy.acquit, bound[:, None]).sum(axis=1)
    return total


def _trigamma_inverse(value: float) -> float:
    """y with trigamma(y) = value, by Newton's method on 1/trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y

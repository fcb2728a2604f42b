"""The sequential test, simulated with fixed seeds: its promises on normal noise and on worse, and its symmetries."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.gate.replay import Outcome, settle
from qbench.gate.rule import (
    FASTER,
    OPEN,
    SAME,
    SLOWER,
    Array,
    GatePolicy,
    Prior,
    decide,
    detectable,
    effect,
    fit_prior,
)

POLICY = GatePolicy()
SUITE = 500
ALONE = Prior(POLICY.prior_sd, POLICY.prior_df)


def play(
    sd: Array, slower: float | Array = 0.0, stored: int = 10, seed: int = 0, disturb: float = 0.0
) -> Outcome:
    """Gates over many suites at once. disturb: in so many of the runs, something of 30 standard deviations."""
    rng = np.random.default_rng(seed)

    def runs(count: int) -> Array:
        z = rng.standard_normal((len(sd), count))
        if disturb:
            z += 30 * rng.standard_normal(z.shape) * (rng.random(z.shape) < disturb)
        return sd[:, None] * z

    variances, df = np.zeros(len(sd)), np.zeros(len(sd))
    if stored:
        variances, df = runs(stored).var(axis=1, ddof=1), np.full(len(sd), stored - 1.0)
    prior = fit_prior(variances[: 20 * SUITE], df[: 20 * SUITE], POLICY)
    pairs = runs(POLICY.max_pairs) - runs(POLICY.max_pairs) + np.reshape(slower, (-1, 1))
    return settle(pairs, variances, df, prior, SUITE, POLICY)[0]


def usual(count: int, seed: int = 0) -> Array:
    """Standard deviations as on a GPU with recovered clocks: half of them up to 0.25%, some of several percent."""
    return np.random.default_rng(seed).choice([0.0005, 0.001, 0.002, 0.0025, 0.005, 0.01, 0.02, 0.04], count)


def test_two_thousand_unchanged_suites_of_500_give_no_false_alarm() -> None:
    for seed in range(4):  # 2000 suites; 0.2 false alarms are promised
        found = play(usual(250_000, seed), seed=seed)
        assert not (found.verdict == SLOWER).any()
        assert not (found.verdict == FASTER).any()
        assert found.suite_runs < 8


@pytest.mark.parametrize("stored", [0, 2])
def test_where_little_is_stored_the_promise_is_kept_by_asking_for_more_pairs(stored: int) -> None:
    found = play(usual(100_000), stored=stored)
    assert (found.verdict == SLOWER).sum() <= 1
    eager = dataclasses.replace(POLICY, least_df=1e-9)
    pairs = 0.01 * math.sqrt(2) * np.random.default_rng(1).standard_normal((100_000, POLICY.max_pairs))
    none = np.zeros(len(pairs))
    assert (settle(pairs, none, none, ALONE, SUITE, eager)[0].verdict == SLOWER).sum() > 5
    assert (settle(pairs, none, none, ALONE, SUITE, POLICY)[0].verdict == SLOWER).sum() == 0


@pytest.mark.parametrize(("sd", "slower"), [(0.0025, 0.015), (0.01, 0.045), (0.0005, 0.013)])
def test_what_can_be_detected_is_and_its_mirror_image_is_faster(sd: float, slower: float) -> None:
    sds = np.full(20_000, sd)
    assert np.mean(play(sds, math.log1p(slower)).verdict == SLOWER) > 0.99
    assert np.mean(play(sds, -math.log1p(slower)).verdict == FASTER) > 0.985


def test_three_percent_is_found_in_cases_of_up_to_one_percent_of_the_usual_suite() -> None:
    sds = usual(20_000)
    found = play(sds, math.log1p(0.03)).verdict == SLOWER
    assert found[sds <= 0.003].mean() > 0.9999
    assert found[sds <= 0.005].mean() > 0.999


def test_the_stated_detectable_effect_is_found_at_least_99_times_of_100() -> None:
    for sd in (0.001, 0.0025, 0.01, 0.03):
        stated = float(detectable(np.array(sd), np.array(20.0), POLICY))
        assert np.mean(play(np.full(10_000, sd), math.log1p(stated)).verdict == SLOWER) >= 0.99, sd


def test_rare_large_deviations_do_not_convict_and_do_not_hide_a_slowdown() -> None:
    sds = np.full(60_000, 0.0025)
    assert (play(sds, disturb=0.01).verdict == SLOWER).sum() == 0
    assert np.mean(play(sds[:10_000], math.log1p(0.03), disturb=0.01).verdict == SLOWER) > 0.97


def test_cases_with_two_modes_ten_percent_apart_are_not_convicted() -> None:
    """50,000 of them; at five a suite these are 10,000 suites, of which one may have a false alarm."""
    rng = np.random.default_rng(5)
    for share in (0.05, 0.2, 0.5):
        runs = 0.1 * (rng.random((2, 50_000, POLICY.max_pairs)) < share)
        runs += 0.0025 * rng.standard_normal(runs.shape)
        stored = 0.1 * (rng.random((50_000, 10)) < share) + 0.0025 * rng.standard_normal((50_000, 10))
        prior = Prior(0.0025, 3.0)  # the rest of the suite is quiet
        found, _ = settle(
            runs[1] - runs[0], stored.var(axis=1, ddof=1), np.full(50_000, 9.0), prior, SUITE, POLICY
        )
        assert (found.verdict == SLOWER).sum() <= 1, share


def test_the_signed_rank_test_speaks_at_the_last_pair_only() -> None:
    rng = np.random.default_rng(2)
    size = 0.05 + 0.002 * rng.standard_normal((1, POLICY.max_pairs))
    size[:, ::5] += 3.0  # no normal likelihood fits these
    none = np.zeros(1)
    before = decide(size[:, :-1], none, none, ALONE, 1, POLICY)
    last = decide(size, none, none, ALONE, 1, POLICY)
    assert before.verdict[0] == OPEN
    assert last.verdict[0] == SLOWER
    assert decide(-size, none, none, ALONE, 1, POLICY).verdict[0] == FASTER
    signs = np.where(np.arange(POLICY.max_pairs) % 2, 1.0, -1.0)
    assert decide(size * signs, none, none, ALONE, 1, POLICY).verdict[0] != SLOWER


def test_nobody_is_convicted_before_the_least_number_of_pairs() -> None:
    stored, df = np.full(1, 1e-6), np.full(1, 50.0)
    for count in range(1, 12):
        state = decide(np.full((1, count), 0.5), stored, df, Prior(0.001, 50.0), 1, POLICY)
        assert (state.verdict[0] == SLOWER) == (count >= POLICY.min_pairs), count
    for count in range(1, 20):  # nothing stored: the pairs alone must give least_df
        state = decide(np.full((1, count), 0.5), np.zeros(1), np.zeros(1), ALONE, 1, POLICY)
        assert (state.verdict[0] == SLOWER) == (count - 1 >= POLICY.least_df), count


def test_one_pair_may_acquit() -> None:
    state = decide(
        np.full((1, 1), -0.001), np.full(1, 1e-6), np.full(1, 9.0), Prior(0.001, 10.0), 500, POLICY
    )
    assert state.verdict[0] == SAME


@pytest.mark.parametrize("df", [1, 4, 9])
@pytest.mark.parametrize(("d0", "s0"), [(4.0, 0.0025), (12.0, 0.01)])
def test_the_prior_is_recovered_from_a_suite_drawn_from_it(df: int, d0: float, s0: float) -> None:
    rng = np.random.default_rng(df)
    true = s0**2 * d0 / rng.chisquare(d0, 20_000)
    prior = fit_prior(true * rng.chisquare(df, len(true)) / df, np.full(len(true), float(df)), POLICY)
    assert prior.sd == pytest.approx(s0, rel=0.05)
    assert prior.df == pytest.approx(d0, rel=0.25)


def test_equal_variances_make_a_firm_prior_and_too_few_cases_the_policys() -> None:
    rng = np.random.default_rng(0)
    same = 0.003**2 * rng.chisquare(9, 5000) / 9
    assert fit_prior(same, np.full(5000, 9.0), POLICY) == Prior(pytest.approx(0.003, rel=0.02), 50.0)
    assert fit_prior(same[:9], np.full(9, 9.0), POLICY) == ALONE
    assert fit_prior(np.zeros(500), np.full(500, 9.0), POLICY) == ALONE


small = st.floats(-0.05, 0.05, allow_nan=False)
rows = st.integers(1, 12).flatmap(
    lambda count: st.lists(st.lists(small, min_size=count, max_size=count), min_size=1, max_size=6)
)


def verdicts(pairs: Array, df: float = 9.0) -> list[int]:
    count = len(pairs)
    state = decide(pairs, np.full(count, 0.0025**2), np.full(count, df), Prior(0.0025, 4.0), SUITE, POLICY)
    return [int(each) for each in state.verdict]


@given(rows, st.floats(0, 0.2))
def test_a_larger_slowdown_under_the_same_noise_never_looks_better(
    drawn: list[list[float]], more: float
) -> None:
    rank = {FASTER: 0, SAME: 1, OPEN: 2, SLOWER: 3}
    pairs = np.array(drawn)
    for row, before, after in zip(pairs, verdicts(pairs), verdicts(pairs + more), strict=True):
        if before == SLOWER:
            assert after == SLOWER
        if before == SAME:
            assert after != FASTER
        if before == OPEN and np.median(row) > 0:
            assert rank[after] >= rank[before]


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_cases_and_of_pairs_does_not_matter(drawn: list[list[float]], random: object) -> None:
    pairs = np.array(drawn)
    order = np.random.default_rng(len(drawn)).permutation(len(drawn))
    assert verdicts(pairs[order]) == [verdicts(pairs)[index] for index in order]
    assert verdicts(pairs[:, ::-1]) == verdicts(pairs)


@given(rows)
def test_slower_and_faster_are_mirror_images(drawn: list[list[float]]) -> None:
    pairs = np.array(drawn)
    for here, there in zip(verdicts(pairs), verdicts(-pairs), strict=True):
        assert (here == SLOWER) <= (there in (FASTER, SAME))
        assert not (here == SLOWER and there == SLOWER)


def test_the_effect_asked_for_follows_the_noise_and_what_is_detectable_is_never_less() -> None:
    sds = np.array([0.0001, 0.001, 0.01, 0.1])
    asked, stated = effect(sds, POLICY), detectable(sds, np.full(4, 20.0), POLICY)
    assert asked[0] == POLICY.least_effect
    assert (np.diff(asked) >= 0).all()
    assert (stated > np.expm1(asked)).all()
    assert (
        detectable(sds[2:], np.full(2, 3.0), POLICY) > stated[2:]
    ).all()  # less is known, less is promised

"""Samples and the numbers made of them, against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.stats import Samples, moderated_sd, quantile, variance

TIMES = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=40)


@given(TIMES, st.floats(0, 1))
def test_quantile_is_numpys(values, q):
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-12)


@given(TIMES)
def test_median_lies_between_the_outer_quantiles(values):
    samples = Samples(tuple(values))
    assert samples.p20_ns <= samples.median_ns <= samples.p80_ns


@pytest.mark.parametrize("bad", [(), (0.0,), (-1.0,), (math.nan,), (math.inf,)])
def test_samples_refuse_what_is_no_time(bad):
    with pytest.raises(ValueError, match="positive finite"):
        Samples(bad)


def test_variance_is_unbiased_and_zero_for_one():
    assert variance([1.0, 2.0, 4.0]) == pytest.approx(float(np.var([1, 2, 4], ddof=1)))
    assert variance([3.0]) == 0.0


def test_moderation_lies_between_prior_and_data_and_one_run_takes_the_prior():
    assert moderated_sd([1.0], 0.5, 8) == (0.5, 8)
    noisy = [0.0, 1.0, -1.0, 2.0]
    sd, df = moderated_sd(noisy, 0.1, 8)
    assert 0.1 < sd < math.sqrt(variance(noisy)) and df == 11

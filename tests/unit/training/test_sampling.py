"""Poisson sampling: each record on its own, at the public rate, never above it."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from silo_crypto.randomness import Csprng

from silo.training.sampling import inclusion_threshold, poisson_sample

RARE = 1e-6


@given(st.floats(min_value=1e-18, max_value=1.0))
def test_the_rate_used_is_never_above_the_rate_accounted_for(rate: float) -> None:
    used = Fraction(inclusion_threshold(rate), 1 << 64)
    assert used <= Fraction(rate)
    assert Fraction(rate) - used < Fraction(1, 1 << 64)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sample rate"):
        poisson_sample(3, rate, Csprng())


def test_rate_one_takes_all_and_no_records_give_an_empty_batch() -> None:
    assert poisson_sample(5, 1.0, Csprng()).tolist() == [0, 1, 2, 3, 4]
    for rate in (0.3, 1.0):
        assert poisson_sample(0, rate, Csprng()).shape == (0,)


def test_batch_sizes_vary_as_independent_inclusions_do() -> None:
    rng, n, rate, batches = Csprng(), 200, 0.3, 4000
    sizes = np.array([len(poisson_sample(n, rate, rng)) for _ in range(batches)])
    mean, variance = n * rate, n * rate * (1 - rate)
    assert abs(sizes.mean() - mean) < 5 * np.sqrt(variance / batches)
    # A sampler of fixed-size batches has variance 0, one per round without replacement less than this.
    statistic = ((sizes - mean) ** 2).sum() / variance
    assert stats.chi2.ppf(RARE, batches) < statistic < stats.chi2.ppf(1 - RARE, batches)


def test_records_join_independently_and_alike() -> None:
    rng, n, rate, batches = Csprng(), 12, 0.4, 20_000
    joined = np.zeros((batches, n))
    for row in joined:
        row[poisson_sample(n, rate, rng)] = 1
    spread = np.sqrt(rate * (1 - rate) / batches)
    assert (abs(joined.mean(axis=0) - rate) < 5.5 * spread).all()
    together = np.corrcoef(joined.T)[np.triu_indices(n, 1)]
    assert (abs(together) < 5.5 / np.sqrt(batches)).all()

"""The noise is the Gaussian it is accounted as: the table exactly, its draws statistically, its grid always."""

import math
from collections import Counter

import mpmath
import numpy as np
import pytest
from scipy import stats
from silo_crypto.randomness import Csprng

from silo.training import noise

DRAWS = 400_000
# Statistical tests fail by chance once in a million runs.
RARE = 1e-6


def test_probabilities_are_the_discrete_gaussians_to_the_last_unit() -> None:
    found = noise.probabilities()
    assert len(found) == 1 << noise.TABLE_BITS
    assert sum(found) == 1 << 96
    with mpmath.workdps(60):
        weights = [mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * noise.TABLE_DEVIATION**2)) for x in range(-8192, 8192)]
        total = mpmath.fsum(weights)
        exact = [w / total for w in weights]
        errors = [abs(p - 2**96 * e) for p, e in zip(found, exact, strict=True)]
        assert max(errors[:8192] + errors[8193:]) < 1  # all but the middle
        table = mpmath.fsum(abs(mpmath.mpf(p) / 2**96 - e) for p, e in zip(found, exact, strict=True)) / 2
        beyond = 2 * mpmath.fsum(mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * 682**2)) for x in range(8192, 9500))
        assert 3 * (table + 2 * beyond / total) < noise.DISTANCE


def test_the_alias_table_gives_exactly_these_probabilities() -> None:
    high, low, alias = noise._table()
    capacity = 1 << 82
    mass: Counter[int] = Counter()
    for column in range(1 << noise.TABLE_BITS):
        threshold = (int(high[column]) << 64) + int(low[column])
        mass[column - 8192] += threshold
        mass[int(alias[column])] += capacity - threshold
    assert [mass[x] for x in range(-8192, 8192)] == noise.probabilities()


class Scripted(Csprng):
    """A generator that repeats given words: what the sampler does with each word is decided, not drawn."""

    def __init__(self, word: int, low: int) -> None:
        super().__init__()
        self.word, self.low = word, low

    def bytes(self, n: int) -> bytes:
        return np.full(n // 4, self.word, dtype=np.uint32).tobytes()

    def uint64(self, n: int) -> np.ndarray:
        return np.full(n, self.low, dtype=np.uint64)


def test_a_tie_of_the_high_bits_is_decided_by_64_more() -> None:
    high, low, alias = noise._table()
    column = next(c for c in range(8192, 1 << 14) if 0 < high[c] < 1 << 18 and 0 < low[c] < (1 << 64) - 1)
    tie = (column << 18) + int(high[column])
    assert noise._draw(1, Scripted(tie - 1, (1 << 64) - 1))[0] == column - 8192
    assert noise._draw(1, Scripted(tie, int(low[column]) - 1))[0] == column - 8192
    assert noise._draw(1, Scripted(tie, int(low[column])))[0] == alias[column]
    assert noise._draw(1, Scripted(tie + 1, 0))[0] == alias[column]


def test_draws_have_the_width_and_shape_of_the_gaussian() -> None:
    draws = noise.discrete_gaussian(DRAWS, Csprng())
    assert draws.dtype == np.int64
    statistic = float((draws.astype(float) ** 2).sum()) / noise.UNITS**2
    assert stats.chi2.ppf(RARE, DRAWS) < statistic < stats.chi2.ppf(1 - RARE, DRAWS)
    assert abs(draws.mean()) < 5 * noise.UNITS / math.sqrt(DRAWS)
    assert stats.kstest(draws / noise.UNITS, "norm").pvalue > RARE
    # The low digits come from the last convolution: they are uniform, so no grid of 160 shows.
    counts = np.bincount(draws % noise.FACTOR, minlength=noise.FACTOR)
    assert stats.chisquare(counts).pvalue > RARE


def test_neighbouring_coordinates_are_independent() -> None:
    draws = noise.discrete_gaussian(DRAWS, Csprng()) / noise.UNITS
    assert abs(float(np.mean(draws[1:] * draws[:-1]))) < 5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 7.3])
def test_noised_sums_lie_on_a_grid_that_the_sums_do_not_move(sigma: float) -> None:
    sums = np.random.default_rng(0).normal(size=1000)
    step = sigma / noise.UNITS
    units = noise.add_gaussian(sums, sigma, Csprng()) / step
    # Up to the rounding of the float64 product and quotient.
    np.testing.assert_allclose(units, np.rint(units), rtol=4e-16, atol=1e-9)


def test_noise_of_sigma_is_added_to_the_sums() -> None:
    sums, sigma = np.linspace(-5, 5, 100_001), 1e-3
    statistic = float((((noise.add_gaussian(sums, sigma, Csprng()) - sums) / sigma) ** 2).sum())
    assert stats.chi2.ppf(RARE, sums.size) < statistic < stats.chi2.ppf(1 - RARE, sums.size)

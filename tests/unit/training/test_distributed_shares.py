"""A share is the discrete Gaussian around its real centre: its probabilities exactly, its draws statistically."""

import math
import time
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats
from silo_crypto.randomness import Csprng

from silo.training import shares
from silo.training.noise import _PRECISION, _exp_minus
from silo.training.shares import AliasTable, ShareSampler, probabilities

# Statistical tests fail by chance once in a million runs.
RARE = 1e-6
DRAWS = 200_000


def ideal(sigma: float, centre: mpmath.mpf, low: int, high: int) -> dict[int, mpmath.mpf]:
    """Return the discrete Gaussian around ``centre``, not cut off, for low <= y <= high."""
    weight = {y: mpmath.exp(-((y - centre) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for y in range(low, high + 1)}
    total = mpmath.fsum(weight.values())
    return {y: w / total for y, w in weight.items()}


@pytest.mark.parametrize("sigma", [4.0, 32.0, 77.7])
def test_the_tables_probabilities_are_right_to_the_last_unit(sigma: float) -> None:
    found, first = probabilities(sigma)
    furthest = int(12 * sigma + 0.5)
    assert sum(found) == 1 << 160
    with mpmath.workdps(80):
        exact = ideal(sigma, mpmath.mpf(0), -furthest, furthest)
        errors = {k: found[k - first] - 2**160 * exact.get(k, mpmath.mpf(0)) for k in range(first, first + len(found))}
    middle = errors.pop(0)
    assert max(abs(error) for error in errors.values()) < 1
    assert abs(middle) < len(found)  # what rounding down lost elsewhere


@pytest.mark.parametrize("sigma", [4.0, 32.0])
def test_the_alias_table_gives_exactly_these_probabilities(sigma: float) -> None:
    wanted, first = probabilities(sigma)
    table = AliasTable(wanted, first)
    capacity = (1 << 160) // len(wanted)
    mass: Counter[int] = Counter()
    for column, (threshold, alias) in enumerate(zip(table.threshold, table.alias, strict=True)):
        mass[column] += threshold
        mass[alias] += capacity - threshold
    assert [mass[column] for column in range(len(wanted))] == wanted


def test_a_table_that_does_not_add_up_is_refused() -> None:
    for wrong in ([1 << 159, 1 << 158], [1 << 160], [1 << 158] * 3):
        with pytest.raises(ValueError, match="add up"):
            AliasTable(wrong, 0)


class Scripted(Csprng):
    """A generator that returns given bytes: what the sampler makes of them is decided, not drawn."""

    def __init__(self, *given: bytes) -> None:
        super().__init__()
        self.given = list(given)

    def bytes(self, n: int) -> bytes:
        piece = self.given.pop(0)
        assert len(piece) == n
        return piece


def test_a_tie_in_the_table_is_decided_by_128_more_bits() -> None:
    table = AliasTable(*probabilities(4.0))
    bits = len(table.threshold).bit_length() - 1
    column = next(i for i, t in enumerate(table.threshold) if 0 < t >> 128 < 1 << (32 - bits) and t & (2**128 - 1))
    high, low = table.threshold[column] >> 128, table.threshold[column] & (2**128 - 1)
    own = int(table._own[column])
    other = int(table._own[table.alias[column]])
    word = ((column << (32 - bits)) + high).to_bytes(4, "little")
    assert table.draw(1, Scripted(word, (low - 1).to_bytes(16, "little")))[0] == own
    assert table.draw(1, Scripted(word, low.to_bytes(16, "little")))[0] == other


def real(fraction: Fraction) -> mpmath.mpf:
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def kept(sigma: float, k: int, f: float) -> Fraction:
    """Return the probability of keeping k at f, in units of 2^-320, by the sampler's own integers."""
    s, g = Fraction(sigma), Fraction(f)
    exponent = (12 * s + Fraction(1, 4) - (2 * k - g) * g) / (2 * s**2)
    return Fraction(_exp_minus(exponent.numerator, exponent.denominator), 1 << _PRECISION)


@pytest.mark.parametrize("sigma", [4.0, 32.0])
@pytest.mark.parametrize("f", [0.0, 0.5, -0.5, 0.3, -0.1234567891234, 2.0**-60])
def test_table_times_keeping_is_the_discrete_gaussian_around_the_real_centre(sigma: float, f: float) -> None:
    table, first = probabilities(sigma)
    reach = [k for k in range(first, first + len(table)) if abs(k - Fraction(f)) <= 12 * Fraction(sigma)]
    mass = {k: table[k - first] * kept(sigma, k, f) for k in reach}
    assert all(0 <= kept(sigma, k, f) <= 1 for k in reach)
    total = sum(mass.values())
    with mpmath.workdps(80):
        exact = ideal(sigma, mpmath.mpf(f), -int(20 * sigma), int(20 * sigma))
        found = {k: real(m / total) for k, m in mass.items()}
        distance = mpmath.fsum(abs(p - found.get(k, mpmath.mpf(0))) for k, p in exact.items()) / 2
        tail = mpmath.fsum(p for k, p in exact.items() if k not in mass)
        assert tail < mpmath.mpf(2) ** -105
        # Beyond the tail, which must be cut, nothing is left but the table's last unit.
        assert distance - tail < mpmath.mpf(2) ** -120


def test_the_float_that_decides_most_draws_is_within_its_margin() -> None:
    generator = np.random.default_rng(0)
    for sigma in (4.0, 32.0, 1000.0):
        for _ in range(300):
            f = float(generator.uniform(-0.5, 0.5))
            k = round(generator.normal() * sigma)
            exponent = (2.0 * k - f) * f - (12 * sigma + 0.25)
            chance = float(np.exp(exponent / (2 * sigma**2)))
            assert abs(Fraction(chance) - kept(sigma, k, f)) < Fraction(1, 1 << 48)
    assert shares._UNCERTAIN >= 8 * 2.0**-48


@pytest.mark.parametrize(("k", "f"), [(3, 0.25), (-7, -0.4999), (0, 0.0), (40, 0.1)])
def test_a_close_decision_is_taken_exactly(k: int, f: float) -> None:
    sampler = ShareSampler(4.0)
    limit = int(kept(4.0, k, f) * (1 << _PRECISION))
    word, rest = limit >> 256, limit & (2**256 - 1)
    given = np.array([k]), np.array([f])

    def decide(word: int, rest: int) -> bool:
        rng = Scripted(word.to_bytes(8, "little"), rest.to_bytes(32, "little"))
        return bool(sampler._keep(*given, rng)[0])

    assert decide(word, rest - 1)
    assert not decide(word, rest)
    rng = Scripted((word + 2**40).to_bytes(8, "little"))  # clear enough for the float alone
    assert not sampler._keep(*given, rng)[0]


def test_what_lies_beyond_twelve_sigma_is_redrawn() -> None:
    sampler = ShareSampler(4.0)
    zero = bytes(8)
    assert sampler._keep(np.array([48]), np.array([0.0]), Scripted(zero))[0]
    assert sampler._keep(np.array([48]), np.array([0.25]), Scripted(zero))[0]
    assert not sampler._keep(np.array([48]), np.array([-0.25]), Scripted(zero))[0]
    assert not sampler._keep(np.array([-49]), np.array([0.0]), Scripted(zero))[0]


def test_sums_and_shifts_of_shares_are_gaussian_as_far_as_is_claimed() -> None:
    """What the module says of DISTANCE, recomputed where it is worst: sigma = 4."""
    with mpmath.workdps(120):
        # The sum of two shares around u and v: the mass of y depends on how (y - u - v) / 2 lies in the grid, through
        # rho_{sigma / sqrt 2}(Z - x), whose relative swing is at most 4 exp(-2 pi^2 sigma^2 / 2).
        def mass(width: mpmath.mpf, x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.fsum(mpmath.exp(-((y - x) ** 2) / (2 * width**2)) for y in range(-120, 121))

        def swing(width: mpmath.mpf) -> mpmath.mpf:
            values = [mass(width, mpmath.mpf(i) / 16) for i in range(9)]
            return max(values) / min(values) - 1

        assert swing(4 / mpmath.sqrt(2)) < mpmath.mpf(2) ** -200
        # Variance 4 of smoothing makes it continuous: the same with width 2.
        assert swing(mpmath.mpf(2)) < mpmath.mpf(2) ** -110
        furthest = mpmath.mpf(0)
        for centre in (mpmath.mpf(i) / 16 for i in range(9)):
            exact = ideal(4.0, centre, -120, 120)
            furthest = max(furthest, mpmath.fsum(p for y, p in exact.items() if abs(y - centre) > 48))
        assert furthest < mpmath.mpf(2) ** -105
        assert 128 * furthest + mpmath.mpf(2) ** -110 < shares.DISTANCE


@pytest.mark.parametrize("sigma", [4.0, 32.0])
@pytest.mark.parametrize("centre", [0.0, 0.5, -17.3, 1000.001])
def test_draws_have_the_shape_and_width_of_the_gaussian_around_their_centre(sigma: float, centre: float) -> None:
    drawn = ShareSampler(sigma).draw(np.full(DRAWS, centre), Csprng())
    low, high = math.floor(centre - 4 * sigma), math.ceil(centre + 4 * sigma)
    exact = ideal(sigma, mpmath.mpf(centre), low - int(9 * sigma), high + int(9 * sigma))
    cells = np.array([float(exact[y]) for y in range(low, high + 1)])
    counts = np.array([np.count_nonzero(drawn == y) for y in range(low, high + 1)])
    expected = np.append(cells, 1 - cells.sum()) * DRAWS
    assert stats.chisquare(np.append(counts, DRAWS - counts.sum()), expected).pvalue > RARE
    variance = np.sum((drawn - centre) ** 2) / sigma**2
    assert RARE < stats.chi2.cdf(variance, DRAWS) < 1 - RARE
    assert abs(np.mean(drawn) - centre) < 5 * sigma / math.sqrt(DRAWS)


def test_the_opened_noise_of_four_silos_has_the_variance_that_is_accounted_for() -> None:
    samplers = [ShareSampler(32.0) for _ in range(4)]
    centres = [np.random.default_rng(i).uniform(-3e4, 3e4, DRAWS) for i in range(4)]
    summed = sum(sampler.draw(c, Csprng()) for sampler, c in zip(samplers, centres, strict=True))
    error = summed - np.sum(centres, axis=0)
    assert RARE < stats.chi2.cdf(np.sum(error**2) / (4 * 32.0**2), DRAWS) < 1 - RARE
    assert stats.kstest(error / 64, "norm").pvalue > RARE
    assert [sampler.draws for sampler in samplers] == [1] * 4


def test_neighbouring_coordinates_and_repeated_draws_are_independent() -> None:
    sampler, rng = ShareSampler(8.0), Csprng()
    centres = np.linspace(-5, 5, DRAWS)
    one, two = (sampler.draw(centres, rng) - centres for _ in range(2))
    for a, b in ((one, two), (one[1:], one[:-1]), (np.abs(one[1:]), np.abs(one[:-1])), (one, centres)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(DRAWS)
    assert sampler.draws == 2


@pytest.mark.parametrize("sigma", [3.999, 0.0, -4.0, math.nan, math.inf, 1e6])
def test_a_width_for_which_the_proof_fails_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma is from 4"):
        ShareSampler(sigma)


def test_a_million_draws_take_a_fraction_of_a_second() -> None:
    sampler, centres = ShareSampler(32.0), np.random.default_rng(0).uniform(-100, 100, 1_000_000)
    sampler.draw(centres[:10], Csprng())
    started = time.process_time()
    sampler.draw(centres, Csprng())
    assert time.process_time() - started < 1.0  # 0.07 s measured; ten times that on a slow or busy machine

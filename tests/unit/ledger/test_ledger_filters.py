"""The numbers: against independent evaluations, never below them; and the rules by which they add up."""

import math
import time
from decimal import Decimal

import mpmath
import pytest
from dp_accounting import dp_event

from silo.errors import ConfigError
from silo.ledger.filters import INFINITE, Use, exact, filter_named, gaussian_epsilon, rounded_up
from silo.ledger.mechanism import Mechanism, epsilon_of_run, rdp_of_step

TINY = Decimal("1e-5")


def gaussian_delta(epsilon, mu):
    """Balle and Wang 2018, theorem 8, in 50 digits."""
    with mpmath.workdps(50):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        upper, lower = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return mpmath.ncdf(upper) - mpmath.exp(epsilon) * mpmath.ncdf(lower)


def gaussian_epsilon_by_bisection(mu, delta):
    low, high = mpmath.mpf(0), mpmath.mpf(100)
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return float(high)


def sampled_gaussian_delta(epsilon, q, z):
    """One step on a Poisson sample: the hockey-stick divergence in both directions, by quadrature."""
    with mpmath.workdps(30):
        p = lambda x: mpmath.npdf(x, 0, z)  # noqa: E731
        mixture = lambda x: (1 - q) * mpmath.npdf(x, 0, z) + q * mpmath.npdf(x, 1, z)  # noqa: E731
        e = mpmath.exp(epsilon)
        # Each integrand is positive on one side of the point where the ratio of densities is e^epsilon.
        edge = z * z * mpmath.log((e - 1 + q) / q) + 0.5
        remove = mpmath.quad(lambda x: mixture(x) - e * p(x), [edge, edge + 5 * z, edge + 40 * z])
        inside = (1 / e - 1 + q) / q
        add = mpmath.mpf(0)
        if inside > 0:
            edge = z * z * mpmath.log(inside) + 0.5
            add = mpmath.quad(lambda x: p(x) - e * mixture(x), [edge - 40 * z, edge - 5 * z, edge])
        return max(remove, add)


@pytest.mark.parametrize(
    ("z", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 10, 1e-5), (20.0, 400, 1e-6), (50.0, 100, 1e-4), (3.0, 2, 1e-8)]
)
def test_gaussian_runs_agree_with_the_closed_form(z, steps, delta):
    truth = gaussian_epsilon_by_bisection(math.sqrt(steps) / z, delta)
    assert truth <= epsilon_of_run(Mechanism(z), steps, delta) <= 1.01 * truth
    assert truth <= gaussian_epsilon(math.sqrt(steps) / z, delta) <= truth + 2e-9


@pytest.mark.parametrize(
    ("q", "z", "delta"), [(0.1, 1.0, 1e-5), (0.25, 2.0, 1e-5), (0.01, 0.7, 1e-6), (0.5, 1.5, 1e-4), (0.9, 1.0, 1e-5)]
)
def test_one_sampled_step_agrees_with_quadrature(q, z, delta):
    epsilon = epsilon_of_run(Mechanism(z, q), 1, delta)
    assert sampled_gaussian_delta(epsilon, q, z) <= delta
    assert sampled_gaussian_delta(epsilon * 0.99, q, z) > delta


@pytest.mark.parametrize(
    ("z", "q", "steps"),
    [(1e-3, 1.0, 1), (1e-3, 1e-9, 10**9), (0.01, 0.5, 10**15), (0.5, 1.0, 10**6), (1.0, 0.9, 10**12)],
)
def test_a_run_that_protects_nothing_is_infinite_at_once(z, q, steps):
    start = time.perf_counter()
    assert epsilon_of_run(Mechanism(z, q), steps, 1e-5) == math.inf
    assert time.perf_counter() - start < 1.0


def test_the_largest_runs_that_are_counted_take_seconds_at_most():
    start = time.perf_counter()
    for mechanism, steps in ((Mechanism(0.13), 1), (Mechanism(0.9, 0.01), 10**4), (Mechanism(1e6), 10**12)):
        assert 3 < epsilon_of_run(mechanism, steps, 1e-5) <= 100
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(("q", "z", "order"), [(0.1, 1.0, 8), (0.02, 0.8, 16), (0.5, 3.0, 32), (0.001, 1.0, 2)])
def test_renyi_divergence_agrees_with_quadrature(q, z, order):
    with mpmath.workdps(30):
        density = lambda x: mpmath.npdf(x, 0, z)  # noqa: E731
        ratio = lambda x: 1 - q + q * mpmath.exp((2 * x - 1) / (2 * z * z))  # noqa: E731
        moment = mpmath.quad(lambda x: density(x) * ratio(x) ** order, [-30 * z, 0, order, order + 30 * z])
        truth = float(mpmath.log(moment) / (order - 1))
    assert truth <= rdp_of_step(Mechanism(z, q), order) <= truth * (1 + 1e-6) + 1e-11


def test_renyi_without_sampling_is_its_formula():
    assert rdp_of_step(Mechanism(4.0), 16) == pytest.approx(16 / (2 * 16), rel=1e-8)
    assert rdp_of_step(Mechanism(4.0), 16) >= 0.5


class TestBasic:
    def test_whole_runs_add_up(self):
        rule = filter_named("basic")
        uses = [Use(Mechanism(2.0, 0.1), 100, TINY), Use(Mechanism(3.0, 0.1), 50, 2 * TINY)]
        total = rule.total(uses, Decimal("1e-4"))
        parts = [epsilon_of_run(use.mechanism, use.steps, float(use.delta)) for use in uses]
        assert sum(parts) <= total.epsilon <= sum(parts) + 2e-6
        assert total.delta == 3 * TINY

    def test_ten_tenths_make_one(self):
        use = Use(Mechanism(10.0), 1, exact(1e-5))
        assert filter_named("basic").total([use] * 10, exact(1e-4)).delta == exact(1e-4)

    def test_it_is_not_the_composition_of_one_run(self):
        """Two runs of 100 steps cost more than one run of 200: the parameters of the second came later."""
        rule, one = filter_named("basic"), Use(Mechanism(5.0, 0.1), 100, TINY)
        assert rule.total([one, one], TINY).epsilon > rounded_up(epsilon_of_run(one.mechanism, 200, 2e-5))


class TestRenyi:
    def test_steps_add_up_and_convert_once(self):
        rule = filter_named("rdp(16)")
        uses = [Use(Mechanism(8.0), 10, TINY), Use(Mechanism(4.0, 0.2), 30, TINY)]
        rho = sum(rdp_of_step(use.mechanism, 16) * use.steps for use in uses)
        expected = rho + math.log1p(-1 / 16) - math.log(1e-5 * 16) / 15
        total = rule.total(uses, TINY)
        assert expected <= total.epsilon <= expected + 2e-6
        assert total.delta == TINY

    def test_it_is_above_the_exact_value(self):
        rule = filter_named("rdp(16)")
        assert rule.total([Use(Mechanism(8.0), 10, TINY)], TINY).epsilon > gaussian_epsilon_by_bisection(
            math.sqrt(10) / 8, 1e-5
        )

    def test_dp_accounting_agrees(self):
        from dp_accounting import rdp

        accountant = rdp.RdpAccountant(orders=[24])
        accountant.compose(dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(3.0)), 500)
        ours = filter_named("rdp(24)").total([Use(Mechanism(3.0, 0.1), 500, TINY)], TINY).epsilon
        assert accountant.get_epsilon(1e-5) <= ours <= accountant.get_epsilon(1e-5) + 2e-6


class TestGaussian:
    def test_squared_mu_adds_up(self):
        uses = [Use(Mechanism(10.0), 40, TINY), Use(Mechanism(20.0), 100, TINY)]
        truth = gaussian_epsilon_by_bisection(math.sqrt(40 / 100 + 100 / 400), 1e-5)
        total = filter_named("gdp").total(uses, TINY)
        assert truth <= total.epsilon <= truth + 2e-6
        assert total.delta == TINY

    def test_samples_are_refused(self):
        with pytest.raises(ConfigError, match="q = 1 only"):
            filter_named("gdp").check(Mechanism(10.0, 0.99))
        filter_named("gdp").check(Mechanism(10.0))


@pytest.mark.parametrize("name", ["basic", "gdp", "rdp(2)", "rdp(256)"])
def test_nothing_used_costs_nothing(name):
    rule = filter_named(name)
    assert rule.name == name
    assert rule.total([], TINY).epsilon == rule.total([], TINY).delta == 0


@pytest.mark.parametrize(
    "name", ["", "pld", "rdp", "rdp()", "rdp(1)", "rdp(257)", "rdp(2.5)", "rdp(-2)", "rdp(²)", "GDP"]
)
def test_unknown_filters(name):
    with pytest.raises(ConfigError, match="unknown privacy filter"):
        filter_named(name)


def test_rounding_is_up():
    assert rounded_up(1.0000001) == Decimal("1.000001")
    assert rounded_up(1.0) == 1
    assert rounded_up(math.inf) == rounded_up(math.nan) == INFINITE


class TestMechanism:
    @pytest.mark.parametrize("mechanism", [Mechanism(2.5), Mechanism(0.3, 0.25), Mechanism(1e-3, 1e-9)])
    def test_it_survives_storage_and_dp_accounting(self, mechanism):
        assert Mechanism.from_json(mechanism.to_json()) == mechanism
        assert Mechanism.of(mechanism.event()) == mechanism

    def test_a_sample_of_everything_is_no_sample(self):
        event = dp_event.PoissonSampledDpEvent(1.0, dp_event.GaussianDpEvent(2.0))
        assert Mechanism.of(event) == Mechanism(2.0)
        assert Mechanism.of(event).to_json() == {"class": "GaussianDpEvent", "noise_multiplier": 2.0}

    @pytest.mark.parametrize(
        "event",
        [
            dp_event.NoOpDpEvent(),
            dp_event.NonPrivateDpEvent(),
            dp_event.LaplaceDpEvent(1.0),
            dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(1.0), 3),
            dp_event.PoissonSampledDpEvent(0.1, dp_event.LaplaceDpEvent(1.0)),
            dp_event.SampledWithoutReplacementDpEvent(100, 10, dp_event.GaussianDpEvent(1.0)),
            dp_event.UnsupportedDpEvent(),
            {"class": "GaussianDpEvent", "noise_multiplier": 1.0},
            None,
        ],
    )
    def test_other_events_are_refused(self, event):
        with pytest.raises(ConfigError, match="does not account for"):
            Mechanism.of(event)

    @pytest.mark.parametrize(
        ("z", "q"),
        [
            (0.0, 0.5),
            (-1.0, 0.5),
            (1e-4, 0.5),
            (math.inf, 0.5),
            (math.nan, 0.5),
            (1.0, 0.0),
            (1.0, 1.1),
            (1.0, math.nan),
        ],
    )
    def test_numbers_out_of_range(self, z, q):
        with pytest.raises(ConfigError):
            Mechanism(z, q)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"class": "Other"},
            {"class": "GaussianDpEvent"},
            {"class": "PoissonSampledDpEvent", "sampling_probability": 0.1, "event": {"class": "LaplaceDpEvent"}},
        ],
    )
    def test_descriptions_that_are_none(self, body):
        with pytest.raises((KeyError, ValueError)):
            Mechanism.from_json(body)

"""What a DistributedDP run proves: against accountants that are not ours, for any number of colluders, or refused."""

import math
from dataclasses import replace

import pytest
from opacus.accountants import PRVAccountant
from scipy import optimize, stats

from silo.api import DistributedDP, Encryption, FedAvg
from silo.errors import ConfigError
from silo.ledger.mechanism import Mechanism, epsilon_of_run
from silo.training.distributed_plan import DistributedPlan, effective, epsilon_of_shares, make_distributed_plan
from tests.unit.training.training_support import make

PRIVACY = DistributedDP(
    epsilon=1,
    delta=1e-4,
    clipping_norm=1,
    sample_rate=0.5,
    expected_batch=300,
    learning_rate=5,
    minimum_silos=4,
)


def plan(rounds: int = 10, parameters: int = 32, **changes: object) -> DistributedPlan:
    return make_distributed_plan(replace(PRIVACY, **changes), rounds, parameters, 16)  # type: ignore[arg-type]


def gaussian_epsilon(multiplier: float, steps: int, delta: float) -> float:
    """Closed form for full batches: mu-GDP with mu = sqrt(steps) / multiplier (Dong et al. 2022)."""
    mu = math.sqrt(steps) / multiplier

    def excess(epsilon: float) -> float:
        a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(stats.norm.cdf(a) - math.exp(epsilon + stats.norm.logcdf(b)) - delta)

    return float(optimize.brentq(excess, 0, 60))


def multiplier_of(one: DistributedPlan, colluders: int) -> float:
    """PROTOCOL's formula, from the numbers of the manifest alone."""
    h = one.minimum_silos - colluders
    return math.sqrt(h * one.share_sigma**2 - 4) / (one.scale * one.clipping_norm * (1 + 2**-10))


@pytest.mark.parametrize("changes", [{}, {"epsilon": 0.1}, {"epsilon": 8, "clipping_norm": 0.3}, {"share_sigma": 4}])
def test_calibration_reaches_what_was_asked_and_wastes_little(changes: dict[str, float]) -> None:
    one = plan(**changes)
    assert 0.995 * one.epsilon <= one.epsilon_after(10) <= one.epsilon
    less = replace(one, scale=one.scale * 1.002)  # more integers a unit of gradient is less noise
    assert less.epsilon_after(10) > 0.999 * one.epsilon
    with pytest.raises(ConfigError, match="the noise gives epsilon"):
        replace(one, scale=one.scale * 1.01).verify()


@pytest.mark.parametrize(
    ("rounds", "delta", "changes"),
    [
        (10, 1e-4, {"sample_rate": 1.0}),
        (200, 1e-5, {"sample_rate": 1.0, "epsilon": 8, "delta": 1e-5}),
        (1, 1e-6, {"sample_rate": 1.0, "epsilon": 0.25, "delta": 1e-6, "minimum_silos": 8, "colluders": 3}),
    ],
)
def test_full_batches_agree_with_the_closed_form_and_are_never_below(
    rounds: int, delta: float, changes: dict[str, float]
) -> None:
    one = plan(rounds, **changes)
    for colluders in range(one.minimum_silos):
        exact = gaussian_epsilon(multiplier_of(one, colluders), rounds, delta)
        assert exact <= one.epsilon_against(colluders) <= 1.01 * exact


@pytest.mark.parametrize(
    ("rounds", "changes"),
    [(10, {}), (200, {"sample_rate": 0.05, "delta": 1e-5, "epsilon": 3}), (50, {"sample_rate": 0.2, "colluders": 2})],
)
def test_sampled_rounds_agree_with_prv(rounds: int, changes: dict[str, float]) -> None:
    one = plan(rounds, **changes)
    prv = PRVAccountant()
    prv.history = [(multiplier_of(one, one.colluders), one.sample_rate, rounds)]
    estimate = prv.get_epsilon(one.delta, eps_error=0.002, delta_error=one.delta / 1000)  # at most 0.004 high
    assert estimate - 0.004 <= one.epsilon_after(rounds) <= 1.01 * estimate


def test_the_ledgers_event_is_the_formula_and_costs_what_the_plan_says() -> None:
    for rate in (0.5, 1.0):
        one = plan(sample_rate=rate)
        mechanism = Mechanism.of(one.event())
        assert mechanism.sampling_probability == rate
        assert mechanism.noise_multiplier == pytest.approx(multiplier_of(one, 1), rel=1e-12)
        assert epsilon_of_run(mechanism, one.steps, one.delta) == pytest.approx(one.epsilon_after(10), rel=0.01)


def test_noise_gives_epsilon_as_epsilon_gives_noise() -> None:
    for share_sigma in (4.0, 32.0):
        one = plan(share_sigma=share_sigma)
        back = epsilon_of_shares(one.noise_multiplier, 0.5, 10, 1e-4, honest=3, share_sigma=share_sigma, parameters=32)
        assert back == pytest.approx(one.epsilon_after(10), rel=1e-6)
    values = [epsilon_of_shares(3.0, 0.5, steps, 1e-4, honest=3) for steps in (0, 1, 10, 100)]
    assert values[0] == 0
    assert values == sorted(set(values))
    assert epsilon_of_shares(3.0, 0.5, 10, 1e-4, honest=1, share_sigma=4.0) > values[2]


def test_epsilon_grows_with_the_silos_that_collude_and_a_share_alone_is_little() -> None:
    one = plan()
    known = one.collusion()
    assert [c for c, _ in known] == [0, 1, 2, 3]
    assert [epsilon for _, epsilon in known] == sorted({epsilon for _, epsilon in known})
    assert known[1][1] == one.epsilon_after(10) <= 1
    assert known[3][1] > 1.7  # PROTOCOL: what any holder of a shared key would see
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="colluders"):
            one.epsilon_against(wrong)


def test_the_noise_is_fixed_by_the_minimum_and_narrow_shares_pay_for_their_steps() -> None:
    three, seven = plan(minimum_silos=4), plan(minimum_silos=8)
    assert (three.honest, seven.honest) == (3, 7)
    assert seven.noise_multiplier == pytest.approx(three.noise_multiplier, rel=2e-3)
    assert seven.scale / three.scale == pytest.approx(math.sqrt(7 / 3), rel=2e-3)
    assert effective(2.0, 1, 4.0) == pytest.approx(2.0 * math.sqrt(12 / 16) / (1 + 2**-10))


def test_fields_hold_the_clamped_sum_and_twelve_deviations() -> None:
    one = plan()
    assert one.clamp + 12 * one.share_sigma < one.offset == 2**15
    assert one.value_bound == pytest.approx(one.clamp / one.scale)
    assert one.value_bound > 1000 * one.clipping_norm
    with pytest.raises(ConfigError, match="12 deviations of a noise share") as caught:
        make_distributed_plan(replace(PRIVACY, share_sigma=2048.0, epsilon=20, minimum_silos=128), 1, 32, 15)
    assert "share_sigma to at most" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share_sigma", 3.99),
        ("share_sigma", 1e6),
        ("share_sigma", math.nan),
        ("minimum_silos", 2),
        ("colluders", 4),
        ("colluders", 0),
        ("sample_rate", 1.01),
        ("delta", 0.5),
        ("epsilon", 0.0),
        ("unit", "household"),
    ],
)
def test_numbers_that_prove_nothing_are_refused_by_researcher_and_silo(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(PRIVACY, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=field):
        replace(plan(), **{field: value}).verify()  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"scale": 0.0}, {"scale": math.inf}, {"rounds": 0}, {"value_bits": 40}])
def test_a_manifest_with_impossible_numbers_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        replace(plan(), **changes).verify()  # type: ignore[arg-type]


def test_an_experiment_needs_threshold_custody_and_says_why() -> None:
    threshold = Encryption(custody="threshold")
    assert make(privacy=PRIVACY, encryption=threshold).privacy == PRIVACY
    with pytest.raises(ConfigError, match="custody") as caught:
        make(privacy=PRIVACY, encryption=Encryption(custody="shared"))
    assert "could open one upload alone" in str(caught.value.fix)
    with pytest.raises(ConfigError, match="colluders"):
        make(privacy=PRIVACY, encryption=Encryption(custody="threshold", threshold=3))
    with pytest.raises(ConfigError, match="value_bound"):
        make(privacy=PRIVACY, encryption=Encryption(custody="threshold", value_bound=2.0))
    with pytest.raises(ConfigError, match="weighting"):
        make(privacy=PRIVACY, encryption=threshold, aggregation=FedAvg(weighting="examples"))

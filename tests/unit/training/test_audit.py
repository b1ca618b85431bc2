"""The one-run audit: its arithmetic against an independent one, and what it catches when a step is broken.

The broken optimisers live here and nowhere else: the product has no switch that turns noise or clipping off.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

import silo.training.optimizer as optimizer_module
from silo.errors import ConfigError, UsageError
from silo.training.audit import (
    Audit,
    canaries_for,
    ceiling,
    guesses_for,
    judge,
    lower_bound,
    p_value,
)
from silo.training.audit_harness import Setting, audit_product
from silo.training.optimizer import SiloOptimizer

RUNS = 20
SETTINGS = {
    "full batches": Setting(canaries=600, dimensions=1_000, sample_rate=1.0, steps=1),
    "sampled": Setting(canaries=600, dimensions=1_000, sample_rate=0.5, steps=5),
}


class UnsafeNoNoise(SiloOptimizer):
    """Releases the clipped sums as they are: epsilon is void."""

    def add_noise(self) -> None:
        for p in self.params:
            p.grad = p.summed_grad.to(p.dtype).view_as(p)


class UnsafeNoClipping(SiloOptimizer):
    """Adds gradients of any length: epsilon is void."""

    def clip_and_accumulate(self) -> None:
        for p in self.params:
            p.summed_grad = p.grad_sample.double().sum(0)


@pytest.mark.parametrize(("canaries", "expected"), [(30, 2.3), (100, 3.5), (1_000, 5.8)])
def test_the_ceiling_is_the_formula_and_what_all_right_guesses_come_to(canaries: int, expected: float) -> None:
    assert ceiling(canaries) == pytest.approx(-math.log(0.05 ** (-1 / canaries) - 1), rel=1e-9)
    assert ceiling(canaries) == pytest.approx(expected, abs=0.06)
    assert lower_bound(canaries, canaries, canaries, 0.0) == pytest.approx(ceiling(canaries), abs=2e-6)


def test_too_few_canaries_show_nothing() -> None:
    assert [ceiling(m) for m in (1, 2, 3, 4)] == [0, 0, 0, 0]
    assert ceiling(5) > 0
    assert lower_bound(4, 4, 4, 0.0) == 0


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_the_canaries_asked_for_are_the_fewest_that_can_refute(epsilon: float) -> None:
    needed = canaries_for(epsilon)
    assert ceiling(needed) > epsilon >= ceiling(needed - 1)


def reference(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """P(W >= v) + 2 m delta max_i P(v > W >= v - i) / i with W binomial, by scipy and in the definition's own form."""
    w = stats.binom(r, 1 / (1 + math.exp(-epsilon)))
    best = max(((w.sf(v - i - 1) - w.sf(v - 1)) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, float(w.sf(v - 1) + 2 * m * delta * best))


@pytest.mark.parametrize(("m", "r", "v"), [(30, 30, 25), (100, 40, 33), (1_000, 200, 150), (1_000, 1_000, 600)])
def test_the_p_value_agrees_with_scipy_and_grows_with_epsilon(m: int, r: int, v: int) -> None:
    for delta in (0.0, 1e-5, 1e-3):
        values = [p_value(m, r, v, epsilon, delta) for epsilon in (0.0, 0.3, 1.0, 2.0, 4.0)]
        expected = [reference(m, r, v, epsilon, delta) for epsilon in (0.0, 0.3, 1.0, 2.0, 4.0)]
        np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-14)
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))


def test_a_larger_delta_explains_more_so_less_is_refuted() -> None:
    bounds = [lower_bound(1_000, 200, 180, delta) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]


def test_right_guesses_raise_the_bound_and_half_right_refute_nothing() -> None:
    bounds = [lower_bound(200, 100, correct, 1e-5) for correct in (40, 50, 70, 90, 100)]
    assert bounds[:2] == [0, 0]
    assert bounds == sorted(bounds)


def test_randomised_response_is_refuted_no_more_often_than_the_confidence_allows() -> None:
    # The mechanism for which the bound is tight: the bit itself, right with probability e^eps / (1 + e^eps).
    for epsilon in (0.5, 1.0, 3.0):
        chances = stats.binom(100, 1 / (1 + math.exp(-epsilon))).pmf(np.arange(101))
        refuting = [lower_bound(100, 100, v, 0.0) > epsilon for v in range(101)]
        assert 0 < chances[refuting].sum() <= 0.05


def test_how_much_is_guessed_depends_on_public_numbers_alone() -> None:
    assert guesses_for(1_000, 3.0) == 200
    assert guesses_for(200, 3.0) == 100
    assert guesses_for(90, 3.0) == 90
    assert guesses_for(10, 3.0) == 10


def test_guesses_are_of_the_surest_scores() -> None:
    included = np.array([True, False, True, False, True, False])
    scores = np.array([9.0, -9.0, 8.0, -8.0, -1.0, 1.0])
    assert judge(scores, included, proven=1, delta=0, guesses=4).correct == 4
    assert judge(scores, included, proven=1, delta=0, guesses=6).correct == 4
    with pytest.raises(ValueError, match="7 guesses"):
        judge(scores, included, proven=1, delta=0, guesses=7)
    with pytest.raises(ValueError, match="3 of 2"):
        p_value(3, 2, 3, 1.0, 0.0)


def test_an_audit_says_whether_it_could_have_refuted_anything() -> None:
    assert not Audit(canaries=30, guesses=30, correct=30, proven=3.0, delta=1e-5).can_refute
    one = Audit(canaries=1_000, guesses=200, correct=200, proven=3.0, delta=1e-5)
    assert one.can_refute
    assert one.refuted
    assert one.bound <= one.ceiling


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_the_product_is_not_refuted_and_the_audit_sees_something(setting: Setting) -> None:
    audits = [audit_product(setting) for _ in range(RUNS)]
    assert not any(each.refuted for each in audits)
    assert all(each.can_refute for each in audits)
    assert np.median([each.bound for each in audits]) > 0.2  # an auditor that guesses blindly has 0


@pytest.mark.parametrize("broken", [UnsafeNoNoise, UnsafeNoClipping])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_noise_switched_off_and_clipping_skipped_are_caught_in_20_of_20_runs(
    setting: Setting, broken: type[SiloOptimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_module, "SiloOptimizer", broken)
    audits = [audit_product(setting) for _ in range(RUNS)]
    assert sum(each.refuted for each in audits) == RUNS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dimensions": 999}, "999 dimensions"),
        ({"canaries": 1}, "1 canaries"),
        ({"canaries": 2_000, "dimensions": 1_000}, "a coordinate of its own"),
        ({"canaries": 20_000, "dimensions": 20_000}, "memory"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(change: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Setting(**change)
    assert says in str(caught.value)


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"delta": 0.5}, {"sample_rate": 1.5}])
def test_a_mechanism_that_promises_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Setting(**change)

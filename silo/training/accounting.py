"""Epsilon from the noise, and the noise from epsilon.

Every epsilon here is for a public delta, per unit (a record, or a patient), add/remove adjacency, by the privacy loss
distribution (PLD) accountant of ``dp_accounting`` with pessimistic rounding (Koskela et al. 2020; Doroshenko et al.
2022). Results are rounded up, and noise is calibrated so that what is reported is never above what was asked.

What the accountant is given is what happens: ``PoissonSampled(q, Gaussian(z'))`` once per step, steps as counted by the
optimiser, and z' a little below the noise multiplier z to cover arithmetic (:func:`effective_multiplier`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dp_accounting

from silo.api import LocalDP
from silo.api.experiment import MAX_ROUNDS, MAX_STEPS, Unit
from silo.errors import ConfigError
from silo.training.noise import DISTANCE, UNITS

ACCOUNTANT = "pld"
# float32 norms and clip factors, float64 sums: their relative error is below 1e-5, the margin is PROTOCOL's.
ARITHMETIC = 2.0**-10
# The part of delta that is kept for the distance of our noise from the Gaussian.
DELTA_MARGIN = 2.0**-10
EPSILON_DECIMALS = 6
NOISE_DECIMALS = 4
MIN_NOISE, MAX_NOISE = 0.2, 1e6
# An epsilon that nobody may ask for (silo.api: at most 20) and nobody needs to know exactly.
HOPELESS = 40.0


def effective_multiplier(noise_multiplier: float, parameters: int) -> float:
    """Return the multiplier of the continuous Gaussian mechanism that our step is a post-processing of.

    Sensitivity is C (1 + ARITHMETIC) plus sqrt(d) grid steps of sigma / UNITS for rounding the sums; the discrete
    Gaussian of UNITS steps is the continuous one of variance UNITS^2 - 16, rounded (:mod:`silo.training.noise`).
    """
    sensitivity = 1 + ARITHMETIC + noise_multiplier * math.sqrt(parameters) / UNITS
    return noise_multiplier * math.sqrt(1 - 16 / UNITS**2) / sensitivity


@lru_cache(maxsize=512)
def epsilon_of(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, parameters: int = 1, *, rough: bool = False
) -> float:
    """Return epsilon at ``delta`` after ``steps`` steps, rounded up to 6 decimals.

    0 after no steps; infinity when delta does not cover the distance of our noise from the Gaussian. ``rough`` is
    quicker and farther above the truth.
    """
    multiplier = effective_multiplier(noise_multiplier, parameters)
    return bounded_epsilon(multiplier, sample_rate, steps, delta, steps * parameters * DISTANCE, rough=rough)


def bounded_epsilon(
    multiplier: float, sample_rate: float, steps: int, delta: float, distance: float, *, rough: bool = False
) -> float:
    """Return epsilon of ``steps`` sampled Gaussian steps, rounded up to 6 decimals, by the PLD accountant.

    ``multiplier`` is that of the continuous Gaussian mechanism, from which all of the run's noise together is
    ``distance`` away in total variation; that is taken out of delta, and epsilon is infinite where it does not fit.
    """
    if steps == 0:
        return 0.0
    epsilon = _pld_epsilon(multiplier, sample_rate, steps, delta * (1 - DELTA_MARGIN), rough)
    if epsilon > HOPELESS or (1 + math.exp(epsilon)) * distance > delta * DELTA_MARGIN:
        return math.inf
    return float(math.ceil(epsilon * 10**EPSILON_DECIMALS) / 10**EPSILON_DECIMALS)


def gaussian_event(multiplier: float, sample_rate: float) -> dp_accounting.DpEvent:
    """Return the ``dp_accounting`` event of one step, as the accountant and the ledger are given it."""
    import dp_accounting

    event = dp_accounting.GaussianDpEvent(multiplier)
    return dp_accounting.PoissonSampledDpEvent(sample_rate, event) if sample_rate < 1 else event


def _pld_epsilon(multiplier: float, sample_rate: float, steps: int, delta: float, rough: bool) -> float:
    import dp_accounting
    from dp_accounting import pld, rdp

    event = gaussian_event(multiplier, sample_rate)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    # A loss distribution that reaches into the hundreds takes gigabytes, and a manifest may come from anybody.
    renyi = rdp.RdpAccountant(orders=[*range(2, 33), 48, 64, 128, 256, 512], neighboring_relation=relation)
    bound = float(renyi.compose(event, steps).get_epsilon(delta))
    if bound > HOPELESS:
        return math.inf
    # Any grid of losses errs upwards only, and by about the square of its interval; time goes with 1 / interval. So it
    # is made finer until a third of the interval changes less than 1.2 %: what is then left is about an eighth of that.
    # Nothing finer than a fiftieth of one step's loss, about rate / multiplier, has anything to find.
    finest = min(max(0.02 * sample_rate / multiplier, 3e-5), 1e-3)
    interval = 3e-3
    while True:
        accountant = pld.PLDAccountant(relation, value_discretization_interval=interval)
        found = float(accountant.compose(event, steps).get_epsilon(delta))
        if rough or interval <= finest or (found <= bound and bound - found < 1.2e-2 * found):
            return min(bound, found)
        bound, interval = min(bound, found), max(interval / 3, finest)


@lru_cache(maxsize=64)
def calibrate(epsilon: float, delta: float, sample_rate: float, steps: int, parameters: int = 1) -> float:
    """Return a noise multiplier, to 4 decimals, with :func:`epsilon_of` between 0.999 epsilon and epsilon.

    (Below 0.999 only where 4 decimals of the multiplier are too coarse, or where 0.2, the least there is, is enough.)
    Raises :class:`~silo.errors.ConfigError` when no multiplier up to 1e6 is enough.
    """
    return least_multiplier(
        # Not `rough=False`: the cache would keep that apart from what plans ask for.
        lambda z, rough: epsilon_of(z, sample_rate, steps, delta, parameters, **({"rough": True} if rough else {})),
        epsilon,
        2 * sample_rate * math.sqrt(steps) / epsilon,
    )


def least_multiplier(reached_with: Callable[[float, bool], float], epsilon: float, guess: float) -> float:
    """Return the least noise multiplier, as :func:`calibrate` does, for any decreasing function of it.

    ``reached_with(multiplier, rough)`` is epsilon; where ``rough`` is true it may be quicker and too high.
    """
    # Exact epsilons take seconds at small sample rates: first find the place, and how steep it is there, roughly.
    place = _least(lambda z: reached_with(z, True), epsilon, guess, slope=-1.0)
    beside = place * 1.01
    here, there = reached_with(place, True), reached_with(beside, True)
    slope = (math.log(max(there, 1e-9)) - math.log(max(here, 1e-9))) / math.log(1.01)
    return _least(lambda z: reached_with(z, False), epsilon, place, slope=min(slope, -0.1))


def _least(reached_with: Callable[[float], float], epsilon: float, guess: float, slope: float) -> float:
    """Search from ``guess``; ``slope`` is how log epsilon changes with log multiplier near it."""
    # The logarithm of epsilon is close to linear in that of the multiplier: secant steps, kept inside a bracket.
    goal = math.log(epsilon * (1 - 2e-4))
    low, high = 0.0, math.inf
    points: list[tuple[float, float]] = []
    multiplier = min(max(guess, 0.4), MAX_NOISE)
    for _ in range(60):
        multiplier = math.ceil(multiplier * 10**NOISE_DECIMALS) / 10**NOISE_DECIMALS
        if multiplier >= high:
            multiplier = round(high - 10**-NOISE_DECIMALS, NOISE_DECIMALS)
        reached = reached_with(multiplier)
        if reached <= epsilon:
            high = multiplier
        else:
            low = multiplier
        if low == MAX_NOISE:
            raise ConfigError(
                f"no noise gives epsilon {epsilon:g} at this delta in so many steps",
                where="privacy",
                fix="raise epsilon or delta, or take fewer steps",
            )
        near = high - low < 1.5 * 10**-NOISE_DECIMALS or 0.999 * epsilon <= reached <= epsilon
        if near or high == MIN_NOISE:
            break
        points.append((math.log(multiplier), math.log(min(max(reached, 1e-9), HOPELESS))))
        multiplier = min(max(_secant(points[-2:], goal, slope), MIN_NOISE), MAX_NOISE)
        if not low < multiplier < high:
            multiplier = math.sqrt(max(low, MIN_NOISE) * min(high, MAX_NOISE))
    return high


def _secant(points: list[tuple[float, float]], goal: float, slope: float) -> float:
    """Return where the line through one or two (log multiplier, log epsilon) meets ``goal``, at most e^3 away."""
    x, y = points[-1]
    if len(points) > 1 and points[0][0] != x and (points[0][1] - y) / (points[0][0] - x) < 0:
        slope = (points[0][1] - y) / (points[0][0] - x)
    return math.exp(x + max(-3.0, min(3.0, (goal - y) / slope)))


@dataclass(frozen=True)
class Plan:
    """The public constants of one run's DP-SGD at every silo; they stand in the signed run manifest.

    ``epsilon`` is what was asked for at ``delta``, for all ``rounds`` x ``steps_per_round`` steps; ``parameters`` is d.
    """

    epsilon: float
    delta: float
    clipping_norm: float
    noise_multiplier: float
    sample_rate: float
    steps_per_round: int
    expected_batch: float
    learning_rate: float
    rounds: int
    parameters: int
    unit: Unit = "record"
    records_per_patient: int | None = None

    @property
    def steps(self) -> int:
        """Steps over the whole run."""
        return self.rounds * self.steps_per_round

    def epsilon_after(self, steps: int) -> float:
        """Return epsilon at ``delta`` after ``steps`` private steps, rounded up."""
        return epsilon_of(self.noise_multiplier, self.sample_rate, steps, self.delta, self.parameters)

    def event(self) -> dp_accounting.DpEvent:
        """Return the event of one step, for the ledger: the mechanism as accounted for, a little less than is drawn."""
        return gaussian_event(effective_multiplier(self.noise_multiplier, self.parameters), self.sample_rate)

    def verify(self) -> None:
        """Return if the noise is enough for the promise; a silo asks this of a manifest somebody else wrote.

        Raises :class:`~silo.errors.ConfigError` when a number is out of range or the epsilon reached is above the one
        promised.
        """
        LocalDP(
            epsilon=self.epsilon,
            delta=self.delta,
            clipping_norm=self.clipping_norm,
            sample_rate=self.sample_rate,
            steps_per_round=self.steps_per_round,
            expected_batch=self.expected_batch,
            learning_rate=self.learning_rate,
            unit=self.unit,
            records_per_patient=self.records_per_patient,
        )
        if not (1 <= self.rounds <= MAX_ROUNDS and self.steps <= MAX_STEPS):
            # Composing more than this takes the accountant minutes: a manifest could stop a silo's agent with it.
            raise ConfigError(
                f"{self.rounds} rounds of {self.steps_per_round} steps are out of range",
                where="privacy plan",
                fix=f"at most {MAX_ROUNDS} rounds and {MAX_STEPS} steps in all",
            )
        if self.parameters < 1 or not MIN_NOISE <= self.noise_multiplier <= MAX_NOISE:
            raise ConfigError("rounds, parameters or noise_multiplier is out of range", where="privacy plan")
        reached = self.epsilon_after(self.steps)
        if reached > self.epsilon:
            raise ConfigError(
                f"the noise gives epsilon {reached:g} at delta {self.delta:g}, not {self.epsilon:g}",
                where="privacy plan",
                fix="calibrate the noise again for this many rounds and steps",
            )


def check_value_range(plan: Plan, value_bound: float, value_bits: int) -> None:
    """Return if integers of ``value_bits`` over [-value_bound, value_bound] can carry a round's noised update.

    Cutting noise off costs no privacy but biases the model; steps coarser than the noise drown what was learnt. Raises
    :class:`~silo.errors.ConfigError` with the range that fits.
    """
    deviation = plan.learning_rate * plan.noise_multiplier * plan.clipping_norm / plan.expected_batch
    deviation *= math.sqrt(plan.steps_per_round)
    lowest, highest = 6 * deviation, deviation * (2**value_bits - 1) / 2
    if not lowest <= value_bound <= highest:
        raise ConfigError(
            f"value_bound is {value_bound:g}, and the noise of one round has standard deviation {deviation:.3g}",
            where="Encryption",
            fix=f"give a value_bound from {lowest:.3g} (6 deviations) to {highest:.3g} ({value_bits} bits resolve it)",
        )


def make_plan(privacy: LocalDP, rounds: int, parameters: int) -> Plan:
    """Return the plan that reaches ``privacy.epsilon`` over ``rounds`` for a model of ``parameters`` weights."""
    steps = rounds * privacy.steps_per_round
    return Plan(
        epsilon=float(privacy.epsilon),
        delta=float(privacy.delta),
        clipping_norm=float(privacy.clipping_norm),
        noise_multiplier=calibrate(privacy.epsilon, privacy.delta, privacy.sample_rate, steps, parameters),
        sample_rate=float(privacy.sample_rate),
        steps_per_round=privacy.steps_per_round,
        expected_batch=float(privacy.expected_batch),
        learning_rate=float(privacy.learning_rate),
        rounds=rounds,
        parameters=parameters,
        unit=privacy.unit,
        records_per_patient=privacy.records_per_patient,
    )

"""The public constants of a DistributedDP run, and what they prove: epsilon for any number of silos that collude.

What is accounted for, once per round: ``PoissonSampled(q, Gaussian(sqrt(h sigma_i^2 - 4) / (s C (1 + 2^-10))))``.
h silos' shares of width sigma_i stand in the opened sum, the rest may be known or absent; s is how many integers a unit
of gradient is; a record moves the scaled sum by at most s C, and 2^-10 covers the arithmetic. The 4 makes the discrete
noise a post-processing of continuous noise (:mod:`silo.training.shares`). Per record, add/remove adjacency, PLD.

Invariant: h = n_min - c, fixed by the manifest: more arrivals only add noise, and fewer than n_min are never opened.
Source: PROTOCOL section 5, "DistributedDP".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dp_accounting

from silo.api import DistributedDP
from silo.api.experiment import Unit
from silo.errors import ConfigError
from silo.training.accounting import ARITHMETIC, bounded_epsilon, gaussian_event, least_multiplier
from silo.training.shares import DISTANCE, SMOOTHING, TAIL

_CLOSE = 1e-9


@lru_cache(maxsize=512)
def _epsilon(
    multiplier: float, sample_rate: float, steps: int, delta: float, parameters: int, rough: bool = False
) -> float:
    return bounded_epsilon(multiplier, sample_rate, steps, delta, steps * parameters * DISTANCE, rough=rough)


def effective(noise_multiplier: float, honest: int, share_sigma: float) -> float:
    """Return the multiplier of the continuous Gaussian mechanism that ``honest`` shares are a post-processing of.

    ``noise_multiplier`` is sqrt(h) sigma_i / (s C).
    """
    return noise_multiplier * math.sqrt(1 - SMOOTHING / (honest * share_sigma**2)) / (1 + ARITHMETIC)


def epsilon_of_shares(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    honest: int,
    share_sigma: float = 32.0,
    parameters: int = 1,
    rough: bool = False,
) -> float:
    """Return epsilon at ``delta`` after ``steps`` rounds in which ``honest`` shares make the noise, rounded up.

    ``rough`` is quicker and farther above the truth.
    The reverse of :func:`make_distributed_plan`, as :func:`~silo.training.accounting.epsilon_of` is for LocalDP.
    """
    return _epsilon(effective(noise_multiplier, honest, share_sigma), sample_rate, steps, delta, parameters, rough)


@dataclass(frozen=True)
class DistributedPlan:
    """The numbers of :class:`~silo.api.DistributedDP` as the run manifest states them, ``scale`` (s) worked out.

    ``value_bits`` is the width of the encrypted fields, ``parameters`` is d. One step a round.
    """

    epsilon: float
    delta: float
    clipping_norm: float
    sample_rate: float
    expected_batch: float
    learning_rate: float
    minimum_silos: int
    colluders: int
    share_sigma: float
    scale: float
    value_bits: int
    rounds: int
    parameters: int
    unit: Unit = "record"
    records_per_patient: int | None = None

    steps_per_round = 1

    @property
    def steps(self) -> int:
        """Steps over the whole run."""
        return self.rounds

    @property
    def honest(self) -> int:
        """h: the silos whose noise is counted on."""
        return self.minimum_silos - self.colluders

    @property
    def noise_multiplier(self) -> float:
        """sqrt(h) sigma_i / (s C): the deviation of the noise that is counted on, over the clipping norm."""
        return math.sqrt(self.honest) * self.share_sigma / (self.scale * self.clipping_norm)

    @property
    def offset(self) -> int:
        """What is added to an integer so that its field is not negative: 2^(value_bits - 1)."""
        return 1 << (self.value_bits - 1)

    @property
    def clamp(self) -> float:
        """The largest |s x| that is kept: beyond it lie 12 sigma_i of noise and then the end of the field."""
        return self.offset - 1 - TAIL * self.share_sigma

    @property
    def value_bound(self) -> float:
        """The same in the unit of a gradient sum: clamp / s."""
        return self.clamp / self.scale

    def event(self) -> dp_accounting.DpEvent:
        """Return the event of one step, for the ledger."""
        return gaussian_event(self._multiplier(self.colluders), self.sample_rate)

    def epsilon_after(self, steps: int) -> float:
        """Return epsilon at ``delta`` after ``steps`` rounds, rounded up."""
        return self.epsilon_against(self.colluders, steps)

    def epsilon_against(self, colluders: int, steps: int | None = None) -> float:
        """Return epsilon if so many of the ``minimum_silos`` silos add no noise, 0 <= colluders < minimum_silos.

        After all steps if ``steps`` is None; infinite where it is above 40.
        """
        if not 0 <= colluders < self.minimum_silos:
            raise ValueError(f"colluders is from 0 to {self.minimum_silos - 1}, got {colluders}")
        taken = self.steps if steps is None else steps
        return _epsilon(self._multiplier(colluders), self.sample_rate, taken, self.delta, self.parameters)

    def collusion(self) -> tuple[tuple[int, float], ...]:
        """Return (colluders, epsilon of the whole run) from 0 colluders on, as far as epsilon means anything."""
        each = ((c, self.epsilon_against(c)) for c in range(self.minimum_silos))
        return tuple((c, epsilon) for c, epsilon in each if epsilon < math.inf)

    def _multiplier(self, colluders: int) -> float:
        honest = self.minimum_silos - colluders
        counted = math.sqrt(honest) * self.share_sigma / (self.scale * self.clipping_norm)
        return effective(counted, honest, self.share_sigma)

    def verify(self) -> None:
        """Return if the noise is enough for the promise and the fields hold it; a silo asks this of a manifest.

        Raises :class:`~silo.errors.ConfigError` when a number is out of range, a field could overflow, or the epsilon
        reached is above the one promised.
        """
        DistributedDP(
            epsilon=self.epsilon,
            delta=self.delta,
            clipping_norm=self.clipping_norm,
            sample_rate=self.sample_rate,
            expected_batch=self.expected_batch,
            learning_rate=self.learning_rate,
            minimum_silos=self.minimum_silos,
            colluders=self.colluders,
            share_sigma=self.share_sigma,
            unit=self.unit,
            records_per_patient=self.records_per_patient,
        )
        if self.rounds < 1 or self.parameters < 1 or not 0 < self.scale < math.inf or not 2 <= self.value_bits <= 24:
            raise ConfigError("rounds, parameters, scale or value_bits is out of range", where="privacy plan")
        self._check_fields()
        reached = self.epsilon_after(self.steps)
        if reached > self.epsilon:
            raise ConfigError(
                f"the noise gives epsilon {reached:g} at delta {self.delta:g}, not {self.epsilon:g}",
                where="privacy plan",
                fix="calibrate the noise again for this many rounds and silos",
            )

    def _check_fields(self) -> None:
        # One record's whole gradient has to fit beside 12 sigma_i of noise, or clamping would be all that happens.
        if self.clamp < self.scale * self.clipping_norm:
            most = (self.offset - 1) / (TAIL + math.sqrt(self.honest) / self.noise_multiplier)
            raise ConfigError(
                f"fields of {self.value_bits} bits do not hold a gradient and {TAIL} deviations of a noise share of "
                f"width {self.share_sigma:g}",
                where="privacy plan",
                fix=f"set share_sigma to at most {most:.4g}",
            )


def make_distributed_plan(privacy: DistributedDP, rounds: int, parameters: int, value_bits: int) -> DistributedPlan:
    """Return the plan that reaches ``privacy.epsilon`` over ``rounds`` for a model of ``parameters`` weights."""

    def reached(noise_multiplier: float, rough: bool) -> float:
        return epsilon_of_shares(
            noise_multiplier,
            privacy.sample_rate,
            rounds,
            privacy.delta,
            honest=privacy.honest,
            share_sigma=privacy.share_sigma,
            parameters=parameters,
            rough=rough,
        )

    guess = 2 * privacy.sample_rate * math.sqrt(rounds) / privacy.epsilon
    noise_multiplier = least_multiplier(reached, privacy.epsilon, guess)
    scale = math.sqrt(privacy.honest) * privacy.share_sigma / (noise_multiplier * privacy.clipping_norm)
    plan = DistributedPlan(
        epsilon=float(privacy.epsilon),
        delta=float(privacy.delta),
        clipping_norm=float(privacy.clipping_norm),
        sample_rate=float(privacy.sample_rate),
        expected_batch=float(privacy.expected_batch),
        learning_rate=float(privacy.learning_rate),
        minimum_silos=privacy.minimum_silos,
        colluders=privacy.colluders,
        share_sigma=float(privacy.share_sigma),
        # A hair less, so that rounding on the way back to the multiplier never claims more noise than there is.
        scale=scale * (1 - _CLOSE),
        value_bits=value_bits,
        rounds=rounds,
        parameters=parameters,
        unit=privacy.unit,
        records_per_patient=privacy.records_per_patient,
    )
    plan.verify()
    return plan

"""Privacy filters: when does everything ever released about a population still keep its cap?

Invariant: a filter is chosen once, when the population is opened, and is proven for mechanisms that are chosen with
knowledge of every earlier result (fully adaptive composition). Its promise is the cap; what it reads in between is an
upper bound for the mechanisms used so far, not a guarantee for having stopped there.

Three are proven and built:

- ``basic``: each run is one mechanism with parameters fixed beforehand, whose epsilon comes from its privacy loss
  distribution; the epsilons and the deltas of whole runs add up (Rogers, Roth, Ullman, Vadhan 2016, "Privacy odometers
  and filters", basic composition filter). A run that stops early costs as much as a whole one, since when it stopped
  may depend on the data.
- ``rdp``: the Rényi divergences of one fixed integer order add up over single steps (Feldman, Zrnic 2021, "Individual
  privacy accounting via a Rényi filter"; to epsilon by Canonne, Kamath, Steinke 2020, proposition 12). The smallest
  epsilon over several orders would not be a filter.
- ``gdp``: squared mu add up over single steps of the plain Gaussian mechanism, q = 1 (Smith, Thakurta 2022; Koskela,
  Tobaben, Honkela 2023). On Poisson samples the same rule is not a filter, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Protocol

from silo.errors import ConfigError
from silo.ledger.mechanism import MIN_DELTA, Mechanism, epsilon_of_run, rdp_of_step

STEP = Decimal("0.000001")
"""Epsilons are rounded up to it, and added exactly."""
_ORDERS = range(2, 257)
INFINITE = Decimal("Infinity")


@dataclass(frozen=True)
class Use:
    """``steps`` of one mechanism, and the delta that their run claims for itself."""

    mechanism: Mechanism
    steps: int
    delta: Decimal


@dataclass(frozen=True)
class Total:
    """What several uses come to: epsilon (rounded up) at delta, both exact decimals."""

    epsilon: Decimal
    delta: Decimal


class Filter(Protocol):
    """How a population adds up what is released about it."""

    @property
    def name(self) -> str:
        """The name it is opened and stored under: ``basic``, ``rdp(16)``, ``gdp``."""
        ...

    @property
    def whole_runs(self) -> bool:
        """Whether a run that released anything counts with all the steps it reserved."""
        ...

    def check(self, mechanism: Mechanism) -> None:
        """Raise :class:`ConfigError` if the filter is not proven for ``mechanism``."""
        ...

    def total(self, uses: Iterable[Use], delta: Decimal) -> Total:
        """Return what ``uses`` come to, in a population with ``delta`` for its life."""
        ...


@dataclass(frozen=True)
class Basic:
    """Sums of epsilons and of deltas over whole runs."""

    name: str = "basic"
    whole_runs: bool = True

    def check(self, mechanism: Mechanism) -> None:
        """Every mechanism of the ledger has a privacy loss distribution."""

    def total(self, uses: Iterable[Use], delta: Decimal) -> Total:
        epsilon, spent = Decimal(0), Decimal(0)
        for use in uses:
            if use.steps:
                epsilon += rounded_up(epsilon_of_run(use.mechanism, use.steps, float(use.delta)))
                spent += use.delta
        return Total(epsilon, spent)


@dataclass(frozen=True)
class Renyi:
    """Sums of Rényi divergences of one integer order, 2 to 256."""

    order: int
    whole_runs: bool = False

    @property
    def name(self) -> str:
        return f"rdp({self.order})"

    def check(self, mechanism: Mechanism) -> None:
        """Every mechanism of the ledger has a finite divergence of every integer order."""

    def total(self, uses: Iterable[Use], delta: Decimal) -> Total:
        rho = math.fsum(rdp_of_step(use.mechanism, self.order) * use.steps for use in uses)
        if rho == 0:
            return Total(Decimal(0), Decimal(0))
        order = self.order
        conversion = math.log1p(-1 / order) - math.log(float(delta) * order) / (order - 1)
        return Total(rounded_up(max(0.0, rho + conversion)), delta)


@dataclass(frozen=True)
class Gaussian:
    """Sums of squared mu: exact for the Gaussian mechanism without sampling."""

    name: str = "gdp"
    whole_runs: bool = False

    def check(self, mechanism: Mechanism) -> None:
        if mechanism.sampling_probability != 1:
            raise ConfigError(
                f"the gdp filter holds for q = 1 only, not for a sample rate of {mechanism.sampling_probability}",
                fix="use every record in every step, or open the population with `basic` or `rdp(16)`",
            )

    def total(self, uses: Iterable[Use], delta: Decimal) -> Total:
        squared = math.fsum(use.steps / use.mechanism.noise_multiplier**2 for use in uses)
        if squared == 0:
            return Total(Decimal(0), Decimal(0))
        return Total(rounded_up(gaussian_epsilon(math.sqrt(squared) * (1 + 1e-12), float(delta))), delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return epsilon at ``delta`` of mu-GDP, from above to 1e-9 (Dong, Roth, Su 2019, corollary 2.13)."""
    from dp_accounting import gaussian_mechanism

    return float(gaussian_mechanism.get_epsilon_gaussian(1 / mu, delta)) + 1e-9


def filter_named(name: str) -> Filter:
    """Return the filter ``basic``, ``gdp`` or ``rdp(ORDER)``; raise :class:`ConfigError` for any other name."""
    if name == "basic":
        return Basic()
    if name == "gdp":
        return Gaussian()
    if name.startswith("rdp(") and name.endswith(")") and name[4:-1].isdecimal() and int(name[4:-1]) in _ORDERS:
        return Renyi(int(name[4:-1]))
    raise ConfigError(f"unknown privacy filter {name!r}", fix="use basic, gdp, or rdp(ORDER) with ORDER from 2 to 256")


def exact(number: float) -> Decimal:
    """Return the decimal that ``number`` reads as (0.1 is one tenth), so that ten tenths make one."""
    return Decimal(repr(float(number)))


def rounded_up(epsilon: float) -> Decimal:
    """Return ``epsilon`` rounded up to six decimals; infinite or NaN becomes infinite."""
    if not math.isfinite(epsilon):
        return INFINITE
    return Decimal(epsilon).quantize(STEP, ROUND_CEILING)


def check_epsilon(epsilon: float) -> None:
    """Raise :class:`ConfigError` unless ``epsilon`` is finite and above 0."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon {epsilon}", fix="it is a finite number above 0")


def check_delta(delta: float) -> None:
    """Raise :class:`ConfigError` unless ``delta`` is at least 1e-12 and below 1."""
    if not MIN_DELTA <= delta < 1:
        raise ConfigError(f"delta {delta}", fix=f"it is at least {MIN_DELTA:g} and far below 1/n")

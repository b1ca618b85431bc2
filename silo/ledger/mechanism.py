"""The mechanisms a ledger accounts for, as ``dp_accounting`` events and as JSON.

Invariant: only mechanisms that every filter's theory covers get into a ledger: the Gaussian mechanism, plain or on a
Poisson sample, under add/remove adjacency. Anything else is refused before it is written. What is stored is the
description of the event, never only the epsilon it came to.

Source: ``dp_accounting.dp_event`` (class and field names are its own).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from silo.errors import ConfigError

MIN_DELTA = 1e-12
"""Below it, the floating-point error of the accountants is no longer small beside delta."""
MIN_NOISE = 1e-3
"""Less noise than this hides nothing, and its numbers overflow."""
_COUNTABLE = 100.0
"""Runs above this epsilon are not counted exactly but refused: their distributions would fill the memory."""


@dataclass(frozen=True)
class Mechanism:
    """One step: Gaussian noise of ``noise_multiplier`` times the sensitivity (at least 0.001), on a Poisson sample in
    which each unit is included with ``sampling_probability`` (above 0, at most 1).
    """

    noise_multiplier: float
    sampling_probability: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= MIN_NOISE):
            raise ConfigError(f"noise multiplier {self.noise_multiplier}", fix=f"it is finite and at least {MIN_NOISE}")
        if not 0 < self.sampling_probability <= 1:
            raise ConfigError(f"sampling probability {self.sampling_probability}", fix="it is above 0 and at most 1")

    @classmethod
    def of(cls, event: Any) -> Mechanism:
        """Return the mechanism of a ``dp_accounting`` event; raise :class:`ConfigError` for any other event."""
        from dp_accounting import dp_event

        if isinstance(event, dp_event.GaussianDpEvent):
            return cls(float(event.noise_multiplier))
        if isinstance(event, dp_event.PoissonSampledDpEvent) and isinstance(event.event, dp_event.GaussianDpEvent):
            return cls(float(event.event.noise_multiplier), float(event.sampling_probability))
        raise ConfigError(
            f"the ledger does not account for {type(event).__name__}",
            fix="use GaussianDpEvent or PoissonSampledDpEvent of a GaussianDpEvent, one per step",
        )

    def event(self) -> Any:
        """Return the ``dp_accounting`` event of one step."""
        from dp_accounting import dp_event

        gaussian = dp_event.GaussianDpEvent(self.noise_multiplier)
        if self.sampling_probability == 1:
            return gaussian
        return dp_event.PoissonSampledDpEvent(self.sampling_probability, gaussian)

    def to_json(self) -> dict[str, Any]:
        """Return the description of the event that is stored."""
        gaussian = {"class": "GaussianDpEvent", "noise_multiplier": self.noise_multiplier}
        if self.sampling_probability == 1:
            return gaussian
        return {
            "class": "PoissonSampledDpEvent",
            "sampling_probability": self.sampling_probability,
            "event": gaussian,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Mechanism:
        """Read what :meth:`to_json` wrote; anything else raises ValueError or KeyError."""
        if body["class"] == "GaussianDpEvent":
            return cls(float(body["noise_multiplier"]))
        inner = body["event"]
        if body["class"] != "PoissonSampledDpEvent" or inner["class"] != "GaussianDpEvent":
            raise ValueError(f"unknown event {body['class']!r}")
        return cls(float(inner["noise_multiplier"]), float(body["sampling_probability"]))


@lru_cache(maxsize=1024)
def epsilon_of_run(mechanism: Mechanism, steps: int, delta: float) -> float:
    """Return an upper bound on epsilon, at ``delta``, of ``steps`` steps fixed beforehand (privacy loss distribution).

    Add/remove adjacency. Takes 0.05 to 1 s the first time. Infinite above a hundred, where nothing is protected: a
    stranger's manifest must not be able to make a silo compute for hours.
    """
    from dp_accounting import dp_event, pld, rdp

    if steps == 0:
        return 0.0
    bound = rdp.RdpAccountant(orders=[2, 4, 8, 16, 32, 64])
    bound.compose(mechanism.event(), steps)
    if not bound.get_epsilon(delta) <= _COUNTABLE:
        return math.inf
    accountant = pld.PLDAccountant()  # its estimates are pessimistic: discretisation and truncation only add
    accountant.compose(dp_event.SelfComposedDpEvent(mechanism.event(), steps))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def rdp_of_step(mechanism: Mechanism, order: int) -> float:
    """Return an upper bound on the Rényi divergence of integer ``order`` of one step, add/remove adjacency.

    Source: Mironov, Talwar, Zhang 2019, section 3.3 (integer orders: a finite sum of positive terms). The margin
    covers the rounding of that sum.
    """
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(orders=[order])
    accountant.compose(mechanism.event())
    return float(accountant.rdp[0]) * (1 + 1e-9) + 1e-12

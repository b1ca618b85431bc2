"""Differential privacy and encryption as they were in force: what protects outputs, and what protects inputs.

Sources of the list of facts: NIST SP 800-226 sections 2.2-2.6, 3, 4.1-4.3; GDPR article 32(1)(a).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from silo.report.facts.base import Count, Facts, Name, NonNegative, Positive, Share, Text


class RdpPoint(Facts):
    """One point of the Renyi curve: epsilon of order alpha."""

    alpha: Positive
    epsilon: NonNegative


class SpentAfter(Facts):
    """Epsilon spent in this run up to and including a round."""

    round: Count
    epsilon: NonNegative


class EpsilonSeries(Facts):
    """What one silo spent, round by round, cumulative."""

    silo: Name
    points: tuple[SpentAfter, ...]


class Collusion(Facts):
    """Epsilon if this many silos pool or omit their noise (distributed noise only)."""

    silos: Count
    epsilon: NonNegative


class Privacy(Facts):
    """The differential privacy promise and the parameters behind it.

    `epsilon` and `delta` are what was asked; `unit` is what is protected ("record", "patient"), `adjacency` how
    neighbours differ. `void` names the unsafe thing that broke the promise, if one was used: epsilon is then void.
    """

    mechanism: Text
    epsilon: NonNegative
    delta: Share
    unit: Text
    adjacency: Text
    accountant: Text | None = None
    composition: Text | None = None
    contribution_bound: Text | None = None
    clipping_norm: Positive | None = None
    noise_multiplier: NonNegative | None = None
    sample_rate: Share | None = None
    expected_batch: Positive | None = None
    steps_per_round: Count | None = None
    rounds: Count | None = None
    random_source: Text | None = None
    floating_point: Text | None = None
    rdp_curve: tuple[RdpPoint, ...] = ()
    collusion: tuple[Collusion, ...] = ()
    spent: tuple[EpsilonSeries, ...] = ()
    void: Text | None = None


class Parameter(Facts):
    """A named parameter of the encryption scheme, as text ("ring dimension", "4096")."""

    name: Text
    value: Text


class Opening(Facts):
    """Who can open what, in plain words."""

    who: Text
    what: Text


class Encryption(Facts):
    """The encryption in force. Bytes are per silo and round; `plain_bytes` is the same update as float32.

    `ratio` is upload_bytes / plain_bytes and is checked; `ratio_reason` explains it to someone who finds it odd.
    """

    scheme: Text
    custody: Literal["shared", "threshold"]
    threshold: Count | None = None
    parameters: tuple[Parameter, ...] = ()
    security_bits: Count | None = None
    failure_probability: Share | None = None
    failure_reason: Text | None = None
    upload_bytes: Count | None = None
    plain_bytes: Count | None = None
    ratio: NonNegative | None = None
    ratio_reason: Text | None = None
    who_can_open: tuple[Opening, ...] = ()

    @model_validator(mode="after")
    def _ratio_is_the_ratio(self) -> Encryption:
        if self.ratio is not None and self.upload_bytes is not None and self.plain_bytes:
            true = self.upload_bytes / self.plain_bytes
            if abs(self.ratio - true) > 0.005 * true:
                raise ValueError(f"ratio says {self.ratio}, upload_bytes / plain_bytes is {true:.4g}")
        return self


def openings(custody: Literal["shared", "threshold"], threshold: int | None = None) -> tuple[Opening, ...]:
    """Who can open what under a custody, in the words of the protocol's section 3."""
    if custody == "shared":
        return (
            Opening(who="The aggregator", what="Nothing. It holds no key; it adds what it cannot read."),
            Opening(who="Each silo that took part", what="The sum of all updates, which is what it needs to go on."),
            Opening(
                who="A silo that obtains another silo's upload",
                what="That upload: all silos hold the same key. The aggregator passes uploads to nobody, "
                "but the key alone would not stop a silo and the aggregator acting together.",
            ),
            Opening(who="The researcher and outsiders", what="Only what the silos' policies release."),
        )
    several = f"any {threshold}" if threshold else "enough"
    return (
        Opening(who="The aggregator", what="Nothing. It holds no key and no share of one."),
        Opening(who="One silo alone", what="Its own update, and the sum once it has been opened together."),
        Opening(
            who=f"{several.capitalize()} silos together, by the protocol",
            what="One sum for each attempt, never one update.",
        ),
        Opening(
            who=f"{several.capitalize()} silos acting together against the protocol",
            what="Another silo's update. Fewer cannot, even together with the aggregator.",
        ),
        Opening(who="The researcher and outsiders", what="Only what the silos' policies release."),
    )

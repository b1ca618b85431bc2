"""Who took part, what each decided and spent, and what happened round by round."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from silo.report.facts.base import Count, Facts, Name, NonNegative, Share, Text


class Verdict(Facts):
    """How the run ended. `because` says why when it did not complete."""

    outcome: Literal["completed", "stopped", "not-started"]
    rounds_planned: Count
    rounds_completed: Count
    minimum_silos: Count | None = None
    because: Text | None = None


class Estimate(Facts):
    """A score with its interval, each in [0, 1]."""

    value: Share
    low: Share
    high: Share

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an interval runs low <= value <= high, not {self.low}, {self.value}, {self.high}")
        return self


class Reason(Facts):
    """A rule that was not satisfied: which one, what it says, where that comes from, and what would satisfy it."""

    pack: Text
    rule: Text
    message: Text
    citation: Text | None = None
    remediation: Text | None = None


class Silo(Facts):
    """One institution: its decision and what it spent.

    `records` counts training records (None: not released). `epsilon` is what this run spent at `delta`;
    `epsilon_before` and `epsilon_left` are its population's ledger before and after, `epsilon_cap` the ledger's
    cap. `local_auc_missing` says why there is no score ("8 negatives in the test part"). `upload_bytes` is per round.
    """

    name: Name
    display_name: Text
    jurisdiction: Text | None = None
    fictional: bool = False
    records: Count | None = None
    epsilon: NonNegative
    delta: Share
    decision: Literal["permit", "deny"]
    reasons: tuple[Reason, ...] = ()
    epsilon_cap: NonNegative | None = None
    epsilon_before: NonNegative | None = None
    epsilon_left: NonNegative | None = None
    local_auc_before: Estimate | None = None
    local_auc_after: Estimate | None = None
    local_auc_missing: Text | None = None
    rounds_taken_part: Count = 0
    upload_bytes: Count | None = None

    @model_validator(mode="after")
    def _refusal_is_whole(self) -> Silo:
        if self.decision == "deny":
            if not self.reasons:
                raise ValueError(f"{self.name} refused: a refusal names at least one reason")
            if self.epsilon or self.rounds_taken_part:
                raise ValueError(f"{self.name} refused, so it took part in no round and spent no epsilon")
        return self


class Aggregator(Facts):
    """The party that adds ciphertexts. `evidence` says how the absence of a key was established."""

    name: Name = "aggregator"
    has_secret_key: bool | None
    evidence: Text | None = None


class Round(Facts):
    """One round as it was committed. `auc` is the federated model's after it; `verified` that every silo's check of the
    opened sum held. `seconds` stays None where timings would reveal batch sizes."""

    round: Count
    attempt: Count = 1
    participants: tuple[Name, ...]
    dropped: tuple[Name, ...] = ()
    seconds: NonNegative | None = None
    upload_bytes_per_silo: Count | None = None
    verified: bool | None = None
    auc: Share | None = None

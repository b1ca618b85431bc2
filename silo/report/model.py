"""One typed model of the facts of a run. Every format of the report is rendered from this and from nothing else.

Invariant: a fact is here or it is "not evidenced"; renderers add words, never facts. Contradictions between facts
(a series for a silo that is not listed, a participant that refused) are refused when the model is built.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from silo.report.facts.base import Facts, Moment, Name, Text
from silo.report.facts.evidence import Entry, Evidence, Versions
from silo.report.facts.governance import Access, AttackTest, Fault, Policies, Processing, Unprotected, Waiver
from silo.report.facts.parties import Aggregator, Round, Silo, Verdict
from silo.report.facts.protection import Encryption, Privacy
from silo.report.facts.utility import Auc

CLAIMS_NOT_MADE: tuple[str, ...] = (
    "That any law, standard or policy is met. This report is evidence for someone who assesses that; the policy "
    "packs are templates, not legal advice.",
    "That no person can be recognised from the model. Differential privacy bounds how much one record can change "
    "what comes out; it does not make the bound zero, and it says nothing about what is true of a whole group.",
    "That encryption protects what the model reveals. Encryption protects inputs on their way; it does not protect "
    "outputs.",
    "That what was released without protection (listed above) is covered by the privacy bound.",
    "That the records were correct, lawfully collected, or free of bias, or that one person has records in one silo "
    "only.",
    "That the model is fit for a clinical, financial or other decision.",
    "That the machines of the silos were free of intruders, or that silos did not agree against the protocol beyond "
    "what the key custody withstands.",
    "That the cryptography of this product was reviewed by an independent party.",
)
"""Always printed (NIST SP 800-226 section 4.6). A run may add to them, never take away."""


class Report(Facts):
    """The facts of one run.

    Construct it with keyword arguments (tuples, not lists) or from JSON with `Report.model_validate_json`. Raises
    pydantic.ValidationError naming every field that does not fit.
    """

    version: Literal["silo-report/v1"] = "silo-report/v1"
    run: Text
    name: Text
    purpose: Text
    researcher: Text | None = None
    started: Moment
    finished: Moment | None = None
    verdict: Verdict
    silos: tuple[Silo, ...]
    aggregator: Aggregator
    privacy: Privacy
    encryption: Encryption
    auc: Auc
    rounds: tuple[Round, ...] = ()
    unprotected: Unprotected = Unprotected()
    processing: Processing = Processing()
    policies: Policies = Policies()
    waivers: tuple[Waiver, ...] | None = None
    faults: tuple[Fault, ...] | None = None
    attack_tests: tuple[AttackTest, ...] | None = None
    access: Access = Access()
    evidence: Evidence = Evidence()
    versions: Versions | None = None
    claims_not_made: tuple[Text, ...] = CLAIMS_NOT_MADE

    @model_validator(mode="after")
    def _coherent(self) -> Report:
        names = [silo.name for silo in self.silos]
        if len(set(names)) != len(names):
            raise ValueError("two silos have the same name")
        permitted = {silo.name for silo in self.silos if silo.decision == "permit"}
        for series in self.privacy.spent:
            _known(series.silo, permitted, "privacy.spent")
        for step in self.rounds:
            for name in (*step.participants, *step.dropped):
                _known(name, permitted, f"round {step.round}")
        if self.rounds and self.verdict.rounds_completed != len({step.round for step in self.rounds}):
            raise ValueError(
                f"the verdict counts {self.verdict.rounds_completed} rounds, the report lists {len(self.rounds)}"
            )
        for outcome in self.policies.outcomes:
            _known(outcome.silo, set(names), "policies.outcomes")
        for waiver in self.waivers or ():
            _known(waiver.silo, set(names), "waivers")
        for log in self.evidence.logs:
            _known(log.holder, {*names, self.aggregator.name}, "evidence.logs")
        if missing := [claim for claim in CLAIMS_NOT_MADE if claim not in self.claims_not_made]:
            raise ValueError(f"claims_not_made may be added to, not shortened: {missing[0]!r} is gone")
        return self

    @property
    def permitted(self) -> tuple[Silo, ...]:
        """The silos whose policies let the run in."""
        return tuple(silo for silo in self.silos if silo.decision == "permit")

    @property
    def refused(self) -> tuple[Silo, ...]:
        """The silos whose policies did not."""
        return tuple(silo for silo in self.silos if silo.decision == "deny")

    def backing(self, subject: str) -> tuple[tuple[Name, Entry], ...]:
        """Log entries that back a statement, each with the party that holds the log."""
        return tuple(
            (log.holder, entry) for log in self.evidence.logs for entry in log.entries if entry.subject == subject
        )


def _known(name: str, among: set[str], where: str) -> None:
    if name not in among:
        raise ValueError(f"{where} names {name!r}, which is not among the silos it may name")

"""Why the data may be used, which rules were checked, what left without protection, and what went wrong.

Sources of the lists: GDPR articles 5(1)(b), 6, 9, 26, 30(1), 35(7); NIST SP 800-226 section 2.6; HIPAA 164.312(a),(d);
OSCAL assessment-results findings.
"""

from __future__ import annotations

from typing import Literal

from silo.report.facts.base import Count, Digest, Facts, Moment, Name, Text


class Processing(Facts):
    """The entries of a record of processing activities. The product cannot know most of them: the parties state
    them."""

    controllers: Text | None = None
    data_categories: Text | None = None
    data_subjects: Text | None = None
    recipients: Text | None = None
    retention: Text | None = None
    measures: Text | None = None
    lawful_basis: Text | None = None
    special_categories: Text | None = None
    purpose_match: Text | None = None
    dpia: Text | None = None
    deidentification: Text | None = None


class Pack(Facts):
    """A policy pack as pinned: SHA-256 of its canonical JSON."""

    id: Text
    version: Text
    digest: Digest
    jurisdiction: Text | None = None


class Outcome(Facts):
    """One rule as one silo evaluated it. Only "true" lets a run in; "waived" needs a waiver."""

    silo: Name
    pack: Text
    rule: Text
    result: Literal["true", "false", "error", "waived"]
    citation: Text | None = None


class Policies(Facts):
    """Packs in force and every rule's outcome at every silo."""

    packs: tuple[Pack, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class Waiver(Facts):
    """A signed exception to one rule at one silo."""

    id: Text
    silo: Name
    pack: Text
    rule: Text
    approver: Text
    justification: Text
    expires: Moment | None = None


class Fault(Facts):
    """Something that went wrong, who noticed, and what was done. `party` is a name or "aggregator"."""

    moment: Moment | None = None
    round: Count | None = None
    party: Name
    what: Text
    consequence: Text | None = None


class Disclosure(Facts):
    """Whether something left without differential privacy, and what exactly."""

    released: bool
    detail: Text


class Unprotected(Facts):
    """What was released outside the differential privacy promise (NIST SP 800-226 section 2.6)."""

    metrics: Disclosure | None = None
    records_per_silo: Disclosure | None = None
    early_stopping: Disclosure | None = None
    tuning: Disclosure | None = None
    others: tuple[Disclosure, ...] = ()


class AttackTest(Facts):
    """An empirical attack on the model: who ran it, when, how, with what result."""

    who: Text
    when: Moment
    how: Text
    result: Text


class Access(Facts):
    """Identity and keys at rest."""

    signatures: Text | None = None
    sealing: Text | None = None
    keys_at_rest: Text | None = None
    rotation: Text | None = None
    confinement: Text | None = None

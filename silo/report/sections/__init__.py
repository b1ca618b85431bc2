"""The sections of a report, in the order in which a reader needs them. One module each; `document` puts them
together."""

from __future__ import annotations

from silo.report.blocks import Section
from silo.report.model import Report
from silo.report.sections import (
    assurance,
    closing,
    encryption,
    evidence,
    incidents,
    parties,
    policies,
    privacy,
    purpose,
    rounds,
    unprotected,
    utility,
    verdict,
)

_ORDER = (verdict, parties, privacy, encryption, utility, rounds, unprotected, policies, incidents, purpose, assurance)


def document(report: Report) -> tuple[Section, ...]:
    """All sections of a report; the first is the verdict, the last two are the claims not made and the glossary."""
    return (
        *(module.section(report) for module in _ORDER),
        evidence.section(report),
        closing.claims(report),
        closing.glossary(report),
    )

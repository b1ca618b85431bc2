"""The claims not made, always present, and the glossary."""

from __future__ import annotations

from silo.report.blocks import Items, Prose, Section, Terms
from silo.report.model import Report

_TERMS: tuple[tuple[str, str], ...] = (
    ("Accountant", "The method that adds up epsilon over many steps."),
    ("Adjacency", "How two data sets differ when privacy is measured: here, one has one record more than the other."),
    ("Aggregator", "The party that adds the encrypted updates. It holds no records and no key."),
    (
        "AUC",
        "Area under the ROC curve: the chance that a case is ranked above a non-case. 0.5 is a coin toss, 1 is "
        "perfect.",
    ),
    ("Checkpoint", "A log's signed length and fingerprint. Any later change to the log contradicts it."),
    ("Clipping norm", "The longest step that one record may cause in training; longer ones are shortened to it."),
    ("Custody", "Who holds the decryption key: all silos the same one (shared), or nobody alone (threshold)."),
    ("Delta", "The small probability with which the epsilon bound may fail."),
    (
        "Epsilon",
        "How much one record can change what comes out. Smaller is stricter. At 1, any outcome becomes at most 2.7 "
        "times as likely by the presence of one record; at 3, 20 times.",
    ),
    ("Federated", "Trained together without moving the records."),
    ("Noise multiplier", "How much noise is added, in units of the clipping norm."),
    (
        "Pooled",
        "Trained on all records in one place, without privacy: the yardstick, possible here only because the data is "
        "public.",
    ),
    ("Sample rate", "The chance of each record being used in one step."),
    ("Silo", "An institution that trains on its own records."),
    ("Waiver", "A signed exception to one rule at one silo."),
)


def claims(report: Report) -> Section:
    """What this report does not say."""
    return Section(
        "claims",
        "Claims not made",
        (Prose("This report is evidence for assessment. It does not claim:"), Items(report.claims_not_made)),
        ("NIST SP 800-226 4.6",),
    )


def glossary(_: Report) -> Section:
    """The words a reader may not know."""
    return Section("glossary", "Glossary", (Terms(_TERMS),))

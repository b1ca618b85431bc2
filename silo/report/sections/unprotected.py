"""What left without the protection of differential privacy (NIST SP 800-226 section 2.6)."""

from __future__ import annotations

from silo.report.blocks import Cell, Column, Prose, Section, Table, cell
from silo.report.facts.governance import Disclosure
from silo.report.model import Report


def section(report: Report) -> Section:
    """One row for each way in which something can leave unprotected."""
    left = report.unprotected
    named = (
        ("Metrics", left.metrics),
        ("Number of records per silo", left.records_per_silo),
        ("Early stopping", left.early_stopping),
        ("Tuning", left.tuning),
        *(("Other", each) for each in left.others),
    )
    return Section(
        "unprotected",
        "Released without protection",
        (
            Prose(
                "The privacy bound covers the model and nothing else. Whatever else was computed from the records "
                "and left is listed here; it is not counted in epsilon."
            ),
            Table(
                "unprotected",
                "Releases outside the privacy bound.",
                (Column("What"), Column("Released"), Column("Detail")),
                tuple(_row(name, each) for name, each in named),
            ),
        ),
        ("NIST SP 800-226 2.6",),
    )


def _row(name: str, each: Disclosure | None) -> tuple[Cell, ...]:
    if each is None:
        return Cell(name), cell(None), cell(None)
    return Cell(name), Cell("yes", "warn") if each.released else Cell("no"), Cell(each.detail)

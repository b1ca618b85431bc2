"""Why the data was used and on what basis: what a record of processing activities asks for."""

from __future__ import annotations

from silo.report.blocks import Facts, Prose, Section, row
from silo.report.model import Report


def section(report: Report) -> Section:
    """What the parties stated. The software cannot check it and says so."""
    said = report.processing
    return Section(
        "purpose",
        "Purpose and legal basis",
        (
            Prose(
                "These entries are statements of the parties. The software records them and compares the purpose; it "
                "cannot check them."
            ),
            Facts(
                (
                    row("Purpose", report.purpose),
                    row("Purpose matches the permitted purposes", said.purpose_match),
                    row("Lawful basis", said.lawful_basis),
                    row("Condition for special categories", said.special_categories),
                    row("Controllers", said.controllers),
                    row("Categories of data", said.data_categories),
                    row("Categories of people", said.data_subjects),
                    row("Recipients", said.recipients),
                    row("Retention", said.retention),
                    row("Technical and organisational measures", said.measures),
                    row("Impact assessment (DPIA)", said.dpia),
                    row("De-identification", said.deidentification, note="HIPAA 164.514(b); reference to be confirmed"),
                )
            ),
        ),
        ("GDPR 5(1)(b), 6, 9, 26, 30(1), 35(7)",),
    )

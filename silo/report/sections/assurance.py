"""Attack tests and access control: what was tried against the model, and how identities and keys are kept."""

from __future__ import annotations

from silo.report.blocks import Block, Cell, Column, Facts, Prose, Section, Table, row
from silo.report.model import Report


def section(report: Report) -> Section:
    """Attack tests, then keys."""
    access = report.access
    return Section(
        "assurance",
        "Attack tests, access and keys",
        (
            _attacks(report),
            Facts(
                (
                    row("Signatures", access.signatures),
                    row("Sealing between parties", access.sealing),
                    row("Keys at rest", access.keys_at_rest),
                    row("Rotation", access.rotation),
                    row("Researcher's code", access.confinement),
                ),
                "Access and keys",
            ),
        ),
        ("EDPB opinion 28/2024 (paragraph to be confirmed)", "HIPAA 164.312(a),(d)"),
    )


def _attacks(report: Report) -> Block:
    if report.attack_tests is None:
        return Prose("Attack tests: not evidenced.", "warn")
    if not report.attack_tests:
        return Prose("Attack tests: none were run.")
    return Table(
        "attacks",
        "Attack tests.",
        (Column("How"), Column("Who"), Column("When"), Column("Result")),
        tuple((Cell(each.how), Cell(each.who), Cell(each.when), Cell(each.result)) for each in report.attack_tests),
    )

"""Waivers (signed exceptions to rules) and faults (what went wrong and what was done)."""

from __future__ import annotations

from silo.report.blocks import Block, Cell, Column, Prose, Section, Table, cell
from silo.report.model import Report
from silo.report.sections.parties import references


def section(report: Report) -> Section:
    """Both lists; "none recorded" where the log was read and holds none, "not evidenced" where it was not."""
    return Section(
        "incidents",
        "Waivers and faults",
        (_waivers(report), _faults(report)),
        ("OSCAL findings", "HIPAA 164.312(b)"),
    )


def _waivers(report: Report) -> Block:
    if report.waivers is None:
        return Prose("Waivers: not evidenced.", "warn")
    if not report.waivers:
        return Prose("Waivers: none recorded.")
    return Table(
        "waivers",
        "Signed exceptions.",
        (Column("Waiver"), Column("Silo"), Column("Rule"), Column("Approved by"), Column("Why"), Column("Until")),
        tuple(
            (
                Cell(each.id, references=references(report, f"waiver/{position}")),
                Cell(each.silo),
                Cell(each.rule, note=each.pack),
                Cell(each.approver),
                Cell(each.justification),
                cell(each.expires),
            )
            for position, each in enumerate(report.waivers, 1)
        ),
    )


def _faults(report: Report) -> Block:
    if report.faults is None:
        return Prose("Faults: not evidenced.", "warn")
    if not report.faults:
        return Prose("Faults: none recorded.")
    return Table(
        "faults",
        "What went wrong.",
        (Column("What"), Column("Party"), Column("When"), Column("Consequence")),
        tuple(
            (
                Cell(each.what, references=references(report, f"fault/{position}")),
                Cell(each.party),
                cell(each.moment, note="" if each.round is None else f"round {each.round}"),
                cell(each.consequence),
            )
            for position, each in enumerate(report.faults, 1)
        ),
    )

"""Who took part and under which rules. A refusal stands out, with its rule, reason and source."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Prose, Reference, Refusal, Section, Table, cell, row
from silo.report.facts.parties import Silo
from silo.report.model import Report


def section(report: Report) -> Section:
    """Refusals first, then the table of silos."""
    blocks: list[Block] = [Prose(_lead(report))]
    blocks.extend(_refusal(report, silo) for silo in report.refused)
    blocks.append(_table(report))
    return Section(
        "parties", "Who took part, and under which rules", tuple(blocks), ("GDPR 26, 30(1)", "OSCAL findings")
    )


def references(report: Report, subject: str) -> tuple[Reference, ...]:
    """Links to the log entries that back a subject."""
    return tuple(Reference(holder, entry.index) for holder, entry in report.backing(subject))


def _lead(report: Report) -> str:
    minimum = report.verdict.minimum_silos
    least = (
        "The smallest number for a run is not evidenced."
        if minimum is None
        else f"A run needed at least {text.number(minimum)}."
    )
    return (
        "Before anything was computed, each institution's own software checked the proposal against that "
        f"institution's own rules and signed the answer. {least} Nobody can answer for another."
    )


def _refusal(report: Report, silo: Silo) -> Refusal:
    return Refusal(
        who=text.brief(silo.display_name),
        messages=tuple(reason.message for reason in silo.reasons),
        reasons=tuple(
            (
                row("Rule", f"{reason.rule} (pack {reason.pack})"),
                row("Source", reason.citation),
                row("What would change the answer", reason.remediation),
            )
            for reason in silo.reasons
        ),
        references=references(report, f"decision/{silo.name}"),
    )


def _table(report: Report) -> Table:
    columns = (
        Column("Institution"),
        Column("Decision"),
        Column("Training records", figures=True),
        Column("Epsilon spent", figures=True),
        Column("Rounds", figures=True),
        Column("Sent per round", figures=True),
    )
    return Table(
        "silos",
        "Institutions invited.",
        columns,
        tuple(_silo(report, silo) for silo in report.silos),
    )


def _silo(report: Report, silo: Silo) -> tuple[Cell, ...]:
    permit = silo.decision == "permit"
    place = " · ".join(part for part in (silo.jurisdiction, "fictional" if silo.fictional else "") if part)
    records = "not released" if silo.records is None else text.whole(silo.records)
    return (
        Cell(text.brief(silo.display_name), note=f"{silo.name} · {place}" if place else silo.name),
        Cell(
            "permitted" if permit else "refused",
            "good" if permit else "bad",
            references=references(report, f"decision/{silo.name}"),
        ),
        Cell(records),
        Cell(text.spent(silo.epsilon), note=f"at delta {text.given(silo.delta)}"),
        Cell(str(silo.rounds_taken_part)),
        cell(None if silo.upload_bytes is None else text.size(silo.upload_bytes)) if permit else Cell("nothing"),
    )

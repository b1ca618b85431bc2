"""Round by round: who contributed, who dropped out, how long, and whether the opened sum checked out."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Prose, Section, Table, cell
from silo.report.facts.parties import Round
from silo.report.model import Report
from silo.report.sections.parties import references


def section(report: Report) -> Section:
    """One row a round, or the sentence that none is on record."""
    blocks: list[Block] = []
    if not report.rounds:
        blocks.append(Prose("Rounds: not evidenced.", "warn"))
    else:
        checked = sum(step.verified is True for step in report.rounds)
        blocks.append(
            Prose(
                f"In {checked} of {len(report.rounds)} rounds every institution checked, after opening the sum, that "
                "it holds exactly the updates that were sent. An update dropped, doubled or altered by the "
                "aggregator alone would have shown; one altered with a silo's help might not."
            )
        )
        blocks.append(_table(report))
    return Section("rounds", "Round by round", tuple(blocks), ("NIST SP 800-226 4.2", "AI Act 12"))


def _table(report: Report) -> Table:
    columns = [
        Column("Round"),
        Column("Sent", figures=True),
        Column("Dropped out"),
        Column("Sum checked"),
        Column("Seconds", figures=True),
        Column("Bytes per silo", figures=True),
        Column("AUC after", figures=True),
        Column("Log"),
    ]
    return Table(
        "rounds",
        "Rounds as committed.",
        tuple(columns),
        tuple(_round(report, each) for each in report.rounds),
        "scroll",
    )


def _round(report: Report, step: Round) -> tuple[Cell, ...]:
    backing = references(report, f"round/{step.round}")
    checked = {True: Cell("held"), False: Cell("FAILED", "bad"), None: cell(None)}[step.verified]
    return (
        Cell(str(step.round), note=f"attempt {step.attempt}" if step.attempt > 1 else ""),
        Cell(f"{len(step.participants)} of {len(report.permitted)}"),
        Cell(text.listed(step.dropped), "warn") if step.dropped else Cell("nobody"),
        checked,
        cell(None if step.seconds is None else f"{step.seconds:.2f}"),
        cell(None if step.upload_bytes_per_silo is None else text.size(step.upload_bytes_per_silo)),
        cell(None if step.auc is None else text.score(step.auc)),
        Cell("", references=backing) if backing else cell(None),
    )

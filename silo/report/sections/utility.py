"""Utility: how good the joint model is beside the two alternatives, with intervals."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Figure, Prose, Section, Table, cell
from silo.report.facts.parties import Estimate, Silo
from silo.report.model import Report

NAMES = ("Pooled, no privacy", "Federated, private", "Silo alone, mean")


def section(report: Report) -> Section:
    """Plain words, the plot, the three figures with how each was computed, then each silo's own."""
    auc = report.auc
    method = (
        "How intervals were made is not evidenced."
        if auc.interval_method is None
        else f"Intervals: {auc.interval_method}."
    )
    blocks: list[Block] = [
        Prose(
            "AUC is the chance that the model ranks a randomly chosen case above a randomly chosen non-case. All "
            f"figures here are a {auc.label}; on private data each of them would be a release that costs privacy. "
            f"{method}"
        )
    ]
    if any(value is not None for value in (auc.pooled, auc.federated, auc.silo_only)):
        blocks.append(_figure(report))
    blocks += [_table(report), _silos(report)]
    return Section("utility", "How good the model is", tuple(blocks), ("NIST SP 800-226 3.2", "AI Act Annex IV"))


def _three(report: Report) -> tuple[tuple[str, float | None, Estimate | None, str | None], ...]:
    auc = report.auc
    return (
        (NAMES[0], auc.pooled, auc.pooled_interval, auc.how_pooled),
        (NAMES[1], auc.federated, auc.federated_interval, auc.how_federated),
        (NAMES[2], auc.silo_only, auc.silo_only_interval, auc.how_silo_only),
    )


def _figure(report: Report) -> Figure:
    said = [
        f"{name} {text.score(value)}" + (f" ({text.score(band.low)} to {text.score(band.high)})" if band else "")
        for name, value, band, _ in _three(report)
        if value is not None
    ]
    by_round = [(step.round, step.auc) for step in report.rounds if step.auc is not None]
    course = ""
    if by_round:
        first, last = by_round[0], by_round[-1]
        course = (
            f" By round, the federated model went from {text.score(first[1])} after round {first[0]} to "
            f"{text.score(last[1])} after round {last[0]}."
        )
    return Figure(
        "auc",
        "AUC of three ways to train",
        f"Dot plot of AUC: {text.listed(said)}.{course}",
        "Pooled is what could be had by giving up privacy, silo alone what each has without the others."
        + (" Below: the federated model after each round." if by_round else ""),
    )


def _table(report: Report) -> Table:
    return Table(
        "auc",
        f"AUC on the union of the test records: {report.auc.label}.",
        (
            Column("Trained"),
            Column("AUC", figures=True),
            Column("Interval", figures=True),
            Column("How it was computed"),
        ),
        tuple(
            (
                Cell(name),
                cell(None if value is None else text.score(value)),
                cell(None if band is None else f"{text.score(band.low)} to {text.score(band.high)}"),
                cell(how),
            )
            for name, value, band, how in _three(report)
        ),
    )


def _silos(report: Report) -> Table:
    return Table(
        "local",
        f"On each institution's own test records, before and after the run, with intervals: {report.auc.label}.",
        (Column("Institution"), Column("AUC before", figures=True), Column("AUC after", figures=True)),
        tuple(
            (
                Cell(text.brief(silo.display_name)),
                _local(silo, silo.local_auc_before),
                _local(silo, silo.local_auc_after),
            )
            for silo in report.permitted
        ),
    )


def _local(silo: Silo, estimate: Estimate | None) -> Cell:
    """A local score with its interval, the reason why there is none, or "not evidenced"."""
    if estimate is not None:
        return Cell(text.score(estimate.value), note=f"{text.score(estimate.low)} to {text.score(estimate.high)}")
    if silo.local_auc_missing is None:
        return cell(None)
    return Cell("n/a", note=silo.local_auc_missing.removeprefix("n/a").lstrip(" :,;"))

"""Which policy packs were in force and how every rule came out at every silo."""

from __future__ import annotations

from silo.report.blocks import Block, Cell, Column, Prose, Section, Table, cell
from silo.report.model import Report

_SHOWN = {
    "true": Cell("held", "good"),
    "false": Cell("not met", "bad"),
    "error": Cell("could not be evaluated", "bad"),
    "waived": Cell("waived", "warn"),
}


def section(report: Report) -> Section:
    """Packs with digests, then a grid of rules by silos."""
    blocks: list[Block] = [
        Prose(
            "A run is let in only if every rule holds or is covered by a signed waiver; a rule that cannot be "
            "evaluated counts as not met. Packs are templates, not legal advice; the digest pins the exact text."
        )
    ]
    packs = tuple(
        (Cell(pack.id, note=f"version {pack.version}"), cell(pack.jurisdiction), Cell(pack.digest, "code"))
        for pack in report.policies.packs
    )
    blocks.append(
        Table(
            "packs",
            "Policy packs in force.",
            (Column("Pack"), Column("Jurisdiction"), Column("Digest")),
            packs or ((Cell("Any pack"), cell(None), cell(None)),),
        )
    )
    if report.policies.outcomes:
        blocks.append(_grid(report))
    else:
        blocks.append(Prose("Rule-by-rule outcomes: not evidenced.", "warn"))
    return Section("policies", "Policies, rule by rule", tuple(blocks), ("OSCAL findings", "GDPR 5(1)(b)"))


def _grid(report: Report) -> Table:
    outcomes = {(each.pack, each.rule, each.silo): each.result for each in report.policies.outcomes}
    rules: dict[tuple[str, str], str | None] = {}
    for each in report.policies.outcomes:
        key = (each.pack, each.rule)
        rules[key] = rules.get(key) or each.citation
    silos = [silo.name for silo in report.silos]
    rows = []
    for (pack, rule), citation in rules.items():
        results = (outcomes.get((pack, rule, silo)) for silo in silos)
        shown = (Cell("not in force") if result is None else _SHOWN[result] for result in results)
        rows.append((Cell(rule, note=f"{pack} · {citation}" if citation else pack), *shown))
    return Table(
        "outcomes",
        "Each rule as each silo evaluated it.",
        (Column("Rule"), *(Column(name) for name in silos)),
        tuple(rows),
        "scroll",
    )

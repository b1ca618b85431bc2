"""Privacy spent: the promise, what each silo spent of it by round, and every parameter behind the number."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Facts, Figure, Prose, Row, Section, Table, cell, row
from silo.report.facts.parties import Silo
from silo.report.model import Report
from silo.report.sections.parties import references
from silo.report.sections.verdict import highest


def section(report: Report) -> Section:
    """Plain words, the plot, what each silo spent and has left, then the parameters."""
    promise = report.privacy
    blocks: list[Block] = []
    if promise.void is not None:
        blocks.append(Prose(f"Void: {promise.void}. No epsilon in this report is a promise.", "bad"))
    blocks.append(
        Prose(
            "Differential privacy protects outputs: whoever holds the finished model can tell only to a limited "
            f"degree whether one {promise.unit} was used. Epsilon is the limit, delta the chance that it fails. Noise "
            "is added inside each institution, before anything leaves; every use of the same records adds up, and "
            "the institution's own software keeps the account."
        )
    )
    if report.permitted:
        blocks += [_figure(report), _accounts(report)]
    blocks += [Facts(_parameters(report), "Parameters")]
    if promise.collusion:
        blocks.append(_collusion(report))
    if promise.rdp_curve:
        blocks.append(_curve(report))
    return Section("privacy", "Privacy spent", tuple(blocks), ("NIST SP 800-226 2.2–2.5, 3, 4.1, 4.3",))


def _figure(report: Report) -> Figure:
    most, asked = highest(report), text.given(report.privacy.epsilon)
    caps = sorted({silo.epsilon_cap for silo in report.permitted if silo.epsilon_cap is not None})
    series = {each.silo: each.points for each in report.privacy.spent}
    ends = [f"{name} {text.spent(points[-1].epsilon)}" for name, points in series.items() if points]
    said = f"After the last round: {text.listed(ends)}." if ends else "No spending per round is evidenced."
    cap = f"Caps: {text.listed([text.given(each) for each in caps])}." if caps else "Caps are not evidenced."
    return Figure(
        "privacy",
        "Epsilon spent after each round, by silo",
        f"Line chart of cumulative epsilon by round. {said} Asked: {asked}. {cap}",
        f"Epsilon (at delta {text.given(report.privacy.delta)}, per {report.privacy.unit}) only ever grows. It came "
        f"to {text.spent(most or 0.0)} at most; {asked} was asked. {cap} Silos that spent the same share a line.",
    )


def _accounts(report: Report) -> Table:
    return Table(
        "accounts",
        "What each institution's privacy account says. “Before” counts earlier runs on the same records.",
        (
            Column("Institution"),
            Column("This run", figures=True),
            Column("Asked", figures=True),
            Column("Before", figures=True),
            Column("Left", figures=True),
            Column("Cap", figures=True),
            Column("Log"),
        ),
        tuple(_account(report, silo) for silo in report.permitted),
    )


def _account(report: Report, silo: Silo) -> tuple[Cell, ...]:
    over = silo.epsilon > report.privacy.epsilon
    backing = references(report, f"budget/{silo.name}")
    return (
        Cell(text.brief(silo.display_name)),
        Cell(text.spent(silo.epsilon), "bad" if over else "plain", "more than asked" if over else ""),
        Cell(text.given(report.privacy.epsilon)),
        cell(None if silo.epsilon_before is None else text.spent(silo.epsilon_before)),
        # What is left must not be overstated, so it is cut, not rounded.
        cell(None if silo.epsilon_left is None else text.left(silo.epsilon_left)),
        cell(None if silo.epsilon_cap is None else text.given(silo.epsilon_cap)),
        Cell("", references=backing) if backing else cell(None),
    )


def _parameters(report: Report) -> tuple[Row, ...]:
    p = report.privacy
    sigma = None
    if p.noise_multiplier is not None and p.clipping_norm is not None:
        sigma = text.given(float(f"{p.noise_multiplier * p.clipping_norm:.6g}"))
    total = p.steps_per_round * p.rounds if p.steps_per_round is not None and p.rounds is not None else None
    return (
        row("Mechanism", p.mechanism),
        row("Asked", f"epsilon {text.given(p.epsilon)}, delta {text.given(p.delta)}"),
        row("Unit protected", p.unit),
        row("Adjacency", p.adjacency),
        row("Contribution bound", p.contribution_bound),
        row("Accountant", p.accountant),
        row("Composition", p.composition),
        row("Clipping norm", _given(p.clipping_norm), note=f"the longest step one {p.unit} may cause"),
        row("Noise multiplier", _given(p.noise_multiplier), note="standard deviation over clipping norm"),
        row("Standard deviation (sigma)", sigma, note="noise multiplier × clipping norm"),
        row("Sample rate", _given(p.sample_rate), note=f"chance of a {p.unit} being in a step (Poisson)"),
        row("Expected batch", _given(p.expected_batch), note=f"a public constant, not the number of {p.unit}s"),
        row("Steps per round", None if p.steps_per_round is None else str(p.steps_per_round)),
        row(
            "Steps in all",
            None if total is None else text.whole(total),
            note="" if p.rounds is None else f"{p.rounds} rounds",
        ),
        row("Random source", p.random_source),
        row("Floating-point measures", p.floating_point),
        row("Rényi curve", f"{len(p.rdp_curve)} orders, below" if p.rdp_curve else None),
    )


def _given(number: float | None) -> str | None:
    return None if number is None else text.given(number)


def _collusion(report: Report) -> Table:
    return Table(
        "collusion",
        "Epsilon if silos pool their knowledge of the noise they added.",
        (Column("Silos pooling"), Column("Epsilon", figures=True)),
        tuple((Cell(str(each.silos)), Cell(text.spent(each.epsilon))) for each in report.privacy.collusion),
        "scroll",
    )


def _curve(report: Report) -> Table:
    return Table(
        "rdp",
        "Rényi differential privacy of the whole run.",
        (Column("Order"), Column("Epsilon of that order", figures=True)),
        tuple((Cell(text.given(point.alpha)), Cell(text.spent(point.epsilon))) for point in report.privacy.rdp_curve),
        "scroll",
    )

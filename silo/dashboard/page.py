"""A view as a page: the blocks of the report (`silo.report.blocks`) in the report's own style, plus one drawing.

Invariants: every string is made readable and then escaped by the template engine; the page names no address outside the
dashboard, and makes sense without its script, which only replaces sections by newer ones.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from silo.dashboard.view import Alarm, Budget, Decision, LogHead, Run, View
from silo.report.blocks import Block, Cell, Column, Facts, Figure, Preformatted, Prose, Row, Section, Table, Tone
from silo.report.text import brief, counted, given, left, listed, number, readable, sentence, spent, whole

_STATES: dict[str, tuple[str, Tone]] = {
    "invited": ("invited, not decided", "plain"),
    "refused": ("refused", "bad"),
    "training": ("training", "good"),
    "finished": ("finished", "plain"),
    "faulty": ("stopped at a fault", "bad"),
    "stopped": ("stopped by this silo's people", "warn"),
}
_MOMENTS = {"": "taking part", "accept": "taking part", "round": "a round", "release": "a release"}
_LEVELS: dict[str, tuple[str, Tone]] = {"bad": ("Act now", "bad"), "warn": ("See to it", "warn")}
REFRESH_SECONDS = 10


def render(view: View, version: int) -> str:
    """The whole page as HTML text; ``version`` counts the views that differed, for the script to compare."""
    return (
        _environment()
        .get_template("dashboard.html.j2")
        .render(
            view=view,
            version=version,
            sections=document(view),
            plot=lambda figure: Markup(_bars(view.budgets, figure.description)),  # noqa: S704 - ours, and it escapes
            most_references=0,
            refresh=REFRESH_SECONDS,
        )
    )


@cache
def style() -> str:
    """The stylesheet: the report's, then the little that differs."""
    own = resources.files("silo.dashboard").joinpath("templates/dashboard.css").read_text(encoding="utf-8")
    return resources.files("silo.report").joinpath("templates/report.css").read_text(encoding="utf-8") + own


@cache
def script() -> str:
    """The one script, which listens to the event stream."""
    return resources.files("silo.dashboard").joinpath("templates/dashboard.js").read_text(encoding="utf-8")


def document(view: View) -> tuple[Section, ...]:
    """All sections, what is urgent first."""
    return (
        _alarms(view.alarms),
        _runs(view.runs),
        *([_budgets(view.budgets)] if view.role == "silo" or view.budgets else []),
        _decisions(view),
        _log(view.log),
    )


def headline(view: View) -> str:
    """One sentence about the whole, for a screen reader and the event stream."""
    training = [run for run in view.runs if run.state == "training"]
    said = (
        f"Training {brief(training[0].name or training[0].id)}, round {_progress(training[0])}"
        if len(training) == 1
        else f"{sentence(counted(len(training), 'run'))} in training"
    )
    alarms = counted(len(view.alarms), "warning") if view.alarms else "nothing to see to"
    return f"{said}; {alarms}; {_entries(view.log)}."


def _plain(words: str) -> str:
    """A sentence without the marks that stand for code in a terminal."""
    return words.replace("`", "")


def _when(moment: str) -> str:
    return moment.replace("T", " ")


def _entries(log: LogHead | None) -> str:
    return "the log cannot be read" if log is None else f"the log has {whole(log.size)} entries"


def _alarms(alarms: tuple[Alarm, ...]) -> Section:
    if not alarms:
        return Section("warnings", "Warnings", (Prose("Nothing to see to.", "plain"),))
    rows = tuple((Cell(*_LEVELS[each.level]), Cell(_plain(each.what)), Cell(_plain(each.fix))) for each in alarms)
    columns = (Column("Urgency"), Column("What"), Column("What to do"))
    return Section("warnings", "Warnings", (Table("alarms", "What needs somebody, the worst first.", columns, rows),))


def _runs(runs: tuple[Run, ...]) -> Section:
    if not runs:
        return Section("runs", "Runs", (Prose("No run was proposed to this party yet."),))
    rows = tuple(
        (
            Cell(brief(run.name) or run.id, note=run.id if run.name else ""),
            Cell(*_STATES[run.state], note=brief(run.note)),
            Cell(_progress(run)),
            Cell(brief(run.purpose) if run.purpose else "not on file", "plain" if run.purpose else "missing"),
            Cell(listed(run.members) if run.members else "nobody yet"),
            Cell(_when(run.since), note=f"proposed {_when(run.started)}"),
        )
        for run in runs
    )
    columns = tuple(map(Column, ("Run", "State", "Rounds", "Purpose", "Taking part", "Last moved")))
    return Section("runs", "Runs", (Table("runs", "Runs, the one that moved last first.", columns, rows),))


def _progress(run: Run) -> str:
    return f"{run.round} of {run.rounds}" if run.rounds is not None else str(run.round)


def _budgets(budgets: tuple[Budget, ...]) -> Section:
    if not budgets:
        return Section("budget", "Privacy budget", (Prose("data.toml declares no data set yet."),))
    rows = tuple(
        (
            Cell(each.population, note=f"data: {listed(each.data)}" if each.data else "no data set names it now"),
            Cell(spent(each.epsilon_spent)),
            Cell(spent(each.epsilon_held)),
            Cell(left(each.epsilon_left), "bad" if each.epsilon_left < 0.1 * each.epsilon_cap else "plain"),
            Cell(given(each.epsilon_cap)),
            Cell(f"{given(each.delta_spent)} of {given(each.delta_cap)}"),
            Cell(f"per {each.unit}", note=f"{each.adjacency}, filter {each.filter}"),
            Cell(whole(each.runs) if each.opened else "not opened yet"),
        )
        for each in budgets
    )
    columns = (
        Column("Population"),
        *(Column(title, figures=True) for title in ("Epsilon spent", "Held by open runs", "Left", "Cap", "Delta")),
        Column("Unit"),
        Column("Runs", figures=True),
    )
    caption = "Epsilon for each population's whole life; what is spent or held is rounded up, what is left down."
    told = "; ".join(
        f"{each.population}: {spent(each.epsilon_spent)} spent, {spent(each.epsilon_held)} held, "
        f"{left(each.epsilon_left)} left of {given(each.epsilon_cap)}"
        for each in budgets
    )
    figure = Figure("budget", "Budget used", told, "Filled: spent. Striped: held by open runs. Empty: left.")
    return Section("budget", "Privacy budget", (figure, Table("budgets", caption, columns, rows)))


def _decisions(view: View) -> Section:
    if not view.decisions:
        return Section("decisions", "Decisions", (Prose("Nothing was decided yet."),))
    rows = tuple(
        (
            Cell(each.run, note="" if each.times == 1 else f"{whole(each.times)} times alike"),
            *([Cell(each.silo)] if view.role == "aggregator" else []),
            Cell(f"releasing {brief(each.about)}" if each.about else _MOMENTS.get(each.moment, each.moment)),
            Cell(each.decision, "good" if each.decision == "permit" else "bad"),
            _why(each),
            Cell(_when(each.time), note=f"log entry {each.entry}"),
        )
        for each in view.decisions
    )
    silo = ["Silo"] if view.role == "aggregator" else []
    columns = tuple(map(Column, ("Run", *silo, "About", "Decision", "Rule and reason", "Latest")))
    caption = "Decisions that came out alike are shown once, the newest first."
    return Section("decisions", "Decisions", (Table("decisions", caption, columns, rows),))


def _why(decision: Decision) -> Cell:
    if not decision.reasons:
        return Cell("every rule held" if decision.decision == "permit" else "see the silo's own page")
    rules = listed([each.rule for each in decision.reasons])
    if decision.decision == "permit":
        return Cell(f"by waiver of {rules}")
    words = " ".join(f"{each.message} {each.remediation}".strip() for each in decision.reasons)
    sources = listed(list(dict.fromkeys(each.source for each in decision.reasons if each.source)))
    return Cell(rules, note=f"{words} ({sources})" if sources else words)


def _log(log: LogHead | None) -> Section:
    if log is None:
        return Section("log", "Log and witnesses", (Prose("The log cannot be read; the warnings say why.", "bad"),))
    blocks: list[Block] = [
        Facts((Row("Log", Cell(log.origin, "code")), Row("Entries", Cell(whole(log.size)))), "Head"),
        Preformatted("Root of all entries (RFC 6962, hexadecimal)", log.root),
    ]
    if log.witnesses:
        rows = tuple(
            (
                Cell(each.name),
                Cell("never", "warn") if each.cosigned is None else Cell(f"{whole(each.cosigned)} entries"),
                Cell(_when(each.when) if each.when else "-"),
                Cell("not seen yet" if each.seen is None else f"{whole(each.seen)} entries"),
            )
            for each in log.witnesses
        )
        columns = tuple(map(Column, ("Party", "Cosigned this log at", "When", "Its own log was seen at")))
        asked = f"; the consortium asks for {number(log.quorum)} of them" if log.quorum else ""
        blocks.append(Table("witnesses", f"Who vouches that this log only grew{asked}.", columns, rows, "scroll"))
    else:
        blocks.append(Prose("This home has joined no consortium: nobody else witnesses its log.", "warn"))
    lines = tuple(
        (Cell(str(line.index)), Cell(_when(line.time)), Cell(line.kind), Cell(brief(line.what) or "-"), Cell(line.run))
        for line in log.newest
    )
    if lines:
        columns = tuple(map(Column, ("Entry", "Time", "Kind", "What", "Run")))
        blocks.append(Table("newest", "The newest entries, newest first.", columns, lines, "scroll"))
    else:
        blocks.append(Prose("The log has no entry yet."))
    return Section("log", "Log and witnesses", tuple(blocks))


# The drawing: plain bars, coloured by the stylesheet, since the content policy allows no style in the page ------------

_WIDTH, _TOP, _BAR, _STEP = 420, 20, 16, 56


def _bars(budgets: tuple[Budget, ...], told: str) -> str:
    height = _STEP * len(budgets)
    parts = [
        f'<svg role="img" aria-labelledby="bars-title" class="plot" viewBox="0 0 {_WIDTH} {height}">',
        f'<title id="bars-title">Budget used: {escape(readable(told))}</title>',
        '<defs><pattern id="held" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="stripe" d="M0 0V6"/></pattern></defs>',
    ]
    for position, each in enumerate(budgets):
        top = _STEP * position
        used = min(1.0, each.epsilon_spent / each.epsilon_cap) * _WIDTH
        held = min(_WIDTH - used, each.epsilon_held / each.epsilon_cap * _WIDTH)
        y = top + _TOP
        name = escape(brief(readable(each.population)))
        parts += [
            f'<text class="name" x="0" y="{top + 13}">{name}</text>',
            f'<text class="left" x="{_WIDTH}" y="{top + 13}" text-anchor="end">'
            f"{escape(left(each.epsilon_left))} left of {escape(given(each.epsilon_cap))}</text>",
            f'<rect class="cap" x="0.5" y="{y + 0.5}" width="{_WIDTH - 1}" height="{_BAR - 1}"/>',
            f'<rect class="held" x="{used:.2f}" y="{y}" width="{held:.2f}" height="{_BAR}" fill="url(#held)"/>',
            f'<rect class="spent" x="0" y="{y}" width="{used:.2f}" height="{_BAR}"/>',
        ]
    return "".join([*parts, "</svg>"])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("silo.dashboard", "templates"), PackageLoader("silo.report", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_safe,
    )
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment


def _safe(value: Any) -> Any:
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

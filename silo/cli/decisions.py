"""Asking a home's gate about a run, and reading what it decided: what `silo policy check` and `explain` print.

Invariant: asking reserves nothing and keeps nothing: no log entry, no file, no budget (the ledger only gets to know the
populations of ``data.toml``, as whenever it is opened). The gate, the facts and the preparation are the
agent's own, so the answer is the one the agent would give now. A decision is shown only after its signature held, and
the facts beside it only if they are those whose digest was signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silo_policies import (
    ConsortiumManifest,
    Decision,
    Facts,
    Outcome,
    Pack,
    RuleResult,
    RunManifest,
    digest,
    format_instant,
    parse_json,
    parse_signed,
    shipped_pack,
    shipped_packs,
    verify_consortium,
    verify_decision,
    verify_run,
)
from silo_policies.pack import RESERVED, Citation

from silo.cli.common import count, now, read_file, table_of
from silo.errors import ConfigError, PolicyDenied, UsageError, VerificationFailed
from silo.home import Home
from silo.submission import BUNDLE, CONSORTIUM, RUN, Submission, keyring

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class Asked:
    """A run somebody asks about; without ``has_code`` only its manifest is at hand."""

    submission: Submission
    has_code: bool
    where: str

    @property
    def run(self) -> RunManifest:
        """The run's manifest."""
        return self.submission.run.body


@dataclass(frozen=True)
class Line:
    """One rule as a person reads it. ``facts`` are what it read; ``missing`` what it asked for and nobody knew."""

    pack: str
    rule: str
    result: str
    title: str = ""
    severity: str = ""
    expr: str = ""
    message: str = ""
    remediation: str = ""
    detail: str = ""
    cite: Citation | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``pack/rule``."""
        return f"{self.pack}/{self.rule}"

    @property
    def source(self) -> str:
        """The citation in words."""
        return f"{self.cite.instrument}, {self.cite.article}" if self.cite else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON."""
        cite = self.cite.to_dict() if self.cite else None
        plain = {name: _jsonable(value) for name, value in self.facts.items()}
        return {**vars(self), "cite": cite, "facts": plain, "missing": list(self.missing)}


def find_run(home: Home, run: str | None) -> Asked:
    """Return the run named by its id in the home, by a folder or by a run.json; None is the newest in the home."""
    if run is None:
        return _newest(home)
    path = Path(run)
    if path.is_dir():
        return Asked(Submission.load(path), True, run)
    if path.is_file():
        return _from_file(home, path)
    folder = home.path / "runs" / run
    if "/" not in run and (folder / RUN).is_file():
        return Asked(Submission.load(folder), True, run)
    raise ConfigError(
        f"there is no run {run!r}", where=str(home.path / "runs"), fix="give a run's id, its folder or its run.json"
    )


def _newest(home: Home) -> Asked:
    found = [Submission.load(path.parent) for path in (home.path / "runs").glob(f"*/{RUN}")]
    if not found:
        raise ConfigError(
            "no run was submitted to this silo yet", where=str(home.path / "runs"), fix="give a folder or a run.json"
        )
    newest = max(found, key=lambda each: (each.run.body.created, each.run.body.run))
    return Asked(newest, True, newest.run.body.run)


def _from_file(home: Home, path: Path) -> Asked:
    run = parse_signed(RunManifest, read_file(path), where=str(path))
    beside, code = path.parent / CONSORTIUM, path.parent / BUNDLE
    consortium = home.consortium()
    if beside.is_file():
        consortium = parse_signed(ConsortiumManifest, read_file(beside), where=str(beside))
    has_code = code.is_file()
    return Asked(Submission(consortium, run, read_file(code) if has_code else b""), has_code, str(path))


def ask(home: Home, asked: Asked) -> tuple[Facts, Outcome]:
    """Return the facts and the gate's answer at the moment ``accept``, as the agent would find them now.

    Raises :class:`~silo.errors.SiloError` or :class:`~silo_policies.PolicyError` where the agent would not even ask:
    a signature, a digest or a date that does not hold, or a run that does not invite this silo.
    """
    from silo.agent.facts import choose_dataset, gate_of, gather
    from silo.agent.prepare import confine, examine

    submission, moment, pinned = asked.submission, now(), home.consortium().body.digest
    if asked.has_code:
        submission.check(now=moment, pinned=pinned)
    else:
        consortium = verify_consortium(submission.consortium, keyring, now=moment, pinned=pinned)
        verify_run(submission.run, consortium, keyring, now=moment)
    if home.name not in asked.run.members:
        raise ConfigError(f"{home.name} is not invited", where=f"run {asked.run.run}", fix="there is nothing to decide")
    dataset = choose_dataset(home, asked.run.purpose)
    ready = asked.has_code and home.approved(asked.run.code_digest)
    measured = None
    if ready:
        with confine(home) as confined:
            measured = examine(submission, dataset, home.path, confined).measured
    with home.ledger() as ledger:
        facts = gather(home, ledger, submission, dataset, measured, round_number=0, release=None)
    gate, waivers = gate_of(home)
    outcome = gate.evaluate("accept", facts, now=moment, waivers=waivers)
    return facts.at(moment), outcome


@dataclass(frozen=True)
class Record:
    """A decision on file, verified; ``facts`` are those it was made from, if they are kept beside it."""

    decision: Decision
    facts: Facts | None
    path: Path


def records_of(home: Home, run: str) -> list[Record]:
    """Return this silo's decisions on a run, oldest first; empty if there are none."""
    return [read_record(home, path) for path in sorted((home.path / "runs" / run).glob("decision-*.json"))]


def read_record(home: Home, path: Path) -> Record:
    """Read one decision: this silo's, or another member's that somebody handed over.

    Raises :class:`VerificationFailed` or :class:`~silo_policies.SignatureRefused` if it, or the facts, do not hold.
    """
    signed = parse_signed(Decision, read_file(path), where=str(path))
    silo = signed.body.silo
    verifier = home.public() if silo == home.name else keyring(silo, home.consortium().body.member(silo).keys)
    decision = verify_decision(signed, verifier, run=signed.body.run, manifest=signed.body.manifest, now=now())
    beside = path.with_name("facts-" + path.name.removeprefix("decision-"))
    if not path.name.startswith("decision-") or not beside.is_file():
        return Record(decision, None, path)
    facts = Facts.parse(parse_json(read_file(beside), where=str(beside)), where=str(beside)).at(decision.time)
    if digest(facts.to_dict()) != decision.facts_hash:
        raise VerificationFailed(
            "these are not the facts that the decision was made from", where=str(beside), fix="somebody changed them"
        )
    return Record(decision, facts, path)


def packs_at_hand(home: Home) -> dict[str, Pack]:
    """Return by digest every pack that can explain a rule: the home's, its consortium's, and those that ship."""
    found = [shipped_pack(name) for name in shipped_packs()]
    if home.settings.consortium is not None:
        found += home.federation_packs()
    return {pack.digest: pack for pack in (*found, *home.packs())}


def lines_of_outcome(outcome: Outcome, packs: Iterable[Pack]) -> list[Line]:
    """Return the lines of an answer of the gate."""
    known = {pack.id: pack for pack in packs}
    return [
        Line(
            pack=each.pack,
            rule=each.rule,
            result=each.result,
            title=each.title,
            severity=each.severity,
            expr=_expr(known.get(each.pack), each.rule),
            message=each.message,
            remediation=each.remediation,
            detail=each.detail,
            cite=each.cite,
            facts=each.facts,
            missing=_missing(known.get(each.pack), each),
        )
        for each in outcome.results
    ]


def lines_of_record(record: Record, packs: Mapping[str, Pack]) -> list[Line]:
    """Return the lines of a decision, in full where the pack it was made by is at hand (``packs`` by digest)."""
    decision = record.decision
    known = record.facts.values() if record.facts else {}
    reasons = {f"{each.pack}/{each.id}": each for each in decision.reasons}
    waived = {f"{each.pack}/{each.id}": each for each in decision.waivers}
    lines = []
    for each in decision.rules:
        name = f"{each.pack}/{each.id}"
        reason, waiver = reasons.get(name), waived.get(name)
        pack = packs.get(decision.packs.get(each.pack, ""))
        rule = pack.rules.get(each.id) if pack else None
        named = _named(pack, each.id)
        lines.append(
            Line(
                pack=each.pack,
                rule=each.id,
                result=each.result,
                title=rule.title if rule else "",
                severity=rule.severity if rule else "",
                expr=rule.expr if rule else "",
                message=reason.message if reason else rule.message if rule else "",
                remediation=reason.remediation if reason else rule.remediation if rule else "",
                detail=f"waived by {waiver.approver}: {waiver.reason}" if waiver else "",
                cite=reason.cite if reason else rule.cite if rule else None,
                facts={fact: known[fact] for fact in named if fact in known},
                missing=tuple(fact for fact in named if fact not in known) if record.facts else (),
            )
        )
    return lines


def _named(pack: Pack | None, rule: str) -> list[str]:
    compiled = [each for each in pack.compiled if each.rule.id == rule] if pack else []
    return sorted(compiled[0].expression.facts) if compiled else []


def _expr(pack: Pack | None, rule: str) -> str:
    found = pack.rules.get(rule) if pack else None
    return found.expr if found else ""


def _missing(pack: Pack | None, result: RuleResult) -> tuple[str, ...]:
    return tuple(name for name in _named(pack, result.rule) if name not in result.facts)


def show_lines(console: Console, lines: Sequence[Line], *, whole: bool) -> None:
    """Print what stands in the way or was waived in full, and with ``whole`` every rule in a table before it."""
    from rich.padding import Padding
    from rich.text import Text

    if whole:
        table = table_of("result", "rule, what it read, and where it comes from")
        for each in lines:
            table.add_row(_verdict(each), Text("\n").join(_told(each)))
        console.print(table)
    for each in lines:
        if each.result == "true":
            continue
        severity = f" ({each.severity})" if each.severity else ""
        console.print(Text.assemble(_verdict(each), f": {each.id}{severity}"))
        told = [
            ("", each.message),
            ("rule: ", each.expr),
            ("it read: ", _read(each)),
            ("source: ", each.source + (f" {each.cite.url}" if each.cite else "")),
            ("", each.detail),
            ("remedy: ", each.remediation if each.result != "waived" else ""),
        ]
        for label, text in told:
            if text.strip():
                console.print(Padding(label + text.strip(), (0, 0, 0, 4)))


SHOWN = {"true": "holds", "false": "NOT MET", "error": "ERROR", "waived": "WAIVED"}
_STYLES = {"true": "green", "false": "red", "error": "red", "waived": "yellow"}


def _verdict(line: Line) -> Text:
    from rich.text import Text

    return Text(SHOWN[line.result], style=_STYLES[line.result])


def _told(line: Line) -> Iterator[Text]:
    from rich.text import Text

    yield Text(line.id, style="bold")
    if _read(line):
        yield Text(_read(line))
    if line.source:
        yield Text(line.source, style="dim")


def _read(line: Line) -> str:
    told = [f"{name} = {_worded(value)}" for name, value in line.facts.items()]
    return ", ".join([*told, *(f"{name} is not known" for name in line.missing)])


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(each["name"] if isinstance(each, dict) else str(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return format_instant(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _jsonable(value: Any) -> Any:
    return format_instant(value) if isinstance(value, datetime) else value


def counted(lines: list[Line]) -> str:
    """Return in words how many rules were asked and how they came out."""
    against = sum(line.result in ("false", "error") for line in lines)
    waived = sum(line.result == "waived" for line in lines)
    parts = [f"{count(len(lines), 'rule')} asked"]
    parts += [f"{against} in the way"] if against else []
    parts += [f"{waived} waived"] if waived else []
    return ", ".join(parts) if len(parts) > 1 else f"all {len(lines)} rules hold"


def denied(run: str, against: list[Line]) -> PolicyDenied:
    """Return the denial by the lines in the way: it names a pack that is not as pinned, else the first rule not met."""
    order = sorted(against, key=lambda line: (line.pack != RESERVED, line.result != "false"))
    first = order[0]
    more = f", and {len(against) - 1} more" if len(against) > 1 else ""
    source = f" [{first.source}]" if first.source else ""
    return PolicyDenied(f"denied by {first.id}{source}: {first.message.strip()}{more}", where=f"run {run}")


def records_asked(home: Home, run: str | None) -> list[Record]:
    """Return the decisions on record on a run, named by its id or folder, or in one decision file; at least one."""
    if run is not None and Path(run).is_file():
        return [read_record(home, Path(run))]
    if run is not None and Path(run).is_dir():
        run = Path(run).name
    name = find_run(home, None).run.run if run is None else run
    records = records_of(home, name) if "/" not in name else []
    if not records:
        raise ConfigError(
            f"no decision on run {name} is on record here",
            where=str(home.path / "runs"),
            fix="ask what the gate would say with: silo policy check",
        )
    return records


def chosen(records: list[Record], moment: str | None) -> Record:
    """Return the newest decision of the moment; without one, the newest of accepting or joining, else the newest."""
    wanted = (moment,) if moment else ("accept", "join")
    found = [each for each in records if each.decision.moment in wanted]
    if moment and not found:
        kept = ", ".join(sorted({each.decision.moment for each in records}))
        raise UsageError(f"no decision at the moment {moment!r} is on record", where="--moment", fix=f"there is {kept}")
    return (found or records)[-1]

"""Evidence: digests and versions, every party's log with its checkpoint, the entry behind each statement, and what
has none."""

from __future__ import annotations

from silo.report import text
from silo.report.blocks import Block, Cell, Column, Facts, Items, Preformatted, Prose, Section, Table, row
from silo.report.facts.evidence import Entry, Log
from silo.report.model import Report

_SHORT = len("sha256:") + 16
_KINDS = {
    "manifest": "run manifest",
    "consortium": "consortium manifest",
    "keys": "key epoch",
    "decision": "decision of",
    "budget": "budget settled by",
    "round": "round",
    "waiver": "waiver",
    "fault": "fault",
    "release": "release of",
}


def subjects(report: Report) -> tuple[str, ...]:
    """Every statement of the report that a log entry should back, in the report's order."""
    return (
        "consortium",
        "manifest",
        *(f"decision/{silo.name}" for silo in report.silos),
        *(("keys",) if report.permitted else ()),
        *(f"round/{step.round}" for step in report.rounds),
        *(f"budget/{silo.name}" for silo in report.permitted),
        *(f"waiver/{position}" for position, _ in enumerate(report.waivers or (), 1)),
        *(f"fault/{position}" for position, _ in enumerate(report.faults or (), 1)),
    )


def in_words(subject: str) -> str:
    """ "decision/cleveland" as "decision of cleveland"."""
    kind, _, rest = subject.partition("/")
    return f"{_KINDS.get(kind, kind)} {rest.replace('/', ' ')}".strip()


def section(report: Report) -> Section:
    """Digests, versions, logs, and the statements that no log entry backs."""
    has = report.evidence
    blocks: list[Block] = [
        Prose(
            "Every party keeps an append-only log in which no entry can be changed or removed without its checkpoint "
            "ceasing to fit. The numbers beside statements above lead to the entries below; the hashes are RFC 6962 "
            "leaf hashes, and the checkpoints are signed in the C2SP format, so that other software can check them."
        ),
        Facts(
            (
                row("Run", report.run, "code"),
                row("Researcher", report.researcher),
                row("Experiment code", has.code_digest, "code"),
                row("Run manifest", has.manifest_digest, "code"),
                row("Consortium manifest", has.consortium_digest, "code"),
                row("Released model", has.model_digest, "code"),
                row("Logs are kept for", has.retention),
                row("Python", report.versions.python if report.versions else None),
                row("Packages", _packages(report)),
            ),
            "Digests and versions",
        ),
    ]
    bare = [in_words(subject) for subject in subjects(report) if not report.backing(subject)]
    if bare:
        blocks += [Prose("No log entry backs these statements: not evidenced.", "warn"), Items(tuple(bare))]
    else:
        blocks.append(Prose("Every statement that should have a log entry has one."))
    for log in has.logs:
        blocks += _log(log)
    return Section(
        "evidence",
        "Evidence",
        tuple(blocks),
        ("HIPAA 164.312(b),(c)(1), 164.316(b)(2)(i)", "AI Act 12", "in-toto (digests)"),
    )


def _packages(report: Report) -> str | None:
    if report.versions is None or not report.versions.packages:
        return None
    return ", ".join(f"{each.name} {each.version}" for each in report.versions.packages)


def _log(log: Log) -> list[Block]:
    backed: dict[int, tuple[Entry, list[str]]] = {}  # one entry may back several statements
    for entry in log.entries:
        backed.setdefault(entry.index, (entry, []))[1].append(in_words(entry.subject))
    proven = any(entry.proof for entry in log.entries)
    blocks: list[Block] = [
        Facts(
            (
                row("Origin", log.origin, "code"),
                row("Entries in all", None if log.size is None else text.whole(log.size)),
                row("Cosigned by", text.listed(log.cosigned_by) or "nobody on record"),
            ),
            f"Log of {log.holder}",
        ),
        Table(
            f"log-{log.holder}",
            f"Entries in the log of {log.holder}.",
            (Column("Entry"), Column("Backs"), Column("Hash (beginning), leading to its proof" if proven else "Hash")),
            tuple(
                (
                    Cell(str(at)),
                    Cell("; ".join(said)),
                    _hash(entry),
                )
                for at, (entry, said) in backed.items()
            ),
            "scroll",
            tuple(f"log-{log.holder}-{at}" for at in backed),
        ),
    ]
    if log.checkpoint is not None:
        blocks.append(Preformatted(f"Checkpoint of {log.holder}", log.checkpoint))
    return blocks


def _hash(entry: Entry) -> Cell:
    if entry.proof is None:
        return Cell(entry.hash, "code")
    return Cell(entry.hash[:_SHORT], file=entry.proof)  # the proof carries the entry, and so the whole hash

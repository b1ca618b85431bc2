"""What a log entry proves of a report: the statements it backs, and whether it says the same.

Invariant: an entry backs a statement only if it is about the report's run, and it contradicts one as soon as any value
that both carry differs. So whoever holds one entry with its proof can confirm or refute the statement alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from silo.log import Entry
from silo.report import Report

_TOLERANCE = 1e-9


def subjects_of(report: Report, holder: str, entry: Entry) -> tuple[str, ...]:
    """Return the statements of ``report`` that an entry of ``holder``'s log backs, in the report's vocabulary."""
    body = entry.body
    if body.get("run") != report.run:
        return ()
    match str(entry.kind):
        case "manifest":
            return ("manifest", "consortium") if "consortium" in body else ("manifest",)
        case "decision" if body.get("moment", "accept") == "accept":
            return (f"decision/{body['silo']}",)
        case "key-epoch":
            return ("keys",)
        case "aggregate":
            return (f"round/{body['round']}",)
        case "budget-settled" if "part" not in body:
            return (f"budget/{holder}",)
        case "release" if isinstance(body.get("what"), str):
            return (f"release/{body['what']}",)
        case "waiver":
            return tuple(f"waiver/{number}" for number in _waivers(report, entry))
        case "fault":
            return tuple(f"fault/{number}" for number in _faults(report, holder, entry))
    return ()


def contradiction(report: Report, holder: str, subject: str, entry: Entry) -> str | None:
    """Return in words how the entry contradicts the statement ``subject``, or None if it does not."""
    for what, stated, logged in _compared(report, holder, subject, entry):
        if stated is not None and logged is not None and not _same(stated, logged):
            return f"the report says {what} {_shown(stated)}, the log says {_shown(logged)}"
    return None


def _compared(report: Report, holder: str, subject: str, entry: Entry) -> Iterator[tuple[str, Any, Any]]:
    body = entry.body
    kind, _, name = subject.partition("/")
    yield "it is about run", report.run, body.get("run")
    if kind == "manifest":
        yield "the run manifest is", report.evidence.manifest_digest, body.get("digest")
        yield "the code is", report.evidence.code_digest, body.get("code")
    elif kind == "consortium":
        yield "the consortium manifest is", report.evidence.consortium_digest, body.get("consortium")
    elif kind == "decision":
        yield f"the decision of {name} is", _silo(report, name, "decision"), body.get("decision")
    elif kind == "keys":
        permitted = sorted(silo.name for silo in report.permitted)
        yield "the members are", permitted, sorted(body["members"]) if "members" in body else None
    elif kind == "round":
        step = next((each for each in report.rounds if str(each.round) == name), None)
        if step is None and report.rounds:  # one who lists rounds lists all that were added up
            yield f"round {name} is", "none", "one that was added up"
        elif step is not None:
            yield f"round {name} counted", sorted(step.participants), sorted(body["silos"]) if "silos" in body else None
            yield f"round {name} was attempt", step.attempt, body.get("attempt")
    elif kind == "budget":
        yield "it was settled by", name, holder
        yield f"{name} spent epsilon", _silo(report, name, "epsilon"), body.get("epsilon")
        yield f"{name} spent at delta", _silo(report, name, "delta"), body.get("delta")
    elif kind == "release" and name == "model":
        yield "the model's digest is", report.evidence.model_digest, body.get("model_digest")


def _silo(report: Report, name: str, field: str) -> Any:
    """Return a fact about a silo; one the report does not list has none, which contradicts any entry about it."""
    return next((getattr(silo, field) for silo in report.silos if silo.name == name), "nothing")


def _waivers(report: Report, entry: Entry) -> Iterator[int]:
    for number, each in enumerate(report.waivers or (), 1):
        if entry.body.get("digest") == each.id or (
            (entry.body.get("silo"), entry.body.get("rule")) == (each.silo, f"{each.pack}/{each.rule}")
        ):
            yield number


def _faults(report: Report, holder: str, entry: Entry) -> Iterator[int]:
    for number, each in enumerate(report.faults or (), 1):
        said = entry.body.get("what") == each.what[:500] and entry.body.get("silo", each.party) == each.party
        # A fault in a silo's own log is not quoted, it is pointed at (silo.audit.facts).
        if said or (each.party == holder and each.what.startswith(f"recorded as entry {entry.index} of its own log")):
            yield number


def _same(stated: Any, logged: Any) -> bool:
    if isinstance(stated, float) and isinstance(logged, int | float):
        return abs(stated - logged) <= _TOLERANCE * max(1.0, abs(stated))
    return bool(stated == logged)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

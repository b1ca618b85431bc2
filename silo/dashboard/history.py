"""What a log's entries add up to for somebody who watches: runs, decisions and the newest lines.

Invariant: a fold, with no disk and no clock, so that a look costs as much as what is new, and reading a log in one
piece or entry by entry comes to the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from silo.dashboard.view import Decision, Line, Reason, Run
from silo.log import Entry, Kind

NEWEST_LINES = 12
MOST_DECISIONS = 60
MOST_RUNS = 40
_PENDING = 64
_Key = tuple[str, str, str, str, str, tuple[str, ...], tuple[str, ...]]


class History:
    """The fold. ``size`` is the number of entries it has taken in."""

    def __init__(self) -> None:
        self.size = 0
        self.ledger: Mapping[str, Any] | None = None
        """Where the ledger stood, by the newest entry that says so."""
        self._runs: dict[str, Run] = {}
        self._decisions: dict[_Key, Decision] = {}
        self._asked: dict[str, _Key] = {}
        self._newest: deque[Line] = deque(maxlen=NEWEST_LINES)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Return the runs, the one that moved last first."""
        return tuple(sorted(self._runs.values(), key=lambda run: run.since, reverse=True)[:MOST_RUNS])

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions, newest first."""
        return tuple(sorted(self._decisions.values(), key=lambda each: each.entry, reverse=True)[:MOST_DECISIONS])

    @property
    def newest(self) -> tuple[Line, ...]:
        """Return the newest entries, newest first."""
        return tuple(reversed(self._newest))

    def apply(self, entry: Entry) -> None:
        """Take in the next entry."""
        self.size = entry.index + 1
        body = entry.body
        run = str(body.get("run", ""))
        self._newest.append(Line(entry.index, entry.time, str(entry.kind), run, _words(entry)))
        if entry.kind is Kind.DECISION:
            self._decide(entry)
        elif entry.kind in (Kind.RELEASE, Kind.REFUSAL) and str(body.get("digest")) in self._asked:
            self._name(str(body["digest"]), str(body.get("what", "")))
        if isinstance(body.get("ledger"), Mapping):
            self.ledger = body["ledger"]
        if run:
            seen = self._runs.get(run) or Run(run, "", "", "invited", 0, None, (), entry.time, entry.time, "")
            self._runs[run] = replace(_STEP.get(entry.kind, _unchanged)(seen, entry), since=entry.time)

    def _decide(self, entry: Entry) -> None:
        body = entry.body
        key: _Key = (
            str(body.get("run", "")),
            str(body.get("silo", "")),
            str(body.get("moment", "")),
            "",
            str(body.get("decision", "")),
            tuple(map(str, body.get("deciding", ()))),
            tuple(map(str, body.get("waivers", ()))),
        )
        self._count(key, entry.index, entry.time)
        if body.get("moment") == "release":
            self._asked[str(body["digest"])] = key
            while len(self._asked) > _PENDING:
                self._asked.pop(next(iter(self._asked)))

    def _name(self, digest: str, about: str) -> None:
        """The entry after a decision at ``release`` says what was asked for: count it there instead."""
        key = self._asked.pop(digest)
        nameless = self._decisions[key]
        if nameless.times == 1:
            del self._decisions[key]
        else:
            self._decisions[key] = replace(nameless, times=nameless.times - 1)
        self._count((*key[:3], about, *key[4:]), nameless.entry, nameless.time)

    def _count(self, key: _Key, index: int, time: str) -> None:
        run, silo, moment, about, decision, deciding, waivers = key
        before = self._decisions.get(key)
        self._decisions[key] = Decision(
            run=run,
            silo=silo,
            moment=moment,
            about=about,
            decision="permit" if decision == "permit" else "deny",
            reasons=tuple(Reason(rule) for rule in deciding),
            waivers=waivers,
            times=before.times + 1 if before else 1,
            entry=index,
            time=time,
        )


def _unchanged(run: Run, _: Entry) -> Run:
    return run


def _decided(run: Run, entry: Entry) -> Run:
    # An aggregator's log has the decisions of all: one silo's refusal does not end the run there.
    own = entry.body.get("moment") == "accept"
    return replace(run, state="refused") if own and entry.body.get("decision") == "deny" else run


def _moved(run: Run, entry: Entry) -> Run:
    return replace(run, state="training", round=max(run.round, int(entry.body["round"])))


def _added(run: Run, entry: Entry) -> Run:
    return replace(_moved(run, entry), members=tuple(map(str, entry.body.get("silos", ()))))


_STEP: Mapping[Kind, Callable[[Run, Entry], Run]] = {
    Kind.DECISION: _decided,
    Kind.RUN_STARTED: lambda run, _: replace(run, state="training"),
    Kind.KEY_EPOCH: lambda run, entry: replace(
        run, state="training", members=tuple(map(str, entry.body.get("members", ())))
    ),
    Kind.AGGREGATE: _added,
    Kind.RUN_FINISHED: lambda run, _: replace(run, state="finished"),
    Kind.FAULT: lambda run, entry: replace(
        run, state=run.state if run.state == "finished" else "faulty", note=str(entry.body["what"])
    ),
}


def _words(entry: Entry) -> str:
    """Say in a few words what an entry holds beside its kind and run."""
    body = entry.body
    said = []
    if "round" in body:
        said.append(f"round {body['round']}" + (f", attempt {body['attempt']}" if body.get("attempt", 1) != 1 else ""))
    if "decision" in body:
        said.append(f"{body['decision']} at {body['moment']}" if "moment" in body else str(body["decision"]))
    if isinstance(body.get("deciding"), list) and body["deciding"]:
        said.append(", ".join(map(str, body["deciding"])))
    if "silo" in body:
        said.append(f"by {body['silo']}")
    if "epsilon" in body and "population" in body:
        said.append(f"epsilon {body['epsilon']:g} of {body['population']}")
    if "what" in body:
        said.append(str(body["what"]))
    return "; ".join(said)

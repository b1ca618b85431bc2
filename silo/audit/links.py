"""The links between entries: within one log, and between the logs of the parties of a run.

Invariant: pure functions over entries that were verified before. Within a silo's log every upload stands behind a
permit, a run's start and a reservation, and before an aggregate that counts it; a release stands behind the permit
that names it; a settlement is no larger than its reservation; of one attempt there is one upload and one share.
Between logs the same thing has the same digest: manifests, decisions, uploads, and who was added up.

A run that is still going on, or that a fault ended, may lack its end: that is ``open``, not ``broken``. So is an upload
that its silo charged and logged and that nobody received.

Source: PROTOCOL section 4 (the order is the protection); issue 7, item 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from silo.audit.findings import Finding
from silo.log import Entry

Slot = tuple[int, int]  # a round and an attempt


def in_silo(holder: str, run: str, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Yield what does not follow in one silo's entries of one run, in their order."""
    permits: dict[str, Entry] = {}
    admitted = started = False
    reserved: dict[str, float | None] = {}
    settled: set[str] = set()
    once: dict[tuple[str, Slot], str] = {}
    uploads: dict[Slot, Entry] = {}
    counted: dict[Slot, Entry] = {}
    ended = finished = False
    for entry in entries:
        body, kind = entry.body, str(entry.kind)
        ended |= kind in ("fault", "refusal")
        if kind == "decision":
            accepted = body.get("decision") == "permit"
            if accepted:
                permits[str(body["digest"])] = entry
            if body.get("moment", "accept") == "accept":
                admitted = accepted
        elif kind == "run-started":
            started = True
            if not admitted:
                yield _broken(holder, entry, "the run started without a permit")
        elif kind == "budget-reserved":
            reserved[_account(body)] = body.get("epsilon")
        elif kind in ("upload", "share"):
            slot = _slot(entry)
            if once.setdefault((kind, slot), str(body["digest"])) != body["digest"]:
                yield _broken(holder, entry, f"a second {kind} of round {slot[0]}, attempt {slot[1]}")
            if kind == "upload":
                uploads[slot] = entry
                lacks = [("a permit", admitted), ("a run that started", started), ("a reservation", bool(reserved))]
                for what, there in lacks:
                    if not there:
                        yield _broken(holder, entry, f"an upload without {what} before it")
        elif kind == "aggregate":
            counted[_slot(entry)] = entry
        elif kind == "release":
            if str(body["digest"]) not in permits:
                yield _broken(holder, entry, f"a release of {body.get('what', '?')} without the permit it names")
        elif kind == "budget-settled":
            population = _account(body)
            settled.add(population)
            if population not in reserved:
                yield _broken(holder, entry, f"{population} was settled, but nothing was reserved")
            elif _more(body.get("epsilon"), reserved[population]):
                yield _broken(
                    holder, entry, f"epsilon {body['epsilon']} was settled, only {reserved[population]} reserved"
                )
        elif kind == "run-finished":
            finished = True
            if body.get("rounds") is not None and body["rounds"] != len({slot[0] for slot in counted}):
                yield _broken(
                    holder, entry, f"{body['rounds']} rounds, but {len({slot[0] for slot in counted})} aggregates"
                )
            for population in sorted(reserved.keys() - settled):
                yield _broken(holder, entry, f"the run finished, but {population} was not settled")
    for slot, entry in sorted(uploads.items()):
        yield from _counted(holder, entry, slot, counted, done=finished, ended=ended)


def _account(body: Mapping[str, Any]) -> str:
    """Return what a budget entry is about: a population, or a part of a run that is charged to it by itself."""
    return f"{body['population']} ({body['part']})" if "part" in body else str(body["population"])


def _counted(
    holder: str, entry: Entry, slot: Slot, counted: Mapping[Slot, Entry], *, done: bool, ended: bool
) -> Iterator[Finding]:
    """An upload is in the aggregate of its attempt, or its attempt was given up for a later one."""
    aggregate = counted.get(slot)
    if aggregate is not None:
        if holder not in aggregate.body.get("silos", [holder]):
            # Charged and logged before it leaves: a process that is killed in between leaves exactly this.
            what = f"the aggregate of round {slot[0]} leaves out this silo's upload: lost on its way, or left out"
            yield Finding(holder, _at(aggregate), what, "open")
        elif aggregate.index < entry.index:
            yield _broken(holder, aggregate, f"the aggregate of round {slot[0]} came before the upload")
    elif not any(other[0] == slot[0] and other[1] > slot[1] for other in counted):
        why = "the run ended before it" if ended else "the run goes on"
        last = not any(other[0] > slot[0] for other in counted)
        if not done and last:
            yield Finding(holder, _at(entry), f"the upload of round {slot[0]} has no aggregate: {why}", "open")
        else:
            yield _broken(holder, entry, f"the upload of round {slot[0]} has no aggregate")


def between(
    run: str, aggregator: tuple[str, Sequence[Entry]] | None, silos: Mapping[str, Sequence[Entry]]
) -> Iterator[Finding]:
    """Yield where the logs of a run's parties say different things about it.

    Only what both sides must have written is compared: a home that was not given is not held against anybody.
    """
    everybody = {**silos, **({aggregator[0]: aggregator[1]} if aggregator else {})}
    yield from _same_digest(run, everybody)
    members = {name: _members(entries) for name, entries in everybody.items() if _members(entries)}
    for name in sorted(members):
        if members[name] != members[min(members)]:
            yield Finding(name, f"run {run}", f"its key epoch has other members than that of {min(members)}")
    if aggregator is None:
        return
    holder, entries = aggregator
    for name, own in sorted(silos.items()):
        yield from _pair(holder, entries, name, own, run)


def _same_digest(run: str, logs: Mapping[str, Sequence[Entry]]) -> Iterator[Finding]:
    digests = {
        name: str(entry.body["digest"])
        for name, entries in logs.items()
        for entry in entries
        if entry.kind == "manifest"
    }
    for name in sorted(digests):
        if digests[name] != digests[min(digests)]:
            yield Finding(name, f"run {run}", f"its manifest is not the one that {min(digests)} logged")


def _pair(holder: str, entries: Sequence[Entry], name: str, own: Sequence[Entry], run: str) -> Iterator[Finding]:
    """Compare the aggregator's record of one silo with the silo's own."""
    told = _decision(entries, name)
    mine = _decision(own, name)
    if told and mine and told.body["digest"] != mine.body["digest"]:
        yield _broken(holder, told, f"the decision of {name} is not the one in its log (entry {mine.index})")
    if told and not mine:
        yield _broken(holder, told, f"the decision of {name} is not in its log")
    theirs = {_slot(each): each for each in own if each.kind == "upload"}
    received = {_slot(each): each for each in entries if each.kind == "upload" and each.body["silo"] == name}
    for slot, entry in sorted(received.items()):
        if slot not in theirs:
            yield _broken(holder, entry, f"an upload of {name} that its own log does not have")
        elif theirs[slot].body["digest"] != entry.body["digest"]:
            yield _broken(holder, entry, f"not the upload that {name} logged (entry {theirs[slot].index})")
    added = {_slot(each): each for each in entries if each.kind == "aggregate"}
    for slot, entry in sorted(added.items()):
        if name in entry.body.get("silos", []) and slot not in received:
            yield _broken(holder, entry, f"the aggregate of round {slot[0]} counts {name}, but no upload of it")
        elif name not in entry.body.get("silos", [name]) and slot in received:
            yield _broken(
                holder, entry, f"the aggregate of round {slot[0]} leaves out {name}, whose upload it received"
            )
    for each in own:
        if each.kind != "aggregate":
            continue
        slot = _slot(each)
        if slot not in added:
            yield _broken(name, each, f"an aggregate of round {slot[0]} that {holder} did not log")
        elif each.body.get("silos") != added[slot].body.get("silos"):
            yield _broken(name, each, f"an aggregate of others than {holder} logged (entry {added[slot].index})")


def _decision(entries: Sequence[Entry], silo: str) -> Entry | None:
    return next(
        (
            each
            for each in entries
            if each.kind == "decision" and each.body["silo"] == silo and each.body.get("moment", "accept") == "accept"
        ),
        None,
    )


def _members(entries: Sequence[Entry]) -> Any:
    return next((each.body.get("members") for each in entries if each.kind == "key-epoch"), None)


def _slot(entry: Entry) -> Slot:
    return int(entry.body["round"]), int(entry.body["attempt"])


def _more(value: Any, bound: Any) -> bool:
    """Say whether a settled epsilon exceeds the reserved one; a missing one of two is more than nothing."""
    if not isinstance(value, int | float) or not isinstance(bound, int | float):
        return value is not None and bound is not None
    return value > bound


def _broken(holder: str, entry: Entry, what: str) -> Finding:
    return Finding(holder, _at(entry), what)


def _at(entry: Entry) -> str:
    return f"entry {entry.index}"

"""The whole audit of one or more homes: files, entries, signatures, witnesses, ledgers and links, in this order.

1. Each log: pages, schema, numbering, canonical entries, hashes (:meth:`silo.log.Log.verify`).
2. Its heads: every checkpoint that its holder, another home's witness memory or the caller kept is a head it once had,
   signed by its key, with cosignatures of the consortium's parties.
3. What was signed: each run's manifest and code, and the document behind each decision, have the digests logged.
4. The ledger: every upload was charged, under its digest, before this audit.
5. The links within each log and between the logs (:mod:`silo.audit.links`).

Invariant: a log that fails step 1 is not read further; whatever is not checked is said (``Verdict.unchecked``), so a
short list of findings never hides that little was looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silo_crypto.errors import CryptoError
from silo_policies import parse_json
from silo_policies.errors import PolicyError

from silo.audit import links
from silo.audit.findings import Finding
from silo.audit.parties import Party
from silo.errors import SiloError, VerificationFailed
from silo.log import Checkpoint, Entry, verify_checkpoint
from silo.submission import Submission


@dataclass(frozen=True)
class Verdict:
    """What was checked and what was found; ``heads`` are the heads that hold, by holder."""

    heads: Mapping[str, Checkpoint] = field(default_factory=dict)
    entries: int = 0
    runs: tuple[str, ...] = ()
    cosigned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings that break the evidence."""
        return tuple(each for each in self.findings if each.severity == "broken")


@dataclass
class _Work:
    """What the steps collect."""

    findings: list[Finding] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    heads: dict[str, Checkpoint] = field(default_factory=dict)
    cosigned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)  # whose log failed step 1 or 2


def verify(parties: Sequence[Party], notes: Sequence[str] = ()) -> Verdict:
    """Audit ``parties`` together; ``notes`` are checkpoints that the caller kept or was given."""
    work = _Work()
    seen = _witnessed(parties, work)
    for note in notes:
        seen[note.partition("\n")[0]].append(("the checkpoint given", note))
    for party in parties:
        _log(party, seen.pop(party.log.origin, []), work)
    work.unchecked += [f"checkpoints of {origin}: its log was not given" for origin in sorted(seen)]
    runs = sorted({str(each.body["run"]) for rows in work.entries.values() for each in rows if "run" in each.body})
    whole = [party for party in parties if party.name in work.entries]
    for run in runs:
        _run(run, whole, work)
    for party in whole:
        _ledger(party, work)
    return Verdict(
        heads=work.heads,
        entries=sum(map(len, work.entries.values())),
        runs=tuple(runs),
        cosigned=work.cosigned,
        findings=tuple(work.findings),
        unchecked=tuple(dict.fromkeys(work.unchecked)),
    )


# 1 and 2: the logs and their heads --------------------------------------------------------------------------------


def _witnessed(parties: Sequence[Party], work: _Work) -> dict[str, list[tuple[str, str]]]:
    """Return by origin every note that somebody keeps, with whose memory it is from."""
    seen: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for party in parties:
        try:
            memory = party.witness()
            if memory is None:
                work.unchecked.append(f"{party.name} has witnessed no other log")
                continue
            with memory:
                for origin in memory.sizes():
                    seen[origin] += [(f"the memory of {party.name}", note) for note in memory.all_seen(origin)]
                seen[party.log.origin] += [("its cosigned heads", note) for note in memory.cosigned(party.log.origin)]
                for note in memory.conflicts():
                    origin = note.partition("\n")[0]
                    what = f"it holds a head of {origin} that contradicts what it saw before"
                    work.findings.append(Finding(party.name, "witness.db", what))
        except SiloError as error:
            work.findings.append(Finding(party.name, "witness.db", error.what))
    return seen


def _log(party: Party, kept: Sequence[tuple[str, str]], work: _Work) -> None:
    witnessed: list[Checkpoint] = []
    for whose, note in kept:
        try:
            key = party.trust.log(party.log.origin)
            witnessed.append(verify_checkpoint(note, key, party.trust.others(party.log.origin)))
        except SiloError as error:
            work.findings.append(Finding(party.name, f"a checkpoint in {whose}", error.what))
    try:
        work.heads[party.name] = party.log.verify(*witnessed)
        work.entries[party.name] = list(party.log.entries())
    except SiloError as error:
        work.spoilt.add(party.name)
        # Each place on a line of its own: an auditor wants to go to it.
        for fault in _faults(party, witnessed) or [("log.db", error.what)]:
            work.findings.append(Finding(party.name, *fault))
        return
    largest = max(witnessed, key=lambda head: (len(head.cosigned) > 0, head.size), default=None)
    if largest is not None and largest.cosigned:
        work.cosigned[party.name] = tuple(sorted(largest.cosigned))


def _faults(party: Party, witnessed: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    try:
        return [(fault.place, fault.what) for fault in party.log.faults(*witnessed)]
    except SiloError:
        return []  # the file cannot even be read to the end: the error that was caught says so


# 3 and 5: runs ----------------------------------------------------------------------------------------------------


def _run(run: str, parties: Sequence[Party], work: _Work) -> None:
    rows = {party.name: [each for each in work.entries[party.name] if each.body.get("run") == run] for party in parties}
    took_part = [party for party in parties if any(each.kind == "manifest" for each in rows[party.name])]
    for party in took_part:
        work.findings += _signed(party, run, rows[party.name], work)
        if not party.aggregates:
            work.findings += links.in_silo(party.name, run, rows[party.name])
    aggregator = next(((party.name, rows[party.name]) for party in took_part if party.aggregates), None)
    if aggregator is None:
        work.unchecked.append(f"run {run}: no aggregator's log at hand that holds, to compare with")
    else:
        named = {str(each.body["silo"]) for each in aggregator[1] if each.kind == "decision"}
        for name in sorted(named - {party.name for party in took_part}):
            why = "does not hold" if name in work.spoilt else "was not given"
            work.unchecked.append(f"run {run}: the log of {name} {why}")
    silos = {party.name: rows[party.name] for party in took_part if not party.aggregates}
    work.findings += links.between(run, aggregator, silos)


def _signed(party: Party, run: str, entries: Sequence[Entry], work: _Work) -> Iterator[Finding]:
    """Check the run's manifest, its code and its decisions: signed by whom they name, with the digests logged."""
    try:
        submission = party.submission(run)
    except (SiloError, PolicyError, CryptoError) as error:
        yield Finding(party.name, f"runs/{run}", getattr(error, "what", str(error)))
        return
    if submission is None:
        work.unchecked.append(f"run {run}: {party.name} no longer has its documents")
        return
    folder, manifest, consortium = party.home.path / "runs" / run, submission.run.body, submission.consortium.body
    for entry in entries:
        if entry.kind == "manifest":
            for name, found in (("digest", manifest.digest), ("consortium", consortium.digest)):
                if entry.body.get(name, found) != found:
                    yield Finding(party.name, f"entry {entry.index}", f"{name} is not that of the signed document")
        elif entry.kind == "decision" and not party.aggregates:
            yield from _decision(party, folder, entry, submission)


def _decision(party: Party, folder: Path, entry: Entry, submission: Submission) -> Iterator[Finding]:
    path = folder / f"decision-{entry.index:06d}-{entry.body.get('moment', 'accept')}.json"
    try:
        body = submission.decision(parse_json(path.read_bytes(), where=path.name), party.name)
        same = (body.digest, body.decision, body.silo) == (entry.body["digest"], entry.body["decision"], party.name)
        if not same:
            raise VerificationFailed("the signed decision is not the one logged")
    except OSError:
        yield Finding(party.name, f"entry {entry.index}", f"the decision it names is gone: {path.name}")
    except (SiloError, PolicyError, CryptoError) as error:
        yield Finding(party.name, f"entry {entry.index}", getattr(error, "what", str(error)))


# 4: ledgers -------------------------------------------------------------------------------------------------------


def _ledger(party: Party, work: _Work) -> None:
    """Every upload in the log has a charge of the same digest in the ledger, and every charge its upload."""
    if party.aggregates or not (party.home.path / "ledger.db").exists():
        return
    try:
        with party.home.ledger() as ledger:
            ledger.verify()
            charges = {
                _key(each.body): str(each.body["upload_digest"]) for each in ledger.history() if each.kind == "charged"
            }
    except SiloError as error:
        work.findings.append(Finding(party.name, "ledger.db", error.what))
        return
    uploads = {_key(each.body): each for each in work.entries[party.name] if each.kind == "upload"}
    for slot, entry in uploads.items():
        if charges.get(slot) != entry.body["digest"]:
            what = f"no charge in the ledger for the upload of round {slot[1]}, attempt {slot[2]}"
            work.findings.append(Finding(party.name, f"entry {entry.index}", what))
    for slot in sorted(charges.keys() - uploads.keys()):
        # Charged before it is logged, so a crash in between leaves exactly this: over-charged, never under-charged.
        what = f"run {slot[0]}, round {slot[1]}: charged, but no upload is logged"
        work.findings.append(Finding(party.name, "ledger.db", what, "open"))


def _key(body: Mapping[str, Any]) -> tuple[str, int, int]:
    return str(body["run"]), int(body["round"]), int(body["attempt"])

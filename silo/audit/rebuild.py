"""The report of a finished run, made again: its facts kept only as far as the logs given bear them out.

Invariant: the evidence section is built from log entries read and verified here, never taken over. A listed entry that
no given log has is dropped, and so its statement reads "not evidenced"; an entry that says otherwise than the report
stops the rebuild, because a report that a log contradicts must not be printed again. The same logs and facts give the
same bytes: heads are taken over when they still hold and are signed anew only when they do not cover the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silo_crypto.keys import SIGNING_FILE

from silo.audit.claims import contradiction, subjects_of
from silo.audit.parties import Party
from silo.errors import SiloError, VerificationFailed
from silo.log import Proof, prove, verify_checkpoint
from silo.log.proof import EXTENSION
from silo.report import Report
from silo.report.facts.evidence import Entry, Log

PROOFS = "proofs"


@dataclass(frozen=True)
class Rebuilt:
    """The report, the proofs of its entries by file name, and what could not be confirmed, in words."""

    report: Report
    proofs: dict[str, Proof]
    unconfirmed: tuple[str, ...]


def rebuild(report: Report, parties: Sequence[Party], *, with_proofs: bool = False) -> Rebuilt:
    """Return ``report`` with its evidence read from ``parties``; raise :class:`VerificationFailed` if a log denies it.

    A party whose log does not verify, or whose home was not given, backs nothing; so does one the report does not know.
    """
    unconfirmed: list[str] = []
    wrong: list[str] = []
    proofs: dict[str, Proof] = {}
    logs: list[Log] = []
    named = {*(silo.name for silo in report.silos), report.aggregator.name}
    old = {log.holder: log for log in report.evidence.logs}
    for party in sorted(parties, key=lambda each: _place(report, each.name)):
        if party.name not in named:
            unconfirmed.append(f"the log of {party.name}: the report does not name it")
            continue
        try:
            logs.append(_log(report, party, old.get(party.name), wrong, proofs if with_proofs else None))
        except VerificationFailed as error:
            unconfirmed.append(f"the log of {party.name}: {error.what}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise VerificationFailed(
            "; ".join(wrong[:3]) + more,
            where=f"run {report.run}",
            fix="the report was altered, or the home is of another run: keep both as evidence",
        )
    read = {log.holder for log in logs}
    backed = {(log.holder, entry.index, entry.subject) for log in logs for entry in log.entries}
    for holder, log in old.items():
        if holder not in read:
            if log.entries:
                count = len(log.entries)
                unconfirmed.append(f"what {count} entries of {holder} backed: its log is not at hand or does not hold")
            continue
        for entry in log.entries:
            if (holder, entry.index, entry.subject) not in backed:
                unconfirmed.append(f"{entry.subject}: entry {entry.index} of {holder} is not evidenced")
    evidence = report.evidence.model_copy(update={"logs": tuple(logs)})
    checked = Report.model_validate({**dict(report), "evidence": evidence})
    return Rebuilt(checked, proofs, tuple(unconfirmed))


def _place(report: Report, name: str) -> tuple[int, str]:
    order = [silo.name for silo in report.silos]
    return (order.index(name) if name in order else len(order), name)


def _log(report: Report, party: Party, before: Log | None, wrong: list[str], proofs: dict[str, Proof] | None) -> Log:
    party.log.verify()
    heads = _kept(party, before)  # first: a log that is not the one whose heads were signed contradicts nobody
    entries: list[Entry] = []
    listed = {(each.index, each.subject): each.hash for each in before.entries} if before else {}
    for entry in party.log.entries(run=report.run):
        digest = f"sha256:{entry.hash.hex()}"
        for subject in subjects_of(report, party.name, entry):
            denied = contradiction(report, party.name, subject, entry)
            if denied is None and listed.get((entry.index, subject), digest) != digest:
                denied = "the report gives it another hash"
            if denied is not None:
                wrong.append(f"{subject}, entry {entry.index} of {party.name}: {denied}")
            entries.append(Entry(subject=subject, index=entry.index, hash=digest))
    last = max((each.index for each in entries), default=-1)
    note = next((note for note, size in heads if size > last), None)
    if note is None and (party.home.identity_directory / SIGNING_FILE).exists():
        note = party.log.checkpoint(party.home.identity())
    if note is None:  # a copy without keys: the entries stand as they are, and their head is not evidenced
        if proofs is not None and entries:
            raise VerificationFailed("no signed head covers the run, and the copy holds no key to sign one")
        return Log(holder=party.name, origin=party.log.origin, size=len(party.log), entries=tuple(entries))
    head = verify_checkpoint(note, party.trust.log(party.log.origin), party.trust.others(party.log.origin))
    if proofs is not None:
        entries = [_proven(party, each, note, proofs) for each in entries]
    return Log(
        holder=party.name,
        origin=party.log.origin,
        size=head.size,
        checkpoint=note,
        cosigned_by=tuple(sorted(head.cosigned)),
        entries=tuple(entries),
    )


def _proven(party: Party, entry: Entry, note: str, proofs: dict[str, Proof]) -> Entry:
    name = f"{PROOFS}/{party.name}-{entry.index}{EXTENSION}"
    if name not in proofs:
        proofs[name] = prove(party.log, entry.index, note)
    return entry.model_copy(update={"proof": name})


def _kept(party: Party, before: Log | None) -> list[tuple[str, int]]:
    """Return the signed heads at hand and their sizes, cosigned ones first; raise if the log never had one of them."""
    notes: list[str] = []
    memory = party.witness()
    if memory is not None:
        with memory:
            notes += memory.cosigned(party.log.origin)
    if before is not None and before.checkpoint is not None:
        notes.append(before.checkpoint)
    return [(note, _size(party, note)) for note in notes]


def _size(party: Party, note: str) -> int:
    try:
        head = verify_checkpoint(note, party.trust.log(party.log.origin))
    except SiloError as error:
        raise VerificationFailed(f"a head kept of it is not one it signed: {error.what}") from error
    if head.size > len(party.log) or party.log.head(head.size).root != head.root:
        raise VerificationFailed(
            f"it is not the log whose head of {head.size} entries was signed: it was rolled back or rewritten"
        )
    return head.size

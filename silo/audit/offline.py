"""A report checked away from every home: with proofs of single entries, its own signed heads, and public keys.

Invariant: nothing counts as confirmed that a proven entry does not say; what no proof was given for is listed.
"""

from __future__ import annotations

from collections.abc import Sequence

from silo.audit.claims import contradiction, subjects_of
from silo.audit.trust import Trust
from silo.errors import VerificationFailed
from silo.log import Entry, verify_checkpoint
from silo.report import Report
from silo.report.sections.evidence import subjects

REST = (
    "everything else in it (record counts, AUC, sizes and times, parameters, each rule's outcome, what memory was "
    "searched) is carried by no log entry: it is the word of whoever wrote the report"
)
"""What an auditor must not take from a check that found nothing wrong."""


def confirmed(report: Report, origin: str, entry: Entry, *, where: str) -> list[str]:
    """Return the statements the entry confirms; raise if it contradicts one, or the report names another entry."""
    holder = origin.removeprefix("silo/")
    if entry.body.get("run", report.run) != report.run:
        raise VerificationFailed(
            f"the entry is of run {entry.body['run']}, the report of {report.run}", where=where, fix="not its proof"
        )
    backed = subjects_of(report, holder, entry)
    for subject in backed:
        wrong = contradiction(report, holder, subject, entry)
        if wrong:
            raise VerificationFailed(
                wrong, where=f"{where} ({subject})", fix="the report was altered, or is not of this run"
            )
    for log in report.evidence.logs:
        for claimed in log.entries:
            if (log.origin, claimed.index) == (origin, entry.index) and claimed.hash != f"sha256:{entry.hash.hex()}":
                raise VerificationFailed(
                    f"the report gives entry {entry.index} another hash", where=where, fix="the report was altered"
                )
    return list(backed)


def unproven(report: Report, proven: Sequence[str]) -> list[str]:
    """Return the statements that should have an entry and none of the proofs confirms: they are only claimed."""
    return [subject for subject in subjects(report) if subject not in proven]


def signed_heads(report: Report, trust: Trust) -> list[str]:
    """Check every signed head that the report carries and whose key was given; say what was not checked."""
    said = []
    for log in report.evidence.logs:
        if log.checkpoint is None or log.origin not in trust.logs:
            said.append(f"the head of {log.origin} was not checked: no {'key' if log.checkpoint else 'checkpoint'}")
            continue
        try:
            head = verify_checkpoint(log.checkpoint, trust.log(log.origin), trust.others(log.origin))
        except VerificationFailed as error:
            raise VerificationFailed(
                f"the head it gives of {log.origin}: {error.what}", where="the report", fix="the report was altered"
            ) from error
        if log.size != head.size or any(entry.index >= head.size for entry in log.entries):
            raise VerificationFailed(
                f"it lists a size or entries beyond the {head.size} that were signed",
                where=log.origin,
                fix="the report was altered",
            )
        by = f", cosigned by {', '.join(sorted(head.cosigned))}" if head.cosigned else ""
        said.append(f"the head of {log.origin} ({head.size} entries) is signed by its holder{by}")
    return said

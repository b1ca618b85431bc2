"""Offline evidence: one entry of a log, its inclusion proof and a signed checkpoint in one small text file.

Invariant: :func:`check` needs the file and public keys, nothing else, and returns only an entry that hashes to the
leaf the proof leads from, under a root that the log signed. The entry travels in the ``extra`` line, which the format
does not authenticate; here it is, because its hash is what the proof is about.

Source: C2SP tlog-proof (``c2sp.org/tlog-proof@v1``, file extension ``.tlog-proof``); RFC 9162 section 2.1.3.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from silo.errors import VerificationFailed
from silo.log.entry import MAX_ENTRY_BYTES, Entry, decode
from silo.log.note import MAX_NOTE_BYTES, Checkpoint, VerifierKey, split, verify_checkpoint
from silo.log.store import Log
from silo.log.tree import HASH_BYTES, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
EXTENSION = ".tlog-proof"
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES
_MAX_HASHES = 63
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class Proof:
    """What the file says, nothing verified: the entry's bytes, its index, the sibling hashes, the signed note."""

    index: int
    hashes: tuple[bytes, ...]
    note: str
    data: bytes

    @property
    def origin(self) -> str:
        """The log it claims to be of."""
        return self.note.partition("\n")[0]

    def __str__(self) -> str:
        rows = [HEADER, f"extra {_encode(self.data)}", f"index {self.index}", *map(_encode, self.hashes)]
        return "\n".join(rows) + "\n\n" + self.note

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Read the file's text; raise :class:`VerificationFailed` for anything :meth:`__str__` would not write."""
        head, blank, note = text.partition("\n\n")
        rows = head.split("\n")
        if len(text) > MAX_PROOF_BYTES or not blank or len(rows) < 3 or rows[0] != HEADER:
            raise _malformed(f"it does not begin with {HEADER}, the entry and its index")
        if not rows[1].startswith("extra "):
            raise _malformed("it does not carry the entry in its extra line")
        index = _INDEX.fullmatch(rows[2])
        if index is None or len(rows) - 3 > _MAX_HASHES:
            raise _malformed("its index or its number of hashes is not possible")
        hashes = tuple(_decode(row) for row in rows[3:])
        if any(len(value) != HASH_BYTES for value in hashes):
            raise _malformed("one of its hashes does not have 32 bytes")
        split(note)
        return cls(int(index[1]), hashes, note, _decode(rows[1].removeprefix("extra ")))


@dataclass(frozen=True)
class Checked:
    """An entry that is in the log, and the signed head it was checked against."""

    entry: Entry
    checkpoint: Checkpoint


def prove(log: Log, index: int, note: str) -> Proof:
    """Return the proof that entry ``index`` is in ``log`` under the head that ``note`` signs.

    Raises :class:`VerificationFailed` if that head is not one this log has or had, :class:`ConfigError` if there is no
    such entry.
    """
    head = log_head(log, note)
    return Proof(index, tuple(log.inclusion(index, head.size)), note, log.entry(index).data)


def log_head(log: Log, note: str) -> Checkpoint:
    """Return the head in ``note`` if the log had it at that size; who signed it is not looked at."""
    text, _ = split(note)
    lines = text.split("\n")
    size = int(lines[1]) if len(lines) > 1 and lines[1].isdigit() and lines[1].isascii() else -1
    if lines[0] != log.origin or not 0 <= size <= len(log):
        raise VerificationFailed(
            f"the checkpoint is of {lines[0]} with {lines[1] if len(lines) > 1 else '?'} entries, "
            f"this log is {log.origin} with {len(log)}",
            where=str(log.path),
            fix="somebody rolled the log back, or the checkpoint is another log's",
        )
    head = log.head(size)
    if head.text != text:
        raise VerificationFailed(
            f"the log had another root at size {size}",
            where=str(log.path),
            fix="entries were rewritten after the checkpoint: keep both as evidence",
        )
    return head


def check(proof: Proof, key: VerifierKey, witnesses: Iterable[VerifierKey] = (), *, quorum: int = 0) -> Checked:
    """Return the entry once the log's signature, ``quorum`` cosignatures and the inclusion proof hold.

    Raises :class:`VerificationFailed` saying which of them does not.
    """
    checkpoint = verify_checkpoint(proof.note, key, witnesses, quorum=quorum)
    try:
        entry = decode(proof.index, proof.data)
    except ValueError as error:
        raise VerificationFailed(f"it carries no log entry: {error}", where=f"entry {proof.index}") from error
    verify_inclusion(entry.hash, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return Checked(entry, checkpoint)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("a line is not base64") from error
    if _encode(raw) != text:
        raise _malformed("a line is not canonical base64")
    return raw


def _malformed(what: str) -> VerificationFailed:
    return VerificationFailed(f"not a proof file: {what}", fix="ask for it again, made with `silo audit prove`")

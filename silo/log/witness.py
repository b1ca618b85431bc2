"""Witnessing: remember the heads of others' logs, cosign those that only grew, and name those that did not.

Invariant: a head is cosigned only after it was verified, proven to extend the last head of that log seen here, and
written down durably. So of two heads of one log that contradict each other no honest witness cosigns both: a log
shows everybody the same history, or somebody holds the evidence. What contradicts is kept too, before the error.

A log's holder makes an :class:`Offer` (its signed head, and consistency proofs from the sizes its witnesses say they
saw); a witness answers with a cosigned note; the holder keeps it (:meth:`Witness.keep`). All of it is small enough to
ride on messages that travel anyway.

Two runs of one home share its memory and not the order in which their messages arrive: a head older than what the
*other* run saw since this one began is late, not a rollback (:class:`Overtaken`), and is not cosigned.

Sources: C2SP tlog-witness (what a witness checks), tlog-cosignature (what it signs); RFC 9162 section 2.1.4.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from silo.canonical import utc_now
from silo.errors import ConfigError, SiloError, VerificationFailed
from silo.log.note import Checkpoint, NoteSigner, VerifierKey, cosign, head_of, split, verify_checkpoint
from silo.log.store import Log
from silo.log.tree import HASH_BYTES, verify_consistency
from silo.storage import Database

APPLICATION = 0x53696C04
FILE = "witness.db"
MAX_PROOFS = 1024
_MAX_HASHES = 128
_COLUMNS = (
    "(i INTEGER PRIMARY KEY, origin TEXT NOT NULL, size INTEGER NOT NULL, note TEXT NOT NULL, time TEXT NOT NULL)"
)
_TABLES = {"seen": _COLUMNS, "cosigned": _COLUMNS, "conflict": _COLUMNS}


@dataclass(frozen=True)
class Offer:
    """A signed head and, by the size a witness may have seen before, the proof that it extends that one."""

    note: str
    proofs: Mapping[int, Sequence[bytes]]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON value of texts."""
        proofs = {str(size): [base64.b64encode(each).decode() for each in proof] for size, proof in self.proofs.items()}
        return {"note": self.note, "proofs": proofs}

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Read what :meth:`to_dict` wrote; raise :class:`VerificationFailed` for anything else."""
        try:
            note, proofs = value["note"], value["proofs"]
            if value.keys() != {"note", "proofs"} or not isinstance(note, str) or len(proofs) > MAX_PROOFS:
                raise ValueError
            read = {
                int(size): [base64.b64decode(each, validate=True) for each in hashes] for size, hashes in proofs.items()
            }
            for hashes in read.values():
                if len(hashes) > _MAX_HASHES or any(len(each) != HASH_BYTES for each in hashes):
                    raise ValueError
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise VerificationFailed("not an offered log head", fix="the peer runs another version") from error
        return cls(note, read)


def offer(log: Log, signer: NoteSigner, seen: Iterable[int] = ()) -> Offer:
    """Return the log's present head, signed, with a proof from each size its witnesses say they saw."""
    note = log.checkpoint(signer)
    size = int(note.split("\n", 2)[1])
    return Offer(note, {old: log.consistency(old, size) for old in sorted({*seen}) if 0 < old <= size})


class Witness:
    """A party's durable memory of heads: others' that it saw, and its own that others cosigned."""

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        self.path = path
        self._database = Database(path, APPLICATION, _TABLES, {}, create=create, read_only=read_only)
        try:
            with self._database.reading() as connection:
                self._began = int(connection.execute("SELECT coalesce(max(i), 0) FROM seen").fetchone()[0])
        except BaseException:
            self._database.close()
            raise
        self._marks: dict[str, int] = {}  # by origin: the row up to which this object has seen its heads
        self._open: sqlite3.Connection | None = None  # in `together`: the one transaction of all

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that is observed and kept in the block durably at its end, at the price of one commit.

        Also when the block raises an error of the product: what was seen stays seen, and a contradiction is kept. So
        no cosignature that the block made may leave before the block has ended.
        """
        failure: SiloError | None = None
        with self._database.writing() as connection:
            self._open = connection
            try:
                yield
            except SiloError as error:
                failure = error
            finally:
                self._open = None
        if failure is not None:
            raise failure

    @contextmanager
    def _using(self, mode: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> Iterator[sqlite3.Connection]:
        with self._database.lock:  # another thread waits here until `together` has ended
            if self._open is not None:
                yield self._open
                return
            with mode() as connection:
                yield connection

    def seen(self, origin: str) -> str | None:
        """Return the note of the largest head seen of a log, None if there is none."""
        return next(iter(self._notes("seen", origin)), None)

    def sizes(self) -> dict[str, int]:
        """Return by origin the largest size seen, which the log's holder needs for the next proof."""
        with self._using(self._database.reading) as connection:
            return dict(connection.execute("SELECT origin, max(size) FROM seen GROUP BY origin ORDER BY origin"))

    def overtaken(self, origin: str) -> bool:
        """Say whether another run of this home was shown a later head of a log than this object was."""
        with self._using(self._database.reading) as connection:
            (last,) = connection.execute("SELECT coalesce(max(i), 0) FROM seen WHERE origin = ?", (origin,)).fetchone()
        return int(last) > self._marks.get(origin, self._began)

    def observe(self, offered: Offer, key: VerifierKey, signer: NoteSigner, *, shown: str | None = None) -> str:
        """Return the offered head cosigned by ``signer``, once it is known to extend the last one seen.

        ``key`` is the log's. ``shown`` is a note of it that came without a proof before, to be extended as well.
        Raises :class:`VerificationFailed` that names the log as rolled back, forked or without proof; the contradicting
        note is then kept in :meth:`conflicts`. Raises :class:`Overtaken` for a late head.
        """
        head = verify_checkpoint(offered.note, key)
        bare = head.text + "\n" + "".join(f"{line}\n" for line in _lines_of(offered.note, key))
        try:
            with self._using(self._database.writing) as connection:
                row = connection.execute(
                    "SELECT note, i FROM seen WHERE origin = ? ORDER BY size DESC, i DESC LIMIT 1", (head.origin,)
                ).fetchone()
                last, mark = (head_of(row[0]), int(row[1])) if row else (None, 0)
                if last is not None:
                    if mark > self._marks.get(head.origin, self._began) and _late(last, head, offered.proofs):
                        raise Overtaken("another run saw a later head of this log", where=head.origin)
                    _extends(last, head, offered.proofs)
                if shown is not None:
                    _extends(head_of(shown), head, offered.proofs)
                if last is None or last.size < head.size:
                    mark = self._insert(connection, "seen", head, bare)
                self._marks[head.origin] = mark
        except _Contradiction as error:
            with self._using(self._database.writing) as connection:
                self._insert(connection, "conflict", head, bare)
            raise VerificationFailed(
                error.what, where=error.where, fix="keep witness.db as evidence, stop the run and ask its holder"
            ) from error
        return cosign(bare, signer)

    def keep(self, note: str, own: VerifierKey, witnesses: Sequence[VerifierKey]) -> Checkpoint:
        """Keep a head of one's own log that others cosigned; cosignatures of ``witnesses`` only, all verified."""
        head = verify_checkpoint(note, own, witnesses, quorum=1)
        kept = head.text + "\n" + "".join(f"{line}\n" for key in (own, *witnesses) for line in _lines_of(note, key)[:1])
        with self._using(self._database.writing) as connection:
            self._insert(connection, "cosigned", head, kept)
        return head

    def cosigned(self, origin: str) -> list[str]:
        """Return the cosigned notes kept of one's own log, largest and latest first."""
        return self._notes("cosigned", origin)

    def all_seen(self, origin: str) -> list[str]:
        """Return every note seen of a log, largest first."""
        return self._notes("seen", origin)

    def conflicts(self) -> list[str]:
        """Return every note that contradicted what was seen before, latest first."""
        with self._using(self._database.reading) as connection:
            return [str(note) for (note,) in connection.execute("SELECT note FROM conflict ORDER BY i DESC")]

    def _notes(self, table: str, origin: str) -> list[str]:
        query = f"SELECT note FROM {table} WHERE origin = ? ORDER BY size DESC, i DESC"  # noqa: S608 - our own names
        with self._using(self._database.reading) as connection:
            return [str(note) for (note,) in connection.execute(query, (origin,))]

    @staticmethod
    def _insert(connection: Any, table: str, head: Checkpoint, note: str) -> int:
        query = f"INSERT INTO {table} (origin, size, note, time) VALUES (?, ?, ?, ?)"  # noqa: S608 - our own names
        return int(connection.execute(query, (head.origin, head.size, note, utc_now())).lastrowid)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def merge(notes: Sequence[str]) -> str:
    """Return one note of one head with the signature lines of all; raise :class:`ConfigError` if heads differ."""
    texts = {split(note)[0] for note in notes}
    if len(texts) != 1:
        raise ConfigError("these are cosignatures of different heads", fix="merge those of one head")
    lines = {line: None for note in notes for line in note.rpartition("\n\n")[2].splitlines()}
    return texts.pop() + "\n" + "".join(f"{line}\n" for line in lines)


class Overtaken(VerificationFailed):
    """The head is older than one that another run of the same home was shown since, and may be an honest one."""


def _late(last: Checkpoint, head: Checkpoint, proofs: Mapping[int, Sequence[bytes]]) -> bool:
    return head.size < last.size or (head.size > last.size > 0 and last.size not in proofs)


class _Contradiction(VerificationFailed):
    """The head offered cannot follow the head seen."""


def _extends(last: Checkpoint, head: Checkpoint, proofs: Mapping[int, Sequence[bytes]]) -> None:
    if head.size < last.size:
        raise _Contradiction(
            f"the log was rolled back: it had {last.size} entries and now shows {head.size}", where=head.origin
        )
    if head.size == last.size:
        if head.root != last.root:
            raise _Contradiction(f"the log was forked: two different logs of {head.size} entries", where=head.origin)
        return
    proof = proofs.get(last.size, [] if last.size == 0 else None)
    if proof is None:
        raise VerificationFailed(
            f"no proof that the head of {head.size} entries extends the one of {last.size} seen before",
            where=head.origin,
            fix="the log's holder offers it again with a proof from the size in Witness.sizes()",
        )
    try:
        verify_consistency(last.size, head.size, last.root, head.root, proof)
    except VerificationFailed as error:
        raise _Contradiction(
            f"the log was forked, or its proof altered: its {head.size} entries are not shown to begin with the "
            f"{last.size} seen before",
            where=head.origin,
        ) from error


def _lines_of(note: str, key: VerifierKey) -> list[str]:
    """Return the note's signature lines by ``key``."""
    rows = note.rpartition("\n\n")[2].splitlines()
    return [
        row
        for row, (name, identifier, _) in zip(rows, split(note)[1], strict=True)
        if (name, identifier) == (key.name, key.id)
    ]

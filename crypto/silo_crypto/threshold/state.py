"""What a silo of threshold custody must remember through a crash: one SQLite file, ``shares.db``.

Invariants, each one row with a primary key, committed with synchronous=FULL before the act it permits:

- a silo deals once per key epoch, and never in one before the last it dealt in;
- the keys of one epoch are deleted in the same step in which those of a later one are kept, and nothing happens under
  the earlier one after that;
- it encrypts for one header per attempt, once;
- it confirms, and gives shares of, one agreement per attempt;
- it gives at most 8 shares per attempt, one for each S, and stays within the epoch's coefficients.

So whatever a killed process had sent, its successor is bound by. (An older copy of the file is not: whoever restores a
machine from a snapshot starts a new key epoch.) Secrets in the file are HPKE boxes sealed to the
silo's own identity. An attempt is (manifest, run, epoch, round, attempt).

Source: PROTOCOL section 3, "Attempt", "Agree", "Share", "Flood"; SQLite's documentation of ``PRAGMA synchronous``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from silo_crypto import labels
from silo_crypto.errors import KeyUseError, ProtocolError
from silo_crypto.protocol import Header
from silo_crypto.threshold.messages import framed
from silo_crypto.threshold.parameters import MAX_OPENINGS

_SCHEMA = """
CREATE TABLE IF NOT EXISTS dealings (manifest BLOB, epoch INTEGER, PRIMARY KEY (manifest, epoch)) STRICT;
CREATE TABLE IF NOT EXISTS boxes (
    manifest BLOB, epoch INTEGER, dealer TEXT, box BLOB NOT NULL, PRIMARY KEY (manifest, epoch, dealer)) STRICT;
CREATE TABLE IF NOT EXISTS attempts (
    attempt BLOB PRIMARY KEY, header BLOB NOT NULL, claimed INTEGER NOT NULL DEFAULT 0, upload BLOB, agreement BLOB,
    abandoned INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS openings (
    attempt BLOB, sharers BLOB, manifest BLOB NOT NULL, epoch INTEGER NOT NULL, coefficients INTEGER NOT NULL,
    PRIMARY KEY (attempt, sharers)) STRICT;
"""


def _key(header: Header) -> bytes:
    """Return 32 bytes that stand for (manifest, run, epoch, round, attempt)."""
    numbers = (b"%d" % number for number in (header.epoch, header.round, header.attempt))
    return hashlib.sha256(framed(header.manifest, header.run.encode(), *numbers)).digest()


def _test_key(manifest: bytes, epoch: int) -> bytes:
    return hashlib.sha256(framed(labels.TEST, manifest, b"%d" % epoch)).digest()


_making = threading.Lock()


def _make(path: Path) -> None:
    """Make an empty file with mode 0600. What is there is not even opened: to close it would take this process's locks
    on it away (POSIX), and another process could delete the log that a connection here goes on writing.
    """
    with _making, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class State:
    """The file at ``path``, made with mode 0600 if it is missing. Safe for threads; one process at a time writes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = str(path)
        try:
            _make(path)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            for statement in _SCHEMA.split(";")[:-1]:
                self._db.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise KeyUseError(
                f"cannot open the state: {error}", where=self._path, fix="restore it, or rejoin"
            ) from error

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise KeyUseError(
                f"cannot record a step: {error}", where=self._path, fix="nothing was sent; check the disk"
            ) from error

    # Key epochs

    def deal(self, manifest: bytes, epoch: int) -> None:
        """Record that this silo deals in the epoch; raise ProtocolError if it has in it or in a later one."""
        with self._transaction() as db:
            query = "SELECT MAX(epoch) FROM dealings WHERE manifest = ?"
            last = db.execute(query, (manifest,)).fetchone()[0]
            if last is not None and epoch <= last:
                raise ProtocolError(
                    f"this silo has already dealt in epoch {last}", where="ceremony", fix="start a new key epoch"
                )
            db.execute("INSERT INTO dealings VALUES (?, ?)", (manifest, epoch))

    def keep(self, manifest: bytes, epoch: int, boxes: Mapping[str, bytes], coefficients: int) -> None:
        """Store the boxes of a tested epoch by name, all or none, and delete those of earlier epochs.

        Its tests opened ``coefficients``.
        """
        with self._transaction() as db:
            self._check_epoch(db, manifest, epoch)
            db.execute("DELETE FROM boxes WHERE manifest = ? AND epoch < ?", (manifest, epoch))
            rows = [(manifest, epoch, name, box) for name, box in boxes.items()]
            db.executemany("INSERT INTO boxes VALUES (?, ?, ?, ?)", rows)
            db.execute(
                "INSERT INTO openings VALUES (?, x'', ?, ?, ?)",
                (_test_key(manifest, epoch), manifest, epoch, coefficients),
            )

    def boxes(self, manifest: bytes, epoch: int) -> dict[str, bytes]:
        """Return what :meth:`keep` stored, empty if nothing."""
        with self._lock:
            query = "SELECT dealer, box FROM boxes WHERE manifest = ? AND epoch = ?"
            return dict(self._db.execute(query, (manifest, epoch)).fetchall())

    def forget(self, manifest: bytes, epoch: int) -> None:
        """Delete an epoch's boxes (overwritten with zeros: secure_delete). What was confirmed is kept."""
        with self._transaction() as db:
            db.execute("DELETE FROM boxes WHERE manifest = ? AND epoch = ?", (manifest, epoch))

    # Attempts

    def claim(self, header: Header) -> None:
        """Record that this silo encrypts under ``header``; raise ProtocolError if it may have in this attempt."""
        with self._transaction() as db:
            self._enter(db, header)
            claim = "UPDATE attempts SET claimed = 1 WHERE attempt = ? AND claimed = 0 AND agreement IS NULL"
            if not db.execute(claim, (_key(header),)).rowcount:
                raise ProtocolError(
                    "this silo has already encrypted, or agreed, in this attempt", where="encrypt", fix="start another"
                )

    def uploaded(self, header: Header, digest: bytes) -> None:
        """Record the digest of the upload made under a claimed header."""
        with self._transaction() as db:
            db.execute("UPDATE attempts SET upload = ? WHERE attempt = ?", (digest, _key(header)))

    def upload(self, header: Header) -> bytes | None:
        """Return the digest of this silo's upload under ``header``, if it made one."""
        with self._lock:
            query = "SELECT upload FROM attempts WHERE attempt = ? AND header = ?"
            row = self._db.execute(query, (_key(header), header.digest())).fetchone()
        return row[0] if row else None

    def agree(self, header: Header, agreement: bytes) -> None:
        """Record the one agreement of the attempt; raise ProtocolError if there is another, or another header."""
        with self._transaction() as db:
            self._agree(db, header, agreement)

    def release(self, header: Header, agreement: bytes, sharers: bytes, coefficients: int, limit: int) -> None:
        """Record that a share for S = ``sharers`` leaves: the agreement, the S and the coefficients it opens.

        Raise ProtocolError if any of the invariants forbids it; then nothing is recorded.
        """
        with self._transaction() as db:
            self._agree(db, header, agreement)
            query = "SELECT abandoned FROM attempts WHERE attempt = ?"
            if db.execute(query, (_key(header),)).fetchone()[0]:
                raise ProtocolError("the attempt was abandoned", where="share", fix="start a new round")
            query = "SELECT sharers FROM openings WHERE attempt = ?"
            given = [row[0] for row in db.execute(query, (_key(header),))]
            if sharers in given:
                raise ProtocolError("a share for this S has left already", where="share", fix="choose another S")
            if len(given) >= MAX_OPENINGS:
                raise ProtocolError(f"{MAX_OPENINGS} shares of this attempt have left", where="share", fix="abandon it")
            spent = self._spent(db, header.manifest, header.epoch)
            if spent + coefficients > limit:
                raise ProtocolError(
                    f"{spent} of {limit} coefficients are opened under this epoch's keys; {coefficients} more would "
                    "exceed the statistical distance of 2^-40",
                    where="share",
                    fix="start a new key epoch",
                )
            row = (_key(header), sharers, header.manifest, header.epoch, coefficients)
            db.execute("INSERT INTO openings VALUES (?, ?, ?, ?, ?)", row)

    def released(self, header: Header) -> int:
        """Return how many shares of the attempt may have left: once it is not 0, the attempt counts as released."""
        with self._lock:
            query = "SELECT COUNT(*) FROM openings WHERE attempt = ?"
            return int(self._db.execute(query, (_key(header),)).fetchone()[0])

    def spent(self, manifest: bytes, epoch: int) -> int:
        """Return how many coefficients this silo has given shares of in the epoch."""
        with self._lock:
            return self._spent(self._db, manifest, epoch)

    def abandon(self, header: Header) -> None:
        """Record that no share of this attempt will leave any more."""
        with self._transaction() as db:
            self._enter(db, header)
            db.execute("UPDATE attempts SET abandoned = 1 WHERE attempt = ?", (_key(header),))

    def _enter(self, db: sqlite3.Connection, header: Header) -> None:
        """Bind the attempt to ``header``, or raise ProtocolError if it is bound to another one."""
        self._check_epoch(db, header.manifest, header.epoch)
        key, digest = _key(header), header.digest()
        db.execute("INSERT OR IGNORE INTO attempts (attempt, header) VALUES (?, ?)", (key, digest))
        if db.execute("SELECT header FROM attempts WHERE attempt = ?", (key,)).fetchone()[0] != digest:
            raise ProtocolError(
                "another header was used for this attempt", where="header", fix="the aggregator shows two pasts: stop"
            )

    def _agree(self, db: sqlite3.Connection, header: Header, agreement: bytes) -> None:
        self._enter(db, header)
        before = db.execute("SELECT agreement FROM attempts WHERE attempt = ?", (_key(header),)).fetchone()[0]
        if before not in (None, agreement):
            raise ProtocolError(
                "another set of uploads was agreed for this header", where="agreement", fix="the aggregator lies: stop"
            )
        db.execute("UPDATE attempts SET agreement = ? WHERE attempt = ?", (agreement, _key(header)))

    @staticmethod
    def _check_epoch(db: sqlite3.Connection, manifest: bytes, epoch: int) -> None:
        """Raise ProtocolError if a later epoch's keys are, or were, kept: its test is among the openings."""
        query = "SELECT MAX(epoch) FROM openings WHERE manifest = ? AND sharers = x''"
        kept = db.execute(query, (manifest,)).fetchone()[0]
        if kept is not None and epoch < kept:
            raise ProtocolError(
                f"key epoch {epoch} ended when epoch {kept} began", where="key epoch", fix="start another attempt"
            )

    @staticmethod
    def _spent(db: sqlite3.Connection, manifest: bytes, epoch: int) -> int:
        query = "SELECT COALESCE(SUM(coefficients), 0) FROM openings WHERE manifest = ? AND epoch = ?"
        return int(db.execute(query, (manifest, epoch)).fetchone()[0])

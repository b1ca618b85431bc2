"""The ledger's file: events that only grow in number, each carrying the hash of all before it.

Invariant: what :meth:`Journal.write` wrote inside one :meth:`Journal.deciding` block is there durably after it, or not
at all; the book in memory is always that of the events on disk, and no event is used whose hash and sense were not
checked. Processes take turns by SQLite's write lock, and each reads what the others wrote before it decides.

The head is told to others (:meth:`Journal.head`); a file that is older than, or other than, what they witnessed is
noticed (:meth:`Journal.compare`), which no check of the file alone can do.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silo.canonical import canonical_bytes, parse_canonical, utc_now
from silo.errors import ConfigError, VerificationFailed
from silo.ledger.book import Book
from silo.storage import Database

APPLICATION = 0x53696C02  # "Sil" and 2
CHAIN_LABEL = b"silo/v1/ledger"
_TABLES = {"event": "(i INTEGER PRIMARY KEY, body BLOB NOT NULL, head BLOB NOT NULL)"}
_GUARDS = {
    # Also stops INSERT OR REPLACE, which would delete a row without asking the other triggers.
    "event_in_order": (
        "BEFORE INSERT ON event WHEN NEW.i IS NOT (SELECT coalesce(max(i) + 1, 0) FROM event) "
        "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
    )
}


@dataclass(frozen=True)
class Head:
    """Where a ledger stands: which one it is, its number of events, and the hash over all of them."""

    ledger: str
    size: int
    digest: str


@dataclass(frozen=True)
class Event:
    """One line of the ledger's history."""

    index: int
    kind: str
    time: str
    body: Mapping[str, Any]


class Journal:
    """The events on disk and the :class:`~silo.ledger.book.Book` they add up to."""

    def __init__(self, path: Path, *, create: bool, read_only: bool = False) -> None:
        self.path = path
        self._database = Database(path, APPLICATION, _TABLES, _GUARDS, create=create, read_only=read_only)
        self._book = Book()
        self._heads: list[bytes] = []
        self._writing: sqlite3.Connection | None = None
        try:
            with self.current() if read_only else self.deciding() as book:
                if not book.ledger and read_only:
                    raise ConfigError("the ledger was never written", where=str(path), fix="run `silo init`")
                if not book.ledger:
                    self.write("created", version=1, ledger=os.urandom(16).hex())
        except BaseException:
            self._database.close()
            raise

    @contextlib.contextmanager
    def deciding(self) -> Iterator[Book]:
        """Yield the book while holding the file's write lock: what is decided on it stays true until it is written."""
        with self._or_forget(), self._database.writing() as connection:
            self._catch_up(connection)
            self._writing = connection
            try:
                yield self._book
            finally:
                self._writing = None

    @contextlib.contextmanager
    def current(self) -> Iterator[Book]:
        """Yield the book of the events there are now."""
        with self._or_forget(), self._database.reading() as connection:
            self._catch_up(connection)
            yield self._book

    def write(self, kind: str, **body: Any) -> None:
        """Add one event; only inside :meth:`deciding`, at whose end it becomes durable."""
        if self._writing is None:
            raise RuntimeError("an event is written only by who holds the write lock")
        data = canonical_bytes({"kind": kind, "time": utc_now(), **body})
        self._book.apply(parse_canonical(data))
        self._heads.append(_chain(self._heads[-1] if self._heads else b"", data))
        self._writing.execute("INSERT INTO event VALUES (?, ?, ?)", (len(self._heads) - 1, data, self._heads[-1]))

    def history(self) -> list[Event]:
        """Return every event, oldest first."""
        with self._or_forget(), self._database.reading() as connection:
            self._catch_up(connection)
            rows = connection.execute("SELECT i, body FROM event ORDER BY i").fetchall()
        bodies = [(index, self._parse(index, data)) for index, data in rows]
        return [Event(index, body["kind"], body["time"], body) for index, body in bodies]

    def head(self) -> Head:
        """Return where the ledger stands."""
        with self.current() as book:
            return Head(book.ledger, len(self._heads), _digest(self._heads[-1]))

    def compare(self, witness: Head) -> str:
        """Return what is wrong with the file, if it is not the witnessed one or one that grew from it; else ""."""
        with self.current() as book:
            if witness.ledger != book.ledger:
                return f"the others witnessed ledger {witness.ledger}, this is {book.ledger}"
            if witness.size > len(self._heads):
                return f"the others witnessed {witness.size} events, this has {len(self._heads)}: it was rolled back"
            if witness.size < 1 or not hmac.compare_digest(_digest(self._heads[witness.size - 1]), witness.digest):
                return f"the first {witness.size} events are not those that were witnessed: it was rewritten"
        return ""

    def verify(self) -> Head:
        """Check every page and every event of the file from the first on; return the head that holds."""
        self._database.check_pages()
        self._database.check_schema()
        with self._database.lock:
            self._book, self._heads = Book(), []
            return self.head()

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _or_forget(self) -> Iterator[None]:
        """Read everything again after a failure, for the book may hold events whose transaction was rolled back."""
        with self._database.lock:
            try:
                yield
            except BaseException:
                self._book, self._heads = Book(), []
                raise

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Take in the events that this process has not seen, checking each one's hash and sense."""
        known = len(self._heads)
        start = max(0, known - 1)  # the last one seen is read again: it must still be there, and be the same
        rows = connection.execute("SELECT i, body, head FROM event WHERE i >= ? ORDER BY i", (start,)).fetchall()
        if known and not rows:
            raise self._damaged(start, "it has gone")
        for position, (index, data, head) in enumerate(rows, start):
            body = self._parse(index, data)
            due = _chain(self._heads[position - 1] if position else b"", data)
            if index != position or not isinstance(head, bytes) or not hmac.compare_digest(head, due):
                raise self._damaged(position, "its hash does not follow from the events before it")
            if position < known:
                if due != self._heads[position]:
                    raise self._damaged(position, "another event was here before")
                continue
            try:
                self._book.apply(body)
            except (ValueError, KeyError, TypeError, ConfigError) as error:
                raise self._damaged(position, str(error)) from error
            self._heads.append(due)

    def _parse(self, index: int, data: Any) -> dict[str, Any]:
        try:
            body = parse_canonical(data if isinstance(data, bytes) else b"")
            if not isinstance(body, dict) or not isinstance(body["kind"], str) or not isinstance(body["time"], str):
                raise ValueError("not an event")
        except (ValueError, KeyError) as error:
            raise self._damaged(index, str(error)) from error
        return body

    def _damaged(self, index: int, what: str) -> VerificationFailed:
        return VerificationFailed(
            f"the ledger was altered: {what}",
            where=f"{self.path} event {index}",
            fix="keep the file as evidence, restore the newest copy",
        )


def _chain(previous: bytes, data: bytes) -> bytes:
    return hashlib.sha256(CHAIN_LABEL + (previous or bytes(32)) + data).digest()


def _digest(head: bytes) -> str:
    return "sha256:" + head.hex()

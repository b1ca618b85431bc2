"""A party's log on disk: entries and the hashes of complete subtrees in one append-only SQLite file.

Invariant: an entry that :meth:`Log.append` returned survives kill -9, is never changed, and stays at its index; the
stored hashes are always those of the stored entries, because both are written in one transaction. Everything that was
changed behind the log's back is found by :meth:`Log.verify`, up to the entries that were never witnessed: only a
checkpoint that somebody else kept shows that the file was rolled back or rewritten as a whole.

Source: RFC 9162 section 2.1; C2SP tlog-checkpoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from silo.canonical import utc_now
from silo.errors import ConfigError, VerificationFailed
from silo.log import tree
from silo.log.entry import Entry, decode, encode, encoded
from silo.log.note import Checkpoint, NoteSigner, sign_checkpoint
from silo.log.verification import Fault, faults
from silo.storage import Database

APPLICATION = 0x53696C01  # "Sil" and 1
_TABLES = {
    "origin": "(name TEXT NOT NULL)",
    "entry": "(i INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "hash": "(level INTEGER NOT NULL, i INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (level, i)) WITHOUT ROWID",
}
_GUARDS = {
    # Also stops INSERT OR REPLACE, which would delete a row without asking the other triggers.
    "entry_in_order": (
        "BEFORE INSERT ON entry WHEN NEW.i IS NOT (SELECT coalesce(max(i) + 1, 0) FROM entry) "
        "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
    ),
    "origin_once": (
        "BEFORE INSERT ON origin WHEN EXISTS (SELECT 1 FROM origin) BEGIN SELECT RAISE(ABORT, 'append-only'); END"
    ),
}


class Log:
    """One party's log. ``origin`` names it to the world and is fixed when the file is made (``silo/cleveland``)."""

    def __init__(self, path: Path, origin: str, *, create: bool = True, read_only: bool = False) -> None:
        self._database = Database(path, APPLICATION, _TABLES, _GUARDS, create=create, read_only=read_only)
        self.path = path
        self.origin = origin
        try:
            self._claim()
        except BaseException:
            self._database.close()
            raise

    def _claim(self) -> None:
        read_only = self._database.read_only
        with self._database.reading() if read_only else self._database.writing() as connection:
            found = connection.execute("SELECT name FROM origin").fetchone()
            if found is None and not read_only:
                connection.execute("INSERT INTO origin VALUES (?)", (self.origin,))
            elif found is None or found[0] != self.origin:
                holder = found[0] if found else "nobody yet"
                raise ConfigError(
                    f"this is the log of {holder}, not of {self.origin}", where=str(self.path), fix="check the path"
                )

    def __len__(self) -> int:
        with self._database.reading() as connection:
            return _size(connection)

    def append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        """Append one entry, durably, and return it; see :mod:`silo.log.entry` for what a body may say.

        Raises :class:`ConfigError` for an entry that does not belong in a log, before anything is written.
        """
        return self.extend([(kind, body)])[0]

    def extend(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
        """Append several entries as one: after a crash either all are there or none is."""
        now = utc_now()
        contents = [encode(kind, now, body) for kind, body in entries]
        with self._database.writing() as connection:
            first = _size(connection)
            for index, data in enumerate(contents, first):
                connection.execute("INSERT INTO entry VALUES (?, ?)", (index, data))
                nodes = list(tree.completed(index, tree.leaf_hash(data), _stored(connection)))
                connection.executemany("INSERT INTO hash VALUES (?, ?, ?)", nodes)
        return [encoded(index, data) for index, data in enumerate(contents, first)]

    def entry(self, index: int) -> Entry:
        """Return entry number ``index``, from 0; raise :class:`ConfigError` if there is none."""
        for entry in self.entries(start=index, end=index + 1):
            return entry
        raise ConfigError(f"the log has {len(self)} entries, none numbered {index}", where=str(self.path))

    def entries(self, *kinds: str, start: int = 0, end: int | None = None, **fields: Any) -> Iterator[Entry]:
        """Yield the entries numbered [start, end) that are of one of ``kinds`` (any, if none is given) and whose body
        has every one of ``fields``: ``log.entries("upload", run="7", round=2)``.
        """
        with self._database.reading() as connection:
            stop = _size(connection) if end is None else end
            rows = connection.execute(
                "SELECT e.i, e.data, h.value FROM entry e LEFT JOIN hash h ON h.level = 0 AND h.i = e.i "
                "WHERE e.i >= ? AND e.i < ? ORDER BY e.i",
                (start, stop),
            ).fetchall()
        for index, data, value in rows:
            entry = self._decoded(index, data, value)
            if (not kinds or entry.kind in kinds) and all(
                name in entry.body and entry.body[name] == wanted for name, wanted in fields.items()
            ):
                yield entry

    def _decoded(self, index: int, data: bytes, value: bytes) -> Entry:
        """Return a stored entry whose bytes still have the hash they had when they were appended."""
        try:
            entry = decode(index, data)
            if entry.hash == value:
                return entry
            problem = "it does not match its stored hash"
        except (ValueError, TypeError) as error:
            problem = str(error)
        raise VerificationFailed(
            f"the entry was altered: {problem}", where=f"{self.path} entry {index}", fix="run `silo audit verify`"
        )

    def head(self, size: int | None = None) -> Checkpoint:
        """Return the unsigned head of the first ``size`` entries, or of all."""
        with self._database.reading() as connection:
            size = _checked_size(connection, size)
            return Checkpoint(self.origin, size, tree.root(_stored(connection), size))

    def checkpoint(self, signer: NoteSigner) -> str:
        """Return the present head as a signed note (C2SP tlog-checkpoint), which others keep and cosign."""
        return sign_checkpoint(self.head(), signer)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that entry ``index`` is among the first ``size`` (all, if None)."""
        with self._database.reading() as connection:
            size = _checked_size(connection, size)
            if not 0 <= index < size:
                raise ConfigError(f"the log has {size} entries, none numbered {index}", where=str(self.path))
            return tree.inclusion(_stored(connection), index, size)

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the proof that the first ``new`` entries (all, if None) begin with the first ``old``."""
        with self._database.reading() as connection:
            new = _checked_size(connection, new)
            if not 0 <= old <= new:
                raise ConfigError(f"a log of {new} entries does not begin with {old}", where=str(self.path))
            return tree.consistency(_stored(connection), old, new)

    def faults(self, *witnessed: Checkpoint) -> Sequence[Fault]:
        """Return everything that is wrong with the file, in its order; see :func:`silo.log.verification.faults`."""
        with self._database.reading() as connection:
            return faults(connection, self.origin, witnessed)

    def verify(self, *witnessed: Checkpoint) -> Checkpoint:
        """Check every page, entry and hash, and every checkpoint that others kept; return the head that holds.

        Raises :class:`VerificationFailed` naming each place that does not hold.
        """
        self._database.check_pages()
        self._database.check_schema()
        found = self.faults(*witnessed)
        if found:
            listed = "; ".join(str(fault) for fault in found[:8])
            more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
            raise VerificationFailed(
                f"the log was altered: {listed}{more}",
                where=str(self.path),
                fix="keep the file as evidence, restore a copy",
            )
        return self.head()

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(i) + 1, 0) FROM entry").fetchone()[0])


def _checked_size(connection: sqlite3.Connection, size: int | None) -> int:
    present = _size(connection)
    if size is not None and not 0 <= size <= present:
        raise ConfigError(f"the log has {present} entries, not {size}")
    return present if size is None else size


def _stored(connection: sqlite3.Connection) -> tree.Stored:
    def read(level: int, index: int) -> bytes:
        row = connection.execute("SELECT value FROM hash WHERE level = ? AND i = ?", (level, index)).fetchone()
        if row is None:
            raise VerificationFailed(
                f"the hash of entries {index << level} to {(index + 1 << level) - 1} is missing",
                fix="run `silo audit verify`",
            )
        return bytes(row[0])

    return read

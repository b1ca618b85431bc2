"""Durable files: a small file is there whole or not at all, and a database only grows.

Invariant: what a function here reported as written survives ``kill -9`` and a power cut; a row of an append-only table
is never changed or removed through SQLite. SQLite runs in WAL mode with ``synchronous=FULL``, so a commit returns
after the write-ahead log has been flushed (SQLite documentation, "Write-Ahead Logging", section 2.2 and PRAGMA
synchronous). Triggers keep an honest program from slipping; that somebody rewrote the file itself is found by the
hashes that the log and the ledger keep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from silo.errors import ConfigError, VerificationFailed

BUSY_SECONDS = 30.0


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, mode: int = 0o600) -> None:
    """Write ``content`` to ``path`` so that readers see the old file or the whole new one, also after a power cut.

    What is too large to be held twice comes in parts, of which one at a time is made.

    The file appears with ``mode``, whatever the umask; what is there and no file (a pipe, ``/dev/null``) is written to,
    never replaced. Raises :class:`ConfigError` if it cannot be written.
    """
    temporary, parts = "", [content] if isinstance(content, bytes) else content
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(b"".join(parts))
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.writelines(parts)  # which lets go of each before it asks for the next
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write the file: {error.strerror}", where=str(path), fix="check the folder's owner and free space"
        ) from error


def sync_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; raise :class:`ConfigError` if another process holds it.

    The system lets go of it when the process ends, however it ends.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot open the lock: {error.strerror}", where=str(path)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                "another process is at work here", where=str(path), fix="stop it first: one at a time"
            ) from error
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock file now."""
    try:
        with only_one(path):
            return False
    except ConfigError:
        return True


class Database:
    """One SQLite file of append-only tables, made with mode 0600 when it does not exist.

    ``application`` is the number in the file's header that says whose file it is; ``tables`` maps a table's name to
    what follows ``CREATE TABLE name``, ``guards`` a trigger's name to what follows ``CREATE TRIGGER name``. Threads of
    one process take turns, and so do processes. Do not use one object on both sides of a fork.

    With ``read_only`` nothing on disk changes, not even by a file that SQLite would make beside the database, and no
    writer ever waits. Such an object is for one look: open it again to see what was written since.
    """

    def __init__(
        self,
        path: Path,
        application: int,
        tables: Mapping[str, str],
        guards: Mapping[str, str],
        *,
        create: bool = True,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.read_only = read_only
        if (read_only or not create) and not path.exists():
            raise ConfigError("no such file", where=str(path), fix="check the path, or run `silo init`")
        with self._explained():
            if not read_only:
                _make(path)
            self._frozen = _frozen(path) if read_only else None
            self.connection = sqlite3.connect(
                _read_only_uri(path, self._frozen) if read_only else path,
                uri=read_only,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._explained():
                self._prepare(application, _schema(tables, guards))
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, application: int, schema: Mapping[str, str]) -> None:
        # Before anything is written: the path may name somebody else's database.
        if self._objects() and self._pragma("application_id") != application:
            raise ConfigError("this is another program's database", where=str(self.path), fix="check the path")
        if self.read_only:
            self.connection.execute("PRAGMA query_only=ON")
        else:
            if self._pragma("journal_mode") != "wal":
                self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
        if not self.read_only and not self._objects():
            with self.writing():
                if not self._objects():  # nobody else made them while this process waited
                    self.connection.execute(f"PRAGMA application_id={application}")
                    for statement in schema.values():
                        self.connection.execute(statement)
        self.schema = schema
        self.check_schema()

    def _pragma(self, name: str) -> Any:
        return self.connection.execute(f"PRAGMA {name}").fetchone()[0]

    def _objects(self) -> dict[str, str]:
        rows = self.connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {str(name): str(sql) for name, sql in rows}

    def check_schema(self) -> None:
        """Raise :class:`VerificationFailed` unless tables and triggers are exactly those that were made."""
        found = self._objects()
        for name in sorted(self.schema.keys() | found.keys()):
            if found.get(name) != self.schema.get(name):
                raise VerificationFailed(
                    f"table or trigger {name!r} is missing, added or changed",
                    where=str(self.path),
                    fix="somebody edited the file: compare it with its witnesses",
                )

    def check_pages(self) -> None:
        """Raise :class:`VerificationFailed` if SQLite finds a page, index or record of the file damaged or missing."""
        with self.lock, self._explained():
            report = [str(line) for (line,) in self.connection.execute("PRAGMA integrity_check(10)")]
        if report != ["ok"]:
            raise VerificationFailed(
                f"the database is damaged: {'; '.join(report)}", where=str(self.path), fix="restore it from a copy"
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's only write lock; commit durably at the end, or roll back if the block raises."""
        with self.lock, self._explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold one consistent snapshot for several reads."""
        with self.lock, self._explained():
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")  # nothing was written: this only drops the snapshot
            if self._frozen is not None and _frozen(self.path) != self._frozen:
                raise ConfigError("somebody wrote while it was read", where=str(self.path), fix="read it again")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the system report into errors of the product; our own mistakes stay as they are."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"cannot use the database: {error}",
                where=str(self.path),
                fix="check its owner, the free space, and that no other program holds it",
            ) from error
        except sqlite3.DatabaseError as error:
            raise VerificationFailed(
                f"the database is damaged: {error}", where=str(self.path), fix="restore it from a copy"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"cannot open the database: {error.strerror}", where=str(self.path), fix="check the path and its owner"
            ) from error

    def close(self) -> None:
        """Close the file; a later use raises."""
        with self.lock:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_making = threading.Lock()


def _make(path: Path) -> None:
    """Make an empty file with mode 0600, which SQLite gives its -wal and -shm too; what is there is not even opened.

    To close any descriptor of a file takes this process's locks on it away (POSIX), also those of a connection that is
    in use: another process would then delete the log that this one goes on writing ("How To Corrupt", section 2.2).
    """
    with _making, contextlib.suppress(FileExistsError):  # who finds it made may lock it once the maker closed it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _frozen(path: Path) -> tuple[int, ...] | None:
    """Return what tells the file's content apart while no process has it open; None if one does, or was killed.

    A database that was closed has no write-ahead log beside it: everything is in the one file.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return None
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _read_only_uri(path: Path, frozen: tuple[int, ...] | None) -> str:
    """Return the URI under which SQLite writes nothing (SQLite documentation, "Write-Ahead Logging", section 6).

    Opened merely with ``mode=ro``, SQLite makes the two files beside the database if they are missing. So a file that
    nobody has open is read as immutable, and one that is in use with the index its writer made, itself read only.
    """
    if frozen is None and not path.with_name(f"{path.name}-shm").exists():
        raise ConfigError(
            "its last writer was killed, and the index beside it is gone",
            where=str(path),
            fix="`silo audit verify` opens it for writing, which makes it whole",
        )
    return f"{path.absolute().as_uri()}?mode=ro&{'readonly_shm=1' if frozen is None else 'immutable=1'}"


def _schema(tables: Mapping[str, str], guards: Mapping[str, str]) -> dict[str, str]:
    """Return every object of the file by name: each table, its two append-only triggers, and further guards."""
    schema = {name: f"CREATE TABLE {name}{columns}" for name, columns in tables.items()}
    for table in tables:
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            schema[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'append-only'); END"
            )
    return schema | {name: f"CREATE TRIGGER {name} {rest}" for name, rest in guards.items()}

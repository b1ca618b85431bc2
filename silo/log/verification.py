"""Is this log file what it says it is? Everything is computed again from the entries and compared.

Invariant: a log passes only if its entries are numbered without a gap, each is a canonical entry, the stored hashes
are exactly those that the entries give, and every witnessed checkpoint is a head this log once had. Hashes are
compared before any entry is parsed, so one changed byte costs one pass of SHA-256.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from silo.log import tree
from silo.log.entry import decode
from silo.log.note import Checkpoint


@dataclass(frozen=True)
class Fault:
    """One thing that does not hold: where (an entry, a hash, a checkpoint), and what."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place} {self.what}"


def faults(connection: sqlite3.Connection, origin: str, witnessed: Iterable[Checkpoint] = ()) -> Sequence[Fault]:
    """Return what is wrong with the log behind ``connection``: first places of the file, then of the entries.

    ``witnessed`` are heads that others kept, already verified: they find a file that was rolled back, and one that was
    forked, which no check of the file alone can.
    """
    found = [Fault("origin", f"is {name!r}, not {origin!r}") for name in _origins(connection) if name != origin]
    rows = [(index, _blob(data)) for index, data in connection.execute("SELECT i, data FROM entry ORDER BY i")]
    stored: dict[tuple[int, int], bytes] = {}
    for level, index, value in connection.execute("SELECT level, i, value FROM hash"):
        if isinstance(level, int) and isinstance(index, int) and 0 <= level < 64:
            stored[level, index] = _blob(value)
        else:
            found.append(Fault("hash table", f"has a row for level {level!r}, number {index!r}"))
    found += _gaps(rows)
    if not found:
        found += _hashes(rows, stored)
    if not found:
        found += _contents(rows)
    return found + _witnesses(stored, len(rows), origin, witnessed, intact=not found)


def _blob(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""  # another type was never written: its hash will not fit


def _origins(connection: sqlite3.Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute("SELECT name FROM origin")] or [""]


def _gaps(rows: Sequence[tuple[int, bytes]]) -> list[Fault]:
    present = {index for index, _ in rows}
    missing = sorted(set(range(max(present, default=-1) + 1)) - present)
    strange = sorted(index for index in present if index < 0)
    return [Fault(f"entry {index}", "is missing") for index in missing] + [
        Fault(f"entry {index}", "has an impossible number") for index in strange
    ]


def _hashes(rows: Sequence[tuple[int, bytes]], stored: dict[tuple[int, int], bytes]) -> list[Fault]:
    """Compare the stored hash of every complete subtree with the entries', leaves first."""
    found = []
    due: set[tuple[int, int]] = set()
    level, values = 0, [tree.leaf_hash(data) for _, data in rows]
    while values:
        for index, value in enumerate(values):
            due.add((level, index))
            held = stored.get((level, index))
            if held is None:
                found.append(Fault(_name(level, index), "has no stored hash"))
            elif not hmac.compare_digest(held, value):
                found.append(Fault(_name(level, index), "does not match its stored hash"))
        if found:
            return found  # the levels above only repeat it
        values = [tree.node_hash(left, right) for left, right in zip(values[::2], values[1::2], strict=False)]
        level += 1
    for level, index in sorted(stored.keys() - due):
        found.append(Fault(_name(level, index), "is missing: only its hash is stored"))
    return found


def _contents(rows: Sequence[tuple[int, bytes]]) -> list[Fault]:
    found = []
    for index, data in rows:
        try:
            decode(index, data)
        except ValueError as error:
            found.append(Fault(f"entry {index}", f"is not a log entry: {error}"))
    return found


def _witnesses(
    stored: dict[tuple[int, int], bytes], size: int, origin: str, witnessed: Iterable[Checkpoint], *, intact: bool
) -> list[Fault]:
    """Compare the heads that others kept: sizes always, roots if the stored hashes are those of the entries."""
    found = []
    for checkpoint in sorted(witnessed, key=lambda checkpoint: checkpoint.size):
        place = f"checkpoint of size {checkpoint.size}"
        if checkpoint.origin != origin:
            found.append(Fault(place, f"is of another log, {checkpoint.origin}"))
        elif checkpoint.size > size:
            found.append(Fault(place, f"was witnessed, but the log has only {size} entries: it was rolled back"))
        elif intact and tree.root(lambda level, index: stored[level, index], checkpoint.size) != checkpoint.root:
            found.append(
                Fault(place, f"was witnessed with another root: entries before {checkpoint.size} were rewritten")
            )
    return found


def _name(level: int, index: int) -> str:
    return f"entry {index}" if level == 0 else f"hash of entries {index << level} to {(index + 1 << level) - 1}"

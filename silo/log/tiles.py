"""A log as a folder of static files that any tiled-log client reads: checkpoint, tiles of hashes, bundles of entries.

Invariant: :func:`export` writes exactly the resources that the checkpoint's size calls for, and :func:`read` believes
none of them: it recomputes every tile from the entries and the root from the tiles, and compares that with the signed
checkpoint.

Source: C2SP tlog-tiles (tiles of 256 hashes, entry bundles of big-endian uint16 length-prefixed entries).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from silo.errors import ConfigError, VerificationFailed
from silo.log import tree
from silo.log.entry import Entry, decode
from silo.log.note import MAX_NOTE_BYTES, Checkpoint, VerifierKey, verify_checkpoint
from silo.log.proof import log_head
from silo.log.store import Log
from silo.storage import write_atomically

WIDTH = 256
CHECKPOINT, BUNDLES = "checkpoint", "tile/entries"


def export(log: Log, note: str, directory: Path) -> Checkpoint:
    """Write the log up to the head in ``note`` into ``directory``, the checkpoint last; return that head.

    Existing files of the same names are replaced, others are left: exporting again after the log grew completes it.
    """
    head = log_head(log, note)
    entries = list(log.entries(end=head.size))
    for start in range(0, head.size, WIDTH):
        bundle = b"".join(struct.pack(">H", len(each.data)) + each.data for each in entries[start : start + WIDTH])
        _write(directory / BUNDLES / _name(start // WIDTH, min(WIDTH, head.size - start)), bundle)
    for level, hashes in _levels([each.hash for each in entries]):
        for start in range(0, len(hashes), WIDTH):
            tile = hashes[start : start + WIDTH]
            _write(directory / f"tile/{level}" / _name(start // WIDTH, len(tile)), b"".join(tile))
    _write(directory / CHECKPOINT, note.encode())
    return head


def read(directory: Path, key: VerifierKey) -> tuple[Checkpoint, list[Entry]]:
    """Return the head and entries of an exported log after checking every file against the signed checkpoint.

    Raises :class:`VerificationFailed` naming the file that does not hold, :class:`ConfigError` for one that is missing.
    """
    note = _read(directory / CHECKPOINT, MAX_NOTE_BYTES)
    try:
        head = verify_checkpoint(note.decode(), key)
    except UnicodeDecodeError as error:
        raise VerificationFailed("it is not UTF-8", where=str(directory / CHECKPOINT)) from error
    entries: list[Entry] = []
    for start in range(0, head.size, WIDTH):
        width = min(WIDTH, head.size - start)
        path = directory / BUNDLES / _name(start // WIDTH, width)
        entries += _unbundle(_read(path, WIDTH * 65_537), start, width, path)
    for level, hashes in _levels([each.hash for each in entries]):
        for start in range(0, len(hashes), WIDTH):
            tile = hashes[start : start + WIDTH]
            path = directory / f"tile/{level}" / _name(start // WIDTH, len(tile))
            if _read(path, WIDTH * tree.HASH_BYTES) != b"".join(tile):
                raise VerificationFailed("the tile is not that of the entries", where=str(path))
    if root_of([each.hash for each in entries]) != head.root:
        raise VerificationFailed("the entries do not give the checkpoint's root", where=str(directory))
    return head, entries


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf hashes."""
    if not leaves:
        return tree.EMPTY_ROOT
    complete: dict[tuple[int, int], bytes] = {}
    level, hashes = 0, list(leaves)
    while hashes:
        complete |= {(level, index): value for index, value in enumerate(hashes)}
        hashes = _pairs(hashes)
        level += 1
    return tree.root(lambda at, index: complete[at, index], len(leaves))


def _levels(leaves: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield each tile level and its hashes: at level l, the roots of full subtrees of 256^l leaves."""
    level, hashes = 0, list(leaves)
    while hashes:
        yield level, hashes
        for _ in range(8):
            hashes = _pairs(hashes)
        level += 1


def _pairs(hashes: Sequence[bytes]) -> list[bytes]:
    return [tree.node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=False)]


def _name(number: int, width: int) -> str:
    """Return ``x001/x234/067`` or, for a partial one, ``x001/x234/067.p/112``."""
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
    return name if width == WIDTH else f"{name}.p/{width}"


def _unbundle(content: bytes, start: int, width: int, path: Path) -> Iterator[Entry]:
    at = 0
    for index in range(start, start + width):
        size = struct.unpack_from(">H", content, at)[0] if at + 2 <= len(content) else -1
        data = content[at + 2 : at + 2 + size] if size >= 0 else b""
        if len(data) != size:
            raise VerificationFailed(f"entry {index} is cut short", where=str(path))
        at += 2 + size
        try:
            yield decode(index, data)
        except ValueError as error:
            raise VerificationFailed(f"entry {index} is not a log entry: {error}", where=str(path)) from error
    if at != len(content):
        raise VerificationFailed(f"{len(content) - at} bytes follow its last entry", where=str(path))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write the file: {error.strerror}", where=str(path), fix="check the folder"
        ) from error


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", where=str(path), fix="export again") from error
    if len(content) > most:
        raise VerificationFailed("the file is larger than it can be", where=str(path))
    return content

"""The Merkle tree of RFC 6962 and RFC 9162: roots, inclusion and consistency proofs, and their verification.

Invariant: pure functions over hashes. A prover reads the hashes of complete subtrees through ``stored(level, index)``,
the root over leaves [index 2^level, (index + 1) 2^level); a verifier needs nothing but the proof. Verifiers return
nothing or raise :class:`~silo.errors.VerificationFailed`: there is no result that a caller could forget to look at.

Source: RFC 9162 section 2.1 (2.1.1 tree, 2.1.3 inclusion, 2.1.4 consistency), the same tree as RFC 6962's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence

from silo.errors import VerificationFailed

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

Stored = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256 over 0x00 and the entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256 over 0x01 and both children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(index: int, leaf: bytes, stored: Stored) -> Iterator[tuple[int, int, bytes]]:
    """Yield ``(level, index, hash)`` of every complete subtree that appending leaf number ``index`` finishes."""
    level, value = 0, leaf
    yield level, index, value
    while index & 1:
        value = node_hash(stored(level, index - 1), value)
        level, index = level + 1, index >> 1
        yield level, index, value


def root(stored: Stored, size: int) -> bytes:
    """Return the root of the first ``size`` leaves."""
    return _range_hash(stored, 0, size) if size else EMPTY_ROOT


def inclusion(stored: Stored, index: int, size: int) -> list[bytes]:
    """Return the proof that leaf ``index`` is in the tree of ``size`` leaves, lowest sibling first."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    return [_range_hash(stored, start, end) for start, end, _ in _siblings(index, size)]


def consistency(stored: Stored, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of ``new`` leaves begins with the tree of ``old`` leaves."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return []
    shared, siblings = _frontier(old, new)
    head = [] if shared == (0, old) else [_range_hash(stored, *shared)]
    return head + [_range_hash(stored, start, end) for start, end, _ in siblings]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check that ``leaf`` (a leaf hash) is number ``index`` of the ``size`` leaves under the root ``expected``."""
    _require(0 <= index < size, f"there is no entry {index} in a log of {size}")
    siblings = _siblings(index, size)
    _require(len(proof) == len(siblings), f"the proof has {len(proof)} hashes where {len(siblings)} are due")
    value = leaf
    for sibling, (_, _, on_the_right) in zip(proof, siblings, strict=True):
        value = node_hash(value, sibling) if on_the_right else node_hash(sibling, value)
    _require(hmac.compare_digest(value, expected), f"entry {index} is not in the log of {size} with this root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the log of ``new`` entries under ``new_root`` begins with that of ``old`` under ``old_root``."""
    _require(0 <= old <= new, f"a log of {new} entries cannot extend one of {old}")
    if old in (0, new):
        _require(not proof, "the proof should be empty")
        _require(old_root == (new_root if old else EMPTY_ROOT), f"two different logs of {old} entries")
        return
    shared, siblings = _frontier(old, new)
    hashes = list(proof) if shared != (0, old) else [old_root, *proof]
    _require(len(hashes) == 1 + len(siblings), f"the proof has {len(proof)} hashes, which is not the number due")
    before = after = hashes[0]
    for sibling, (_, _, on_the_right) in zip(hashes[1:], siblings, strict=True):
        if on_the_right:  # leaves that came after the old tree
            after = node_hash(after, sibling)
        else:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
    holds = hmac.compare_digest(before, old_root) and hmac.compare_digest(after, new_root)
    _require(holds, f"the log of {new} entries does not begin with the log of {old}: it was forked or rewritten")


_Sibling = tuple[int, int, bool]  # leaves [start, end), and whether they stand to the right of the path


def _siblings(index: int, size: int) -> list[_Sibling]:
    """Return the subtrees beside the path from leaf ``index`` up to the root (RFC 9162 section 2.1.3.1)."""
    path: list[_Sibling] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end, True))
            end = middle
        else:
            path.append((start, middle, False))
            start = middle
    return path[::-1]


def _frontier(old: int, new: int) -> tuple[tuple[int, int], list[_Sibling]]:
    """Return the last subtree that both trees share, and the subtrees from there to the root (section 2.1.4.1)."""
    path: list[_Sibling] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end, True))
            end = middle
        else:
            path.append((start, middle, False))
            start = middle
    return (start, end), path[::-1]


def _range_hash(stored: Stored, start: int, end: int) -> bytes:
    """Return the hash over leaves [start, end), start a multiple of the power of two that covers the range."""
    value = b""
    while start < end:  # from the right: the smallest complete subtree first
        level = ((end - start) & -(end - start)).bit_length() - 1
        end -= 1 << level
        subtree = stored(level, end >> level)
        value = node_hash(subtree, value) if value else subtree
    return value


def _split(size: int) -> int:
    """Return the largest power of two below ``size`` (at least 2)."""
    return 1 << (size - 1).bit_length() - 1


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise VerificationFailed(what, fix="the log or the proof was altered: keep both as evidence")

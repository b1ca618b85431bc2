"""What travels beside the values so that an aggregate can be checked: presence and a linear MAC.

A silo encrypts the field vector ``[values d | presence m | MAC limbs L]``, every field below 2^value_bits. Presence is
one field for each of the header's m members: silo i writes a non-zero pseudorandom number into field i and zeros into
the others. The tag is <r, values and presence> mod P with P = 2^61 - 1 and r pseudorandom in Z_P from the group key
and the header; it is cut into limbs of value_bits. All of it is linear, so the same equations hold for the sums.

Claim, exactly: an aggregator *alone*, without the group key, passes the check with an altered sum with probability
2^-61 an attempt. Nothing is claimed against an aggregator that has a silo's help: every silo holds the group key.
The header, with the HMAC of the last aggregate in it, goes into r: silos that were shown different pasts fail.

Invariant: a failure destroys the group key, and with it the epoch. There is no retry and no second opinion under a key
that has once seen a bad aggregate, because answers about bad aggregates are a decryption oracle.
Source: PROTOCOL section 3, "both"; Carter and Wegman 1981 for the inner-product hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_crypto import labels
from silo_crypto.errors import (
    EncodingError,
    KeyUseError,
    ProtocolError,
    SignatureError,
    VerificationError,
    WireError,
)
from silo_crypto.keys import Secret
from silo_crypto.protocol import Fields, Header, Opener, Payload, Sums
from silo_crypto.randomness import NONCE_BYTES, keystream

P = (1 << 61) - 1
GROUP_KEY_BYTES = 32
_CHUNK = 1 << 16
_LOW = 31  # r = low + 2^31 high: a product with a field below 2^b has at most 31 + b bits


class GroupKey(Secret):
    """The key that the silos of an epoch share and the aggregator lacks: MAC, presence, chain and pads come from it."""

    __slots__ = ("_at_end", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != GROUP_KEY_BYTES:
            raise KeyUseError(f"a group key has {GROUP_KEY_BYTES} bytes")
        self._key: bytes | None = key
        self._at_end: Callable[[], None] | None = None

    @classmethod
    def generate(cls) -> GroupKey:
        """Return a fresh key from the operating system's generator."""
        return cls(os.urandom(GROUP_KEY_BYTES))

    @property
    def destroyed(self) -> bool:
        """Whether a failed check has ended this epoch."""
        return self._key is None

    def destroy(self) -> None:
        """Forget the key: every later use raises KeyUseError. (Python cannot erase memory; SECURITY.md says so.)"""
        self._key = None
        if self._at_end is not None:
            self._at_end()

    def at_end(self, forget: Callable[[], None]) -> None:
        """Have ``forget`` called when the key is destroyed: whoever stored the epoch's keys deletes them then."""
        self._at_end = forget

    def export(self) -> bytes:
        """Return the 32 bytes, only to be sealed to another member."""
        if self._key is None:
            raise KeyUseError("this epoch's key was destroyed after a failed check", fix="start a new epoch")
        return self._key

    def derive(self, label: bytes, context: Payload) -> bytes:
        """Return the 32-byte key HMAC-SHA256(group key, label, 0, context)."""
        state = hmac.new(self.export(), label + b"\0", hashlib.sha256)
        state.update(context)
        return state.digest()


def limb_count(value_bits: int) -> int:
    """Return how many fields of ``value_bits`` hold a tag of 61 bits."""
    return -(-P.bit_length() // value_bits)


def field_count(values: int, members: int, value_bits: int) -> int:
    """Return the length d + m + L of the field vector around ``values`` values."""
    return values + members + limb_count(value_bits)


def protect(group_key: GroupKey, header: Header, sender: str, values: Fields, value_bits: int) -> Fields:
    """Return the field vector, shape (d + m + L,), uint32, around ``values``, shape (d,), each below 2^value_bits."""
    members = len(header.members)
    if sender not in header.members:
        raise ProtocolError("the sender is not a member of the header", where=sender)
    if values.ndim != 1 or (values.size and int(values.max()) >> value_bits):
        raise EncodingError(f"values are one vector of integers below 2^{value_bits}", where=sender)
    fields = np.zeros(field_count(len(values), members, value_bits), dtype=np.uint32)
    covered = len(values) + members
    fields[: len(values)] = values
    fields[len(values) + header.members.index(sender)] = _presence(group_key, header, sender, value_bits)
    tag = _inner(group_key.derive(labels.MAC, header.digest()), fields[:covered], value_bits)
    for index in range(covered, len(fields)):
        fields[index] = tag & ((1 << value_bits) - 1)
        tag >>= value_bits
    return fields


def check(group_key: GroupKey, header: Header, uploaders: Sequence[str], sums: Sums, value_bits: int) -> Sums:
    """Return the first d of the summed fields, shape (d,), a view, if they are the sum of one upload of each uploader.

    ``sums`` has shape (d + m + L,). Otherwise destroy ``group_key`` and raise VerificationError; ``silos`` on it names
    those whose presence is wrong, if that is what failed. Tell the other side nothing but that you stopped.
    """
    wrong = _find_fault(group_key, header, uploaders, sums, value_bits)
    if wrong is not None:
        group_key.destroy()
        what, silos = wrong
        fix = "this epoch's key is destroyed; find out who sent the aggregate, then start a new epoch"
        raise VerificationError(what, silos=silos, fix=fix)
    return sums[: len(sums) - len(header.members) - limb_count(value_bits)]


def open_sum(
    opener: Opener,
    group_key: GroupKey,
    header: Header,
    uploaders: Sequence[str],
    payload: Payload,
    *,
    values: int,
    value_bits: int,
    minimum: int,
    own: str | None = None,
) -> Sums:
    """Open an aggregate and return the exact sums, shape (values,), int64, only if every check holds.

    Public checks come first and cost nothing: uploaders are distinct members, at least ``minimum`` of them, and
    ``own`` (the silo that opens, if it uploaded) among them; else ProtocolError. What fails after that, in decryption
    or in :func:`check`, destroys the key; only what an opener says of public bytes (WireError, SignatureError,
    ProtocolError) does not.
    """
    if len(set(uploaders)) != len(uploaders) or not set(uploaders) <= set(header.members):
        raise ProtocolError("the uploaders are not distinct members")
    if len(uploaders) < minimum:
        raise ProtocolError(f"only {len(uploaders)} uploads; the agreed minimum is {minimum}")
    if own is not None and own not in uploaders:
        raise ProtocolError(
            "the aggregate leaves out this silo's own upload", where=own, fix="the aggregator dropped it"
        )
    group_key.export()
    try:
        fields = opener.open(header, payload, field_count(values, len(header.members), value_bits))
    except (WireError, SignatureError, ProtocolError):  # said of public bytes alone
        raise
    except Exception:
        group_key.destroy()
        raise
    return check(group_key, header, uploaders, fields, value_bits)


def chain(group_key: GroupKey, header: Header, sums: Sums) -> bytes:
    """Return the 32-byte HMAC of an accepted aggregate and its header, for the next header's ``chain``.

    An HMAC, never a hash: the sums of a small model can be guessed, and the next header is public.
    """
    state = hmac.new(group_key.export(), labels.CHAIN + b"\0" + header.digest(), hashlib.sha256)
    for start in range(0, len(sums), _CHUNK):
        state.update(sums[start : start + _CHUNK].astype("<i8").tobytes())
    return state.digest()


def _find_fault(
    group_key: GroupKey, header: Header, uploaders: Sequence[str], sums: Sums, value_bits: int
) -> tuple[str, tuple[str, ...]] | None:
    members, limbs = header.members, limb_count(value_bits)
    covered = len(sums) - limbs
    if covered < len(members):
        return "the aggregate is too short to be checked", ()
    # Presence first: it is what can say who.
    due = [_presence(group_key, header, name, value_bits) if name in uploaders else 0 for name in members]
    present = sums[covered - len(members) : covered].tolist()
    absent = tuple(name for name, want, got in zip(members, due, present, strict=True) if want != got)
    if absent:
        return f"omitted, doubled, altered or invented: the upload of {', '.join(absent)}", absent
    largest = len(uploaders) * ((1 << value_bits) - 1)
    if int(sums.min()) < 0 or int(sums.max()) > largest:
        return f"a field exceeds {len(uploaders)} uploads of {value_bits} bits", ()
    tag = sum(limb << (value_bits * index) for index, limb in enumerate(sums[covered:].tolist())) % P
    r_key = group_key.derive(labels.MAC, header.digest())
    inner = _inner(r_key, sums[:covered], largest.bit_length())
    if not hmac.compare_digest(tag.to_bytes(8, "little"), inner.to_bytes(8, "little")):
        return "the aggregate is not the sum of the uploads under this header", ()
    return None


def _presence(group_key: GroupKey, header: Header, name: str, value_bits: int) -> int:
    """Return a number in [1, 2^value_bits), biased by less than 2^-200."""
    word = group_key.derive(labels.PRESENCE, header.digest() + name.encode())
    return 1 + int.from_bytes(word, "little") % ((1 << value_bits) - 1)


def _multipliers(key: bytes, count: int) -> Iterator[NDArray[np.uint64]]:
    """Yield r in order and in chunks, ``count`` numbers uniform in [0, P): 61 bits of AES-256-CTR words, P rejected."""
    # The key serves this one stream, so the zero nonce is safe.
    read = keystream(key, bytes(NONCE_BYTES))
    kept: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        while len(kept) < size:
            words = np.frombuffer(read(8 * (size - len(kept))), dtype="<u8") & np.uint64(P)
            words = words[words != P] if words.size and int(words.max()) == P else words
            kept = np.concatenate((kept, words)) if len(kept) else words
        yield kept
        kept = kept[size:]


def _inner(key: bytes, fields: NDArray[Any], bits: int) -> int:
    """Return <r, fields> mod P for non-negative fields of at most ``bits`` <= 32 bits, without overflow.

    r is split into 31 low and 30 high bits, so a product has at most 31 + bits bits and 2^(33 - bits) of them fit 64.
    """
    if not 1 <= bits <= 32:
        raise EncodingError(f"fields of {bits} bits cannot be checked")
    terms = 1 << (64 - _LOW - bits)
    total, start = 0, 0
    for r in _multipliers(key, len(fields)):
        chunk = fields[start : start + len(r)].astype(np.uint64)
        start += len(r)
        ends = np.arange(0, len(r), terms)
        low = np.add.reduceat((r & np.uint64((1 << _LOW) - 1)) * chunk, ends)
        high = np.add.reduceat((r >> np.uint64(_LOW)) * chunk, ends)
        total = (total + sum(low.tolist()) + (sum(high.tolist()) << _LOW)) % P
    return total

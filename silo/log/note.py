"""Signed notes, checkpoints and cosignatures, in the text formats that other people's tools read.

Invariant: what a function here returns was signed by the keys the caller named; signatures of unknown keys count for
nothing, and one bad signature of a known key rejects the whole note. A checkpoint says "this log had this many entries
under this root"; a cosignature says "and it only ever grew since I last looked", so whoever cosigns checks a
consistency proof first (:func:`silo.log.tree.verify_consistency`).

Sources: C2SP signed-note (Ed25519, type 0x01), tlog-checkpoint, tlog-cosignature (v1, Ed25519, type 0x04).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from Crypto.Signature import eddsa

from silo.errors import ConfigError, VerificationFailed
from silo.log.tree import HASH_BYTES

ED25519 = 0x01
COSIGNATURE = 0x04
MAX_SIGNATURES = 256
MAX_NOTE_BYTES = 65_536
_KEY_BYTES, _SIGNATURE_BYTES, _ID_BYTES = 32, 64, 4
_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class PublicHalf(Protocol):
    """What a note needs to know of a signing key (``silo_crypto.keys.PublicIdentity`` is one)."""

    @property
    def name(self) -> str: ...

    @property
    def ed25519(self) -> bytes:
        """The raw public key: 32 bytes."""
        ...


class NoteSigner(Protocol):
    """A :class:`silo_crypto.protocol.Signer` that can show its public half (``silo_crypto.keys.Identity`` is one)."""

    @property
    def name(self) -> str: ...

    def sign(self, message: bytes) -> bytes: ...

    def public(self) -> PublicHalf: ...


@dataclass(frozen=True)
class VerifierKey:
    """A public key under the name it signs as, for one kind of signature (``ED25519`` or ``COSIGNATURE``).

    Its text form, ``name+id+base64``, is the vkey of C2SP: what an auditor is given, and keeps.
    """

    name: str
    ed25519: bytes
    algorithm: int = ED25519

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or any(ord(sign) < 32 for sign in self.name):
            raise ConfigError(f"{self.name!r} cannot name a key", fix="no spaces, no plus sign, not empty")
        if self.algorithm not in (ED25519, COSIGNATURE):
            raise ConfigError(f"unknown signature type {self.algorithm:#04x}", where=self.name, fix="use type 1 or 4")
        try:
            problem = _problem_of(self.ed25519)
        except (ValueError, TypeError) as error:
            raise ConfigError("not an Ed25519 public key", where=self.name, fix="ask for the key again") from error
        if problem:
            raise ConfigError(problem, where=self.name, fix="ask for the key again")

    @property
    def id(self) -> bytes:
        """The four bytes that stand for the key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._material).digest()[:_ID_BYTES]

    @property
    def _material(self) -> bytes:
        return bytes([self.algorithm]) + self.ed25519

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._material).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the text form; raise :class:`ConfigError` if any part of it does not fit the others."""
        try:
            name, identifier, encoded = text.strip().split("+", 2)
            material = _decode(encoded)
            key = cls(name, material[1:], material[0])
        except (ValueError, IndexError) as error:
            raise ConfigError("not a verifier key", fix="expected name+id+base64") from error
        if key.id.hex() != identifier:
            raise ConfigError("the key's id is not that of its name and bytes", where=name, fix="ask for the key again")
        return key

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return if the 64-byte signature over ``message`` holds; else raise :class:`VerificationFailed`."""
        # OpenSSL's: 0.1 ms instead of pycryptodome's 1.5, and every round verifies three signatures a party.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            what = "the cosignature does not hold" if self.algorithm == COSIGNATURE else "the signature does not hold"
            raise VerificationFailed(
                what, where=self.name, fix="what was signed, the signature or the key is another: ask its holder"
            ) from error


@lru_cache(maxsize=4096)
def _problem_of(ed25519: bytes) -> str | None:
    """Return what is wrong with a point as a public key; raise ValueError if it is none."""
    if (eddsa.import_public_key(ed25519).pointQ * 8).is_point_at_infinity():  # any signature would hold under it
        return "a public key of low order"
    return None


def log_key(origin: str, public: PublicHalf) -> VerifierKey:
    """Return the key under which a party signs the checkpoints of its own log: named as the log's origin."""
    return VerifierKey(origin, public.ed25519, ED25519)


def witness_key(public: PublicHalf) -> VerifierKey:
    """Return the key under which a party cosigns others' checkpoints: named as the party."""
    return VerifierKey(public.name, public.ed25519, COSIGNATURE)


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: its origin, its number of entries and their 32-byte root; who cosigned it, and when (Unix s)."""

    origin: str
    size: int
    root: bytes
    cosigned: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, signer: NoteSigner) -> str:
    """Return the signed note of a log's head, signed in the name of its origin."""
    key = log_key(checkpoint.origin, signer.public())
    return checkpoint.text + "\n" + _line(key, signer.sign(checkpoint.text.encode()))


def cosign(note: str, signer: NoteSigner, *, now: int | None = None) -> str:
    """Return ``note`` with one more line: ``signer`` saw the log grow consistently up to this head.

    The caller has verified the note (:func:`verify_checkpoint`) and its consistency with the last one it cosigned.
    ``now`` is in Unix seconds.
    """
    text, _ = split(note)
    _parse_text(text)
    key = witness_key(signer.public())
    moment = int(time.time()) if now is None else now
    return note + _line(key, struct.pack(">Q", moment) + signer.sign(_cosigned(text, moment)))


def verify_checkpoint(
    note: str, log: VerifierKey, witnesses: Iterable[VerifierKey] = (), *, quorum: int = 0
) -> Checkpoint:
    """Return the head in ``note`` once the log's signature and at least ``quorum`` of ``witnesses`` hold.

    Raises :class:`VerificationFailed` if the note is malformed, is of another log, carries a bad signature of any
    known key, or has too few cosignatures. Two keys of one name count once.
    """
    text, lines = split(note)
    known = {(key.name, key.id): key for key in (log, *witnesses)}
    signed = False
    cosigned: dict[str, int] = {}
    for name, identifier, signature in lines:
        key = known.get((name, identifier))
        if key is None:
            continue
        moment = _verify_line(key, text, signature)
        if key == log:
            signed = True
        elif moment is not None:
            cosigned[name] = moment
    checkpoint = _parse_text(text)
    if not signed or checkpoint.origin != log.name:
        raise VerificationFailed(
            f"the checkpoint is not signed by {log.name}",
            where=checkpoint.origin,
            fix="ask that log for its checkpoint",
        )
    if len(cosigned) < quorum:
        raise VerificationFailed(
            f"{len(cosigned)} of {quorum} cosignatures ({', '.join(sorted(cosigned)) or 'none'})",
            where=checkpoint.origin,
            fix="wait for more witnesses, or ask for a later head",
        )
    return Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root, cosigned)


def head_of(note: str) -> Checkpoint:
    """Return the head in a note that was verified when it was kept: the key of that time may since have changed."""
    return _parse_text(split(note)[0])


def verify_note(note: str, keys: Iterable[VerifierKey]) -> str:
    """Return the text of any signed note once at least one of ``keys`` signed it and no signature of theirs is bad."""
    text, lines = split(note)
    known = {(key.name, key.id): key for key in keys}
    matching = [
        (known[name, identifier], signature) for name, identifier, signature in lines if (name, identifier) in known
    ]
    for key, signature in matching:
        _verify_line(key, text, signature)
    if not matching:
        raise VerificationFailed("no known key signed the note", fix="check which keys you trust")
    return text


def split(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Return a note's text and its signature lines as (name, key id, signature), nothing verified yet."""
    try:
        size = len(note.encode())
    except UnicodeEncodeError as error:
        raise _malformed("it is not UTF-8") from error
    text, blank, tail = note.rpartition("\n\n")
    if size > MAX_NOTE_BYTES or not blank or not text or not tail.endswith("\n"):
        raise _malformed("expected a text, an empty line and signature lines, at most 64 KiB")
    if _CONTROL.search(note):
        raise _malformed("it contains control characters")
    rows = tail[:-1].split("\n")
    if len(rows) > MAX_SIGNATURES:
        raise _malformed(f"more than {MAX_SIGNATURES} signatures")
    return text + "\n", [_parse_line(row) for row in rows]


def _parse_line(row: str) -> tuple[str, bytes, bytes]:
    dash, _, rest = row.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "\N{EM DASH}" or not _NAME.fullmatch(name):
        raise _malformed("a signature line does not read: dash, name, base64")
    try:
        blob = _decode(encoded)
    except ValueError as error:
        raise _malformed("a signature is not base64") from error
    if len(blob) <= _ID_BYTES:
        raise _malformed("a signature is empty")
    return name, blob[:_ID_BYTES], blob[_ID_BYTES:]


def _parse_text(text: str) -> Checkpoint:
    lines = text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise _malformed("a checkpoint has an origin, a size and a root")
    try:
        root = _decode(lines[2])
    except ValueError as error:
        raise _malformed("the root is not base64") from error
    if len(root) != HASH_BYTES or len(lines) > 3:
        raise _malformed("the root is not 32 bytes, or lines follow it that this log never writes")
    return Checkpoint(lines[0], int(lines[1]), root)


def _verify_line(key: VerifierKey, text: str, signature: bytes) -> int | None:
    """Check one signature of a known key; return a cosignature's time, None for a plain one."""
    if key.algorithm == ED25519:
        key.verify(text.encode(), signature)
        return None
    if len(signature) != 8 + _SIGNATURE_BYTES:
        raise VerificationFailed("the cosignature has the wrong length", where=key.name)
    moment: int = struct.unpack(">Q", signature[:8])[0]
    if moment >= 1 << 63:
        raise VerificationFailed("the cosignature's time is out of range", where=key.name)
    key.verify(_cosigned(text, moment), signature[8:])
    return moment


def _cosigned(text: str, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{text}".encode()


def _line(key: VerifierKey, signature: bytes) -> str:
    return f"\N{EM DASH} {key.name} {base64.b64encode(key.id + signature).decode()}\n"


def _decode(text: str) -> bytes:
    """Return the bytes of standard base64; raise ValueError also for a second spelling of the same bytes."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not canonical base64")
    return raw


def _malformed(what: str) -> VerificationFailed:
    return VerificationFailed(f"not a signed note: {what}", fix="ask for it again")

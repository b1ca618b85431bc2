"""The roles of encrypted aggregation and the header that binds every message of an attempt.

Data flows one way: a silo's :class:`Encryptor` turns integer fields into one upload; the aggregator's :class:`Adder`
adds uploads without any key; every silo's :class:`Opener` turns the aggregate into the exact sum of the fields.

Two custodies implement the roles: ``shared`` (:mod:`silo_crypto.shared`, BFV through TenSEAL's SEAL) and ``threshold``
(:mod:`silo_crypto.threshold`, T of n on our own ring). What a caller encrypts is always the field vector that
:mod:`silo_crypto.verification` builds: values, presence, MAC limbs.

Source: PROTOCOL sections 2 to 4; header and transcript as in LERNA (ASIACRYPT 2023).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from silo_crypto import labels

Custody = Literal["shared", "threshold"]
Payload = bytes | memoryview
Fields = NDArray[np.uint32]
Sums = NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """What every label, signature, XOF input and AAD of one attempt binds.

    ``manifest`` is the 32-byte SHA-256 of the run manifest; ``chain`` is the 32-byte HMAC of the last aggregate under
    the group key (zeros in the first round): silos that were shown different pasts cannot complete a round together.
    ``nonces`` are the members' 32-byte contributions in the order of ``members`` (threshold custody; else empty).
    """

    manifest: bytes
    run: str
    epoch: int
    round: int
    attempt: int
    members: tuple[str, ...]
    chain: bytes = bytes(32)
    nonces: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return the unambiguous encoding: every variable part is preceded by its length."""
        parts = [self.manifest, self.run.encode(), self.chain]
        parts += [b"%d" % number for number in (self.epoch, self.round, self.attempt, len(self.members))]
        parts += [name.encode() for name in self.members]
        parts += list(self.nonces)
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    def digest(self) -> bytes:
        """Return SHA-256 over the label and the encoding: 32 bytes."""
        return hashlib.sha256(labels.HEADER + self.encode()).digest()


class Signer(Protocol):
    """Something that signs as one named party (an identity key, or a hardware token)."""

    @property
    def name(self) -> str: ...

    def sign(self, message: bytes) -> bytes:
        """Return a 64-byte Ed25519 signature (RFC 8032)."""
        ...


class Verifier(Protocol):
    """The public half of a :class:`Signer`."""

    @property
    def name(self) -> str: ...

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return if the signature holds, else raise :class:`~silo_crypto.errors.SignatureError`."""
        ...


class Encryptor(Protocol):
    """A silo's side of an upload."""

    def encrypt(self, header: Header, fields: Fields) -> bytes:
        """Return the payload of an upload. Each field is below 2^value_bits. Encrypts once per header, ever."""
        ...


class Adder(Protocol):
    """The aggregator's side. It holds no key, and its public state is enough for another machine to take over."""

    def add(self, sender: str, payload: Payload) -> None:
        """Add one member's payload, after its wire checks; a second one from the same sender is refused."""
        ...

    def aggregate(self) -> bytes:
        """Return the payload of the aggregate over all senders added so far."""
        ...


class Opener(Protocol):
    """A silo's side of an aggregate."""

    def open(self, header: Header, payload: Payload, length: int) -> Sums:
        """Return the exact sums of the first ``length`` fields, shape (length,), int64."""
        ...

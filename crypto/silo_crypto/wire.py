"""The signed envelope of every message: who says what, in which attempt, under which parameters.

Invariant: a payload comes out of :func:`unpack` only after its kind, parameters, header, sender, length and signature
hold, so that no parser behind it, native or not, sees a byte that a member did not sign for this very attempt.

Layout, version 1, little-endian (PROTOCOL sections 2 and 3)::

    4s  magic "SILO"            32s  digest of the parameters     kind   (a label of silo_crypto.labels)
    u16 version                 32s  digest of the header         sender (name)
    u8  length of kind          u32  epoch                        run
    u8  length of sender        u32  round                        payload
    u8  length of run           u32  attempt                      64s  Ed25519 signature (RFC 8032)
                                u64  length of payload

The signature is over the kind, a zero byte and the SHA-256 of everything before it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from silo_crypto.errors import ProtocolError, SignatureError, WireError
from silo_crypto.keys import SIGNATURE_BYTES
from silo_crypto.protocol import Header, Payload, Signer, Verifier

MAGIC = b"SILO"
VERSION = 1
_HEAD = struct.Struct("<4sHBBB32s32sIIIQ")
DIGEST_BYTES = 32


def envelope_bytes(kind: bytes, header: Header, sender: str, payload: int) -> int:
    """Return the exact length of an envelope around ``payload`` bytes."""
    names = len(kind) + len(sender.encode()) + len(header.run.encode())
    return _HEAD.size + names + payload + SIGNATURE_BYTES


def pack(kind: bytes, parameters_digest: bytes, header: Header, signer: Signer, payload: Payload) -> bytes:
    """Return the envelope of ``payload``, signed by ``signer``. ``kind`` is a label; the digest has 32 bytes."""
    sender, run = signer.name.encode(), header.run.encode()
    if len(parameters_digest) != DIGEST_BYTES:
        raise WireError("a parameters digest has 32 bytes")
    try:
        head = _HEAD.pack(
            *(MAGIC, VERSION, len(kind), len(sender), len(run), parameters_digest, header.digest()),
            *(header.epoch, header.round, header.attempt, len(payload)),
        )
    except struct.error as error:
        raise WireError(
            "the header does not fit the envelope", fix="numbers below 2^32, names below 256 bytes"
        ) from error
    names = kind + sender + run
    signature = signer.sign(_signed(kind, _digest(head, names, payload)))
    return b"".join((head, names, payload, signature))


def unpack(
    envelope: Payload,
    *,
    kind: bytes,
    parameters_digest: bytes,
    header: Header,
    verifier: Verifier,
    length: int | None = None,
    max_length: int | None = None,
) -> memoryview:
    """Return the payload, a read-only view into ``envelope``, once everything else holds.

    Exactly one of ``length`` and ``max_length`` (bytes of payload) is given. Raise WireError for bytes that are
    malformed, of the wrong size, kind or parameters; ProtocolError for another run, round, attempt or header;
    SignatureError for another sender or a signature that does not hold. The checks, in this order:
    """
    if (length is None) == (max_length is None):
        raise ValueError("give exactly one of length and max_length")
    place = f"{kind.decode()} of {verifier.name}"
    found = _parse(envelope, place)
    # 1. The kind and the parameters: what the bytes mean at all.
    if found.kind != kind:
        raise WireError("the message is of another kind", where=place)
    if found.parameters_digest != parameters_digest:
        raise WireError("made under other parameters", where=place, fix="all silos use the run manifest's set")
    # 2. The length of the payload, before anything is done in proportion to it.
    size = len(found.payload)
    if (length is not None and size != length) or (max_length is not None and size > max_length):
        expected = f"{length}" if length is not None else f"at most {max_length}"
        raise WireError(f"the payload has {size} bytes, not {expected}", where=place)
    # 3. The attempt. The digest decides; the numbers only make a better message.
    for name, got, due in zip(
        ("run", "epoch", "round", "attempt"),
        (found.run, found.epoch, found.round, found.attempt),
        (header.run.encode(), header.epoch, header.round, header.attempt),
        strict=True,
    ):
        if got != due:
            raise ProtocolError(
                f"the message is of another {name}", where=place, fix="a replayed or late message: drop it"
            )
    if found.header_digest != header.digest():
        raise ProtocolError(
            "the message was made under another header", where=place, fix="compare the members and the chain"
        )
    # 4. The sender, then the signature.
    if found.sender != verifier.name.encode():
        raise SignatureError("the message names another sender", where=place)
    verifier.verify(_signed(kind, _digest(found.signed_part)), found.signature)
    return found.payload


def claimed_sender(envelope: Payload) -> str:
    """Return the name an envelope claims. Nothing is verified: look the name up, then :func:`unpack` decides."""
    return _parse(envelope, "envelope").sender.decode("ascii", "replace")


def digest(envelope: Payload) -> bytes:
    """Return the SHA-256 of an envelope without its signature: what the signature and a confirm refer to."""
    return _digest(memoryview(envelope)[:-SIGNATURE_BYTES])


@dataclass(frozen=True)
class _Parsed:
    kind: bytes
    parameters_digest: bytes
    header_digest: bytes
    epoch: int
    round: int
    attempt: int
    sender: bytes
    run: bytes
    payload: memoryview
    signed_part: memoryview
    signature: bytes


def _parse(envelope: Payload, place: str) -> _Parsed:
    view = memoryview(envelope).toreadonly()
    if len(view) < _HEAD.size + SIGNATURE_BYTES:
        raise WireError(f"{len(view)} bytes are too few for an envelope", where=place)
    magic, version, *lengths, parameters, header, epoch, number, attempt, size = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise WireError("not a Silo message", where=place)
    if version != VERSION:
        raise WireError(f"version {version} of the format is unknown", where=place, fix="run the same Silo everywhere")
    if len(view) != _HEAD.size + sum(lengths) + size + SIGNATURE_BYTES:
        raise WireError(
            "the lengths inside do not add up to the length received", where=place, fix="truncated or extended"
        )
    start, names = _HEAD.size, []
    for length in lengths:
        names.append(bytes(view[start : start + length]))
        start += length
    kind, sender, run = names
    return _Parsed(
        *(kind, parameters, header, epoch, number, attempt, sender, run),
        payload=view[start : start + size],
        signed_part=view[: start + size],
        signature=bytes(view[start + size :]),
    )


def _digest(*parts: Payload) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def _signed(kind: bytes, sha256: bytes) -> bytes:
    return kind + b"\0" + sha256

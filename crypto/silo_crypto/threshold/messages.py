"""Every message between a silo and the aggregator, as bytes.

Invariant: ``decode`` accepts exactly what ``encode`` makes and raises WireError on anything else; it never allocates
more than a few times the size of what it was given. Signatures are checked by whoever uses a message, not here.

A message is a list of parts, each behind its length in four little-endian bytes; the first part is a label.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from silo_crypto import labels
from silo_crypto.errors import WireError
from silo_crypto.protocol import Header, Payload

DIGEST_BYTES = 32
NONCE_BYTES = 32
SIGNATURE_BYTES = 64
MAX_PARTS = 1 << 16

_NAME = re.compile(rb"[a-z0-9-]{1,32}")
_RUN = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")


def framed(*parts: bytes) -> bytes:
    """Return the parts, each behind its length in four bytes: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def unframed(data: Payload, where: str) -> list[memoryview]:
    """Return the parts of ``data``, the inverse of :func:`framed`, without copying them."""
    view = memoryview(data)
    parts: list[memoryview] = []
    position = 0
    while position < len(view):
        end = position + 4 + int.from_bytes(view[position : position + 4], "little")
        if position + 4 > len(view) or end > len(view) or len(parts) == MAX_PARTS:
            raise WireError("a message is truncated or has too many parts", where=where, fix="ask for it again")
        parts.append(view[position + 4 : end])
        position = end
    return parts


class Parts:
    """The parts of one message, taken in order, each checked."""

    def __init__(self, data: Payload, label: bytes) -> None:
        self._where = label.decode()
        self._parts = unframed(data, self._where)
        self._next = 0
        if self.take() != label:
            raise self.error("a message is of another kind")

    def error(self, what: str) -> WireError:
        return WireError(what, where=self._where, fix="refuse the message")

    def view(self) -> memoryview:
        """Return the next part, not copied."""
        if self._next == len(self._parts):
            raise self.error("a message has too few parts")
        self._next += 1
        return self._parts[self._next - 1]

    def take(self, size: int | None = None) -> bytes:
        """Return the next part, of ``size`` bytes if given."""
        part = bytes(self.view())
        if size is not None and len(part) != size:
            raise self.error(f"a part has {len(part)} bytes, not {size}")
        return part

    def name(self) -> str:
        return _name(self.take(), self._where)

    def names(self) -> tuple[str, ...]:
        """Return a list of distinct names, itself one part."""
        found = tuple(_name(part, self._where) for part in unframed(self.take(), self._where))
        if len(set(found)) != len(found):
            raise self.error("a name stands twice in a list")
        return found

    def blobs(self, count: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return a list of ``count`` byte strings, itself one part."""
        found = unframed(self.take(), self._where)
        if len(found) != count or (size is not None and any(len(part) != size for part in found)):
            raise self.error("a list has the wrong number or sizes of items")
        return tuple(bytes(part) for part in found)

    def number(self) -> int:
        return _number(self.take(), self._where)

    def done(self) -> None:
        """Raise unless every part was taken."""
        if self._next != len(self._parts):
            raise self.error("a message has too many parts")


def _name(part: Payload, where: str) -> str:
    if not _NAME.fullmatch(part):
        raise WireError("a name is not 1 to 32 of a-z, 0-9 and -", where=where, fix="refuse the message")
    return bytes(part).decode()


def _number(part: Payload, where: str) -> int:
    if not _NUMBER.fullmatch(part):
        raise WireError("a number is not canonical", where=where, fix="refuse the message")
    return int(part)


def encode_names(names: Sequence[str]) -> bytes:
    """Return a list of names as one part."""
    return framed(*(name.encode() for name in names))


def decode_header(data: Payload) -> Header:
    """Return the header whose :meth:`~silo_crypto.protocol.Header.encode` is ``data``."""
    where = labels.HEADER.decode()
    parts = [bytes(part) for part in unframed(data, where)]
    error = WireError("a header is malformed", where=where, fix="refuse the message")
    if len(parts) < 7 or len(parts[0]) != DIGEST_BYTES or len(parts[2]) != DIGEST_BYTES:
        raise error
    try:
        run = parts[1].decode()
    except UnicodeDecodeError:
        raise error from None
    epoch, round_number, attempt, count = (_number(part, where) for part in parts[3:7])
    names = tuple(_name(part, where) for part in parts[7 : 7 + count])
    nonces = tuple(parts[7 + count :])
    if not _RUN.fullmatch(run) or len(names) != count or len(nonces) not in (0, count) or len(set(names)) != count:
        raise error
    if any(len(nonce) != NONCE_BYTES for nonce in nonces):
        raise error
    return Header(parts[0], run, epoch, round_number, attempt, names, parts[2], nonces)


def upload_digest(header: Header, sender: str, payload: Payload) -> bytes:
    """Return the digest of one upload that the silos confirm: SHA-256, 32 bytes."""
    state = hashlib.sha256(framed(labels.UPLOAD, header.digest(), sender.encode()))
    state.update(payload)
    return state.digest()


@dataclass(frozen=True)
class Nonce:
    """Silo to aggregator, 1st of an attempt: its contribution to ``a``, signed."""

    name: str
    nonce: bytes
    signature: bytes

    @staticmethod
    def signed(
        manifest: bytes, run: str, epoch: int, round_number: int, attempt: int, name: str, nonce: bytes
    ) -> bytes:
        """Return what the signature is over."""
        numbers = (b"%d" % number for number in (epoch, round_number, attempt))
        return framed(labels.NONCE, manifest, run.encode(), *numbers, name.encode(), nonce)

    def encode(self) -> bytes:
        return framed(labels.NONCE, self.name.encode(), self.nonce, self.signature)

    @classmethod
    def decode(cls, data: Payload) -> Nonce:
        parts = Parts(data, labels.NONCE)
        message = cls(parts.name(), parts.take(NONCE_BYTES), parts.take(SIGNATURE_BYTES))
        parts.done()
        return message


@dataclass(frozen=True)
class Start:
    """Aggregator to every silo, 2nd: the header and the signatures over its nonces, in the order of its members."""

    header: Header
    signatures: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.START, self.header.encode(), framed(*self.signatures))

    @classmethod
    def decode(cls, data: Payload) -> Start:
        parts = Parts(data, labels.START)
        header = decode_header(parts.take())
        message = cls(header, parts.blobs(len(header.members), SIGNATURE_BYTES))
        parts.done()
        return message


@dataclass(frozen=True)
class Agreement:
    """Aggregator to every silo, 4th (the 3rd is the upload): whose uploads, with which digests, are in the sum."""

    header: Header
    uploaders: tuple[str, ...]
    digests: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.PROPOSE, self.header.encode(), encode_names(self.uploaders), framed(*self.digests))

    @classmethod
    def decode(cls, data: Payload) -> Agreement:
        parts = Parts(data, labels.PROPOSE)
        header, uploaders = decode_header(parts.take()), parts.names()
        message = cls(header, uploaders, parts.blobs(len(uploaders), DIGEST_BYTES))
        parts.done()
        return message

    def digest(self, epoch_digest: bytes) -> bytes:
        """Return the transcript: SHA-256 over the epoch and the agreement; what confirms are signed over."""
        return hashlib.sha256(framed(labels.AGREE, epoch_digest, self.encode())).digest()


@dataclass(frozen=True)
class Confirm:
    """Silo to aggregator, 5th: it will give shares of this agreement and of no other for its header."""

    name: str
    agreement: bytes
    signature: bytes

    @staticmethod
    def signed(agreement: bytes, name: str) -> bytes:
        """Return what the signature is over; ``agreement`` is the transcript."""
        return framed(labels.CONFIRM, agreement, name.encode())

    def encode(self) -> bytes:
        return framed(labels.CONFIRM, self.name.encode(), self.agreement, self.signature)

    @classmethod
    def decode(cls, data: Payload) -> Confirm:
        parts = Parts(data, labels.CONFIRM)
        message = cls(parts.name(), parts.take(DIGEST_BYTES), parts.take(SIGNATURE_BYTES))
        parts.done()
        return message


@dataclass(frozen=True)
class Request:
    """Aggregator to the silos in S, 6th: the agreement, a certificate of confirms for it, and S."""

    agreement: Agreement
    confirmers: tuple[str, ...]
    signatures: tuple[bytes, ...]
    sharers: tuple[str, ...]

    def encode(self) -> bytes:
        return framed(
            labels.REQUEST,
            self.agreement.encode(),
            encode_names(self.confirmers),
            framed(*self.signatures),
            encode_names(self.sharers),
        )

    @classmethod
    def decode(cls, data: Payload) -> Request:
        parts = Parts(data, labels.REQUEST)
        agreement, confirmers = Agreement.decode(parts.take()), parts.names()
        message = cls(agreement, confirmers, parts.blobs(len(confirmers), SIGNATURE_BYTES), parts.names())
        parts.done()
        return message


@dataclass(frozen=True)
class Aggregate:
    """Aggregator to every silo, 8th (the 7th is the share): the request it follows from, and the padded sum."""

    request: Request
    residues: Payload

    def encode(self) -> bytes:
        return framed(labels.AGGREGATE, self.request.encode(), bytes(self.residues))

    @classmethod
    def decode(cls, data: Payload) -> Aggregate:
        parts = Parts(data, labels.AGGREGATE)
        message = cls(Request.decode(parts.take()), parts.view())
        parts.done()
        return message


@dataclass(frozen=True)
class Dealing:
    """What a dealer states in public: its test nonce, a commitment to its part of the group key, its boxes' digests."""

    dealer: str
    nonce: bytes
    commitment: bytes
    digests: tuple[bytes, ...]
    signature: bytes = b""

    def _parts(self) -> tuple[bytes, ...]:
        return (labels.DEALING, self.dealer.encode(), self.nonce, self.commitment, framed(*self.digests))

    def signed(self, epoch_digest: bytes) -> bytes:
        """Return what the signature is over."""
        return framed(*self._parts(), epoch_digest)

    def encode(self) -> bytes:
        return framed(*self._parts(), self.signature)

    @classmethod
    def decode(cls, data: Payload, members: int) -> Dealing:
        parts = Parts(data, labels.DEALING)
        dealer, nonce, commitment = parts.name(), parts.take(NONCE_BYTES), parts.take(DIGEST_BYTES)
        message = cls(dealer, nonce, commitment, parts.blobs(members, DIGEST_BYTES), parts.take(SIGNATURE_BYTES))
        parts.done()
        return message


@dataclass(frozen=True)
class Deal:
    """Silo to aggregator, 1st of a ceremony: the public statement and one sealed box per member, in their order."""

    dealing: bytes
    boxes: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.DEAL, self.dealing, *self.boxes)

    @classmethod
    def decode(cls, data: Payload, members: int) -> Deal:
        parts = Parts(data, labels.DEAL)
        message = cls(parts.take(), tuple(parts.take() for _ in range(members)))
        parts.done()
        return message


@dataclass(frozen=True)
class Dealt:
    """Aggregator to each silo, 2nd: every dealer's statement and its box for this silo, in the order of members."""

    dealings: tuple[bytes, ...]
    boxes: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.DEALT, *self.dealings, *self.boxes)

    @classmethod
    def decode(cls, data: Payload, members: int) -> Dealt:
        parts = Parts(data, labels.DEALT)
        items = [parts.take() for _ in range(2 * members)]
        parts.done()
        return cls(tuple(items[:members]), tuple(items[members:]))


@dataclass(frozen=True)
class Trial:
    """Silo to aggregator, 3rd: for each opening of the stage an encrypted zero and a share; empty where not asked."""

    stage: int
    uploads: tuple[bytes, ...]
    shares: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.TEST, b"%d" % self.stage, *self.uploads, *self.shares)

    @classmethod
    def decode(cls, data: Payload, openings: int) -> Trial:
        parts = Parts(data, labels.TEST)
        stage, items = parts.number(), [parts.take() for _ in range(2 * openings)]
        parts.done()
        return cls(stage, tuple(items[:openings]), tuple(items[openings:]))


@dataclass(frozen=True)
class TrialSums:
    """Aggregator to every silo, 4th: the padded sum of each opening of the stage."""

    stage: int
    sums: tuple[bytes, ...]

    def encode(self) -> bytes:
        return framed(labels.TESTED, b"%d" % self.stage, *self.sums)

    @classmethod
    def decode(cls, data: Payload, openings: int) -> TrialSums:
        parts = Parts(data, labels.TESTED)
        message = cls(parts.number(), tuple(parts.take() for _ in range(openings)))
        parts.done()
        return message

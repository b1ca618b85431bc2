"""Signed documents: one body, canonical bytes, and a signature by name.

Invariant: :meth:`Signed.verify` returns only if every named party signed and nobody else did; nothing is ever read
from a document before that. The package holds no keys: ``silo`` hands in :class:`Signer` and :class:`Verifier`, the
same protocols as in :mod:`silo_crypto.protocol`.

Signed bytes: the body's label (``silo/v1/run`` and so on), a line feed, and the JCS form (RFC 8785) of the body, so a
signature for one kind of document never holds for another. Signatures are 64-byte Ed25519 (RFC 8032), in base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

from pydantic import AfterValidator, ValidationError

from silo_policies.documents import Document, canonical, first_problem, parse_json, problem_path
from silo_policies.errors import DocumentError, SignatureRefused

SIGNATURE_BYTES = 64
KEY_BYTES = 32


class Signer(Protocol):
    """Something that signs as one named party."""

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
        """Return if the signature holds, else raise."""
        ...


def _base64_of(length: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            raw = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
        if len(raw) != length or base64.b64encode(raw).decode() != text:
            raise ValueError(f"not the base64 of {length} bytes")
        return text

    return check


PublicKey = Annotated[str, AfterValidator(_base64_of(KEY_BYTES))]
"""A raw 32-byte Ed25519 or X25519 public key in base64."""


Statement = Annotated[str, AfterValidator(_base64_of(2 * SIGNATURE_BYTES))]
"""That new keys follow old ones: the signature of the old key and that of the new one, 128 bytes in base64."""


class Keys(Document):
    """The public keys of one party."""

    ed25519: PublicKey
    x25519: PublicKey


class PartyVerifier(Verifier, Protocol):
    """A :class:`Verifier` that also checks whether its party changed its keys itself."""

    def hands_over_to(self, successor: Any, context: bytes, statement: bytes) -> None:
        """Return if ``statement`` says, by both keys and for ``context``, that ``successor`` follows; else raise."""
        ...


Keyring = Callable[[str, Keys], PartyVerifier]
"""Makes a :class:`Verifier` of a name and its public keys; ``silo`` supplies it, since no cryptography lives here."""


class SignedBody(Document):
    """A document that is signed under a label of its own."""

    label: ClassVar[str]

    def message(self) -> bytes:
        """Return the bytes that are signed."""
        return self.label.encode() + b"\n" + canonical(self.to_dict())


Body = TypeVar("Body", bound=SignedBody)


@dataclass(frozen=True)
class Signed(Generic[Body]):
    """A body and its signatures: name to base64."""

    body: Body
    signatures: Mapping[str, str] = field(default_factory=dict)

    def sign(self, signer: Signer) -> Self:
        """Return a copy that also carries ``signer``'s signature; signing twice is refused."""
        if signer.name in self.signatures:
            raise SignatureRefused(
                f"{signer.name} has already signed this {self.body.label}",
                where=self.body.label,
                fix="a changed document is signed anew by everybody",
            )
        signature = base64.b64encode(signer.sign(self.body.message())).decode()
        return type(self)(self.body, {**self.signatures, signer.name: signature})

    def verify(self, parties: Mapping[str, Verifier], *, quorum: int | None = None) -> None:
        """Return if all of ``parties`` signed (or at least ``quorum`` of them) and nobody else did.

        Raises :class:`SignatureRefused` for a missing, foreign, malformed or wrong signature, and for one key under
        two names. An empty ``parties`` is refused: nobody's signature proves nothing.
        """
        where = self.body.label
        needed = len(parties) if quorum is None else quorum
        if not parties or needed < 1:
            raise SignatureRefused("there is nobody whose signature would count", where=where)
        foreign = sorted(set(self.signatures) - set(parties))
        if foreign:
            raise SignatureRefused(f"signed by {', '.join(foreign)}, who has no say in it", where=where)
        missing = sorted(set(parties) - set(self.signatures))
        if len(self.signatures) < needed:
            raise SignatureRefused(
                f"{len(self.signatures)} of {needed} signatures; missing: {', '.join(missing)}",
                where=where,
                fix="ask them to sign it",
            )
        if len(set(self.signatures.values())) != len(self.signatures):
            raise SignatureRefused("one signature stands under two names", where=where)
        message = self.body.message()
        for name, text in sorted(self.signatures.items()):
            _check_one(message, name, text, parties[name], where)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value of the whole document."""
        return {"kind": self.body.label, "body": self.body.to_dict(), "signatures": dict(self.signatures)}

    def to_json(self) -> str:
        """Return canonical JSON text."""
        return canonical(self.to_dict()).decode()


def _check_one(message: bytes, name: str, text: str, verifier: Verifier, where: str) -> None:
    if verifier.name != name:
        raise SignatureRefused(f"the key held for {name} is {verifier.name}'s", where=where)
    try:
        _base64_of(SIGNATURE_BYTES)(text)
    except ValueError as error:
        raise SignatureRefused(f"{name}'s signature is malformed: {error}", where=where) from error
    try:
        verifier.verify(message, base64.b64decode(text))
    # Whatever the key's own library raises, the signature did not hold.
    except Exception as error:
        raise SignatureRefused(
            f"{name}'s signature does not hold", where=where, fix="the document or the key is not the one signed"
        ) from error


def sign(body: Body, *signers: Signer) -> Signed[Body]:
    """Return ``body`` signed by every one of ``signers``."""
    signed = Signed(body)
    for signer in signers:
        signed = signed.sign(signer)
    return signed


def parse_signed(kind: type[Body], text: str | bytes, *, where: str = "") -> Signed[Body]:
    """Parse a signed document of one kind. Its signatures are NOT checked: call :meth:`Signed.verify` next."""
    value = parse_json(text, where=where)
    if not isinstance(value, dict) or set(value) != {"kind", "body", "signatures"}:
        raise DocumentError("a signed document has exactly: kind, body, signatures", where=where)
    if value["kind"] != kind.label:
        raise DocumentError(f"this is {value['kind']!r}, not {kind.label!r}", where=where)
    signatures = value["signatures"]
    if not isinstance(signatures, dict) or not all(isinstance(text, str) for text in signatures.values()):
        raise DocumentError("signatures map a name to base64 text", where=where)
    return Signed(parse_body(kind, value["body"], where=where), signatures)


Model = TypeVar("Model", bound=Document)


def parse_body(kind: type[Model], value: Any, *, where: str = "") -> Model:
    """Validate a JSON value against a document's schema; raises :class:`DocumentError` naming the field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        path, sentence = first_problem(error)
        raise DocumentError(f"{problem_path(path) or 'document'}: {sentence}", where=where) from error

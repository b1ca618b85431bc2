"""What travels between the aggregator and a silo: signed packets with a typed head and opaque blobs.

A :class:`Packet` is a head (canonical JSON, one pydantic model per kind), its sender's Ed25519 signature, and named
byte strings. The head names each blob with its length and SHA-256, so one signature covers everything. Flower moves
packets but is not trusted with them: its node authentication signs a timestamp, not the body.

Invariant: :func:`open_packet` returns a head only after sizes, digests and the signature held and the head belonged to
the expected run. Everything after it may rely on the types; nothing before it looks inside a blob.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from silo_crypto.protocol import Signer, Verifier

from silo.canonical import canonical_bytes
from silo.errors import VerificationFailed

LABEL = b"silo/v1/packet"
MAX_HEAD_BYTES = 4 << 20
MAX_BLOBS = 1024

Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signed = dict[str, Any]  # a signed document of silo_policies, verified there


@dataclass(frozen=True)
class Packet:
    """One message: ``head`` canonical JSON, ``signature`` 64 bytes over it, ``blobs`` by name."""

    head: bytes
    signature: bytes
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the bytes that travel, without the transport's own framing."""
        return len(self.head) + len(self.signature) + sum(len(blob) for blob in self.blobs.values())


class BlobRef(BaseModel):
    """Length and digest of a blob, as named in the head."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    bytes: int = Field(ge=0)
    sha256: Hex32


class Common(TypedDict):
    """The fields of every head, for whoever builds one."""

    run: str
    manifest: str
    sender: str
    re: str


class Head(BaseModel):
    """What every head carries. ``manifest`` is the run manifest's digest; ``re`` the digest of the head answered."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    kind: str
    run: str
    manifest: str
    sender: Name
    re: str = ""
    blobs: dict[str, BlobRef] = Field(default_factory=dict, max_length=MAX_BLOBS)


# From the aggregator -------------------------------------------------------------------------------------------------


class Invite(Head):
    """Ask a silo to take part. Blob ``bundle``: the experiment's file."""

    kind: Literal["invite"] = "invite"
    consortium_document: Signed
    run_document: Signed


class Step(Head):
    """One step of the custody: of its key set-up (round 0), or of opening a round's sum. Blobs as the step defines."""

    kind: Literal["step"] = "step"
    step: Name
    round: int = Field(ge=0)
    attempt: int = Field(ge=0)
    members: list[Name]
    decisions: list[Signed] = Field(default_factory=list)


class Previous(BaseModel):
    """The aggregate that rides along: which round it belongs to and whose uploads it sums."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    uploaders: list[Name]


class RoundRequest(Head):
    """Train and upload. Blob ``aggregate`` when ``previous`` is set; further blobs as the custody defines.

    Here, in ``Finish`` and in ``Cosign`` the blob ``witness`` brings the parties' witness packets
    (:mod:`silo.audit.witnessing`), and ``RoundReply``, ``FinishReply`` and ``Cosigned`` take the silo's own along.
    """

    kind: Literal["round"] = "round"
    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    members: list[Name]
    previous: Previous | None = None


class Finish(Head):
    """The last aggregate: apply it and sign for the model."""

    kind: Literal["finish"] = "finish"
    previous: Previous


class Signature(BaseModel):
    """A head that another silo signed, passed on as it was: canonical JSON text and base64 of 64 bytes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    head: str = Field(max_length=65_536)
    signature: str = Field(max_length=128)


class Release(Head):
    """Release the model. The silo named ``releaser`` seals it to the researcher, the others its digest."""

    kind: Literal["release"] = "release"
    releaser: Name
    acknowledgements: list[Signature] = Field(max_length=1024)


class Cosign(Head):
    """Witness packets alone: while a run pauses for want of cosignatures, and twice at its end (then ``last``)."""

    kind: Literal["cosign"] = "cosign"
    last: bool = False


class Abort(Head):
    """The run is over without a model."""

    kind: Literal["abort"] = "abort"
    reason: str = Field(max_length=500)


# From a silo ---------------------------------------------------------------------------------------------------------


class InviteReply(Head):
    """The silo's signed decision, permit or deny."""

    kind: Literal["invite-reply"] = "invite-reply"
    decision: Signed


class StepReply(Head):
    """Answer to one step; ``confirmation`` is for comparing, blobs are for carrying on."""

    kind: Literal["step-reply"] = "step-reply"
    step: Name
    confirmation: str = ""


class Metrics(BaseModel):
    """Metrics on the silo's own test part: a release, present only where the silo's policy permits it.

    Above an ``epsilon`` of 0 all numbers, the counts too, were computed from a histogram with noise of that epsilon.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    values: dict[str, float | None]
    positives: int = Field(ge=0)
    negatives: int = Field(ge=0)
    epsilon: float = Field(default=0.0, ge=0)


class RoundReply(Head):
    """Blob ``upload``, and what the custody adds. ``chain`` and ``model`` are HMACs under the group key: the aggregator
    can compare, not guess. Without the blob the silo follows the run but could not upload this time."""

    kind: Literal["round-reply"] = "round-reply"
    round: int
    attempt: int
    chain: Hex32
    model: Hex32
    metrics: Metrics | None = None


class Acknowledged(Head):
    """A silo's signature for the model that the last aggregate made: whose uploads are in it, and two HMACs."""

    kind: Literal["acknowledged"] = "acknowledged"
    uploaders: list[Name]
    chain: Hex32
    model: Hex32


class FinishReply(Head):
    """The end of a silo's run. Blob ``model`` (releaser) and ``digest`` (all), sealed to the researcher.

    ``records`` is a multiple of ``rounding``, the finest that the silo's policies permit.
    """

    kind: Literal["finish-reply"] = "finish-reply"
    chain: Hex32
    model: Hex32
    epsilon: float
    delta: float
    records: int | None = Field(default=None, ge=0)
    rounding: int = Field(default=1, ge=1)
    metrics: Metrics | None = None
    checkpoint: str


class Cosigned(Head):
    """The answer to ``Cosign``."""

    kind: Literal["cosigned"] = "cosigned"


class Fault(Head):
    """The silo could not do what was asked. ``what`` never depends on records; ``exit_code`` as in silo.errors."""

    kind: Literal["fault"] = "fault"
    what: str = Field(max_length=500)
    exit_code: int = Field(ge=1, le=7)


class Done(Head):
    """Acknowledges an abort."""

    kind: Literal["done"] = "done"


HEADS: dict[str, type[Head]] = {
    str(model.model_fields["kind"].default): model
    for model in (
        Invite, Step, RoundRequest, Finish, Release, Cosign, Abort,
        InviteReply, StepReply, RoundReply, Acknowledged, FinishReply, Cosigned, Fault, Done,
    )
}  # fmt: skip

H = TypeVar("H", bound=Head)


class _Peek(BaseModel):
    """The two fields that choose the model and the key; read before the signature, used for nothing else."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="ignore")
    kind: str
    sender: Name


def sender_of(packet: Packet) -> str:
    """Return the name a packet claims, to choose the key that :func:`open_packet` checks it with."""
    return _peek(packet).sender


def seal_packet(head: Head, signer: Signer, blobs: Mapping[str, bytes] | None = None) -> Packet:
    """Return the signed packet; the head's ``blobs`` are filled in here."""
    blobs = dict(blobs or {})
    refs = {name: BlobRef(bytes=len(b), sha256=hashlib.sha256(b).hexdigest()) for name, b in blobs.items()}
    encoded = canonical_bytes(head.model_copy(update={"blobs": refs}).model_dump(mode="json"))
    return Packet(encoded, signer.sign(LABEL + encoded), blobs)


def open_packet(packet: Packet, verifier: Verifier, *, run: str | None = None, manifest: str | None = None) -> Head:
    """Check a packet and return its head, an instance of the model of its kind.

    Raises :class:`~silo.errors.VerificationFailed` naming the claimed sender when a size, a digest, the signature, the
    schema or the run does not hold.
    """
    peek = _peek(packet)
    where = f"message {peek.kind!r} from {peek.sender}"
    if peek.sender != verifier.name:
        raise VerificationFailed(f"sent in the name of {peek.sender}, expected {verifier.name}", where=where)
    verifier.verify(LABEL + packet.head, packet.signature)
    model = HEADS.get(peek.kind)
    if model is None:
        raise VerificationFailed("unknown kind of message", where=where, fix="do both sides run the same Silo version?")
    try:
        head = model.model_validate_json(packet.head)
    except ValidationError as error:
        raise VerificationFailed(f"malformed head: {error.error_count()} field(s) wrong", where=where) from None
    if (run is not None and head.run != run) or (manifest is not None and head.manifest != manifest):
        raise VerificationFailed("belongs to another run", where=where)
    if set(head.blobs) != set(packet.blobs):
        raise VerificationFailed("carries other blobs than its head names", where=where)
    for name, ref in head.blobs.items():
        blob = packet.blobs[name]
        if len(blob) != ref.bytes or not hmac.compare_digest(hashlib.sha256(blob).hexdigest(), ref.sha256):
            raise VerificationFailed(f"blob {name!r} is truncated or altered", where=where)
    return head


def head_digest(packet: Packet) -> str:
    """Return the hex SHA-256 of the head, which an answer names in ``re``."""
    return hashlib.sha256(packet.head).hexdigest()


def _peek(packet: Packet) -> _Peek:
    if len(packet.head) > MAX_HEAD_BYTES or len(packet.blobs) > MAX_BLOBS or len(packet.signature) != 64:
        raise VerificationFailed("a message with an oversized head, too many blobs or no signature was refused")
    try:
        return _Peek.model_validate_json(packet.head)
    except ValidationError:
        raise VerificationFailed("a message whose head is not a Silo head was refused") from None

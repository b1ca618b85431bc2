"""The report as an in-toto Statement in a DSSE envelope: who vouches, for which artefacts, saying what.

Invariant: the subjects are the digests that the report's evidence gives (model, code, manifests), so a statement can
only be about them; a report that gives none has nothing to vouch for and is refused. The predicate is the report's
JSON, whole. Ed25519 is deterministic and the payload canonical: the same facts and key give the same bytes.

Sources: in-toto attestation Statement v1; DSSE 1.0 (the pre-authentication encoding that is signed).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Protocol

from silo.canonical import canonical_bytes
from silo.errors import ConfigError
from silo.report.model import Report

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:silo:report:v1"
PAYLOAD = "application/vnd.in-toto+json"


class Public(Protocol):
    """What the envelope says of the signer's key."""

    @property
    def ed25519(self) -> bytes: ...


class Vouching(Protocol):
    """Who signs (``silo_crypto.keys.Identity`` is one)."""

    def sign(self, message: bytes) -> bytes: ...

    def public(self) -> Public: ...


def statement(report: Report) -> dict[str, Any]:
    """Return the in-toto Statement; raise :class:`ConfigError` if the report names no digest."""
    has = report.evidence
    digests = {
        "model": has.model_digest,
        "experiment": has.code_digest,
        "run-manifest": has.manifest_digest,
        "consortium-manifest": has.consortium_digest,
    }
    subject = [
        {"name": f"{report.run}/{name}", "digest": {"sha256": digest.removeprefix("sha256:")}}
        for name, digest in digests.items()
        if digest is not None
    ]
    if not subject:
        raise ConfigError(
            "the report names no artefact to vouch for", where=f"run {report.run}", fix="give it the evidence digests"
        )
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": report.model_dump(mode="json"),
    }


def render_intoto(report: Report, signer: Vouching) -> str:
    """The signed envelope as JSON text; ``signer`` is the party whose home the report was made in."""
    payload = canonical_bytes(statement(report))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [
            {
                "keyid": key_id(signer.public().ed25519),
                "sig": base64.b64encode(signer.sign(pae(PAYLOAD, payload))).decode(),
            }
        ],
    }
    return json.dumps(envelope, indent=2) + "\n"


def pae(kind: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of a payload: the bytes that are signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def key_id(ed25519: bytes) -> str:
    """Return the name of a raw public key in an envelope: the hex SHA-256 of its 32 bytes."""
    return hashlib.sha256(ed25519).hexdigest()

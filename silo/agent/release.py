"""The end of a run: silos sign for one model, and only then is it sealed to the researcher.

Invariant: a silo releases only a model for which more than half of the members signed, with the same uploads, the same
past and the same weights. Only one aggregate can have that many signatures, so an aggregator that gave different sums
to different silos gets at most one model, and cannot subtract one from another.

Source: PROTOCOL section 3 (acknowledgements) and section 4, step 4.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from silo_crypto.keys import seal
from silo_crypto.protocol import Payload

from silo.errors import VerificationFailed
from silo.messages import Acknowledged, Packet, Signature, open_packet, sender_of
from silo.submission import Submission

MODEL_INFO, DIGEST_INFO = b"silo/v1/release-model", b"silo/v1/release-digest"


def release_info(label: bytes, manifest: bytes, silo: str, researcher: str) -> bytes:
    """Return the HPKE info that binds a sealed release to its run, its silo and its recipient."""
    return label + b"\0" + manifest + silo.encode() + b"\0" + researcher.encode()


def seal_release(submission: Submission, silo: str, model: NDArray[np.float32], *, whole: bool) -> dict[str, bytes]:
    """Return ``digest``, and ``model`` if ``whole``, each sealed to the researcher; ``model`` is float32, (d,)."""
    researcher = submission.researcher()
    weights = model.astype("<f4", copy=False).view(np.uint8).data
    parts: dict[str, tuple[bytes, Payload]] = {"digest": (DIGEST_INFO, hashlib.sha256(weights).digest())}
    if whole:
        parts["model"] = (MODEL_INFO, weights)
    return {
        name: seal(researcher, release_info(label, submission.digest, silo, researcher.name), content)
        for name, (label, content) in parts.items()
    }


def require_agreement(
    signatures: Sequence[Signature],
    submission: Submission,
    members: Sequence[str],
    uploaders: Sequence[str],
    chain: str,
    model: str,
) -> None:
    """Raise unless more than half of ``members``, and the run's minimum, signed for these uploads, chain and model.

    ``chain`` and ``model`` are the hex HMACs this silo holds. A signature for anything else is refused, not skipped:
    it shows that somebody was given another sum.
    """
    run = submission.run.body
    signed: set[str] = set()
    for document in signatures:
        packet = Packet(document.head.encode(), base64.b64decode(document.signature), {})
        name = sender_of(packet)
        if name not in members:
            raise VerificationFailed(f"{name} is no member", where="acknowledgement")
        head = open_packet(packet, submission.member(name), run=run.run, manifest=run.digest)
        if (
            not isinstance(head, Acknowledged)
            or head.uploaders != list(uploaders)
            or (head.chain, head.model) != (chain, model)
        ):
            raise VerificationFailed(f"{name} signed for another model than this silo holds", where=f"run {run.run}")
        signed.add(name)
    needed = max(run.minimum_silos, len(members) // 2 + 1)
    if len(signed) < needed:
        raise VerificationFailed(
            f"{len(signed)} silos signed for the model, {needed} are needed", where=f"run {run.run}"
        )

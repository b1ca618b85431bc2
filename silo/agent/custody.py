"""A silo's half of each custody: the key set-up, the upload, and the opening of a verified sum.

Invariant: what :meth:`Session.open` returns passed presence, bounds and MAC, or nothing is returned and the epoch's
key is destroyed. Keys live in memory only and end with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from silo_crypto import labels, wire
from silo_crypto.keys import Identity
from silo_crypto.protocol import Fields, Header, Sums
from silo_crypto.shared import SharedEncryptor, SharedKey, SharedOpener
from silo_crypto.verification import GroupKey, chain, open_sum, protect

from silo.custody import set_up_header, shared_parameters
from silo.errors import VerificationFailed
from silo.submission import Submission


@dataclass(frozen=True)
class StepAnswer:
    """What a step gives back: blobs to carry, a confirmation to compare, and a nonce for the next attempt."""

    blobs: Mapping[str, bytes] = field(default_factory=dict)
    confirmation: str = ""
    nonce: str = ""


class Session(Protocol):
    """One custody over one run, as a silo takes part in it."""

    def step(self, name: str, number: int, blobs: Mapping[str, bytes]) -> StepAnswer:
        """Do one step of the key set-up (``number`` 0) or of opening a round's sum."""
        ...

    def upload(self, header: Header, values: Fields) -> bytes:
        """Return the signed envelope of an upload."""
        ...

    def open(self, header: Header, aggregate: bytes, uploaders: Sequence[str], own: bool) -> Sums:
        """Return the verified sums of the values; ``own`` says whether this silo uploaded."""
        ...

    def chain(self, header: Header, sums: Sums) -> bytes:
        """Return the 32-byte HMAC of an opened aggregate."""
        ...

    def tag(self, model: NDArray[np.float32]) -> bytes:
        """Return the 32-byte HMAC of a model, to compare models without showing them."""
        ...

    def close(self) -> None:
        """Forget every key."""
        ...


def session_for(submission: Submission, members: Sequence[str], identity: Identity) -> Session:
    """Return the session of the custody the run agreed on."""
    return SharedSession(submission, members, identity)


class SharedSession:
    """Shared custody: the first member deals the key, every other one accepts it."""

    def __init__(self, submission: Submission, members: Sequence[str], identity: Identity) -> None:
        self._submission = submission
        self._members = list(members)
        self._identity = identity
        self._parameters = shared_parameters(submission)
        self._header = set_up_header(submission, members)
        self._key: SharedKey | None = None
        self._encryptor: SharedEncryptor | None = None

    def step(self, name: str, number: int, blobs: Mapping[str, bytes]) -> StepAnswer:
        """``deal`` (first member): blobs ``box-SILO``. ``accept`` (the others): blob ``box``. Both confirm the key."""
        dealer, *others = self._members
        if self._key is not None or number != 0:
            raise VerificationFailed("the key of this run is set up already", where=f"step {name}")
        if name == "deal" and self._identity.name == dealer:
            self._key = SharedKey.generate(self._parameters, self._header)
            boxes = {
                f"box-{other}": self._key.deal(self._header, self._identity, self._submission.member(other))
                for other in others
            }
            return StepAnswer(boxes, self._confirmation())
        if name == "accept" and self._identity.name in others and "box" in blobs:
            self._key = SharedKey.receive(
                blobs["box"], self._header, self._parameters, self._identity, self._submission.member(dealer)
            )
            return StepAnswer(confirmation=self._confirmation())
        raise VerificationFailed("this step is not this silo's to take", where=f"step {name}")

    def upload(self, header: Header, values: Fields) -> bytes:
        """Encrypt the values with presence and MAC, and sign the envelope."""
        key = self._held()
        fields = protect(key.group, header, self._identity.name, values, self._parameters.value_bits)
        if self._encryptor is None:  # one for the whole run: it refuses a second message under one header
            self._encryptor = SharedEncryptor(key)
        payload = self._encryptor.encrypt(header, fields)
        return wire.pack(labels.UPLOAD, self._parameters.digest(), header, self._identity, payload)

    def open(self, header: Header, aggregate: bytes, uploaders: Sequence[str], own: bool) -> Sums:
        """Decrypt and verify; a failure destroys the key."""
        key, run = self._held(), self._submission.run.body
        return open_sum(
            SharedOpener(key),
            key.group,
            header,
            list(uploaders),
            aggregate,
            values=run.model.parameters,
            value_bits=self._parameters.value_bits,
            minimum=run.minimum_silos,
            own=self._identity.name if own else None,
        )

    def chain(self, header: Header, sums: Sums) -> bytes:
        """Return the HMAC of an opened aggregate."""
        return chain(self._held().group, header, sums)

    def tag(self, model: NDArray[np.float32]) -> bytes:
        """Return the HMAC of a model's bytes."""
        return model_tag(self._held().group, model)

    def close(self) -> None:
        """Destroy the epoch's key."""
        if self._key is not None:
            self._key.destroy()

    def _held(self) -> SharedKey:
        if self._key is None:
            raise VerificationFailed("no key is set up for this run", fix="the aggregator skipped the key set-up")
        return self._key

    def _confirmation(self) -> str:
        # A value only holders of the key can compute; that all are equal shows that all hold the same key.
        return self._held().group.derive(labels.KEY_CONFIRMED, self._header.digest()).hex()


def model_tag(group: GroupKey, model: NDArray[np.float32]) -> bytes:
    """Return HMAC(group key, model): an HMAC and not a hash, because a small model can be guessed."""
    return group.derive(labels.MODEL, model.astype("<f4").tobytes())

"""A silo's half of each custody: the key set-up, the upload, and the opening of a verified sum.

Invariant: what :meth:`Session.open` returns passed presence, bounds and MAC, or nothing is returned and the epoch's
key is destroyed. Keys live in memory only and end with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from silo_crypto import labels, wire
from silo_crypto.keys import Identity, seal
from silo_crypto.protocol import Fields, Header, Sums
from silo_crypto.shared import SharedEncryptor, SharedKey, SharedOpener
from silo_crypto.verification import GroupKey, field_count, open_sum, protect

if TYPE_CHECKING:
    from silo_crypto.threshold.attempt import ThresholdSilo

from silo.custody import set_up_header, shared_parameters, threshold_epoch
from silo.errors import VerificationFailed
from silo.submission import Submission


@dataclass(frozen=True)
class StepAnswer:
    """What a step gives back: blobs to carry and a confirmation to compare."""

    blobs: Mapping[str, bytes] = field(default_factory=dict)
    confirmation: str = ""


class Session(Protocol):
    """One custody over one run, as a silo takes part in it."""

    def step(self, name: str, number: int, blobs: Mapping[str, bytes]) -> StepAnswer:
        """Do one step of the key set-up (``number`` 0) or of opening a round's sum."""
        ...

    def begin(self, number: int, attempt: int, chain: bytes, blobs: Mapping[str, bytes]) -> Header:
        """Return the attempt's header; ``chain`` is the HMAC this silo holds of the last aggregate."""
        ...

    def upload(self, header: Header, values: Fields) -> bytes:
        """Return the signed envelope of an upload."""
        ...

    def next_blobs(self, number: int) -> Mapping[str, bytes]:
        """Return what this silo contributes now to the attempt of round ``number``."""
        ...

    def open(self, header: Header, aggregate: bytes, uploaders: Sequence[str], own: bool) -> Sums:
        """Return the verified sums of the values; ``own`` says whether this silo uploaded."""
        ...

    @property
    def group(self) -> GroupKey:
        """The key behind MAC, chain and model tags, which every silo of the epoch holds and the aggregator lacks."""
        ...

    def able(self, header: Header) -> bool:
        """Say whether this silo can encrypt under a header that :meth:`begin` returned."""
        ...

    def export(self) -> bytes:
        """Return what :meth:`resume` needs in another process: only to be stored encrypted. Empty: no keys yet."""
        ...

    def resume(self, exported: bytes) -> None:
        """Go on with the keys of an earlier process."""
        ...

    def suspend(self) -> None:
        """Let go of files; keys stay where they are stored."""
        ...

    def close(self) -> None:
        """Forget every key."""
        ...


def session_for(submission: Submission, members: Sequence[str], identity: Identity, shares: Path) -> Session:
    """Return the session of the custody the run agreed on; ``shares`` is the file for threshold key shares."""
    if submission.run.body.encryption.custody == "threshold":
        return ThresholdSession(submission, members, identity, shares)
    return SharedSession(submission, members, identity)


def model_tag(group: GroupKey, model: NDArray[np.float32]) -> bytes:
    """Return HMAC(group key, model): an HMAC and not a hash, because a small model can be guessed."""
    return group.derive(labels.MODEL, model.astype("<f4", copy=False).view(np.uint8).data)


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

    def begin(self, number: int, attempt: int, chain: bytes, blobs: Mapping[str, bytes]) -> Header:
        """Return the header over all members of the epoch."""
        return replace(self._header, round=number, attempt=attempt, chain=chain)

    def next_blobs(self, number: int) -> Mapping[str, bytes]:
        """Nothing: headers need no nonces."""
        return {}

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

    def able(self, header: Header) -> bool:
        """Always: a header needs nothing that only one process knows."""
        return self._identity.name in header.members

    def export(self) -> bytes:
        """Return the epoch's key."""
        return b"" if self._key is None else self._key.export()

    def resume(self, exported: bytes) -> None:
        """Go on with the epoch's key."""
        if exported:
            self._key = SharedKey.restore(self._parameters, self._header, exported)

    def suspend(self) -> None:
        """There is no file to let go of."""

    @property
    def group(self) -> GroupKey:
        """The epoch's group key."""
        return self._held().group

    def close(self) -> None:
        """Destroy the epoch's key."""
        if self._key is not None:
            self._key.destroy()

    def _held(self) -> SharedKey:
        if self._key is None:
            raise VerificationFailed("no key is set up for this run", fix="the aggregator skipped the key set-up")
        return self._key

    def _confirmation(self) -> str:
        return _confirmation(self._held().group, self._header.digest())


class ThresholdSession:
    """Threshold custody: every member deals, tests and holds a share; T of them open one sum together."""

    def __init__(self, submission: Submission, members: Sequence[str], identity: Identity, shares: Path) -> None:
        from silo_crypto.threshold.ceremony import Ceremony
        from silo_crypto.threshold.keys import Party
        from silo_crypto.threshold.state import State

        self._submission = submission
        self._identity = identity
        self._epoch = threshold_epoch(submission, members)
        public = {name: submission.member(name) for name in members}
        self._party = Party(
            identity, lambda name, info, secret: seal(public[name], info, secret), identity.open, public
        )
        self._state = State(shares)
        self._ceremony = Ceremony(self._epoch, self._party, self._state)
        self._silo: ThresholdSilo | None = None
        self._group: GroupKey | None = None
        self._able = False

    def step(self, name: str, number: int, blobs: Mapping[str, bytes]) -> StepAnswer:
        """``deal``, ``test``, ``check`` (and ``blame``) set keys up; ``confirm`` and ``share`` open a round's sum."""
        match name, number:
            case "deal", 0:
                return StepAnswer({"deal": self._ceremony.deal()})
            case "test", 0:
                return StepAnswer({"test": self._ceremony.receive(_needed(blobs, "dealt"))})
            case (("check" | "blame"), 0):
                repeated = self._ceremony.check(_needed(blobs, "tested"))
                return self._complete() if repeated is None else StepAnswer({"test": repeated})
            case "confirm", _:
                return StepAnswer({"confirm": self._held().confirm(_needed(blobs, "proposal"))})
            case "share", _:
                return StepAnswer({"share": self._share(_needed(blobs, "request"))})
        raise VerificationFailed("this step is not of threshold custody", where=f"step {name}")

    def _complete(self) -> StepAnswer:
        from silo_crypto.threshold.attempt import ThresholdSilo
        from silo_crypto.threshold.ceremony import load_keys

        run = self._submission.run.body
        keys = load_keys(self._epoch, self._party, self._state)
        length = field_count(run.model.parameters, len(self._epoch.members), run.encryption.value_bits)
        self._silo = ThresholdSilo(keys, self._party, self._state, length)
        self._group = keys.group
        return StepAnswer(self.next_blobs(1), _confirmation(keys.group, self._epoch.digest()))

    def _share(self, request: bytes) -> bytes:
        from silo_crypto.threshold.messages import Request

        share = self._held().share(request)
        header = Request.decode(request).agreement.header
        return wire.pack(labels.SHARE, self._epoch.parameters.digest(), header, self._identity, share)

    def begin(self, number: int, attempt: int, chain: bytes, blobs: Mapping[str, bytes]) -> Header:
        """Return the header of the ``start``, with this silo's own chain in it, if it may be encrypted under."""
        from silo_crypto.threshold.messages import Start

        start = Start.decode(_needed(blobs, "start"))
        header = replace(start.header, chain=chain)
        if (header.run, header.round, header.attempt) != (self._submission.run.body.run, number, attempt):
            raise VerificationFailed("the start is of another attempt", where=f"round {number}")
        self._able = self._identity.name in header.members and self._held().made(header)
        if not self._able:
            # No nonce of this silo arrived, or it is of a process that was killed: it follows the run without an
            # upload, and with a new nonce it uploads again next time.
            return self._held().follow(replace(start, header=header).encode(), chain)
        return self._held().begin(replace(start, header=header).encode(), chain)

    def able(self, header: Header) -> bool:
        """Say whether the nonce in the header is this process's."""
        return self._able

    def export(self) -> bytes:
        """Return a mark that the ceremony is over: the keys themselves lie in ``shares.db``, sealed."""
        return b"" if self._silo is None else b"tested"

    def resume(self, exported: bytes) -> None:
        """Go on with the keys that ``shares.db`` holds."""
        if exported:
            self._complete()

    def suspend(self) -> None:
        """Close the file of shares; what is in it stays."""
        self._silo = None
        self._state.close()

    def upload(self, header: Header, values: Fields) -> bytes:
        """Encrypt the values with presence and MAC, and sign the envelope."""
        fields = protect(
            self.group, header, self._identity.name, values, self._submission.run.body.encryption.value_bits
        )
        payload = self._held().encrypt(header, fields)
        return wire.pack(labels.UPLOAD, self._epoch.parameters.digest(), header, self._identity, payload)

    def next_blobs(self, number: int) -> Mapping[str, bytes]:
        """Return this silo's nonce for round ``number``; it lives in memory only."""
        return {"nonce": self._held().nonce(self._submission.run.body.run, number, 1)}

    def open(self, header: Header, aggregate: bytes, uploaders: Sequence[str], own: bool) -> Sums:
        """Open and verify; a failure destroys the group key."""
        silo, run = self._held(), self._submission.run.body
        if set(silo.uploaders(header, aggregate)) != set(uploaders):
            raise VerificationFailed("the aggregate is of other uploads than the message says", where="aggregate")
        return open_sum(
            silo,
            self.group,
            header,
            list(uploaders),
            aggregate,
            values=run.model.parameters,
            value_bits=run.encryption.value_bits,
            minimum=self._epoch.least,
            # A certificate can rightly leave out an upload that came too late; it then counts for nothing.
            own=None,
        )

    @property
    def group(self) -> GroupKey:
        """The epoch's group key."""
        if self._group is None:
            raise VerificationFailed("no key is set up for this run", fix="the aggregator skipped the key ceremony")
        return self._group

    def close(self) -> None:
        """Forget the keys, in memory and in the file, and close it; what was confirmed stays on record."""
        if self._group is not None:
            self._group.destroy()
        self._silo = None
        self._state.forget(self._epoch.manifest, self._epoch.number)
        self._state.close()

    def _held(self) -> ThresholdSilo:
        if self._silo is None:
            raise VerificationFailed("no key is set up for this run", fix="the aggregator skipped the key ceremony")
        return self._silo


def _confirmation(group: GroupKey, context: bytes) -> str:
    """Return a value only holders of the key can compute; that all are equal shows that all hold the same key."""
    return group.derive(labels.KEY_CONFIRMED, context).hex()


def _needed(blobs: Mapping[str, bytes], name: str) -> bytes:
    if name not in blobs:
        raise VerificationFailed(f"the message lacks its blob {name!r}", where="custody")
    return blobs[name]

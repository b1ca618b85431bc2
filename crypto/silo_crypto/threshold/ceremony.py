"""A silo's side of making the keys of one epoch: deal, check the boxes, test that all dealings fit together.

Invariant: the keys are stored, and so usable, only after every opening of a test gave zero; a silo deals once per
epoch, recorded before its deal leaves. A crash before the end loses the epoch, and the next one starts afresh.

    exchange 1   deal() -> aggregator               relay.route -> every silo
    exchange 2   receive(dealt) -> test, aggregator  relay.add -> every silo
    then         check(tested): None, the keys are ready; or the per-dealer test to send, and check() again names whom
                 to exclude; restart without them under the next epoch number

The test opens encrypted zeros, U = all members and S = the T members from the w-th on, for every w: windows w and w+1
agree on T-1 points and on 0, so all of them right means the sum of the dealings has degree T-1. Members who dealt
wrongly in a way that cancels in the sum can only make later sums noise; what honest members dealt stays hidden
whatever the others dealt. Nothing secret is encrypted under the test's ``a``: its label is ``silo/v1/test``.

Source: PROTOCOL section 3, "Ceremony".
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from silo_crypto import labels
from silo_crypto.errors import CryptoError, ProtocolError, VerificationError, WireError
from silo_crypto.protocol import Payload
from silo_crypto.threshold import cipher
from silo_crypto.threshold.epoch import Epoch, verify
from silo_crypto.threshold.keys import EpochKeys, Party, Share, box_info, commitment, deal
from silo_crypto.threshold.messages import (
    NONCE_BYTES,
    Deal,
    Dealing,
    Dealt,
    Trial,
    TrialSums,
    framed,
)
from silo_crypto.threshold.relay import JOINT, PER_DEALER, Opening, openings, test_layout
from silo_crypto.threshold.state import State

_DONE = PER_DEALER + 1
_OWN = ""  # the name under which a silo's own secret is stored; no member has it


def _dealer_error(what: str, dealers: Sequence[str]) -> VerificationError:
    names, fix = ", ".join(dealers), "restart without them under the next epoch number"
    return VerificationError(f"{what}: {names}", where="key ceremony", fix=fix, silos=tuple(dealers))


@dataclass(frozen=True)
class _Test:
    opening: Opening
    seed: bytes
    transcript: bytes


class Ceremony:
    """One silo's part in one key epoch. Call deal, receive, check in this order; any exception ends it."""

    def __init__(self, epoch: Epoch, party: Party, state: State) -> None:
        if party.name not in epoch.members:
            raise ProtocolError(f"{party.name} is no member of the epoch", where="ceremony")
        self.epoch = epoch
        self._party = party
        self._state = state
        self._stage = -1
        self._nonce = os.urandom(NONCE_BYTES)
        self._own: NDArray[np.int64] | None = None
        self._sent = b""
        self._deal = b""
        self._boxes: dict[str, bytes] = {}
        self._keys: EpochKeys | None = None
        self._transcript = b""
        self._opened = 0

    def deal(self) -> bytes:
        """Return this silo's :class:`~.messages.Deal`. A second call returns the same bytes."""
        if self._deal:
            return self._deal
        epoch, name = self.epoch, self._party.name
        self._state.deal(epoch.manifest, epoch.number)
        self._own, shares = deal(epoch)
        self._sent = b"".join(shares[member].seed for member in epoch.members)
        boxes = tuple(
            self._party.seal(member, box_info(epoch, name, member), shares[member].encode()) for member in epoch.members
        )
        digests = tuple(hashlib.sha256(box).digest() for box in boxes)
        dealing = Dealing(name, self._nonce, commitment(epoch, name, shares[name].contribution), digests)
        dealing = replace(dealing, signature=self._party.signer.sign(dealing.signed(epoch.digest())))
        self._deal = Deal(dealing.encode(), boxes).encode()
        return self._deal

    def receive(self, message: Payload) -> bytes:
        """Take the :class:`~.messages.Dealt` and return the joint :class:`~.messages.Trial`.

        Raise VerificationError, naming the dealer in ``silos``, for a box that does not open or hold; other
        CryptoErrors for messages that nobody in particular can be blamed for.
        """
        epoch, name = self.epoch, self._party.name
        if self._own is None or self._keys is not None:
            raise ProtocolError("the dealt boxes come once, after this silo's deal", where="ceremony")
        dealt = Dealt.decode(message, len(epoch.members))
        own = epoch.point(name) - 1
        received: list[Share] = []
        for dealer, raw, box in zip(epoch.members, dealt.dealings, dealt.boxes, strict=True):
            dealing = Dealing.decode(raw, len(epoch.members))
            if dealing.dealer != dealer:
                raise WireError(f"expected the statement of {dealer}", where="ceremony")
            verify(self._party.verifiers, dealer, dealing.signed(epoch.digest()), dealing.signature)
            if not hmac.compare_digest(hashlib.sha256(box).digest(), dealing.digests[own]):
                raise WireError(f"the box is not the one {dealer} signed", where="ceremony", fix="ask for it again")
            received.append(self._open(dealer, dealing, box))
            self._boxes[dealer] = box
        if Dealing.decode(dealt.dealings[own], len(epoch.members)).nonce != self._nonce:
            raise ProtocolError("this silo's own statement was exchanged", where="ceremony")
        self._keys = EpochKeys(epoch, name, self._own, received, self._sent)
        packed = framed((self._own + 1).astype(np.uint8).tobytes(), self._sent)
        self._boxes[_OWN] = self._party.seal(name, own_info(epoch, name), packed)
        self._own = None
        # Every dealer's fresh nonce is in its statement, so ``a`` is fresh for every honest member.
        self._transcript = hashlib.sha256(framed(labels.TEST, epoch.digest(), *dealt.dealings)).digest()
        return self._test(JOINT)

    def check(self, message: Payload) -> bytes | None:
        """Take the :class:`~.messages.TrialSums` of the current stage.

        Return None once the keys are tested and stored; after a joint test that failed, return the per-dealer
        :class:`~.messages.Trial`; after that one, raise
        VerificationError with the dealers to exclude in ``silos``.
        """
        if self._keys is None or self._stage not in (JOINT, PER_DEALER):
            raise ProtocolError("there is no test to check", where="ceremony")
        tests = self._tests(self._stage)
        tested = TrialSums.decode(message, len(tests))
        if tested.stage != self._stage:
            raise ProtocolError(f"expected stage {self._stage}", where="ceremony")
        failed = [
            test.opening for test, total in zip(tests, tested.sums, strict=True) if not self._is_zero(test, total)
        ]
        if self._stage == JOINT:
            if failed:
                return self._test(PER_DEALER)
            self._stage = _DONE
            self._state.keep(self.epoch.manifest, self.epoch.number, self._boxes, self._opened)
            return None
        self._stage = _DONE
        dealers = sorted({opening.uploaders[0] for opening in failed}, key=self.epoch.point)
        if not dealers:
            raise VerificationError(
                "the joint test failed but no single dealing does", where="key ceremony", fix="restart it"
            )
        raise _dealer_error("these dealings are not of the agreed degree", dealers)

    def _open(self, dealer: str, dealing: Dealing, box: bytes) -> Share:
        try:
            plaintext = self._party.open(box_info(self.epoch, dealer, self._party.name), box)
            share = Share.decode(plaintext, self.epoch.parameters.ring)
        except CryptoError as error:
            raise _dealer_error(f"a sealed box does not hold ({error.what})", [dealer]) from error
        if not hmac.compare_digest(commitment(self.epoch, dealer, share.contribution), dealing.commitment):
            raise _dealer_error("a part of the group key is not the one committed to", [dealer])
        return share

    def _tests(self, stage: int) -> list[_Test]:
        tests = []
        for index, opening in enumerate(openings(self.epoch, stage)):
            seed = framed(self._transcript, b"%d" % stage, b"%d" % index)
            tests.append(_Test(opening, seed, hashlib.sha256(framed(labels.TEST, seed)).digest()))
        return tests

    def _test(self, stage: int) -> bytes:
        keys = self._keys
        if keys is None or stage <= self._stage:
            raise ProtocolError("a test is encrypted once", where="ceremony")
        self._stage = stage
        layout = test_layout(self.epoch)
        zeros = np.zeros(layout.length, dtype=np.uint32)
        uploads, shares = [], []
        for test in self._tests(stage):
            uploaders, sharers = test.opening.uploaders, test.opening.sharers
            uploads.append(
                cipher.encrypt(keys, layout, labels.TEST, test.seed, zeros) if keys.name in uploaders else b""
            )
            if keys.name in sharers:
                self._opened += layout.coefficients
                shares.append(cipher.share(keys, layout, labels.TEST, test.seed, test.transcript, uploaders, sharers))
            else:
                shares.append(b"")
        return Trial(stage, tuple(uploads), tuple(shares)).encode()

    def _is_zero(self, test: _Test, total: bytes) -> bool:
        layout, keys, opening = test_layout(self.epoch), self._keys, test.opening
        if keys is None:
            raise ProtocolError("there are no keys to test", where="ceremony")
        try:
            sums = cipher.open_sum(
                keys, layout, test.transcript, opening.uploaders, opening.sharers, total, layout.length
            )
        except VerificationError:
            return False
        return not sums.any()


def own_info(epoch: Epoch, name: str) -> bytes:
    """Return what a silo's own secret, sealed to itself, is bound to."""
    return framed(labels.OWN_KEY, epoch.manifest, b"%d" % epoch.number, name.encode(), epoch.digest())


def load_keys(epoch: Epoch, party: Party, state: State) -> EpochKeys:
    """Return the stored keys of a tested epoch; raise ProtocolError if there are none.

    When their group key is destroyed, they are deleted from ``state`` too: a restart does not bring them back.
    """
    boxes = state.boxes(epoch.manifest, epoch.number)
    if set(boxes) != {_OWN, *epoch.members}:
        raise ProtocolError(
            f"there are no tested keys of epoch {epoch.number}", where="state", fix="take part in a key ceremony"
        )
    ring, name = epoch.parameters.ring, party.name
    packed = party.open(own_info(epoch, name), boxes[_OWN])
    size = ring.degree
    own = np.frombuffer(packed[4 : 4 + size], dtype=np.uint8).astype(np.int64) - 1
    sent = packed[8 + size :]
    received = [
        Share.decode(party.open(box_info(epoch, dealer, name), boxes[dealer]), ring) for dealer in epoch.members
    ]
    keys = EpochKeys(epoch, name, own, received, sent)
    keys.group.at_end(lambda: state.forget(epoch.manifest, epoch.number))
    return keys

"""The aggregator's side of an attempt: it adds residues, collects confirms and shares, and opens nothing.

Invariant: no key and no crypto library; the sum it returns is padded with a stream only the silos know. An upload or
share that is refused leaves no trace in a sum. What it holds are messages: another machine that is given them again
takes over.

Source: PROTOCOL section 3, "Attempt" to "Open"; section 4.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

import numpy as np

from silo_crypto.errors import ProtocolError, SignatureError, WireError
from silo_crypto.protocol import Header, Payload, Verifier
from silo_crypto.ring import Residues
from silo_crypto.ring_packing import pack, unpack
from silo_crypto.threshold.encoding import Layout
from silo_crypto.threshold.epoch import Epoch, verify
from silo_crypto.threshold.messages import (
    Aggregate,
    Agreement,
    Confirm,
    Nonce,
    Request,
    Start,
    upload_digest,
)


class Accumulator:
    """A running sum of payloads of one layout, reduced only when it is read: 2^34 of them would fit."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        ring, indices = layout.parameters.ring, range(layout.polynomials)
        self._ring = ring
        self._sum: list[Residues] = [np.zeros((ring.count, layout.count(i)), dtype=np.uint64) for i in indices]

    def add(self, payload: Payload) -> None:
        """Add a payload; raise WireError, with the sum unchanged, if it is no payload of this layout."""
        self._take(payload, negative=False)

    def subtract(self, payload: Payload) -> None:
        """Subtract a payload; as :meth:`add`."""
        self._take(payload, negative=True)

    def _take(self, payload: Payload, *, negative: bool) -> None:
        if len(payload) != self.layout.payload_bytes:
            raise WireError(
                f"a payload has {len(payload)} bytes, not {self.layout.payload_bytes}",
                where="adder",
                fix="the sender uses other parameters or another model",
            )
        data = memoryview(payload)
        # Twice over the bytes, so that a bad residue in the last block leaves the sum unchanged.
        for index in range(self.layout.polynomials):
            unpack(data[self.layout.bytes(index)], self._ring, self.layout.count(index))
        for index, total in enumerate(self._sum):
            block = unpack(data[self.layout.bytes(index)], self._ring, self.layout.count(index))
            total += self._ring.column - block if negative else block

    def payload(self) -> bytes:
        """Return the sum, reduced and packed."""
        return b"".join(pack(self._ring.reduce(total)) for total in self._sum)

    def plus(self, other: Accumulator) -> bytes:
        """Return the sum of both, reduced and packed; neither changes."""
        pairs = zip(self._sum, other._sum, strict=True)
        return b"".join(pack(self._ring.reduce(mine + yours)) for mine, yours in pairs)


def start(epoch: Epoch, run: str, round_number: int, attempt: int, chain: bytes, nonces: Mapping[str, bytes]) -> bytes:
    """Return the :class:`~.messages.Start` of an attempt from the members' :class:`~.messages.Nonce` messages.

    ``chain`` is the 32-byte HMAC that the silos gave for the last aggregate; zeros in the first round. Members without
    a nonce stay out of the attempt.
    """
    members = tuple(name for name in epoch.members if name in nonces)
    parsed = [Nonce.decode(nonces[name]) for name in members]
    for name, message in zip(members, parsed, strict=True):
        if message.name != name:
            raise ProtocolError(f"{name} sent the nonce of {message.name}", where="start")
    header = Header(
        epoch.manifest,
        run,
        epoch.number,
        round_number,
        attempt,
        members,
        chain,
        tuple(message.nonce for message in parsed),
    )
    epoch.check_header(header)
    return Start(header, tuple(message.signature for message in parsed)).encode()


class ThresholdAdder:
    """The aggregator's state of one attempt, in order: add, proposal, confirm, request, add_share, aggregate."""

    def __init__(self, epoch: Epoch, header: Header, length: int, verifiers: Mapping[str, Verifier]) -> None:
        """``length`` is as :class:`~.attempt.ThresholdSilo` takes it; ``verifiers`` the public keys by name."""
        epoch.check_header(header)
        self.epoch = epoch
        self.header = header
        self.layout = Layout(epoch.parameters, length)
        self._verifiers = verifiers
        self._uploads = Accumulator(self.layout)
        self._digests: dict[str, bytes] = {}
        self._agreement: Agreement | None = None
        self._transcript = b""
        self._confirms: dict[str, bytes] = {}
        self._request: Request | None = None
        self._shares: Accumulator | None = None
        self._shared: set[str] = set()

    @property
    def uploaders(self) -> tuple[str, ...]:
        """Those whose uploads were added, in the header's order."""
        return tuple(name for name in self.header.members if name in self._digests)

    @property
    def confirmers(self) -> tuple[str, ...]:
        """Those whose confirms came, in the epoch's order."""
        return tuple(name for name in self.epoch.members if name in self._confirms)

    def add(self, sender: str, payload: Payload) -> None:
        """Add one member's upload. A second one from it, a copy of another's, or a late one is refused."""
        if self._agreement is not None:
            raise ProtocolError(f"the upload of {sender} came after the proposal", where="adder")
        if sender not in self.header.members:
            raise SignatureError(f"{sender!r} is no member of this attempt", where="adder")
        if sender in self._digests:
            raise ProtocolError(f"{sender} has already uploaded", where="adder", fix="refuse the second upload")
        if len(self._digests) == self.epoch.parameters.max_silos:
            raise ProtocolError("there are as many uploads as a sum holds", where="adder")
        self._uploads.add(payload)
        self._digests[sender] = upload_digest(self.header, sender, payload)

    def proposal(self) -> bytes:
        """Close the uploads and return the :class:`~.messages.Agreement` for every silo to confirm."""
        if self._agreement is None:
            uploaders = self.uploaders
            agreement = Agreement(self.header, uploaders, tuple(self._digests[name] for name in uploaders))
            self.epoch.check_agreement(agreement)
            self._agreement = agreement
            self._transcript = agreement.digest(self.epoch.digest())
        return self._agreement.encode()

    def confirm(self, sender: str, message: Payload) -> None:
        """Take one member's :class:`~.messages.Confirm`; raise a CryptoError if it is not for this agreement."""
        confirm = Confirm.decode(message)
        if self._agreement is None or not hmac.compare_digest(confirm.agreement, self._transcript):
            raise ProtocolError(f"{sender} confirms another agreement", where="confirm")
        if confirm.name != sender or sender not in self.epoch.members:
            raise SignatureError(f"a confirm is not of {sender!r}, or that is no member", where="confirm")
        verify(self._verifiers, sender, Confirm.signed(self._transcript, sender), confirm.signature)
        self._confirms[sender] = confirm.signature

    def request(self, sharers: Sequence[str] | None = None) -> bytes:
        """Return the :class:`~.messages.Request` for S = ``sharers``, by default the first T that confirmed.

        After a sharer drops, call again with another S: the shares collected so far are dropped with it.
        """
        if self._agreement is None:
            raise ProtocolError("nothing was proposed", where="request")
        confirmers = self.confirmers
        if len(confirmers) < self.epoch.quorum:
            raise ProtocolError(
                f"{len(confirmers)} confirms, {self.epoch.quorum} are needed", where="request", fix="wait or abandon"
            )
        chosen = tuple(sharers) if sharers is not None else confirmers[: self.epoch.threshold]
        self.epoch.check_sharers(chosen)
        signatures = tuple(self._confirms[name] for name in confirmers)
        self._request = Request(self._agreement, confirmers, signatures, chosen)
        self._shares = Accumulator(self.layout)
        self._shared = set()
        return self._request.encode()

    @property
    def sharers(self) -> tuple[str, ...]:
        """The current S."""
        return self._request.sharers if self._request else ()

    def add_share(self, sender: str, payload: Payload) -> None:
        """Take one sharer's share of the current S; a second one, or one of a stranger to S, is refused."""
        if self._shares is None or sender not in self.sharers or sender in self._shared:
            raise ProtocolError(f"no share of {sender!r} is due", where="share")
        self._shares.subtract(payload)
        self._shared.add(sender)

    def aggregate(self) -> bytes:
        """Return the :class:`~.messages.Aggregate`: the sum over U of the uploads less the sum over S of the shares."""
        if self._request is None or self._shares is None or len(self._shared) != len(self.sharers):
            missing = ", ".join(name for name in self.sharers if name not in self._shared)
            raise ProtocolError(f"shares are missing: {missing or 'none was asked for'}", where="aggregate")
        return Aggregate(self._request, self._uploads.plus(self._shares)).encode()

"""A silo's side of an attempt: nonce, begin, encrypt, confirm, share, open. Bytes in, bytes out.

Invariants, through kill -9 (each recorded in :mod:`.state` before the bytes are returned):

- one encryption per header, ever: ``a`` depends on a nonce that only this process knows and erases as it encrypts;
- one agreement per attempt is confirmed, and shares are given for that one alone, on a certificate of Q confirms;
- a share leaves at most once for each S, 8 times an attempt, and only within the epoch's coefficients.

    exchange 1   nonce() -> aggregator.start -> begin(), encrypt() -> aggregator.add
    exchange 2   aggregator.proposal -> confirm() -> aggregator.confirm
    exchange 3   aggregator.request -> share() -> aggregator.add_share; aggregator.aggregate -> open()

Source: PROTOCOL section 3, "Attempt", "Agree", "Share", "Open".
"""

from __future__ import annotations

import hmac
import os
import threading

import numpy as np

from silo_crypto import labels
from silo_crypto.errors import EncodingError, ProtocolError, VerificationError
from silo_crypto.protocol import Fields, Header, Payload, Sums
from silo_crypto.threshold import cipher
from silo_crypto.threshold.encoding import Layout
from silo_crypto.threshold.epoch import verify
from silo_crypto.threshold.keys import EpochKeys, Party
from silo_crypto.threshold.messages import (
    NONCE_BYTES,
    Aggregate,
    Agreement,
    Confirm,
    Nonce,
    Request,
    Start,
    encode_names,
    upload_digest,
)
from silo_crypto.threshold.state import State

_Attempt = tuple[str, int, int]


class ThresholdSilo:
    """One silo under one key epoch; an :class:`~silo_crypto.protocol.Encryptor` and an ``Opener``.

    ``length`` is the largest number of fields in an upload of the run; every payload has that size, and shorter field
    vectors (of an attempt with fewer members) end in zeros. Safe for threads.
    """

    def __init__(self, keys: EpochKeys, party: Party, state: State, length: int) -> None:
        if keys.name != party.name:
            raise ProtocolError(f"the keys are those of {keys.name}, not {party.name}", where="attempt")
        self.epoch = keys.epoch
        self.layout = Layout(keys.epoch.parameters, length)
        self._keys = keys
        self._party = party
        self._state = state
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._nonces: dict[_Attempt, bytes] = {}
        self._begun: dict[bytes, _Attempt] = {}
        self._sent: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"ThresholdSilo({self._party.name!r}, epoch {self.epoch.number}, <secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a silo's attempt holds nonces and keys and is never pickled or copied")

    def nonce(self, run: str, round_number: int, attempt: int) -> bytes:
        """Return this silo's :class:`~.messages.Nonce` for an attempt; it exists in this process's memory only."""
        epoch, name = self.epoch, self._party.name
        with self._lock:
            nonce = self._own_nonces().setdefault((run, round_number, attempt), os.urandom(NONCE_BYTES))
        signed = Nonce.signed(epoch.manifest, run, epoch.number, round_number, attempt, name, nonce)
        return Nonce(name, nonce, self._party.signer.sign(signed)).encode()

    def begin(self, message: Payload, chain: bytes) -> Header:
        """Return the header in a :class:`~.messages.Start` if it may be encrypted under.

        Checks: of this epoch; every nonce signed by its member for this very attempt; this silo's own is the one this
        process made; ``chain`` (32 bytes) is the HMAC this silo holds of the last aggregate.
        """
        header = self.follow(message, chain)
        attempt = (header.run, header.round, header.attempt)
        with self._lock:
            self._check_nonce(header, self._own_nonces().get(attempt))
            self._begun[header.digest()] = attempt
        return header

    def made(self, header: Header) -> bool:
        """Tell whether the header holds a nonce of this silo that this process made and has not used."""
        own = dict(zip(header.members, header.nonces, strict=True)).get(self._party.name)
        with self._lock:
            nonce = self._own_nonces().get((header.run, header.round, header.attempt))
        return own is not None and nonce is not None and hmac.compare_digest(own, nonce)

    def follow(self, message: Payload, chain: bytes) -> Header:
        """Return the header in a :class:`~.messages.Start` to go along with, without an upload of this silo.

        The checks are those of :meth:`begin`, but for the own nonce: a silo that was restarted has lost it.
        """
        start = Start.decode(message)
        header, epoch = start.header, self.epoch
        epoch.check_header(header)
        for name, nonce, signature in zip(header.members, header.nonces, start.signatures, strict=True):
            signed = Nonce.signed(epoch.manifest, header.run, epoch.number, header.round, header.attempt, name, nonce)
            verify(self._party.verifiers, name, signed, signature)
        if not hmac.compare_digest(header.chain, chain):
            raise ProtocolError(
                "the header follows another aggregate than this silo's last", where="header", fix="resynchronise"
            )
        return header

    def encrypt(self, header: Header, fields: Fields) -> bytes:
        """Return the payload of the upload; ``fields`` is uint32, shape (at most length,), each below 2^value_bits.

        Encrypts once per header and attempt, ever; :meth:`resend` repeats the bytes. An error after the fields were
        checked spends the attempt.
        """
        self._check_fields(fields)
        digest = header.digest()
        with self._lock:
            attempt = self._begun.pop(digest, None)
            if attempt is None:
                raise ProtocolError(
                    "this header was not begun, or was encrypted under", where="encrypt", fix="start another attempt"
                )
            self._check_nonce(header, self._own_nonces().pop(attempt, None))
            self._sent.clear()
        self._state.claim(header)
        payload = cipher.encrypt(self._keys, self.layout, labels.PUBLIC_A, digest, fields)
        self._state.uploaded(header, upload_digest(header, self._party.name, payload))
        self._sent[digest] = payload
        return payload

    def resend(self, header: Header) -> bytes:
        """Return the identical bytes of the last upload again, if it was under ``header``."""
        payload = self._sent.get(header.digest())
        if payload is None:
            raise ProtocolError("this process has no upload under this header", where="resend", fix="start another")
        return payload

    def confirm(self, message: Payload) -> bytes:
        """Return this silo's :class:`~.messages.Confirm` of an :class:`~.messages.Agreement`: one per attempt."""
        agreement = Agreement.decode(message)
        self.epoch.check_agreement(agreement)
        self._check_own(agreement)
        transcript = agreement.digest(self.epoch.digest())
        self._state.agree(agreement.header, transcript)
        name = self._party.name
        return Confirm(name, transcript, self._party.signer.sign(Confirm.signed(transcript, name))).encode()

    def share(self, message: Payload) -> bytes:
        """Return the payload of this silo's share for a :class:`~.messages.Request`.

        Checks, in order: U within the members and its size; S, with this silo in it; Q confirms of this U; the own
        upload's digest; then, durably, no other U for the header, a new S, at most 8, and the epoch's coefficients.
        """
        request = Request.decode(message)
        transcript = self._check_request(request)
        epoch, header, sharers = self.epoch, request.agreement.header, request.sharers
        if self._party.name not in sharers:
            raise ProtocolError("this silo is not among the sharers", where="share")
        limit = epoch.parameters.coefficients_per_silo(len(epoch.members), epoch.threshold)
        self._state.release(header, transcript, encode_names(sharers), self.layout.coefficients, limit)
        return cipher.share(
            self._keys, self.layout, labels.PUBLIC_A, header.digest(), transcript, request.agreement.uploaders, sharers
        )

    def open(self, header: Header, payload: Payload, length: int) -> Sums:
        """Return the first ``length`` field sums of an :class:`~.messages.Aggregate`, shape (length,), int64.

        The certificate is checked again, so U is what a quorum confirmed. If the sum is noise, the group key is
        destroyed, as after a failed MAC, and VerificationError raised. The caller still checks the MAC
        (:func:`silo_crypto.verification.open_sum`).
        """
        aggregate, transcript = self._check_aggregate(header, payload)
        request, residues = aggregate.request, aggregate.residues
        uploaders, sharers = request.agreement.uploaders, request.sharers
        try:
            return cipher.open_sum(self._keys, self.layout, transcript, uploaders, sharers, residues, length)
        except VerificationError:
            self._keys.group.destroy()
            raise

    def uploaders(self, header: Header, payload: Payload) -> tuple[str, ...]:
        """Return U of an :class:`~.messages.Aggregate`, checked as in :meth:`open`."""
        return self._check_aggregate(header, payload)[0].request.agreement.uploaders

    def released(self, header: Header) -> bool:
        """Tell whether a share of the attempt may have left: then its budget is spent, whatever follows."""
        return self._state.released(header) > 0

    def abandon(self, header: Header) -> None:
        """Give no share of this attempt any more."""
        self._state.abandon(header)

    def _check_aggregate(self, header: Header, payload: Payload) -> tuple[Aggregate, bytes]:
        aggregate = Aggregate.decode(payload)
        if aggregate.request.agreement.header != header:
            raise ProtocolError("the aggregate is of another header", where="open")
        transcript = self._check_request(aggregate.request)
        self._state.agree(header, transcript)
        return aggregate, transcript

    def _check_request(self, request: Request) -> bytes:
        transcript = self.epoch.check_certificate(request, self._party.verifiers)
        self._check_own(request.agreement)
        return transcript

    def _check_own(self, agreement: Agreement) -> None:
        """If this silo is in U, its digest there must be that of the upload it recorded."""
        name = self._party.name
        if name not in agreement.uploaders:
            return
        stated = agreement.digests[agreement.uploaders.index(name)]
        recorded = self._state.upload(agreement.header)
        if recorded is None or not hmac.compare_digest(stated, recorded):
            raise ProtocolError(
                "the digest of this silo's own upload is wrong", where="agreement", fix="the upload was altered: stop"
            )

    def _check_fields(self, fields: Fields) -> None:
        if fields.dtype != np.uint32 or fields.ndim != 1 or not 0 < fields.size <= self.layout.length:
            raise EncodingError(
                f"expected uint32 of shape (1 to {self.layout.length},), got {fields.dtype} {fields.shape}",
                where="encrypt",
            )
        if int(fields.max()) >> self.epoch.parameters.value_bits:
            raise EncodingError(f"a field is not below 2^{self.epoch.parameters.value_bits}", where="encrypt")

    def _own_nonces(self) -> dict[_Attempt, bytes]:
        """Return the nonces of this process; a fork has none, so parent and child never encrypt under the same."""
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._nonces.clear()
            self._begun.clear()
        return self._nonces

    def _check_nonce(self, header: Header, nonce: bytes | None) -> None:
        name = self._party.name
        if name not in header.members:
            raise ProtocolError("this silo is not in the header", where="header", fix="send a nonce in time")
        if nonce is None or not hmac.compare_digest(header.nonces[header.members.index(name)], nonce):
            raise ProtocolError(
                "the header does not hold the nonce this process made", where="header", fix="start another attempt"
            )

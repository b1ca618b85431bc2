"""Who takes part under one set of keys, and the rules everybody checks: the quorum, U, S, headers, certificates.

Invariant: for one header at most one agreement gets a certificate while at most T-1 silos are corrupt: two sets of Q
confirms among n silos share at least 2Q - n >= T silos, so an honest one, and that one confirms once.

Source: PROTOCOL section 3, "Agree" and "Share".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from silo_crypto import labels
from silo_crypto.errors import ParameterError, ProtocolError, SignatureError
from silo_crypto.protocol import Header, Verifier
from silo_crypto.ring import Residues
from silo_crypto.threshold.messages import DIGEST_BYTES, NONCE_BYTES, Agreement, Confirm, Request, encode_names, framed
from silo_crypto.threshold.parameters import ThresholdParameters


@dataclass(frozen=True)
class Epoch:
    """The public facts of one key epoch: everything here is agreed in the run manifest.

    ``members`` are the n silos that deal and hold shares, ``threshold`` is T, ``minimum`` the fewest uploads a sum may
    have; ``manifest`` is the 32-byte digest of the run manifest.
    """

    manifest: bytes
    number: int
    members: tuple[str, ...]
    threshold: int
    minimum: int
    parameters: ThresholdParameters

    def __post_init__(self) -> None:
        self.parameters.check(len(self.members), self.threshold)
        if len(set(self.members)) != len(self.members):
            raise ParameterError("a member stands twice", where="key epoch")
        if len(self.manifest) != DIGEST_BYTES or self.number < 0 or not 1 <= self.minimum <= len(self.members):
            raise ParameterError("manifest, number or minimum is out of range", where="key epoch")

    def following(self, members: Sequence[str] | None = None, *, threshold: int | None = None) -> Epoch:
        """Return the next key epoch, with new keys to deal, for the same members or those of them that are left.

        Due after a change of members, a failed check, or when the coefficients of this one are spent. The silos' state
        (:mod:`.state`) ends this epoch as the next one's keys are kept. Raise ParameterError for strangers, or for
        fewer members than ``threshold`` (this epoch's if left out) and the minimum allow.
        """
        left = self.members if members is None else tuple(members)
        if not _ordered(left, self.members):
            raise ParameterError(
                "a key epoch is continued by its own members, in their order",
                where="key epoch",
                fix="new members need an amended manifest and a new run",
            )
        most = self.threshold if threshold is None else threshold
        return replace(self, number=self.number + 1, members=left, threshold=most)

    @property
    def quorum(self) -> int:
        """Q = floor((n + T - 1) / 2) + 1 confirms make a certificate."""
        return (len(self.members) + self.threshold - 1) // 2 + 1

    @property
    def least(self) -> int:
        """The fewest uploads in a sum: max(minimum, T + 1), so that T - 1 silos never face a single other one."""
        return max(self.minimum, self.threshold + 1)

    def digest(self) -> bytes:
        """Return SHA-256 over all of the above: 32 bytes."""
        numbers = (b"%d" % number for number in (self.number, self.threshold, self.minimum))
        members = encode_names(self.members)
        return hashlib.sha256(framed(labels.EPOCH, self.manifest, *numbers, members, self.parameters.digest())).digest()

    def point(self, name: str) -> int:
        """Return where the shares of member ``name`` are taken: its place in the list, from 1."""
        return self.members.index(name) + 1

    def lagrange(self, name: str, sharers: Sequence[str]) -> Residues:
        """Return lambda_j^S modulo each prime, shape (k, 1): the weight of member ``name`` in S at 0."""
        x = self.point(name)
        numerator = denominator = 1
        for other in sharers:
            if other != name:
                numerator *= -self.point(other)
                denominator *= x - self.point(other)
        ring = self.parameters.ring
        # Differences of points are below 128, so units modulo every prime.
        inverse = [pow(denominator, -1, prime) for prime in ring.primes]
        weights = [numerator * v % p for v, p in zip(inverse, ring.primes, strict=True)]
        return np.array(weights, dtype=np.uint64)[:, None]

    def check_header(self, header: Header) -> None:
        """Raise ProtocolError unless ``header`` is of this epoch and has a nonce from each of its members."""
        if header.manifest != self.manifest or header.epoch != self.number:
            raise ProtocolError("a header is of another run or key epoch", where="header")
        if not _ordered(header.members, self.members):
            raise ProtocolError("a header names strangers, or members out of order", where="header")
        if len(header.nonces) != len(header.members) or any(len(nonce) != NONCE_BYTES for nonce in header.nonces):
            raise ProtocolError("a header lacks a nonce", where="header")
        if len(set(header.nonces)) != len(header.nonces):
            raise ProtocolError("two members have the same nonce", where="header")
        if len(header.members) < self.least:
            raise ProtocolError(
                f"{len(header.members)} members cannot make {self.least} uploads", where="header", fix="wait for more"
            )

    def check_agreement(self, agreement: Agreement) -> None:
        """Raise ProtocolError unless U is within the header's members and max(minimum, T+1) <= |U| <= max_silos."""
        self.check_header(agreement.header)
        uploaders = agreement.uploaders
        if not _ordered(uploaders, agreement.header.members):
            raise ProtocolError("the uploaders are not members of the header, in its order", where="agreement")
        if not self.least <= len(uploaders) <= self.parameters.max_silos:
            raise ProtocolError(
                f"{len(uploaders)} uploads; a sum has {self.least} to {self.parameters.max_silos}", where="agreement"
            )
        if len(set(agreement.digests)) != len(uploaders):
            raise ProtocolError("two uploads have the same digest", where="agreement", fix="one is a copy")

    def check_sharers(self, sharers: tuple[str, ...]) -> None:
        """Raise ProtocolError unless S is distinct members, in order, and T <= |S| is within the floods' limit."""
        if not _ordered(sharers, self.members):
            raise ProtocolError("the sharers are not members of the epoch, in its order", where="request")
        most = self.parameters.max_sharers(len(self.members))
        if not self.threshold <= len(sharers) <= most:
            raise ProtocolError(f"{len(sharers)} sharers; an opening has {self.threshold} to {most}", where="request")

    def check_certificate(self, request: Request, verifiers: Mapping[str, Verifier]) -> bytes:
        """Return the transcript if the request holds: U, S and at least Q distinct members' confirms for this U."""
        self.check_agreement(request.agreement)
        self.check_sharers(request.sharers)
        transcript = request.agreement.digest(self.digest())
        if not _ordered(request.confirmers, self.members):
            raise ProtocolError("the confirmers are not members of the epoch, in its order", where="certificate")
        if len(request.confirmers) < self.quorum:
            raise ProtocolError(f"{len(request.confirmers)} confirms, {self.quorum} are needed", where="certificate")
        for name, signature in zip(request.confirmers, request.signatures, strict=True):
            verify(verifiers, name, Confirm.signed(transcript, name), signature)
        return transcript


def verify(verifiers: Mapping[str, Verifier], name: str, message: bytes, signature: bytes) -> None:
    """Raise SignatureError unless ``signature`` is that of ``name`` over ``message``."""
    if name not in verifiers:
        raise SignatureError(f"no public key of {name!r} is known", where="signature", fix="check the manifest")
    verifiers[name].verify(message, signature)


def _ordered(names: Sequence[str], among: Sequence[str]) -> bool:
    """Tell whether ``names`` are distinct and stand in ``among`` in the same order."""
    rest = iter(among)
    return all(name in rest for name in names)

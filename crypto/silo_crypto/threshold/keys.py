"""A silo's secrets of one key epoch.

Invariant: nobody holds the sum of the members' keys, and no object here shows, pickles or copies its secrets. At rest
they are the HPKE boxes in which they came, sealed to the silo's own identity (:mod:`.state`).

Keys live in slots (after the forward transform), so a Shamir share is computed slot by slot; dealer i's polynomial is
s_i + c_1 x + ... + c_(T-1) x^(T-1) with c uniform in R_q, member j's share its value at x = j. Differences of points
are units of R_q, so T-1 shares are uniform whatever s_i is. Source: PROTOCOL section 3, "Ceremony".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_crypto import labels
from silo_crypto.errors import WireError
from silo_crypto.keys import Secret
from silo_crypto.protocol import Signer, Verifier
from silo_crypto.randomness import Csprng
from silo_crypto.ring import Residues, Ring
from silo_crypto.ring_packing import pack, packed_bytes, unpack
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.messages import framed
from silo_crypto.threshold.sampling import derive, ternary, uniform
from silo_crypto.verification import GroupKey

SEED_BYTES = 32


@dataclass(frozen=True)
class Party:
    """How one silo acts towards the others: it signs, seals to members by name, opens, and knows their public keys.

    ``seal(recipient, info, plaintext)`` and ``open(info, box)`` are HPKE (:mod:`silo_crypto.keys`).
    """

    signer: Signer
    seal: Callable[[str, bytes, bytes], bytes]
    open: Callable[[bytes, bytes], bytes]
    verifiers: Mapping[str, Verifier]

    @property
    def name(self) -> str:
        return self.signer.name


def box_info(epoch: Epoch, dealer: str, recipient: str) -> bytes:
    """Return what a dealing's box is bound to: (manifest, epoch, dealer, recipient)."""
    number = b"%d" % epoch.number
    return framed(labels.KEYBOX, epoch.manifest, number, dealer.encode(), recipient.encode(), epoch.digest())


def commitment(epoch: Epoch, dealer: str, contribution: bytes) -> bytes:
    """Return the hash by which ``dealer`` is bound to one contribution of 256 random bits to the group key."""
    return hashlib.sha256(framed(labels.GROUP, epoch.digest(), dealer.encode(), contribution)).digest()


class Share(Secret):
    """What one dealer gives one member: a Shamir share in slots, a seed for the pair, a part of the group key."""

    __slots__ = ("contribution", "seed", "slots")

    def __init__(self, slots: NDArray[np.unsignedinteger], seed: bytes, contribution: bytes) -> None:
        self.slots = slots.astype(np.uint32)
        self.seed = seed
        self.contribution = contribution

    def encode(self) -> bytes:
        return pack(self.slots) + self.seed + self.contribution

    @classmethod
    def decode(cls, data: bytes, ring: Ring) -> Share:
        size = packed_bytes(ring.count, ring.degree)
        if len(data) != size + 2 * SEED_BYTES:
            raise WireError("a share has the wrong size", where="key box", fix="exclude the dealer")
        slots = unpack(memoryview(data)[:size], ring, ring.degree)
        return cls(slots, data[size : size + SEED_BYTES], data[size + SEED_BYTES :])


def deal(epoch: Epoch) -> tuple[NDArray[np.int64], dict[str, Share]]:
    """Return a fresh ternary key, shape (N,), and each member's share of it."""
    rng, ring = Csprng(), epoch.parameters.ring
    secret = ternary(rng, ring.degree)
    higher = [uniform(rng.bytes, ring, ring.degree).astype(np.uint64) for _ in range(epoch.threshold - 1)]
    constant = ring.forward(ring.lift(secret))
    contribution = rng.bytes(SEED_BYTES)
    shares: dict[str, Share] = {}
    for member in epoch.members:
        value = np.zeros_like(constant)
        for coefficient in [*reversed(higher), constant]:  # Horner
            value *= np.uint64(epoch.point(member))
            value += coefficient
            ring.reduce(value)
        shares[member] = Share(value, rng.bytes(SEED_BYTES), contribution)
    return secret, shares


class EpochKeys(Secret):
    """A silo's own key, its share of every member's key, a mask key for each other member, and the group key."""

    __slots__ = ("_shares", "epoch", "group", "name", "pairs", "secret")

    def __init__(self, epoch: Epoch, name: str, own: NDArray[np.int64], received: Sequence[Share], sent: bytes) -> None:
        """``received`` are the members' shares for ``name``; ``sent`` the seeds it dealt; both in members' order."""
        ring = epoch.parameters.ring
        self.epoch = epoch
        self.name = name
        self.secret: Residues = ring.forward(ring.lift(own))
        self._shares = dict(zip(epoch.members, (share.slots for share in received), strict=True))
        digest = epoch.digest()
        self.group = GroupKey(derive(b"".join(share.contribution for share in received), labels.GROUP, digest))
        self.pairs: dict[str, bytes] = {}
        for i, (other, share) in enumerate(zip(epoch.members, received, strict=True)):
            if other == name:
                continue
            mine = sent[SEED_BYTES * i : SEED_BYTES * (i + 1)]
            # Both seeds count, that of the earlier member first: one good generator of the two is enough.
            seeds = mine + share.seed if epoch.point(name) < epoch.point(other) else share.seed + mine
            pair = sorted((name, other), key=epoch.point)
            self.pairs[other] = derive(seeds, labels.PAIR, digest, *(member.encode() for member in pair))

    def share_of(self, uploaders: Sequence[str]) -> Residues:
        """Return this silo's share of the sum of the uploaders' keys, in slots, shape (k, N)."""
        total = np.zeros_like(self.secret)
        for uploader in uploaders:
            total += self._shares[uploader]
        return self.epoch.parameters.ring.reduce(total)

    def __repr__(self) -> str:
        return f"EpochKeys({self.name!r}, epoch {self.epoch.number}, <secret>)"

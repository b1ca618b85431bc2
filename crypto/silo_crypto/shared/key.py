"""The key of one epoch of shared custody, and how one silo deals it to the others.

Invariant: the key leaves a silo only inside an HPKE box for one member, in an envelope the dealer signed; a key whose
epoch failed a check refuses everything afterwards. Source: PROTOCOL section 3, "shared" and "abort oracle".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from silo_crypto import labels, wire
from silo_crypto.errors import KeyUseError, ProtocolError, WireError
from silo_crypto.keys import SEAL_OVERHEAD, Identity, PublicIdentity, Secret, seal
from silo_crypto.parameters import DEGREE, KEY_PRIME, PRIMES, SharedParameters
from silo_crypto.protocol import Header, Payload
from silo_crypto.shared import native, residues
from silo_crypto.verification import GROUP_KEY_BYTES, GroupKey

_ALL_PRIMES = (*PRIMES, KEY_PRIME)
_PACKED = residues.packed_bytes(DEGREE, _ALL_PRIMES)
EXPORT_BYTES = 32 + GROUP_KEY_BYTES + _PACKED


class SharedKey(Secret):
    """The BFV secret and the group key of one epoch of one run.

    ``group`` is destroyed by the first failed check (:func:`silo_crypto.verification.check`), and the BFV secret is
    then refused too. Whoever stores an export deletes it at that moment.
    """

    __slots__ = ("_secret", "epoch", "group", "manifest", "parameters")

    def __init__(self, parameters: SharedParameters, header: Header, secret: Any, group: GroupKey) -> None:
        self.parameters = parameters
        self.manifest = header.manifest
        self.epoch = header.epoch
        self.group = group
        self._secret = secret

    @classmethod
    def generate(cls, parameters: SharedParameters, header: Header) -> SharedKey:
        """Return a fresh key for the manifest and epoch of ``header``."""
        return cls(parameters, header, native.seal().new_secret(), GroupKey.generate())

    @property
    def destroyed(self) -> bool:
        """Whether a failed check has ended this epoch."""
        return self.group.destroyed

    def destroy(self) -> None:
        """End the epoch: every later use raises KeyUseError."""
        self.group.destroy()
        self._secret = None

    def succeeded_by(self, successor: SharedKey) -> None:
        """End this epoch in favour of a later one of the same run; raise ProtocolError, and stay, for any other key."""
        if successor.manifest != self.manifest or successor.epoch <= self.epoch or successor.destroyed:
            raise ProtocolError(
                "a key is followed by a usable one of a later epoch of the same run",
                where=f"key epoch {self.epoch}",
                fix="deal a new key; nobody goes back to an old one",
            )
        self.destroy()

    def native_secret(self, header: Header) -> Any:
        """Return SEAL's key for use under ``header``; raise if the epoch has ended or is another one."""
        self.group.export()
        if (header.manifest, header.epoch) != (self.manifest, self.epoch):
            raise ProtocolError("the header is of another run or epoch than the key", fix="deal a key for it")
        return self._secret

    def export(self) -> bytes:
        """Return the key as ``EXPORT_BYTES`` bytes. Only for :meth:`deal`, or to be stored encrypted."""
        group = self.group.export()
        packed = residues.pack(native.seal().secret_residues(self._secret), _ALL_PRIMES)
        return self.parameters.digest() + group + packed

    @classmethod
    def restore(cls, parameters: SharedParameters, header: Header, exported: bytes) -> SharedKey:
        """Return the key that :meth:`export` gave; raise WireError if it is malformed or of other parameters."""
        if len(exported) != EXPORT_BYTES or exported[:32] != parameters.digest():
            raise WireError("not a shared key of these parameters", where="shared custody")
        group, packed = exported[32:64], exported[64:]
        words = residues.unpack(packed, DEGREE, _ALL_PRIMES, pad=DEGREE, where="shared key")
        if not np.all(words.any(axis=1)):
            raise WireError("the secret is zero modulo a prime", where="shared key")
        return cls(parameters, header, native.seal().secret_from(words), GroupKey(group))

    def deal(self, header: Header, dealer: Identity, recipient: PublicIdentity) -> bytes:
        """Return the signed envelope that carries this key to ``recipient``, sealed so that nobody else opens it."""
        self.native_secret(header)
        info = _info(self.parameters, header, dealer.name, recipient.name)
        box = seal(recipient, info, self.export())
        return wire.pack(labels.KEYBOX, self.parameters.digest(), header, dealer, box)

    @classmethod
    def receive(
        cls, envelope: Payload, header: Header, parameters: SharedParameters, identity: Identity, dealer: PublicIdentity
    ) -> SharedKey:
        """Return the key that ``dealer`` sealed to ``identity``: the signature first, then the box, then the key."""
        if dealer.name not in header.members:
            raise KeyUseError("the dealer of the key is not a member", where=dealer.name)
        box = wire.unpack(
            envelope,
            kind=labels.KEYBOX,
            parameters_digest=parameters.digest(),
            header=header,
            verifier=dealer,
            length=EXPORT_BYTES + SEAL_OVERHEAD,
        )
        info = _info(parameters, header, dealer.name, identity.name)
        return cls.restore(parameters, header, identity.open(info, bytes(box)))


def _info(parameters: SharedParameters, header: Header, dealer: str, recipient: str) -> bytes:
    # Names cannot contain a zero byte, and the digests have a fixed length: the encoding is unambiguous.
    ends = dealer.encode() + b"\0" + recipient.encode()
    return labels.KEYBOX + b"\0" + parameters.digest() + header.digest() + ends

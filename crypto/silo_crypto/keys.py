"""Identities: one Ed25519 key that signs and one X25519 key that boxes are sealed to, and how both rest on disk.

Invariant: a private key leaves this module only inside an encrypted PKCS#8 file. It is in no repr, exception or
pickle; ``dir/identity.ed25519.pem`` and ``dir/sealing.x25519.pem`` are read only when nobody but their owner can.

Sources: Ed25519 RFC 8032; HPKE RFC 9180, base mode, suite DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / AES-256-GCM;
PKCS#8 RFC 5958 with scrypt (RFC 7914) and AES-256-GCM. HPKE's base mode does not say who sealed a box: whatever
carries one is signed (:mod:`silo_crypto.wire`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_public_key
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

from silo_crypto import labels
from silo_crypto.errors import KeyUseError, SignatureError
from silo_crypto.protocol import Payload

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
ROTATION_BYTES = 2 * SIGNATURE_BYTES
CONTEXT_BYTES = 32
TAG_BYTES = 16
SEAL_OVERHEAD = PUBLIC_KEY_BYTES + TAG_BYTES  # the encapsulated key and the GCM tag

SIGNING_FILE = "identity.ed25519.pem"
SEALING_FILE = "sealing.x25519.pem"
PUBLIC_FILE = "identity.json"

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_P = (1 << 255) - 19
_ENCRYPTED_PEM = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
# scrypt N=2^16, r=8: 64 MB and about 0.1 s a guess. Homes use a 32-byte random passphrase, so this is the second wall.
_SCRYPT = {"iteration_count": 1 << 16, "block_size": 8, "parallelization": 1, "salt_size": 16}


class Secret:
    """Base of everything that holds a key: it shows nothing of itself and refuses to be pickled or copied."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} holds a secret and is never pickled or copied")


def check_name(name: str) -> str:
    """Return ``name`` if it matches ``[a-z0-9-]{1,32}``, the form of every party's name; else raise KeyUseError."""
    if not _NAME.fullmatch(name):
        raise KeyUseError(f"{name!r} is not a name", fix="use 1 to 32 of a-z, 0-9 and -")
    return name


@dataclass(frozen=True)
class PublicIdentity:
    """What others know of a party: its name and two raw 32-byte public keys. Checked when made."""

    name: str
    ed25519: bytes
    x25519: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        try:
            _signing_key(self.ed25519)
            _sealing_key(self.x25519)
        except (ValueError, TypeError) as error:
            raise KeyUseError(
                f"a public key of {self.name} is not a point of its curve", fix="ask for it again"
            ) from error

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return if ``signature`` (64 bytes) is this party's over ``message``; else raise SignatureError."""
        # OpenSSL's: 0.1 ms where pycryptodome takes 1.5. The key's point was checked when this was made.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(f"the signature of {self.name} does not hold") from error

    def hands_over_to(self, successor: PublicIdentity, context: bytes, statement: bytes) -> None:
        """Return if ``statement`` (128 bytes, from :meth:`Identity.hand_over`) holds; else raise SignatureError.

        Both keys are other ones, the holder of the old signing key named the new ones, and the holder of the new one
        confirmed that, both for this name and ``context`` (32 bytes: the digest of what the rotation amends, so that
        it holds once). It does not prove who holds the new sealing key: the next key ceremony does.
        """
        if successor.name != self.name:
            raise SignatureError(f"the keys of {self.name} cannot become those of {successor.name}")
        if successor.ed25519 == self.ed25519 or successor.x25519 == self.x25519:
            raise SignatureError(f"a rotation of {self.name} changes both keys", fix="make new keys")
        if len(statement) != ROTATION_BYTES:
            raise SignatureError(f"a rotation has {ROTATION_BYTES} bytes of signatures")
        old, new = statement[:SIGNATURE_BYTES], statement[SIGNATURE_BYTES:]
        self.verify(_rotation(labels.ROTATION, self, successor, context), old)
        successor.verify(_rotation(labels.ROTATION_CONFIRMED, self, successor, context), new)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"name", "keys": {"ed25519", "x25519"}}``, keys in base64, as consortium manifests hold them."""
        keys = {"ed25519": self.ed25519, "x25519": self.x25519}
        return {"name": self.name, "keys": {kind: base64.b64encode(key).decode() for kind, key in keys.items()}}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> PublicIdentity:
        """Read what :meth:`to_json` wrote; anything else raises KeyUseError."""
        try:
            name, keys = body["name"], body["keys"]
            raw = [base64.b64decode(keys[kind], validate=True) for kind in ("ed25519", "x25519")]
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise KeyUseError("a public identity is malformed", fix="expected name and base64 keys") from error
        if not isinstance(name, str):
            raise KeyUseError("a public identity has no name")
        return cls(name, *raw)


class Identity(Secret):
    """A party's private keys. It signs (a :class:`~silo_crypto.protocol.Signer`) and opens boxes sealed to it."""

    __slots__ = ("_name", "_public", "_sealing", "_signing")

    def __init__(self, name: str, signing: Any, sealing: Any) -> None:
        self._name = check_name(name)
        self._signing = signing
        self._sealing = sealing
        raw = [key.public_key().export_key(format="raw") for key in (signing, sealing)]
        self._public = PublicIdentity(name, *raw)

    def __repr__(self) -> str:
        return f"Identity({self._name!r}, <secret>)"

    @property
    def name(self) -> str:
        return self._name

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Return a new identity with keys from the operating system's generator."""
        return cls(name, ECC.generate(curve="Ed25519"), ECC.generate(curve="Curve25519"))

    def public(self) -> PublicIdentity:
        """Return the half that others may see."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over ``message``; the caller's message starts with a label."""
        # OpenSSL's: the same bytes (RFC 8032 leaves no choice) in 0.05 ms, where pycryptodome takes 0.4.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._signing.seed).sign(message)

    def hand_over(self, successor: Identity, context: bytes) -> bytes:
        """Return the statement, 128 bytes, that ``successor`` holds this party's keys from now on.

        See :meth:`PublicIdentity.hands_over_to`; what it refuses is refused here too.
        """
        old, new = self.public(), successor.public()
        statement = self.sign(_rotation(labels.ROTATION, old, new, context))
        statement += successor.sign(_rotation(labels.ROTATION_CONFIRMED, old, new, context))
        old.hands_over_to(new, context, statement)
        return statement

    def open(self, info: bytes, box: bytes) -> bytes:
        """Return what :func:`seal` put into ``box`` for this identity under the same ``info``; else KeyUseError."""
        return self.unsealer(info, box[:PUBLIC_KEY_BYTES])(box[PUBLIC_KEY_BYTES:])

    def unsealer(self, info: bytes, beginning: bytes) -> Callable[[bytes], bytes]:
        """Return what opens, one after the other, the messages of :func:`sealer`, which gave ``beginning``.

        It raises KeyUseError for a message that is altered, or not the next one.
        """

        def closed() -> KeyUseError:
            return KeyUseError(f"a sealed box does not open for {self._name}", fix="it is for another key or purpose")

        try:
            context = HPKE.new(receiver_key=self._sealing, aead_id=HPKE.AEAD.AES256_GCM, enc=beginning, info=info)
        except ValueError:  # the cause may quote key material: it is not chained
            raise closed() from None

        def unseal(message: bytes) -> bytes:
            try:
                return bytes(context.unseal(message))
            except ValueError:
                raise closed() from None

        return unseal

    def save(self, directory: Path, passphrase: bytes | str) -> None:
        """Write both keys, encrypted, mode 0600, and the public half. An existing file is never overwritten."""
        secret = _passphrase(passphrase)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, key in ((SIGNING_FILE, self._signing), (SEALING_FILE, self._sealing)):
            pem = key.export_key(
                format="PEM",
                use_pkcs8=True,
                passphrase=secret,
                protection="scryptAndAES256-GCM",
                prot_params=_SCRYPT,
            )
            _write_new(directory / file, pem.encode(), 0o600)
        _write_new(directory / PUBLIC_FILE, json.dumps(self.public().to_json(), indent=2).encode() + b"\n", 0o644)

    @classmethod
    def load(cls, directory: Path, passphrase: bytes | str) -> Identity:
        """Read what :meth:`save` wrote. Raise KeyUseError if a file is missing, open to others, or does not decrypt."""
        secret = _passphrase(passphrase)
        try:
            body = json.loads((directory / PUBLIC_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise KeyUseError(
                "no readable identity", where=str(directory / PUBLIC_FILE), fix="run `silo init`"
            ) from error
        public = PublicIdentity.from_json(body)
        signing = _read_key(directory / SIGNING_FILE, secret, "Ed25519")
        sealing = _read_key(directory / SEALING_FILE, secret, "Curve25519")
        identity = cls(public.name, signing, sealing)
        if identity.public() != public:
            raise KeyUseError("the public keys are not those of the private keys", where=str(directory))
        return identity


def _rotation(label: bytes, old: PublicIdentity, new: PublicIdentity, context: bytes) -> bytes:
    """Return what is signed: every part but the name, which comes last, has a fixed length."""
    if len(context) != CONTEXT_BYTES:
        raise KeyUseError(f"a rotation is bound to {CONTEXT_BYTES} bytes, the digest of what it amends")
    return b"".join((label, b"\0", context, old.ed25519, old.x25519, new.ed25519, new.x25519, old.name.encode()))


def seal(recipient: PublicIdentity, info: bytes, plaintext: Payload) -> bytes:
    """Return an HPKE box (48 bytes longer than ``plaintext``) that only ``recipient`` opens, under the same ``info``.

    ``info`` starts with a label and binds everything the box belongs to; each box has a key of its own.
    """
    beginning, sealed = sealer(recipient, info)
    return beginning + sealed(plaintext)


def sealer(recipient: PublicIdentity, info: bytes) -> tuple[bytes, Callable[[Payload], bytes]]:
    """Return the 32 bytes that a box begins with and what seals its messages, each 16 bytes longer, in their order.

    For what is too large to be sealed in one piece (RFC 9180, section 5.2). A message that was altered, left out or
    moved does not open; that the last ones are missing, the reader must see from what it reads.
    """
    context: Any = HPKE.new(receiver_key=_sealing_key(recipient.x25519), aead_id=HPKE.AEAD.AES256_GCM, info=info)
    return context.enc, context.seal


@functools.lru_cache(maxsize=1024)  # the check below costs as much as a verification
def _signing_key(raw: bytes) -> Any:
    key = eddsa.import_public_key(raw)
    if (key.pointQ * 8).is_point_at_infinity():
        raise ValueError("a point of low order: its signatures hold for any message")
    return key


@functools.lru_cache(maxsize=1024)
def _sealing_key(raw: bytes) -> Any:
    if int.from_bytes(raw, "little") >= _P:
        raise ValueError("another encoding of a smaller number: the same key would pass as two")
    return import_x25519_public_key(raw)  # refuses the low-order points of RFC 7748 section 6.1


def _passphrase(passphrase: bytes | str) -> str:
    """Return what pycryptodome takes: it encodes text as Latin-1, so this carries any bytes through."""
    if not passphrase:
        raise KeyUseError("keys are never stored without a passphrase", fix="set SILO_PASSPHRASE")
    return (passphrase.encode() if isinstance(passphrase, str) else passphrase).decode("latin-1")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise KeyUseError(
            f"cannot write a key file: {error.strerror}", where=str(path), fix="choose an empty folder"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read_key(path: Path, passphrase: str, curve: str) -> Any:
    try:
        # Mode and content come from one open file, so it cannot be exchanged between the check and the read.
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            pem = file.read(1 << 16)
    except OSError as error:
        raise KeyUseError(f"cannot read a key: {error.strerror}", where=str(path)) from error
    if mode & 0o077:
        raise KeyUseError(
            f"the key file has mode {mode:04o}: others can use it", where=str(path), fix="chmod 600, then rotate it"
        )
    text = pem.decode("ascii", "replace")
    if not text.startswith(_ENCRYPTED_PEM):
        raise KeyUseError("the key file is not encrypted", where=str(path), fix="make a new identity")
    try:
        key = ECC.import_key(text, passphrase)
    except (ValueError, IndexError, TypeError):
        raise KeyUseError("the key does not open: wrong passphrase or damaged file", where=str(path)) from None
    if key.curve != curve or not key.has_private():
        raise KeyUseError(f"the file holds no {curve} private key", where=str(path))
    return key

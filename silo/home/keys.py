"""The key files of a home, and who may read them.

Invariant: a private key or passphrase is used only if nobody but its owner can read its file, and appears in no
message. Rotation adds keys in ``keys/epoch-N`` and takes none away, so old boxes still open. Signing and sealing keys
rest encrypted (:mod:`silo_crypto.keys`); the passphrase is ``$SILO_PASSPHRASE``, or else 32 random bytes in a file
``passphrase`` beside them, which then guards no more than the file's mode does.

The third key, ECDSA on P-384, identifies the node to Flower and nothing else: payloads are signed by the identity. It
is in the one form that Flower's ``--auth-supernode-private-key`` reads: OpenSSH, without a passphrase.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

from silo_crypto.keys import Identity
from silo_policies import Person, public_of

from silo.errors import ConfigError
from silo.storage import write_atomically

_STORED = "passphrase"
PERSON_FILE = "person.json"
NODE_FILE, NODE_PUBLIC_FILE = "node.p384.pem", "node.p384.pub"
_VARIABLE = "SILO_PASSPHRASE"
_MAX_BYTES = 1 << 16


def create_identity(directory: Path, name: str) -> Identity:
    """Make the directory (0700) with new signing and sealing keys in it."""
    identity = Identity.generate(name)
    _save(directory, identity)
    return identity


def save_person(directory: Path, identity: Identity, person: Person) -> None:
    """Make the directory (0700) with a person's keys, and the public half, which the consortium gets."""
    _save(directory, identity)
    text = json.dumps(public_of(person), indent=2) + "\n"
    write_atomically(directory / PERSON_FILE, text.encode(), mode=0o644)


def _save(directory: Path, identity: Identity) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the keys' folder: {error.strerror}", where=str(directory), fix="choose a new folder"
        ) from error
    if not os.environ.get(_VARIABLE):
        write_atomically(directory / _STORED, base64.urlsafe_b64encode(os.urandom(32)) + b"\n")
    identity.save(directory, read_passphrase(directory))


def load_identity(directory: Path) -> Identity:
    """Return the keys in the directory; raise if they cannot be read, or others could read them."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        raise ConfigError(
            f"no keys: {error.strerror}", where=str(directory), fix="make them with `silo keys new`"
        ) from error
    _require_private(directory, mode)
    return Identity.load(directory, read_passphrase(directory))


def epoch_directory(keys: Path, epoch: int) -> Path:
    """Return where the signing and sealing keys of a key epoch lie: the first beside the node's, others below."""
    return keys / f"epoch-{epoch}" if epoch else keys


def create_keys(directory: Path, name: str) -> None:
    """Make the directory (0700) and all keys of a new home in it."""
    create_identity(directory, name)
    _create_node_key(directory, name)


def read_passphrase(directory: Path) -> bytes:
    """Return the passphrase of the keys in ``directory``; raise :class:`ConfigError` if there is none to be had."""
    given = os.environ.get(_VARIABLE)
    if given:
        return given.encode()
    path = directory / _STORED
    if not path.exists():
        raise ConfigError(
            "the keys have a passphrase that is not stored", where=str(directory), fix=f"set ${_VARIABLE}"
        )
    passphrase = read_private(path).strip()
    if not passphrase:
        raise ConfigError("the passphrase file is empty", where=str(path), fix="restore it, or make a new home")
    return passphrase


def read_private(path: Path) -> bytes:
    """Return a private file's bytes; raise :class:`ConfigError` if it cannot be read, or others could."""
    try:
        # Mode and content come from one open file, so it cannot be exchanged between the check and the read.
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", where=str(path), fix="restore it") from error
    _require_private(path, mode)
    return content


def check_directories(home: Path, keys: Path) -> None:
    """Raise :class:`ConfigError` if others could change the home, or look into its keys."""
    try:
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (home, keys)]
    except OSError as error:
        raise ConfigError(
            f"not a home: {error.strerror}", where=str(error.filename or home), fix="run `silo init`"
        ) from error
    if modes[0] & 0o022:
        raise ConfigError(f"others can change the home (mode {modes[0]:04o})", where=str(home), fix="chmod 700 it")
    _require_private(keys, modes[1])


def _require_private(path: Path, mode: int) -> None:
    if mode & 0o077:
        raise ConfigError(
            f"others can read it (mode {mode:04o})", where=str(path), fix="chmod go-rwx it, and make new keys"
        )


def _create_node_key(directory: Path, name: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_atomically(directory / NODE_FILE, private)
    write_atomically(directory / NODE_PUBLIC_FILE, public + b" " + name.encode() + b"\n", mode=0o644)

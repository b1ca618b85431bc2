"""Writes the known answers beside this file: ``python tests/vectors/crypto/make.py``.

Run it only when the format's version changes; the point of the files is that they do not change otherwise. The keys in
them protect nothing.
"""

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from Crypto.PublicKey import ECC
from silo_crypto import labels, wire
from silo_crypto.keys import Identity
from silo_crypto.parameters import PRIMES, shared_for
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey
from silo_crypto.verification import chain, check, protect

HERE = Path(__file__).parent
PARAMETERS = shared_for(value_bits=16, silos=2)
HEADER = Header(bytes(range(32)), "run-vectors", 1, 2, 3, ("alice", "bob"), chain=b"\x07" * 32)
VALUES = {"alice": [0, 1, 2, 65535, 40000], "bob": [65535, 0, 5, 65535, 1]}


def identity(name: str, seed_of: str = "") -> Identity:
    seed = bytes([len(seed_of or name)]) * 32
    return Identity(name, ECC.construct(curve="Ed25519", seed=seed), ECC.construct(curve="Curve25519", seed=seed))


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def write(name: str, body: dict[str, object]) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n")


def envelopes() -> None:
    alice = identity("alice")
    payload = b"a payload of 24 bytes..."
    good = wire.pack(labels.UPLOAD, PARAMETERS.digest(), HEADER, alice, payload)
    head = struct.calcsize("<4sHBBB32s32sIIIQ")
    start = head + len(labels.UPLOAD) + len("alice") + len(HEADER.run)

    def at(place: int, raw: bytes) -> bytes:
        return good[:place] + raw + good[place + len(raw) :]

    def signed(header: Header, kind: bytes = labels.UPLOAD, digest: bytes = PARAMETERS.digest()) -> bytes:
        return wire.pack(kind, digest, header, alice, payload)

    write("wire_good", {"envelope": encoded(good), "payload": encoded(payload)})
    for name, envelope, error, says in (
        ("empty", b"", "WireError", "0 bytes are too few"),
        ("truncated", good[:-1], "WireError", "do not add up"),
        ("extended", good + b"\0", "WireError", "do not add up"),
        ("magic", at(0, b"OLIS"), "WireError", "not a Silo message"),
        ("version", at(4, b"\2"), "WireError", "version 2 of the format is unknown"),
        ("name_lengths", at(6, b"\xff\xff\xff"), "WireError", "do not add up"),
        ("payload_length", at(head - 8, b"\xff" * 8), "WireError", "do not add up"),
        ("kind", signed(HEADER, kind=labels.AGGREGATE), "WireError", "another kind"),
        ("parameters", signed(HEADER, digest=bytes(32)), "WireError", "other parameters"),
        ("run", signed(replace(HEADER, run="another-run")), "ProtocolError", "another run"),
        ("epoch", signed(replace(HEADER, epoch=2)), "ProtocolError", "another epoch"),
        ("round", signed(replace(HEADER, round=1)), "ProtocolError", "another round"),
        ("attempt", signed(replace(HEADER, attempt=4)), "ProtocolError", "another attempt"),
        ("members", signed(replace(HEADER, members=("alice", "carol"))), "ProtocolError", "another header"),
        ("chain", signed(replace(HEADER, chain=bytes(32))), "ProtocolError", "another header"),
        ("sender", good.replace(b"alice", b"carol"), "SignatureError", "names another sender"),
        ("payload", at(start, b"A"), "SignatureError", "does not hold"),
        ("signature", good[:-1] + bytes([good[-1] ^ 1]), "SignatureError", "does not hold"),
        ("signature_zero", good[:-64] + bytes(64), "SignatureError", "does not hold"),
        (
            "signer",
            wire.pack(labels.UPLOAD, PARAMETERS.digest(), HEADER, identity("alice", seed_of="mallory"), payload),
            "SignatureError",
            "does not hold",
        ),
    ):
        write(f"wire_bad_{name}", {"envelope": encoded(envelope), "error": error, "says": says})


def custody() -> None:
    key = SharedKey.generate(PARAMETERS, HEADER)
    fields = {n: protect(key.group, HEADER, n, np.array(v, dtype=np.uint32), 16) for n, v in VALUES.items()}
    uploads = {name: SharedEncryptor(key).encrypt(HEADER, fields[name]) for name in VALUES}
    adder = SharedAdder(PARAMETERS, HEADER, length=len(fields["alice"]), minimum=2)
    for name, upload in uploads.items():
        adder.add(name, upload)
    sums = check(key.group, HEADER, HEADER.members, sum(f.astype(np.int64) for f in fields.values()), 16)
    write(
        "shared_good",
        {
            "key": encoded(key.export()),
            "uploads": {name: encoded(upload) for name, upload in uploads.items()},
            "fields": {name: vector.tolist() for name, vector in fields.items()},
            "aggregate": encoded(adder.aggregate()),
            "sums": sums.tolist(),
            "chain": encoded(chain(key.group, HEADER, sums)),
        },
    )
    upload = uploads["bob"]
    count = (len(upload) - 64) // 9
    for name, payload, error, says in (
        ("truncated", upload[:-1], "WireError", "bytes"),
        ("first_prime", upload[:64] + PRIMES[0].to_bytes(5, "little") + upload[69:], "WireError", "below its prime"),
        ("second_prime", upload[:-4] + PRIMES[1].to_bytes(4, "little"), "WireError", "below its prime"),
        ("transparent", upload[:64] + bytes(9 * count), "WireError", "transparent"),
        ("seed_of_alice", uploads["alice"][:64] + upload[64:], "ProtocolError", "duplicate"),
        ("copy_of_alice", uploads["alice"], "ProtocolError", "duplicate"),
    ):
        write(f"shared_bad_{name}", {"upload": encoded(payload), "error": error, "says": says})


if __name__ == "__main__":
    envelopes()
    custody()

"""Check a proof from a Silo log without Silo: Python's standard library and the command `openssl`, nothing else.

    python check.py cleveland-38.tlog-proof KEY [KEY...]

Each KEY is a public key as `silo audit key` prints it, and as you got it from somebody you trust: first the log's, then
those of witnesses. All of them must have signed the head in the file. Prints the entry; ends with 1, and why, if
anything does not hold. It shares no line with the product, so that you need not take the product's word.

Sources: C2SP signed-note, tlog-cosignature, tlog-proof; RFC 9162 section 2.1.3.2; RFC 8410 for the key's frame.
"""

import base64
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

LOG, WITNESS = 1, 4
FRAME = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of an Ed25519 key, up to its 32 bytes


def main(path: str, *keys: str) -> None:
    top, _, note = Path(path).read_bytes().decode().partition("\n\n")
    magic, extra, index, *hashes = top.split("\n")
    require(magic == "c2sp.org/tlog-proof@v1", "this is not a proof file")
    entry, number = unpack(extra.removeprefix("extra ")), int(index.removeprefix("index "))
    text, _, tail = note.rpartition("\n\n")
    origin, size, root = text.split("\n")
    signatures = [line.removeprefix("\N{EM DASH} ").split(" ") for line in tail.strip().split("\n")]
    require(bool(keys) and keys[0].split("+")[0] == origin, f"the first key is not that of {origin}")
    for key in keys:
        name, kind, public, identity = read_key(key)
        require(kind == (LOG if key is keys[0] else WITNESS), f"{name} is not the kind of key that is due here")
        mine = [unpack(blob) for who, blob in signatures if who == name and unpack(blob)[:4] == identity]
        require(len(mine) == 1, f"{name} has not signed the head")
        signed, signature = f"{text}\n".encode(), mine[0][4:]
        if kind == WITNESS:
            moment, signature = int.from_bytes(signature[:8]), signature[8:]
            signed = f"cosignature/v1\ntime {moment}\n".encode() + signed
        require(verified(public, signed, signature), f"the signature of {name} does not hold")
    leaf = hashlib.sha256(b"\0" + entry).digest()
    found = climb(leaf, number, int(size), [unpack(each) for each in hashes])
    require(found == unpack(root), f"the entry is not number {number} of the {size} that were signed")
    print(f"entry {number} of {size} in {origin}, head signed by {len(keys)} of the keys given")  # noqa: T201
    print(entry.decode())  # noqa: T201


def climb(node: bytes, place: int, size: int, path: list[bytes]) -> bytes:
    """Return the root that the path leads to; RFC 9162 section 2.1.3.2, in its own names fn and sn."""
    fn, sn = place, size - 1
    require(0 <= fn <= sn, "the head has no such entry")
    for sibling in path:
        require(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        fn, sn = fn >> 1, sn >> 1
    require(sn == 0, "the proof is too short")
    return node


def read_key(text: str) -> tuple[str, int, bytes, bytes]:
    """Return a vkey's name, kind, 32 bytes and id."""
    name, identity, encoded = text.split("+", 2)
    material = unpack(encoded)
    expected = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    require(bytes.fromhex(identity) == expected and len(material) == 33, f"the key of {name} is damaged")
    return name, material[0], material[1:], expected


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Ask openssl whether an Ed25519 signature holds."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("key", FRAME + public), ("message", message), ("signature", signature)):
            (Path(folder) / name).write_bytes(content)
        command = "openssl pkeyutl -verify -pubin -keyform DER -inkey key -rawin -in message -sigfile signature"
        done = subprocess.run(command.split(), cwd=folder, capture_output=True)  # noqa: S603 - no word is from outside
        return done.returncode == 0


def unpack(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        sys.exit(otherwise)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"not a proof, not a key, or no openssl: {error}")

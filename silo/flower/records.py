"""Packets to and from Flower's records.

Every object of a message costs Flower two requests and a dozen statements in its database, so head, signature and small
blobs travel together in one record: three objects a message. What is larger travels as opaque uint8 arrays, because
only ``Array`` is chunked by Flower (100 MB: 4 s as array, 8 to 16 s as config bytes). What comes out is checked for
type and number only; `silo.messages.open_packet` checks the rest.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from silo.errors import VerificationFailed
from silo.messages import MAX_BLOBS, Packet

SMALL_BYTES = 1 << 20  # of all blobs in the first record together; with the head this fits through the edge
_PACKET, _LARGE, _BLOB = "silo-packet", "silo-large", "blob/"


def to_records(packet: Packet) -> RecordDict:
    """Return the Flower records of a packet."""
    small: dict[str, bytes] = {}
    large: dict[str, Array] = {}
    room = SMALL_BYTES
    for name, blob in packet.blobs.items():
        if len(blob) <= room:
            room -= len(blob)
            small[_BLOB + name] = bytes(blob)
        else:
            large[name] = Array(dtype="uint8", shape=(len(blob),), stype="bytes", data=bytes(blob))
    first = ConfigRecord({"head": packet.head, "signature": packet.signature, **small})
    return RecordDict({_PACKET: first, _LARGE: ArrayRecord(large)} if large else {_PACKET: first})


def from_records(content: RecordDict) -> Packet:
    """Return the packet in Flower records from outside; raises ``VerificationFailed`` on any other shape."""
    first, large = content.get(_PACKET), content.get(_LARGE, ArrayRecord())
    if not isinstance(first, ConfigRecord) or not isinstance(large, ArrayRecord) or set(content) - {_PACKET, _LARGE}:
        raise VerificationFailed("a message of another protocol was refused")
    if len(first) - 2 + len(large) > MAX_BLOBS:
        raise VerificationFailed(f"a message of more than {MAX_BLOBS} blobs was refused")
    head, signature = first.get("head"), first.get("signature")
    if not isinstance(head, bytes) or not isinstance(signature, bytes):
        raise VerificationFailed("a message without a signed head was refused")
    blobs: dict[str, bytes] = {}
    for key, value in first.items():
        if key in ("head", "signature"):
            continue
        if not key.startswith(_BLOB) or not isinstance(value, bytes):
            raise VerificationFailed("a message of another protocol was refused")
        blobs[key.removeprefix(_BLOB)] = value
    for name, array in large.items():
        if name in blobs or array.dtype != "uint8" or array.stype != "bytes":
            raise VerificationFailed(f"blob {name!r} is not opaque bytes")
        if tuple(array.shape) != (len(array.data),):
            raise VerificationFailed(f"blob {name!r} is not opaque bytes")
        blobs[name] = array.data
    return Packet(head, signature, blobs)

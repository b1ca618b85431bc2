"""Packets to and from Flower's records.

Blobs travel as opaque uint8 arrays because only ``Array`` is chunked by Flower (100 MB: 4 s as array, 8 to 16 s as
config bytes). What comes out is checked for type and number only; `silo.messages.open_packet` checks the rest.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from silo.errors import VerificationFailed
from silo.messages import MAX_BLOBS, Packet

_HEAD, _BLOBS = "silo-head", "silo-blobs"


def to_records(packet: Packet) -> RecordDict:
    """Return the Flower records of a packet."""
    arrays = {
        name: Array(dtype="uint8", shape=(len(blob),), stype="bytes", data=bytes(blob))
        for name, blob in packet.blobs.items()
    }
    head = ConfigRecord({"head": packet.head, "signature": packet.signature})
    return RecordDict({_HEAD: head, _BLOBS: ArrayRecord(arrays)})


def from_records(content: RecordDict) -> Packet:
    """Return the packet in Flower records from outside; raises ``VerificationFailed`` on any other shape."""
    if set(content) != {_HEAD, _BLOBS}:
        raise VerificationFailed("a message of another protocol was refused")
    config, arrays = content[_HEAD], content[_BLOBS]
    if not isinstance(config, ConfigRecord) or not isinstance(arrays, ArrayRecord) or len(arrays) > MAX_BLOBS:
        raise VerificationFailed("a message of another protocol was refused")
    head, signature = config.get("head"), config.get("signature")
    if not isinstance(head, bytes) or not isinstance(signature, bytes) or len(config) != 2:
        raise VerificationFailed("a message without a signed head was refused")
    blobs: dict[str, bytes] = {}
    for name, array in arrays.items():
        if array.dtype != "uint8" or array.stype != "bytes" or tuple(array.shape) != (len(array.data),):
            raise VerificationFailed(f"blob {name!r} is not opaque bytes")
        blobs[name] = array.data
    return Packet(head, signature, blobs)

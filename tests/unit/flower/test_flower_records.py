"""Packets in Flower's records: what goes in comes out, in as few objects as it can, and no other shape comes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from silo.errors import VerificationFailed
from silo.flower import compat
from silo.flower.records import SMALL_BYTES, from_records, to_records
from silo.messages import MAX_BLOBS, Packet

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict  # isort: skip

SMALL = Packet(b"{}", bytes(64), {"witness": b"w" * 4000, "aggregate": b"", "keys": b"k" * 128})


def _objects(packet: Packet) -> int:
    compat.set_task_identity(1)
    tree, _ = compat.to_objects(Message(to_records(packet), 101, "query.silo"))
    return len({each.object_id for each in compat.iterate_object_tree(tree)})


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 4128, SMALL_BYTES - 4127, 3 * SMALL_BYTES])
def test_a_packet_survives(size: int) -> None:
    packet = Packet(SMALL.head, SMALL.signature, {**SMALL.blobs, "upload": b"u" * size, "last": b"l"})
    assert from_records(to_records(packet)) == packet
    compat.set_task_identity(1)
    arrived, _ = compat.through_the_wire(Message(to_records(packet), 101, "query.silo"))
    assert from_records(arrived.content) == packet


def test_small_packets_take_three_objects_whatever_they_bring() -> None:
    """Each object costs the SuperLink two requests: with one for every blob, a round of 32 numbers took 2.3 s."""
    assert _objects(SMALL) == _objects(Packet(b"{}", bytes(64))) == 3
    many = {f"share-{number}": bytes([number]) * 1000 for number in range(64)}
    assert _objects(Packet(b"{}", bytes(64), many)) == 3
    large = {**SMALL.blobs, "upload": bytes(SMALL_BYTES)}
    assert _objects(Packet(b"{}", bytes(64), large)) == 6  # the record of arrays, the array and its only piece


def _array(**changed: object) -> Array:
    return Array(**({"dtype": "uint8", "shape": (2,), "stype": "bytes", "data": b"ab"} | changed))  # type: ignore[arg-type]


def _first(**more: object) -> ConfigRecord:
    return ConfigRecord({"head": b"{}", "signature": bytes(64), **more})  # type: ignore[dict-item]


_FOREIGN: dict[str, Callable[[], RecordDict]] = {
    "nothing": RecordDict,
    "no packet": lambda: RecordDict({"silo-large": ArrayRecord({"a": _array()})}),
    "one record too many": lambda: RecordDict({"silo-packet": _first(), "more": ConfigRecord()}),
    "arrays as packet": lambda: RecordDict({"silo-packet": ArrayRecord({"a": _array()})}),
    "config as arrays": lambda: RecordDict({"silo-packet": _first(), "silo-large": ConfigRecord()}),
    "no head": lambda: RecordDict({"silo-packet": ConfigRecord({"signature": bytes(64)})}),
    "a head of text": lambda: RecordDict({"silo-packet": ConfigRecord({"head": "{}", "signature": bytes(64)})}),
    "no signature": lambda: RecordDict({"silo-packet": ConfigRecord({"head": b"{}"})}),
    "a field without its prefix": lambda: RecordDict({"silo-packet": _first(upload=b"u")}),
    "a blob of text": lambda: RecordDict({"silo-packet": _first(**{"blob/upload": "u"})}),
    "a blob of numbers": lambda: RecordDict({"silo-packet": _first(**{"blob/upload": [1, 2]})}),
    "the same blob twice": lambda: RecordDict(
        {"silo-packet": _first(**{"blob/a": b"a"}), "silo-large": ArrayRecord({"a": _array()})}
    ),
    "floats": lambda: RecordDict({"silo-packet": _first(), "silo-large": ArrayRecord({"a": _array(dtype="float32")})}),
    "numpy": lambda: RecordDict(
        {"silo-packet": _first(), "silo-large": ArrayRecord({"a": _array(stype="numpy.ndarray")})}
    ),
    "another length": lambda: RecordDict(
        {"silo-packet": _first(), "silo-large": ArrayRecord({"a": _array(shape=(3,))})}
    ),
    "too many": lambda: RecordDict(
        {
            "silo-packet": _first(**{f"blob/{number}": b"" for number in range(MAX_BLOBS)}),
            "silo-large": ArrayRecord({"a": _array()}),
        }
    ),
}


@pytest.mark.parametrize("shape", _FOREIGN)
def test_another_shape_is_refused(shape: str) -> None:
    with pytest.raises(VerificationFailed):
        from_records(_FOREIGN[shape]())

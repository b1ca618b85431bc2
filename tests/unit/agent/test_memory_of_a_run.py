"""What a silo writes down of a run: it comes back whole or not at all, and writing it takes little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from silo_crypto.keys import Identity

from silo.agent import memory
from silo.agent.memory import FILE, Memory
from silo.errors import VerificationFailed
from silo.messages import Packet


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.generate("alice")


def remembered() -> Memory:
    packet = Packet(b'{"kind":"round"}', bytes(64), {"upload": bytes(1000), "nonce": b"n"})
    blobs = {"session": b"", "model": memoryview(bytes(range(200)))}
    return Memory("m", {"rounds": 3}, blobs, {"a" * 64: None, "b" * 64: packet})


def test_it_comes_back_whole(identity: Identity, tmp_path: Path) -> None:
    memory.save(tmp_path, "run-1", identity, remembered())
    found = memory.load(tmp_path, "run-1", "m", identity)
    assert found == remembered()
    assert list(found.answered) == ["a" * 64, "b" * 64]
    memory.forget(tmp_path)
    assert memory.load(tmp_path, "run-1", "m", identity) is None


def test_what_was_altered_or_cut_off_or_is_of_another_run_does_not_open(identity: Identity, tmp_path: Path) -> None:
    memory.save(tmp_path, "run-1", identity, remembered())
    whole = (tmp_path / FILE).read_bytes()
    assert bytes(range(200)) not in whole
    for run, manifest, by in (
        ("run-2", "m", identity),
        ("run-1", "n", identity),
        ("run-1", "m", Identity.generate("a")),
    ):
        with pytest.raises(VerificationFailed):
            memory.load(tmp_path, run, manifest, by)
    damaged = [whole[:end] for end in (0, 31, 32, 56, 60, len(whole) // 2, len(whole) - 17, len(whole) - 1)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (0, 40, 70, len(whole) // 2, -1 % len(whole))
    ]
    for content in damaged:
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(VerificationFailed):
            memory.load(tmp_path, "run-1", "m", identity)


def test_writing_takes_little_more_than_one_of_its_parts(identity: Identity, tmp_path: Path) -> None:
    size = 4 << 20
    blobs = {name: bytes(size) for name in ("model", "server/m", "server/v")}
    packet = Packet(b"{}", bytes(64), {"upload": bytes(size)})
    tracemalloc.start()
    try:
        memory.save(tmp_path, "run-1", identity, Memory("m", {}, blobs, {"a": packet}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * size  # in one piece it was twelve parts: 48 MiB

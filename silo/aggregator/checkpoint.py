"""Where a run is, in its directory: ``checkpoint.json`` and the sum that the silos have not seen yet.

Invariant: a checkpoint holds public facts and ciphertexts only, as everything of the aggregator's. It is written after
the keys are set up and after every round, so a process that takes over asks again at most what was asked before: with
the identical bytes, to which silos give the identical answers. Another machine with a copy of the home can do it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silo_crypto.protocol import Header

from silo.canonical import digest_of
from silo.custody import header_facts, header_of
from silo.errors import VerificationFailed
from silo.messages import Packet
from silo.storage import write_atomically

FILE, ASKED = "checkpoint.json", "asked"


@dataclass
class Pending:
    """The aggregate that the silos have not seen yet."""

    header: Header
    uploaders: list[str]
    aggregate: bytes


@dataclass
class State:
    """What a run has come to. Public facts only. ``following``: the members that did every round so far."""

    members: list[str] = field(default_factory=list)
    following: list[str] = field(default_factory=list)
    chain: bytes = bytes(32)
    pending: Pending | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    witnessed: int = 0  # the number of the aggregator's last witness packet


def save(directory: Path, manifest: str, state: State, collector: dict[str, str]) -> None:
    """Write a checkpoint, durably; the one before stays until this one is whole."""
    pending = state.pending
    facts: dict[str, Any] = {
        "manifest": manifest,
        "members": state.members,
        "following": state.following,
        "chain": state.chain.hex(),
        "pending": None,
        "rounds": state.rounds,
        "faults": state.faults,
        "decisions": state.decisions,
        "witnessed": state.witnessed,
        "collector": collector,
    }
    if pending is not None:
        write_atomically(_aggregate(directory, pending.header.round), pending.aggregate)
        facts["pending"] = {
            "header": header_facts(pending.header),
            "uploaders": pending.uploaders,
            "digest": digest_of(pending.aggregate),
        }
    write_atomically(directory / FILE, json.dumps(facts).encode())
    (directory / ASKED).unlink(missing_ok=True)  # of the round that is over; its labels are not those of the next
    if pending is not None:
        _aggregate(directory, pending.header.round - 1).unlink(missing_ok=True)


def load(directory: Path, manifest: str) -> tuple[State, dict[str, str]] | None:
    """Return the last checkpoint and the collector's part of it, or None if the run has none.

    Raises :class:`VerificationFailed` if it is of another manifest, or the aggregate beside it is not the one.
    """
    try:
        facts = json.loads((directory / FILE).read_bytes())
    except FileNotFoundError:
        return None
    if facts["manifest"] != manifest:
        raise VerificationFailed("the checkpoint is of another run", where=str(directory / FILE))
    pending = None
    if facts["pending"] is not None:
        header = header_of(facts["pending"]["header"])
        aggregate = _aggregate(directory, header.round).read_bytes()
        if digest_of(aggregate) != facts["pending"]["digest"]:
            raise VerificationFailed("the aggregate is not the checkpoint's", where=str(directory))
        pending = Pending(header, facts["pending"]["uploaders"], aggregate)
    state = State(
        facts["members"],
        facts["following"],
        bytes.fromhex(facts["chain"]),
        pending,
        facts["rounds"],
        facts["faults"],
        facts["decisions"],
        facts["witnessed"],
    )
    return state, facts["collector"]


def exists(directory: Path) -> bool:
    """Say whether the run has a checkpoint."""
    return (directory / FILE).exists()


def label_of(packet: Packet) -> str | None:
    """Return what a request is for, the same in every process; None for what may be asked anew at any time."""
    head = json.loads(packet.head)
    if head["kind"] == "cosign":
        return None
    return "/".join(str(head.get(part, "")) for part in ("kind", "round", "attempt", "step"))


def save_asked(directory: Path, asked: Mapping[str, Mapping[str, Packet]], state: State) -> None:
    """Write down, before it is sent, what is asked since the checkpoint. Equal blobs are written once."""
    blobs: dict[str, bytes] = {}
    if state.pending is not None:
        blobs[digest_of(state.pending.aggregate)] = b""  # it lies beside the checkpoint
    index: dict[str, Any] = {}
    for label, packets in asked.items():
        index[label] = {}
        for name, packet in packets.items():
            index[label][name] = [packet.head.decode(), packet.signature.hex(), {}]
            for blob, content in packet.blobs.items():
                digest = digest_of(content)
                index[label][name][2][blob] = digest
                blobs.setdefault(digest, bytes(content))
    head = json.dumps({"asked": index, "blobs": {digest: len(content) for digest, content in blobs.items()}}).encode()
    write_atomically(directory / ASKED, b"".join((len(head).to_bytes(8, "little"), head, *blobs.values())))


def load_asked(directory: Path, state: State) -> dict[str, dict[str, Packet]]:
    """Return what :func:`save_asked` wrote since the checkpoint: requests by label and silo."""
    try:
        content = (directory / ASKED).read_bytes()
    except FileNotFoundError:
        return {}
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    position, blobs = 8 + size, {}
    for digest, length in head["blobs"].items():
        blobs[digest] = content[position : position + length]
        position += length
    if state.pending is not None:
        blobs[digest_of(state.pending.aggregate)] = state.pending.aggregate
    return {
        label: {
            name: Packet(text.encode(), bytes.fromhex(signature), {blob: blobs[each] for blob, each in named.items()})
            for name, (text, signature, named) in packets.items()
        }
        for label, packets in head["asked"].items()
    }


def forget(directory: Path) -> None:
    """Delete what only a run under way needs."""
    for name in (FILE, ASKED):
        (directory / name).unlink(missing_ok=True)
    for path in directory.glob("aggregate-*"):
        path.unlink()


def _aggregate(directory: Path, number: int) -> Path:
    return directory / f"aggregate-{number}"

"""What a silo remembers of a run under way, so that an agent that was killed goes on where it was.

One file a run, ``runs/RUN/memory.sealed``: the run's state and its last answer, HPKE-sealed to the silo's own identity,
so that the epoch's key in it rests encrypted like every other key: one message for each part, since a model and an
upload can take hundreds of megabytes. The first says how long the others are, so none can be missing. It is written,
durably, before an answer leaves;
what the file says was answered is answered again with the identical bytes, and never anew.

What a killed agent had begun and not written down is not in the file. The ledger knows of it: an attempt that was
charged is not trained for again (:meth:`silo.agent.run.Run.round`), since its upload may have left.

Invariant: the file goes with the run; a run that ended badly leaves none (PROTOCOL section 3, "abort oracle").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from silo_crypto.errors import CryptoError
from silo_crypto.keys import PUBLIC_KEY_BYTES, TAG_BYTES, Identity, sealer
from silo_crypto.protocol import Payload

from silo.errors import VerificationFailed
from silo.messages import Packet
from silo.storage import write_atomically

FILE = "memory.sealed"
LABEL = b"silo/v1/memory"
_SIZE_BYTES = 8


@dataclass
class Memory:
    """A run's state: ``facts`` are JSON values, ``blobs`` bytes by name. Both are for :class:`silo.agent.run.Run`."""

    manifest: str
    facts: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, Payload] = field(default_factory=dict)
    answered: dict[str, Packet | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Memory({self.manifest}, <secret>)"


def save(directory: Path, run: str, identity: Identity, memory: Memory) -> None:
    """Write the memory of a run, whole or not at all, and durably."""
    blobs = dict(memory.blobs)
    answered: dict[str, Any] = {}
    for asked, packet in memory.answered.items():
        answered[asked] = None if packet is None else sorted(packet.blobs)
        if packet is not None:
            blobs |= {f"{asked}/head": packet.head, f"{asked}/signature": packet.signature}
            blobs |= {f"{asked}/blob/{name}": blob for name, blob in packet.blobs.items()}
    sizes = {name: len(blob) for name, blob in blobs.items()}
    head = json.dumps({"facts": memory.facts, "answered": answered, "blobs": sizes}).encode()
    beginning, sealed = sealer(identity.public(), _info(run, memory.manifest))
    parts = (len(head).to_bytes(_SIZE_BYTES, "little"), head, *blobs.values())
    write_atomically(directory / FILE, chain([beginning], map(sealed, parts)))


def load(directory: Path, run: str, manifest: str, identity: Identity) -> Memory | None:
    """Return the memory of a run, or None if there is none; raise :class:`VerificationFailed` if it does not open."""
    try:
        file = (directory / FILE).open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            unseal = identity.unsealer(_info(run, manifest), file.read(PUBLIC_KEY_BYTES))
            size = int.from_bytes(unseal(file.read(_SIZE_BYTES + TAG_BYTES)), "little")
            head = json.loads(unseal(file.read(size + TAG_BYTES)))
            blobs = {name: unseal(file.read(length + TAG_BYTES)) for name, length in head["blobs"].items()}
        except CryptoError as error:
            raise VerificationFailed(
                "what this silo remembers of the run does not open",
                where=str(directory / FILE),
                fix="were keys changed?",
            ) from error
    answered: dict[str, Packet | None] = {}
    for asked, names in head["answered"].items():
        answered[asked] = None
        if names is not None:
            parts = {name: blobs.pop(f"{asked}/blob/{name}") for name in names}
            answered[asked] = Packet(blobs.pop(f"{asked}/head"), blobs.pop(f"{asked}/signature"), parts)
    return Memory(manifest, head["facts"], dict(blobs), answered)


def forget(directory: Path) -> None:
    """Delete the memory of a run."""
    (directory / FILE).unlink(missing_ok=True)


def _info(run: str, manifest: str) -> bytes:
    return LABEL + b"\0" + manifest.encode() + b"\0" + run.encode()

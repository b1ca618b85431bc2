"""For `test_aggregator_is_blind.py`: what must not reach the aggregator, everything that does, and the search.

The secrets are taken where they are made, by wrapping the functions that make them; the wrappers return what the
originals return, so the run is the real one.
"""

from __future__ import annotations

import base64
import gc
import logging
import threading
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from silo_crypto.codec import FixedPoint
from silo_crypto.keys import Identity
from silo_crypto.ring_packing import pack
from silo_crypto.shared import SharedAdder, SharedKey, native
from silo_crypto.threshold.adder import ThresholdAdder
from silo_crypto.threshold.keys import EpochKeys, Share
from silo_crypto.verification import GroupKey

import silo.data
from silo.agent import custody as agent_custody
from silo.agent.prepare import source_of
from silo.agent.run import Run
from silo.aggregator import aggregator as aggregator_module
from silo.data import load
from silo.data.load import PREFIX
from silo.flower import compat
from silo.flower.records import from_records
from silo.flower.server_app import GridExchange
from silo.training.trainer import LocalTrainer
from tests.e2e.federation import Federation, Tap

PIECE = 16  # bytes: the shortest part of a secret that is searched for


class Secrets:
    """Byte strings by what they are. Long ones are searched for in pieces, so that a part does not slip through."""

    def __init__(self) -> None:
        self.needles: dict[str, set[bytes]] = {}

    def add(self, what: str, secret: bytes, *, pieces: int = 8) -> None:
        """Add a secret: whole if it is short, else ``pieces`` parts of it, evenly spread."""
        step = max(PIECE, len(secret) // pieces)
        for start in range(0, max(1, len(secret) - PIECE + 1), step):
            piece = secret[start : start + PIECE]
            if len(set(piece)) > 4:  # runs of zeros are everywhere
                self.needles.setdefault(what, set()).add(piece)

    def add_key(self, what: str, key: bytes) -> None:
        """Add a key as it is, in hex and in base64."""
        assert len(key) >= PIECE
        self.needles.setdefault(what, set()).update({key, key.hex().encode(), base64.b64encode(key).rstrip(b"=")[:-1]})

    def add_floats(self, what: str, vector: Any) -> None:
        """Add a float vector in single and double precision, both byte orders, and as the text of its numbers."""
        for dtype in ("<f4", ">f4", "<f8", ">f8"):
            self.add(what, np.asarray(vector).astype(dtype).tobytes())
        for number in np.asarray(vector, dtype=np.float64):
            text = repr(float(number)).encode()
            if len(text) >= 12:
                self.needles.setdefault(what, set()).add(text)

    def add_integers(self, what: str, vector: Any, *, bits: int = 20, fields: int = 3) -> None:
        """Add non-negative integers in one, two, four and eight bytes, both orders, and packed as BFV packs them."""
        whole = np.asarray(vector).astype(np.uint64)
        for dtype in ("u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8"):
            self.add(what, whole.astype(dtype).tobytes())
        padded = np.zeros(-(-len(whole) // fields) * fields, dtype=np.uint64)
        padded[: len(whole)] = whole
        words = np.zeros(len(padded) // fields, dtype=np.uint64)
        for index in range(fields):
            words |= padded[index::fields] << np.uint64(bits * index)
        self.add(what, words.astype("<u8").tobytes())

    def found_in(self, haystack: bytes) -> set[str]:
        """Return the names of the secrets of which any part occurs.

        Thousands of needles in tens of megabytes: only where the first six bytes of some needle stand is it compared.
        """
        starts: dict[bytes, list[tuple[str, bytes]]] = {}
        for what, needles in self.needles.items():
            for needle in needles:
                starts.setdefault(needle[:6], []).append((what, needle))
        data = np.frombuffer(haystack, dtype=np.uint8).astype(np.uint32)
        threes = data[:-2] | data[1:-1] << np.uint32(8) | data[2:] << np.uint32(16)
        first, second = np.zeros(1 << 24, dtype=bool), np.zeros(1 << 24, dtype=bool)
        for start in starts:
            first[int.from_bytes(start[:3], "little")] = True
            second[int.from_bytes(start[3:], "little")] = True
        possible = np.flatnonzero(first[threes[:-3]] & second[threes[3:]])
        return {
            what
            for place in possible.tolist()
            for what, needle in starts.get(haystack[place : place + 6], ())
            if haystack.startswith(needle, place)
        }


class Seen:
    """Everything that reached or left the aggregator, and everything it held, each byte string once."""

    def __init__(self) -> None:
        self._parts: dict[bytes, None] = {}

    def add(self, parts: Iterable[bytes]) -> None:
        self._parts.update(dict.fromkeys(bytes(part) for part in parts if len(part) >= PIECE // 2))

    def add_files(self, directory: Path) -> None:
        self.add(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())

    def bytes(self) -> bytes:
        """Return all of it; the separator keeps two parts from making up a third."""
        return b"\0<>\0".join(self._parts)


class RecordingTap(Tap):
    """The engine, keeping every byte that Flower sends in either direction, as Flower sends it."""

    def __init__(self, federation: Federation, seen: Seen) -> None:
        super().__init__(federation)
        self.seen = seen

    def carry(self, message: Any) -> Any:
        arrived = super().carry(message)
        with compat.no_object_id_recompute():
            self.seen.add(each.deflate() for each in compat.get_all_nested_objects(message).values())
        packet = from_records(arrived.content)
        self.seen.add([packet.head, packet.signature, *packet.blobs.values()])
        return arrived


class WatchedExchange(GridExchange):
    """Looks through all that the aggregator holds after each exchange."""

    def __init__(self, grid: RecordingTap, roots: list[object]) -> None:
        super().__init__(grid)
        self._roots, self._seen = roots, grid.seen

    def exchange(self, *given: Any, **named: Any) -> Any:
        answers = super().exchange(*given, **named)
        self._seen.add(held([*self._roots, answers]))
        return answers


_NOT_HELD = (
    types.ModuleType, types.BuiltinFunctionType, types.FrameType, type, Identity, Tap, logging.Logger, threading.Thread,
)  # fmt: skip


def held(roots: Iterable[object]) -> Iterator[bytes]:
    """Yield every string, byte string, array and list of numbers reachable from ``roots``.

    Not followed: modules and classes, the aggregator's own identity, and the grid, which is the network and the silos.
    Of functions, what their closures hold.
    """
    waiting, seen, kept = list(roots), set(), []
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _NOT_HELD):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, str):
            yield thing.encode(errors="replace")
        elif isinstance(thing, bytes | bytearray | memoryview):
            yield bytes(thing)
        elif isinstance(thing, np.ndarray):
            yield thing.tobytes()
        elif isinstance(thing, types.FunctionType):
            waiting += [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
        else:
            if isinstance(thing, list | tuple) and len(thing) >= 4:
                yield from _numbers(thing)
            waiting += gc.get_referents(thing)


def _numbers(values: list[Any] | tuple[Any, ...]) -> Iterator[bytes]:
    if all(type(value) is int and 0 <= value < 1 << 64 for value in values):
        yield np.array(values, dtype="<u8").tobytes()
    elif all(type(value) is float for value in values):
        yield np.array(values, dtype="<f8").tobytes()


def private_keys(identity: Identity) -> Iterator[bytes]:
    """Yield the raw Ed25519 and X25519 private keys."""
    yield identity._signing.seed
    yield identity._sealing.seed


def wrap_makers(patch: pytest.MonkeyPatch, secrets: Secrets) -> None:
    """Keep every update, field vector, sum, model and key that the silos make from here on."""
    train, encode, protect = LocalTrainer.run, FixedPoint.encode, agent_custody.protect
    open_sum, apply = agent_custody.open_sum, Run._apply
    group_key, shared_key, epoch_keys, share = (
        GroupKey.__init__, SharedKey.__init__, EpochKeys.__init__, Share.__init__,
    )  # fmt: skip

    def kept_train(self: LocalTrainer, start: Any) -> Any:
        update = train(self, start)
        secrets.add_floats("update", update.vector)
        secrets.add_floats("model", start + update.vector)
        return update

    def kept_encode(self: FixedPoint, update: Any, rng: Any) -> Any:
        values = encode(self, update, rng)
        secrets.add_integers("encoded update", values)
        return values

    def kept_protect(*given: Any) -> Any:
        fields = protect(*given)
        secrets.add_integers("fields with presence and MAC", fields)
        secrets.add_integers("fields with presence and MAC", fields[-8:])
        return fields

    def kept_open(*given: Any, **named: Any) -> Any:
        sums = open_sum(*given, **named)
        secrets.add_integers("aggregate", sums)
        return sums

    def kept_apply(self: Run, *given: Any) -> None:
        apply(self, *given)
        secrets.add_floats("model", self._model)

    def kept_group(self: GroupKey, key: bytes) -> None:
        group_key(self, key)
        secrets.add_key("group key", key)

    def kept_shared(self: SharedKey, *given: Any) -> None:
        shared_key(self, *given)
        secrets.add("BFV secret", self.export()[64:], pieces=64)
        residues = native.seal().secret_residues(self._secret)
        secrets.add("BFV secret", residues.astype("<u8").tobytes(), pieces=64)

    def kept_epoch(self: EpochKeys, epoch: Any, name: str, own: Any, received: Any, sent: bytes) -> None:
        epoch_keys(self, epoch, name, own, received, sent)
        for dtype in ("i1", "<i8"):
            secrets.add("threshold secret", np.asarray(own).astype(dtype).tobytes(), pieces=64)
        secrets.add("threshold secret", (np.asarray(own) + 1).astype(np.uint8).tobytes(), pieces=64)
        secrets.add("threshold secret", pack(self.secret), pieces=64)
        for seed in (*self.pairs.values(), *(sent[i : i + 32] for i in range(0, len(sent), 32))):
            secrets.add_key("pair seed", seed)

    def kept_share(self: Share, *given: Any) -> None:
        share(self, *given)
        secrets.add("threshold key share", pack(self.slots), pieces=32)
        secrets.add_key("group key", self.contribution)

    for owner, name, wrapper in (
        (LocalTrainer, "run", kept_train),
        (FixedPoint, "encode", kept_encode),
        (agent_custody, "protect", kept_protect),
        (agent_custody, "open_sum", kept_open),
        (Run, "_apply", kept_apply),
        (GroupKey, "__init__", kept_group),
        (SharedKey, "__init__", kept_shared),
        (EpochKeys, "__init__", kept_epoch),
        (Share, "__init__", kept_share),
    ):
        patch.setattr(owner, name, wrapper)


def keep_what_the_aggregator_makes(patch: pytest.MonkeyPatch, roots: list[object]) -> None:
    """Put the aggregator's collector and adders, which live in its stack frames only, among ``roots``."""
    collector_for = aggregator_module.collector_for

    def kept_collector(*given: Any) -> Any:
        roots.append(collector_for(*given))
        return roots[-1]

    patch.setattr(aggregator_module, "collector_for", kept_collector)
    for kind in (SharedAdder, ThresholdAdder):
        original = kind.__init__

        def kept(self: Any, *given: Any, original: Any = original, **named: Any) -> None:
            original(self, *given, **named)
            roots.append(self)

        patch.setattr(kind, "__init__", kept)


def add_records(secrets: Secrets, federation: Federation) -> None:
    """Add every record of every silo: its line in the file, and its features as the model is given them."""
    for home in federation.homes.values():
        source = source_of(home.data()[0], home.path)
        features, targets = federation.experiment.tensors(load(source))
        for row in features.numpy():
            secrets.needles.setdefault("record", set()).update(
                row.astype(dtype).tobytes() for dtype in ("<f4", ">f4", "<f8")
            )
        secrets.add("record", targets.numpy().tobytes(), pieces=1)
        secrets.needles["record"].update(lines_of(source))


def lines_of(source: str) -> list[bytes]:
    """Return the lines of a data source, without the line of names."""
    folder = Path(silo.data.__file__).parent / "uci_heart"
    path = folder / f"{source.removeprefix(PREFIX)}.csv" if source.startswith(PREFIX) else Path(source)
    return [line for line in path.read_bytes().splitlines()[1:] if len(line) > PIECE]

"""A consortium in one process, on a ring of degree 64 with the product's own primes, fields and floods.

Only N differs, so every bound and every code path is the product's; the security is none, hence the name.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from silo_crypto.keys import Identity, seal
from silo_crypto.threshold import adder, relay
from silo_crypto.threshold.attempt import ThresholdSilo
from silo_crypto.threshold.ceremony import Ceremony, load_keys
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.keys import EpochKeys, Party
from silo_crypto.threshold.messages import Start
from silo_crypto.threshold.parameters import ThresholdParameters, for_silos
from silo_crypto.threshold.state import State
from silo_crypto.verification import GroupKey

MANIFEST = bytes(range(32))
CHAIN = bytes(32)


class UnsafeSmallRing(ThresholdParameters):
    """A named set with N = 64; the product's registry and constructor refuse it."""

    def _check_named(self) -> None:
        if not self.name.startswith("Unsafe"):
            raise AssertionError("a test's set says that it is unsafe")


def unsafe(parameters: ThresholdParameters, degree: int = 64) -> ThresholdParameters:
    row = {key: getattr(parameters, key) for key in ("fields", "field_bits", "flood_bits", "max_silos")}
    return UnsafeSmallRing(f"Unsafe-{parameters.name}", **row, degree=degree, security_bits=0, source="none")


IDENTITIES = {f"s{i}": Identity.generate(f"s{i}") for i in range(16)}
PUBLIC = {name: identity.public() for name, identity in IDENTITIES.items()}


def party(name: str) -> Party:
    return Party(
        IDENTITIES[name],
        lambda recipient, info, plaintext: seal(PUBLIC[recipient], info, plaintext),
        IDENTITIES[name].open,
        PUBLIC,
    )


def make_epoch(silos: int, threshold: int, *, number: int = 0, minimum: int = 2, small: bool = True) -> Epoch:
    parameters = for_silos(silos)
    names = tuple(IDENTITIES)[:silos]
    return Epoch(MANIFEST, number, names, threshold, minimum, unsafe(parameters) if small else parameters)


_READY: dict[Epoch, tuple[dict[str, bytes], dict[str, EpochKeys]]] = {}


def _copy(keys: EpochKeys) -> EpochKeys:
    """Return the same keys with a group key of their own, which a test may destroy."""
    other = object.__new__(EpochKeys)
    for slot in EpochKeys.__slots__:
        setattr(other, slot, getattr(keys, slot))
    other.group = GroupKey(keys.group.export())
    return other


@dataclass
class Consortium:
    """Silos of one epoch with their keys, states and attempts."""

    epoch: Epoch
    folder: Path
    length: int
    states: dict[str, State] = field(default_factory=dict)
    silos: dict[str, ThresholdSilo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = {name: State(self.folder / f"{name}.db") for name in self.epoch.members}
        self.ceremonies = {n: Ceremony(self.epoch, party(n), self.states[n]) for n in self.epoch.members}

    def deals(self) -> dict[str, bytes]:
        return {name: ceremony.deal() for name, ceremony in self.ceremonies.items()}

    def joint(self, deals: dict[str, bytes]) -> dict[str, bytes | None]:
        """Finish the ceremony up to the joint test's verdicts."""
        dealt = relay.route(self.epoch, deals, PUBLIC)
        tests = {name: ceremony.receive(dealt[name]) for name, ceremony in self.ceremonies.items()}
        tested = relay.add_tests(self.epoch, relay.JOINT, tests)
        return {name: ceremony.check(tested) for name, ceremony in self.ceremonies.items()}

    def make_keys(self) -> Consortium:
        verdicts = self.joint(self.deals())
        assert set(verdicts.values()) == {None}
        self.silos = {name: self.silo(name) for name in self.epoch.members}
        return self

    @classmethod
    def ready(cls, epoch: Epoch, folder: Path, length: int) -> Consortium:
        """Return one whose ceremony is over. It is held once per epoch and test process; files are copied."""
        if epoch not in _READY:
            with tempfile.TemporaryDirectory() as scratch:
                first = cls(epoch, Path(scratch), length).make_keys()
                first.close()
                files = {name: (Path(scratch) / f"{name}.db").read_bytes() for name in epoch.members}
                _READY[epoch] = files, {name: silo._keys for name, silo in first.silos.items()}
        files, keys = _READY[epoch]
        for name, content in files.items():
            (folder / f"{name}.db").write_bytes(content)
        made = cls(epoch, folder, length)
        for name in epoch.members:
            made.silos[name] = ThresholdSilo(_copy(keys[name]), party(name), made.states[name], length)
        return made

    def silo(self, name: str) -> ThresholdSilo:
        """Return the silo as a fresh process would make it."""
        keys = load_keys(self.epoch, party(name), self.states[name])
        return ThresholdSilo(keys, party(name), self.states[name], self.length)

    def close(self) -> None:
        for state in self.states.values():
            state.close()

    def start(self, round_number: int = 0, attempt: int = 0, members: tuple[str, ...] | None = None) -> bytes:
        nonces = {name: self.silos[name].nonce("run", round_number, attempt) for name in members or self.epoch.members}
        return adder.start(self.epoch, "run", round_number, attempt, CHAIN, nonces)

    def begin(self, round_number: int = 0, attempt: int = 0, members: tuple[str, ...] | None = None) -> Round:
        message = self.start(round_number, attempt, members)
        header = Start.decode(message).header
        for name in header.members:
            assert self.silos[name].begin(message, CHAIN) == header
        adding = adder.ThresholdAdder(self.epoch, header, self.length, PUBLIC)
        return Round(self, header, adding)


@dataclass
class Round:
    """One attempt, step by step."""

    consortium: Consortium
    header: object
    adder: adder.ThresholdAdder
    uploads: dict[str, bytes] = field(default_factory=dict)

    def encrypt(self, values: dict[str, np.ndarray]) -> Round:
        for name, vector in values.items():
            self.uploads[name] = self.consortium.silos[name].encrypt(self.header, vector)
        return self

    def upload(self, values: dict[str, np.ndarray]) -> Round:
        self.encrypt(values)
        for name in values:
            self.adder.add(name, self.uploads[name])
        return self

    def agree(self, confirmers: tuple[str, ...] | None = None) -> Round:
        proposal = self.adder.proposal()
        for name in confirmers or self.consortium.epoch.members:
            self.adder.confirm(name, self.consortium.silos[name].confirm(proposal))
        return self

    def share(self, sharers: tuple[str, ...] | None = None) -> bytes:
        request = self.adder.request(sharers)
        for name in self.adder.sharers:
            self.adder.add_share(name, self.consortium.silos[name].share(request))
        return self.adder.aggregate()

    def open(self, aggregate: bytes, name: str = "s0") -> np.ndarray:
        return self.consortium.silos[name].open(self.header, aggregate, self.consortium.length)


def random_values(names: tuple[str, ...], length: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 1 << 16, length).astype(np.uint32) for name in names}


def total(values: dict[str, np.ndarray]) -> np.ndarray:
    return sum(vector.astype(np.int64) for vector in values.values())


# Big-integer references: nothing of the product but its constants.


def crt(parameters: ThresholdParameters, residues: np.ndarray) -> list[int]:
    """Return the integers in (-q/2, q/2] with these residues, shape (k, n)."""
    q = parameters.modulus
    basis = [q // p * pow(q // p, -1, p) for p in parameters.primes]
    values = (sum(int(r) * b for r, b in zip(column, basis, strict=True)) % q for column in residues.T)
    return [v - q if v > q // 2 else v for v in values]


def negacyclic(x: list[int], y: list[int], modulus: int) -> list[int]:
    """Return x y modulo X^n + 1 by Kronecker's substitution: one product of big integers."""
    n = len(x)
    size = (2 * modulus.bit_length() + n.bit_length() + 7) // 8
    packed = [int.from_bytes(b"".join((v % modulus).to_bytes(size, "little") for v in z), "little") for z in (x, y)]
    raw = (packed[0] * packed[1]).to_bytes(2 * n * size, "little")
    terms = [int.from_bytes(raw[size * i : size * (i + 1)], "little") for i in range(2 * n)]
    return [(terms[i] - terms[i + n]) % modulus for i in range(n)]


def reference_decode(parameters: ThresholdParameters, x: int) -> list[int]:
    """Return the fields of round(t x / q) mod t."""
    t, q = 1 << parameters.plaintext_bits, parameters.modulus
    m = (2 * t * x + q) // (2 * q) % t
    return [(m >> (parameters.field_bits * j)) & ((1 << parameters.field_bits) - 1) for j in range(parameters.fields)]

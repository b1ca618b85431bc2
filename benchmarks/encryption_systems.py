"""The systems that this environment can run: Silo's two custodies, TenSEAL's CKKS tutorial, and plain floats.

``python -m benchmarks.encryption_systems SYSTEM VALUES TENSORS SILOS`` prints one row; :mod:`benchmarks.encryption`
starts one process for each, so that one system's memory is not another's.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from silo_crypto import labels, wire
from silo_crypto.codec import FixedPoint
from silo_crypto.keys import Identity, seal
from silo_crypto.parameters import shared_for
from silo_crypto.protocol import Fields, Header
from silo_crypto.randomness import Csprng
from silo_crypto.verification import field_count, open_sum, protect

from benchmarks.measure import Spec, System, Vector, measure

MANIFEST, BITS = bytes(32), 16


class _Silo:
    """What both custodies share: identities, the codec, and the integers that the opened sum must equal."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.names = tuple(f"silo-{index}" for index in range(spec.silos))
        self.identities = {name: Identity.generate(name) for name in self.names}
        self.public = {name: identity.public() for name, identity in self.identities.items()}
        self.length = field_count(spec.values, spec.silos, BITS)
        self.grid, self.rng = FixedPoint(1.0, BITS), Csprng()
        self._due: NDArray[np.int64] = np.zeros(spec.values, dtype=np.int64)
        self._keep: Fields | None = None

    def encode(self, update: list[Vector], *, keep: bool) -> Fields:
        if self._keep is not None:  # the previous silo's, outside its own time
            self._due += self._keep
        fields = self.grid.encode(np.concatenate(update), self.rng)
        self._keep = fields if keep else None
        return fields

    def reference(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._keep is not None:
            self._due += self._keep
            self._keep = None
        return self.grid.decode_mean(self._due, self.spec.silos).astype(np.float64)

    def close(self) -> None:
        """Shared custody keeps no files."""


class SiloShared(_Silo):
    """Custody ``shared``: encode, tag, encrypt, sign; verify and add; verify, open, check, decode."""

    def __init__(self, spec: Spec) -> None:
        from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey

        super().__init__(spec)
        self.parameters = shared_for(value_bits=BITS, silos=spec.silos)
        self.header = Header(MANIFEST, "benchmark", 0, 1, 0, self.names)
        self.key = SharedKey.generate(self.parameters, self.header)
        self.encryptors = {name: SharedEncryptor(self.key) for name in self.names}
        self.adder = SharedAdder(self.parameters, self.header, length=self.length, minimum=2)

    def _upload(self, header: Header, name: str, update: list[Vector], *, keep: bool) -> bytes:
        fields = protect(self.key.group, header, name, self.encode(update, keep=keep), BITS)
        payload = self.encryptors[name].encrypt(header, fields)
        del fields
        return wire.pack(labels.UPLOAD, self.parameters.digest(), header, self.identities[name], payload)

    def rehearse(self, update: list[Vector]) -> None:
        self._upload(Header(MANIFEST, "benchmark", 0, 0, 0, self.names), self.names[0], update, keep=False)

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        return self._upload(self.header, self.names[silo], update, keep=True)

    def add(self, silo: int, upload: bytes) -> None:
        from silo_crypto.shared import upload_bytes

        name = self.names[silo]
        payload = wire.unpack(
            upload,
            kind=labels.UPLOAD,
            parameters_digest=self.parameters.digest(),
            header=self.header,
            verifier=self.public[name],
            length=upload_bytes(self.parameters, self.length),
        )
        self.adder.add(name, payload)

    def aggregate(self) -> tuple[bytes, float]:
        signer = self.identities[self.names[0]]  # stands in for the aggregator's own key
        payload = self.adder.aggregate()
        return wire.pack(labels.AGGREGATE, self.parameters.digest(), self.header, signer, payload), 0.0

    def decrypt(self, download: bytes) -> Vector:
        from silo_crypto.shared import SharedOpener, aggregate_bytes, uploaders

        payload = wire.unpack(
            download,
            kind=labels.AGGREGATE,
            parameters_digest=self.parameters.digest(),
            header=self.header,
            verifier=self.public[self.names[0]],
            length=aggregate_bytes(self.parameters, self.length, len(self.names)),
        )
        claimed = uploaders(self.header, payload)
        sums = open_sum(
            SharedOpener(self.key),
            self.key.group,
            self.header,
            claimed,
            payload,
            values=self.spec.values,
            value_bits=BITS,
            minimum=2,
        )
        return self.grid.decode_mean(sums, len(claimed))


class SiloThreshold(_Silo):
    """Custody ``threshold`` with the default T: the same steps, with confirms and one share a sharer in between."""

    def __init__(self, spec: Spec) -> None:
        from silo_crypto.threshold import relay
        from silo_crypto.threshold.attempt import ThresholdSilo
        from silo_crypto.threshold.ceremony import Ceremony, load_keys
        from silo_crypto.threshold.epoch import Epoch
        from silo_crypto.threshold.keys import Party
        from silo_crypto.threshold.parameters import default_threshold, for_silos
        from silo_crypto.threshold.state import State

        super().__init__(spec)
        threshold = default_threshold(spec.silos)
        self.epoch = Epoch(MANIFEST, 1, self.names, threshold, threshold + 1, for_silos(spec.silos))
        self.folder = tempfile.TemporaryDirectory()
        self.states = states = {name: State(Path(self.folder.name) / f"{name}.db") for name in self.names}
        parties = {
            name: Party(
                self.identities[name],
                lambda recipient, info, plaintext: seal(self.public[recipient], info, plaintext),
                self.identities[name].open,
                self.public,
            )
            for name in self.names
        }
        made = {name: Ceremony(self.epoch, parties[name], states[name]) for name in self.names}
        dealt = relay.route(self.epoch, {name: ceremony.deal() for name, ceremony in made.items()}, self.public)
        tests = {name: ceremony.receive(dealt[name]) for name, ceremony in made.items()}
        tested = relay.add_tests(self.epoch, relay.JOINT, tests)
        if any(ceremony.check(tested) is not None for ceremony in made.values()):
            raise RuntimeError("the key ceremony failed")
        self.keys = {name: load_keys(self.epoch, parties[name], states[name]) for name in self.names}
        self.silos = {
            name: ThresholdSilo(self.keys[name], parties[name], states[name], self.length) for name in self.names
        }
        self._begin(1)

    def close(self) -> None:
        for state in self.states.values():
            state.close()
        self.folder.cleanup()

    def _begin(self, number: int) -> None:
        from silo_crypto.threshold.adder import ThresholdAdder, start
        from silo_crypto.threshold.messages import Start

        nonces = {name: silo.nonce("benchmark", number, 0) for name, silo in self.silos.items()}
        message = start(self.epoch, "benchmark", number, 0, bytes(32), nonces)
        self.header = Start.decode(message).header
        for silo in self.silos.values():
            silo.begin(message, bytes(32))
        self.adder = ThresholdAdder(self.epoch, self.header, self.length, self.public)

    def _envelope(self, kind: bytes, name: str, payload: bytes) -> bytes:
        return wire.pack(kind, self.epoch.parameters.digest(), self.header, self.identities[name], payload)

    def _payload(self, kind: bytes, name: str, envelope: bytes, slack: int = 0) -> memoryview:
        return wire.unpack(
            envelope,
            kind=kind,
            parameters_digest=self.epoch.parameters.digest(),
            header=self.header,
            verifier=self.public[name],
            max_length=self.silos[name].layout.payload_bytes + slack,
        )

    def _upload(self, name: str, update: list[Vector], *, keep: bool) -> bytes:
        fields = protect(self.keys[name].group, self.header, name, self.encode(update, keep=keep), BITS)
        payload = self.silos[name].encrypt(self.header, fields)
        del fields
        return self._envelope(labels.UPLOAD, name, payload)

    def rehearse(self, update: list[Vector]) -> None:
        self._upload(self.names[0], update, keep=False)
        del update
        self._begin(2)

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        return self._upload(self.names[silo], update, keep=True)

    def add(self, silo: int, upload: bytes) -> None:
        self.adder.add(self.names[silo], self._payload(labels.UPLOAD, self.names[silo], upload))

    def aggregate(self) -> tuple[bytes, float]:
        proposal = self.adder.proposal()
        for name, silo in self.silos.items():
            self.adder.confirm(name, silo.confirm(proposal))
        request, seconds = self.adder.request(), []
        for name in self.adder.sharers:
            start = time.perf_counter()
            share = self._envelope(labels.SHARE, name, self.silos[name].share(request))
            seconds.append(time.perf_counter() - start)
            self.adder.add_share(name, self._payload(labels.SHARE, name, share))
        signed = self._envelope(labels.AGGREGATE, self.names[0], self.adder.aggregate())
        return signed, statistics.median(seconds)

    def decrypt(self, download: bytes) -> Vector:
        payload = self._payload(labels.AGGREGATE, self.names[0], download, slack=1 << 16)
        name = self.names[1]
        claimed = self.silos[name].uploaders(self.header, payload)
        sums = open_sum(
            self.silos[name],
            self.keys[name].group,
            self.header,
            claimed,
            payload,
            values=self.spec.values,
            value_bits=BITS,
            minimum=self.epoch.least,
        )
        return self.grid.decode_mean(sums, len(claimed))


class TensealCkks:
    """One CKKS vector a tensor, with the context of TenSEAL's own tutorial: N = 8192, 60+40+40+60 bits, scale 2^40."""

    def __init__(self, spec: Spec) -> None:
        import tenseal as ts

        self.ts, self.spec = ts, spec
        self.context = ts.context(ts.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
        self.context.global_scale = 2**40
        self.context.generate_galois_keys()
        self.server = ts.context_from(self.context.serialize(save_secret_key=False))
        self.totals: list[Any] = []

    def rehearse(self, update: list[Vector]) -> None:
        self.encrypt(0, update)

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        return _join([self.ts.ckks_vector(self.context, tensor).serialize() for tensor in update])

    def add(self, silo: int, upload: bytes) -> None:
        vectors = [self.ts.ckks_vector_from(self.server, part) for part in _split(upload)]
        if self.totals:
            for total, vector in zip(self.totals, vectors, strict=True):
                total += vector
        else:
            self.totals = vectors

    def aggregate(self) -> tuple[bytes, float]:
        return _join([total.serialize() for total in self.totals]), 0.0

    def decrypt(self, download: bytes) -> Vector:
        parts = [self.ts.ckks_vector_from(self.context, part).decrypt() for part in _split(download)]
        return (np.concatenate([np.array(part) for part in parts]) / self.spec.silos).astype(np.float32)

    def reference(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean

    def close(self) -> None:
        pass


class Plain:
    """float32 in the clear: the size everything is compared with."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.total: NDArray[np.float64] = np.zeros(spec.values, dtype=np.float64)

    def rehearse(self, update: list[Vector]) -> None:
        self.encrypt(0, update)

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        return b"".join(tensor.tobytes() for tensor in update)

    def add(self, silo: int, upload: bytes) -> None:
        self.total += np.frombuffer(upload, dtype=np.float32)

    def aggregate(self) -> tuple[bytes, float]:
        return (self.total / self.spec.silos).astype(np.float32).tobytes(), 0.0

    def decrypt(self, download: bytes) -> Vector:
        return np.frombuffer(download, dtype=np.float32)

    def reference(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean

    def close(self) -> None:
        pass


def _join(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _split(joined: bytes) -> list[bytes]:
    parts, start = [], 0
    while start < len(joined):
        size = int.from_bytes(joined[start : start + 8], "little")
        parts.append(joined[start + 8 : start + 8 + size])
        start += 8 + size
    return parts


SYSTEMS: dict[str, type[System]] = {
    "silo-shared": SiloShared,
    "silo-threshold": SiloThreshold,
    "tenseal-ckks": TensealCkks,
    "plain": Plain,
}


def main() -> None:
    name, values, tensors, silos = sys.argv[1:]
    spec = Spec(name, int(values), int(tensors), int(silos))
    make: Any = SYSTEMS[name]
    print(json.dumps(measure(spec, make(spec))))


if __name__ == "__main__":
    main()

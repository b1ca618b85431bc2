"""The three roles of shared custody: encrypt at a silo, add at the aggregator, open at every silo.

Invariants: the adder holds parameters and no key; it adds at most one upload a member, never two with one seed, and
nothing at all of an upload that fails a check. An upload is c0 and the seeds of c1; an aggregate is c0 and c1.

Fields go into plaintext *coefficients*, ``fields`` to each, and not into batching slots: addition needs no slots, and
coefficients that hold no field need not be sent. Payloads, little-endian, for n coefficients in ciphertexts of 4096::

    upload      for each ciphertext: 64s seed, then its used coefficients of c0
    aggregate   bitmap of the uploaders in the order of the header's members, low bit first; then
                for each ciphertext: the used coefficients of c0, then all 4096 of c1

Residues are packed by :mod:`silo_crypto.shared.residues`, 9 bytes a coefficient. Source: PROTOCOL sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo_crypto.ahead import ahead
from silo_crypto.errors import EncodingError, ParameterError, ProtocolError, SignatureError, WireError
from silo_crypto.parameters import DEGREE, SharedParameters
from silo_crypto.protocol import Fields, Header, Payload, Sums
from silo_crypto.shared import native, residues
from silo_crypto.shared.key import SharedKey

_POLYNOMIAL = residues.packed_bytes(DEGREE)


def upload_bytes(parameters: SharedParameters, length: int) -> int:
    """Return the exact size of an upload of ``length`` fields."""
    sizes = list(_used(parameters, length))
    return len(sizes) * native.SEED_BYTES + residues.packed_bytes(sum(sizes))


def aggregate_bytes(parameters: SharedParameters, length: int, members: int) -> int:
    """Return the exact size of an aggregate of ``length`` fields among ``members`` members."""
    sizes = list(_used(parameters, length))
    return _bitmap_bytes(members) + len(sizes) * _POLYNOMIAL + residues.packed_bytes(sum(sizes))


def uploaders(header: Header, payload: Payload) -> tuple[str, ...]:
    """Return whose uploads an aggregate claims to be the sum of. Only :func:`..verification.check` confirms it."""
    size = _bitmap_bytes(len(header.members))
    bits = int.from_bytes(bytes(payload[:size]), "little")
    if len(payload) < size or bits >> len(header.members):
        raise WireError("the list of uploaders is malformed", where="aggregate")
    return tuple(name for index, name in enumerate(header.members) if bits >> index & 1)


class SharedEncryptor:
    """A silo's side of uploads; implements :class:`silo_crypto.protocol.Encryptor`."""

    def __init__(self, key: SharedKey) -> None:
        self._key = key
        self._used: set[bytes] = set()

    def encrypt(self, header: Header, fields: Fields) -> bytes:
        """Return the upload of ``fields``, shape (length,), each below 2^value_bits: ``upload_bytes`` bytes.

        A second call under one header raises ProtocolError: to send again, send the same bytes again.
        """
        parameters, secret = self._key.parameters, self._key.native_secret(header)
        _check_members(parameters, header)
        if fields.ndim != 1 or not len(fields) or int(fields.max()) >> parameters.value_bits or int(fields.min()) < 0:
            raise EncodingError(f"fields are one vector of integers below 2^{parameters.value_bits}")
        if header.digest() in self._used:
            raise ProtocolError("this header was encrypted under before", fix="send the same bytes again")
        self._used.add(header.digest())
        seal = native.seal()
        encryptor = seal.encryptor(secret)

        def streams() -> Iterator[tuple[int, bytes]]:
            with native.Scratch() as scratch:
                for used, chunk in _split(parameters, fields):
                    yield used, seal.encrypt(encryptor, _to_coefficients(parameters, chunk), scratch)

        upload = _Buffer(upload_bytes(parameters, len(fields)))
        for used, stream in ahead(streams()):
            seed, c0 = seal.seeded(stream)
            upload.add(seed, residues.pack(c0[:, :used]))
        return upload.content()


class SharedAdder:
    """The aggregator's side; implements :class:`silo_crypto.protocol.Adder` for one attempt.

    The uploads are its whole state: another machine that is given them arrives at the same aggregate.
    """

    def __init__(self, parameters: SharedParameters, header: Header, *, length: int, minimum: int) -> None:
        """``length`` is the number of fields an upload has, ``minimum`` the least number of uploads, two or more."""
        _check_members(parameters, header)
        if length < 1 or not 2 <= minimum <= len(header.members):
            raise ParameterError("length starts at 1, and the minimum lies between 2 and the number of members")
        self._parameters, self._header, self._length, self._minimum = parameters, header, length, minimum
        self._totals: list[Any] = []
        self._seeds: set[bytes] = set()
        self._senders: list[str] = []
        self._closed = False

    @property
    def senders(self) -> tuple[str, ...]:
        """Whose uploads have been added, in order of arrival."""
        return tuple(self._senders)

    def add(self, sender: str, payload: Payload) -> None:
        """Add one member's upload, taken from an envelope whose signature holds. A refusal leaves the sum as it was."""
        place = f"upload of {sender}"
        # 1. Whether anything from this sender is due.
        if self._closed:
            raise ProtocolError("the aggregate of this attempt is made", where=place)
        if sender not in self._header.members:
            raise SignatureError("the sender is not a member", where=place)
        if sender in self._senders:
            raise ProtocolError("this member's upload was added before", where=place)
        # 2. Its size, every seed and every residue, before SEAL sees any of it.
        if len(payload) != upload_bytes(self._parameters, self._length):
            raise WireError(
                f"the upload has {len(payload)} bytes", where=place, fix="compare parameters and model size"
            )
        view = memoryview(payload)
        seeds = {bytes(seed) for seed, _, _ in self._ciphertexts(view)}
        if len(seeds) != len(list(_used(self._parameters, self._length))) or seeds & self._seeds:
            raise ProtocolError("a ciphertext was seen before: its seed is a duplicate", where=place)
        for _, used, packed in self._ciphertexts(view):
            residues.unpack(packed, used, pad=used, where=place)
        # 3. The sum. Nothing below fails on any input; if SEAL does, what is half added is never given away.
        seal = native.seal()
        first = not self._senders
        self._closed = True
        with native.Scratch() as scratch:
            for index, (seed, used, packed) in enumerate(self._ciphertexts(view)):
                ciphertext = seal.from_seed(
                    bytes(seed), residues.unpack(packed, used, pad=DEGREE, where=place), scratch
                )
                if first:
                    self._totals.append(ciphertext)
                else:
                    seal.add(self._totals[index], ciphertext)
        self._closed = False
        self._seeds |= seeds
        self._senders.append(sender)

    def aggregate(self) -> bytes:
        """Return the sum of at least ``minimum`` uploads: ``aggregate_bytes`` bytes. It closes the attempt."""
        if len(self._senders) < self._minimum:
            raise ProtocolError(f"only {len(self._senders)} uploads; the agreed minimum is {self._minimum}")
        self._closed = True
        members = self._header.members
        bits = sum(1 << index for index, name in enumerate(members) if name in self._senders)
        aggregate = _Buffer(aggregate_bytes(self._parameters, self._length, len(members)))
        aggregate.add(bits.to_bytes(_bitmap_bytes(len(members)), "little"))
        with native.Scratch() as scratch:
            for total, used in zip(self._totals, _used(self._parameters, self._length), strict=True):
                c0, c1 = native.seal().residues(total, scratch)
                aggregate.add(residues.pack(c0[:, :used]), residues.pack(c1))
        return aggregate.content()

    def _ciphertexts(self, view: memoryview) -> Iterator[tuple[memoryview, int, memoryview]]:
        start = 0
        for used in _used(self._parameters, self._length):
            body = start + native.SEED_BYTES
            end = body + residues.packed_bytes(used)
            yield view[start:body], used, view[body:end]
            start = end


class SharedOpener:
    """A silo's side of aggregates; implements :class:`silo_crypto.protocol.Opener`.

    Call it through :func:`silo_crypto.verification.open_sum`: what :meth:`open` returns is not verified yet, and
    nothing may depend on it, not even how long something takes, before it is.
    """

    def __init__(self, key: SharedKey) -> None:
        self._key = key

    def open(self, header: Header, payload: Payload, length: int) -> Sums:
        """Return the exact sums of all ``length`` fields, shape (length,), int64.

        Malformed payloads raise WireError; that depends on public bytes alone, so the key stays.
        """
        parameters, secret = self._key.parameters, self._key.native_secret(header)
        place = "aggregate"
        if len(payload) != aggregate_bytes(parameters, length, len(header.members)):
            raise WireError(
                f"the aggregate has {len(payload)} bytes", where=place, fix="compare parameters and model size"
            )
        if not 2 <= len(uploaders(header, payload)) <= parameters.max_additions:
            raise ProtocolError("an aggregate is the sum of two uploads at least", where=place)
        view = memoryview(payload)[_bitmap_bytes(len(header.members)) :]
        seal = native.seal()
        decryptor = seal.decryptor(secret)

        def streams() -> Iterator[tuple[int, bytes]]:
            with native.Scratch() as scratch:
                for used, *both in _polynomials(parameters, length, view):
                    counts = (used, DEGREE)
                    checked = [
                        residues.unpack(c, n, pad=DEGREE, where=place) for c, n in zip(both, counts, strict=True)
                    ]
                    ciphertext = seal.from_residues(np.stack(checked), scratch)
                    yield used, seal.decrypt(decryptor, ciphertext, scratch)

        sums: Sums = np.empty(length, dtype=np.int64)
        per = parameters.fields * DEGREE
        for index, (used, stream) in enumerate(ahead(streams())):
            part = sums[index * per : (index + 1) * per]
            part[:] = _to_fields(parameters, seal.coefficients(stream)[:used])[: len(part)]
        return sums


class _Buffer:
    """A payload that is put together in one place: ten thousand parts of 36 KB would leave a heap full of holes."""

    def __init__(self, size: int) -> None:
        self._bytes, self._end = bytearray(size), 0

    def add(self, *parts: bytes) -> None:
        for part in parts:
            self._bytes[self._end : self._end + len(part)] = part
            self._end += len(part)

    def content(self) -> bytes:
        if self._end != len(self._bytes):
            raise WireError(f"{self._end} bytes were put together, not {len(self._bytes)}")
        return bytes(self._bytes)


def _check_members(parameters: SharedParameters, header: Header) -> None:
    if len(set(header.members)) != len(header.members) or not header.members:
        raise ProtocolError("the header's members are not distinct")
    if len(header.members) > parameters.max_additions:
        raise ParameterError(
            f"{len(header.members)} members, but the parameters hold {parameters.max_additions} uploads",
            where=parameters.name,
            fix="choose the set with shared_for",
        )


def _bitmap_bytes(members: int) -> int:
    return (members + 7) // 8


def _used(parameters: SharedParameters, length: int) -> Iterator[int]:
    """Yield how many coefficients each ciphertext uses: 4096, except for the last."""
    coefficients = -(-length // parameters.fields)
    for start in range(0, coefficients, DEGREE):
        yield min(DEGREE, coefficients - start)


def _split(parameters: SharedParameters, fields: Fields) -> Iterator[tuple[int, Fields]]:
    per = parameters.fields * DEGREE
    for index, used in enumerate(_used(parameters, len(fields))):
        yield used, fields[index * per : (index + 1) * per]


def _polynomials(
    parameters: SharedParameters, length: int, view: memoryview
) -> Iterator[tuple[int, memoryview, memoryview]]:
    start = 0
    for used in _used(parameters, length):
        middle = start + residues.packed_bytes(used)
        end = middle + _POLYNOMIAL
        yield used, view[start:middle], view[middle:end]
        start = end


def _to_coefficients(parameters: SharedParameters, chunk: Fields) -> NDArray[np.uint64]:
    """Return coefficients, shape (DEGREE,): field i is in coefficient i // fields, the first in its lowest bits."""
    padded = np.zeros((DEGREE, parameters.fields), dtype=np.uint64)
    padded.reshape(-1)[: len(chunk)] = chunk
    coefficients = padded[:, 0].copy()
    for index in range(1, parameters.fields):
        coefficients |= padded[:, index] << np.uint64(index * parameters.field_bits)
    return coefficients


def _to_fields(parameters: SharedParameters, coefficients: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Undo :func:`_to_coefficients` for the sum. The top field keeps every bit, so that an overflow shows."""
    fields = np.empty((len(coefficients), parameters.fields), dtype=np.uint64)
    mask = np.uint64((1 << parameters.field_bits) - 1)
    for index in range(parameters.fields):
        shifted = coefficients >> np.uint64(index * parameters.field_bits)
        fields[:, index] = shifted if index == parameters.fields - 1 else shifted & mask
    return fields.reshape(-1)

"""The three computations on polynomials: encrypt an upload, give a share of a sum, open a sum.

Invariant: ``a`` comes from the label and the transcript alone, never from a peer; a share is masked, padded and
flooded before it leaves :func:`share`, and there is no function here that returns one without.

    b_i = a s_i + e_i + encode(m_i)
    d_j = a lambda_j share_j + f_j +- masks + pad_j
    sum over U of b_i - sum over S of (d_j - pad_j) = encode(m) + e - f

Polynomials are independent, so blocks of one polynomial run in threads (NumPy, BLAS and AES release the GIL) and no
more than a few are in memory. Source: PROTOCOL section 3, "Attempt", "Share", "Open".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from silo_crypto import labels
from silo_crypto.errors import EncodingError, VerificationError, WireError
from silo_crypto.protocol import Fields, Payload, Sums
from silo_crypto.randomness import Csprng
from silo_crypto.ring import Residues
from silo_crypto.ring_packing import pack, unpack
from silo_crypto.threshold.encoding import Layout, codec, tolerance
from silo_crypto.threshold.keys import EpochKeys
from silo_crypto.threshold.messages import encode_names
from silo_crypto.threshold.sampling import (
    centred_binomial,
    derive,
    flood,
    keyed_stream,
    public_stream,
    uniform,
)

_WORKERS = min(2, os.cpu_count() or 1)  # NumPy's calls are short: more threads only wait for the interpreter


def public_polynomial(layout: Layout, label: bytes, seed: bytes, index: int) -> Residues:
    """Return ``a`` number ``index`` in slots, shape (k, N): SHAKE128(label, seed, index)."""
    ring = layout.parameters.ring
    words = uniform(public_stream(label, seed, index.to_bytes(4, "little")), ring, ring.degree)
    return words.astype(np.uint64)


def encrypt(keys: EpochKeys, layout: Layout, label: bytes, seed: bytes, fields: Fields) -> bytes:
    """Return a s + e + encode(fields), packed; the caller makes sure that (label, seed) never comes twice."""
    ring, encoder = layout.parameters.ring, codec(layout.parameters)
    payload = bytearray(layout.payload_bytes)

    def block(index: int) -> None:
        count = layout.count(index)
        a = public_polynomial(layout, label, seed, index)
        b = ring.inverse(ring.multiply(a, keys.secret))[:, :count]
        b += ring.lift(centred_binomial(Csprng(), count))
        b += encoder.encode(fields[layout.values(index)], count)
        payload[layout.bytes(index)] = pack(ring.reduce(b))

    _each(layout, block)
    return bytes(payload)


def share(
    keys: EpochKeys,
    layout: Layout,
    label: bytes,
    seed: bytes,
    transcript: bytes,
    uploaders: Sequence[str],
    sharers: Sequence[str],
) -> bytes:
    """Return d_j, packed: this silo's part in opening the sum over ``uploaders`` together with ``sharers``."""
    epoch, ring = keys.epoch, layout.parameters.ring
    weighted = ring.multiply(keys.share_of(uploaders), epoch.lagrange(keys.name, sharers))
    names = encode_names(sharers)
    masks = [
        (epoch.point(keys.name) < epoch.point(other), derive(keys.pairs[other], labels.MASK, transcript, names))
        for other in sharers
        if other != keys.name
    ]
    pad = _pad_key(keys, transcript, names, keys.name)
    payload = bytearray(layout.payload_bytes)

    def block(index: int) -> None:
        count = layout.count(index)
        a = public_polynomial(layout, label, seed, index)
        d = ring.inverse(ring.multiply(a, weighted))[:, :count]
        d += flood(Csprng(), ring, count, layout.parameters.flood_bits)
        d += uniform(keyed_stream(pad, index), ring, count)
        for adds, key in masks:
            mask = uniform(keyed_stream(key, index), ring, count)
            d += mask if adds else ring.column.astype(np.uint32) - mask
        payload[layout.bytes(index)] = pack(ring.reduce(d))

    _each(layout, block)
    return bytes(payload)


def open_sum(
    keys: EpochKeys,
    layout: Layout,
    transcript: bytes,
    uploaders: Sequence[str],
    sharers: Sequence[str],
    payload: Payload,
    length: int,
) -> Sums:
    """Return the first ``length`` field sums in a padded sum of uploads less shares; shape (length,), int64.

    Raises VerificationError when a coefficient lies where no honest sum can: an upload or a share was dropped,
    doubled, replayed or altered. What passes is still to be checked against its MAC.
    """
    ring, decoder = layout.parameters.ring, codec(layout.parameters)
    if not 0 < length <= layout.length:
        raise EncodingError(f"the sum has {layout.length} fields, {length} were asked for", where="open")
    if len(payload) != layout.payload_bytes:
        raise WireError(f"a sum has {len(payload)} bytes, not {layout.payload_bytes}", where="open")
    names = encode_names(sharers)
    pads = [_pad_key(keys, transcript, names, sharer) for sharer in sharers]
    data = memoryview(payload)
    sums = np.empty(layout.length, dtype=np.int64)
    distance = np.zeros(layout.polynomials)

    def block(index: int) -> None:
        count = layout.count(index)
        x = unpack(data[layout.bytes(index)], ring, count)
        for key in pads:
            x += uniform(keyed_stream(key, index), ring, count)
        distance[index] = decoder.decode(ring.reduce(x), sums[layout.values(index)])

    _each(layout, block)
    if distance.max() > tolerance(layout.parameters, len(uploaders), len(sharers)):
        raise VerificationError(
            "the opened sum is noise: it is not the sum of the agreed uploads",
            where="open",
            fix="abandon the attempt; an upload or a share was dropped, doubled, replayed or altered",
        )
    return sums[:length]


def _pad_key(keys: EpochKeys, transcript: bytes, names: bytes, sharer: str) -> bytes:
    return derive(keys.group.export(), labels.PAD, transcript, names, sharer.encode())


def _each(layout: Layout, block: Callable[[int], None]) -> None:
    """Run ``block`` for every polynomial of the layout; the first exception is raised."""
    workers = min(_WORKERS, layout.polynomials)
    if workers == 1:
        for index in range(layout.polynomials):
            block(index)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(block, range(layout.polynomials)):
            pass

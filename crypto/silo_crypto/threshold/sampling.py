"""Where random numbers come from: public ones, masks both ends can compute, and secrets.

Invariant: integers only, uniform ones by rejection; the same input yields the same public or masking numbers on every
machine, and no secret number is ever computed from an input.

- public ``a``: SHAKE128 over the label and the transcript;
- masks and pads: AES-256-CTR under a key that HMAC-SHA256 derives from a shared secret, a label and the transcript;
- secrets, errors, floods: :class:`~silo_crypto.randomness.Csprng`.

Source: PROTOCOL section 3, "Randomness"; centred binomial as in Kyber (FIPS 203, section 4.2.2).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

import numpy as np
from Crypto.Hash import SHAKE128
from numpy.typing import NDArray

from silo_crypto.randomness import NONCE_BYTES, Csprng, keystream
from silo_crypto.ring import PRIME_BITS, Residues, Ring
from silo_crypto.threshold.messages import framed
from silo_crypto.threshold.parameters import ETA

Reader = Callable[[int], bytes]
"""A stream: called with a number of bytes, it returns the next ones."""

_LIMB = 28


def public_stream(label: bytes, *parts: bytes) -> Reader:
    """Return SHAKE128 over the framed label and parts."""
    xof = SHAKE128.new(framed(label, *parts))
    return lambda n: bytes(xof.read(n))


def derive(secret: bytes, label: bytes, *parts: bytes) -> bytes:
    """Return the 32-byte key HMAC-SHA256(secret, framed(label, parts))."""
    return hmac.digest(secret, framed(label, *parts), sha256)


def keyed_stream(key: bytes, index: int) -> Reader:
    """Return AES-256-CTR under ``key`` for polynomial ``index``: the index is the nonce, the counter starts at 0."""
    return keystream(key, index.to_bytes(NONCE_BYTES, "little"))


def uniform(read: Reader, ring: Ring, count: int) -> NDArray[np.uint32]:
    """Return residues uniform modulo each prime, shape (k, count), uint32.

    Words of 32 bits are cut to 30; those not below their prime are drawn again, together and in order, until none is
    left. One in a few hundred is, so this costs little more than reading.
    """
    mask = np.uint32((1 << PRIME_BITS) - 1)
    column = ring.column.astype(np.uint32)
    words = np.frombuffer(read(4 * ring.count * count), dtype="<u4").reshape(ring.count, count) & mask
    flat = words.reshape(-1)
    again = np.flatnonzero(words >= column)
    while again.size:
        flat[again] = np.frombuffer(read(4 * again.size), dtype="<u4") & mask
        again = again[flat[again] >= column[again // count, 0]]
    return words


def ternary(rng: Csprng, count: int) -> NDArray[np.int64]:
    """Return integers uniform in {-1, 0, 1}, shape (count,)."""
    draws: NDArray[np.int64] = rng.below(3, count).astype(np.int64)
    return draws - 1


def centred_binomial(rng: Csprng, count: int) -> NDArray[np.int64]:
    """Return sums of 21 fair bits less sums of 21 fair bits, shape (count,): |e| <= 21, variance 10.5."""
    words = rng.uint64(count)
    mask = np.uint64((1 << ETA) - 1)
    plus: NDArray[np.int64] = np.bitwise_count(words & mask).astype(np.int64)
    minus: NDArray[np.int64] = np.bitwise_count((words >> np.uint64(ETA)) & mask).astype(np.int64)
    return plus - minus


def flood(rng: Csprng, ring: Ring, count: int, bits: int) -> Residues:
    """Return integers uniform in [-2^bits, 2^bits) as residues, shape (k, count); bits < 112."""
    total = np.repeat(ring.constant(-(1 << bits)), count, axis=1)
    for start in range(0, bits + 1, _LIMB):
        width = min(_LIMB, bits + 1 - start)
        limb = rng.uint64(count) & np.uint64((1 << width) - 1)
        # Up to four limbs of 28 bits times 30 bits stay below 2^61.
        total += limb[None, :] * ring.constant(1 << start)
    return ring.reduce(total)

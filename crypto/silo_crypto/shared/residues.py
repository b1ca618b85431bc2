"""Residues as they travel: whole little-endian bytes, as few as their prime needs, and checked on the way in.

Invariant: what :func:`unpack` returns is below its prime, so it is a canonical element of Z_p. Layout: the residues
modulo the first prime (5 bytes each), then those modulo the second (4 bytes each); a secret key adds 3 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silo_crypto.errors import WireError
from silo_crypto.parameters import PRIMES
from silo_crypto.protocol import Payload

# A residue is a low word and, above it, one more byte or none: moving words is three times as fast as moving bytes.
_LAYOUTS = {
    3: np.dtype([("low", "<u2"), ("high", "u1")]),
    4: np.dtype([("low", "<u4")]),
    5: np.dtype([("low", "<u4"), ("high", "u1")]),
}


def width(prime: int) -> int:
    """Return how many bytes a residue modulo ``prime`` takes."""
    return (prime.bit_length() + 7) // 8


def packed_bytes(count: int, primes: Sequence[int] = PRIMES) -> int:
    """Return the size of ``count`` coefficients modulo ``primes``."""
    return count * sum(width(prime) for prime in primes)


def pack(residues: NDArray[np.uint64], primes: Sequence[int] = PRIMES) -> bytes:
    """Return residues, shape (primes, n), as ``packed_bytes(n, primes)`` bytes."""
    parts = []
    for row, prime in zip(residues, primes, strict=True):
        layout = _LAYOUTS[width(prime)]
        words = np.empty(len(row), dtype=layout)
        words["low"] = row  # the cast keeps the low bits
        if "high" in (layout.names or ()):
            words["high"] = row >> np.uint64(8 * layout["low"].itemsize)
        parts.append(words.tobytes())
    return b"".join(parts)


def unpack(packed: Payload, count: int, primes: Sequence[int] = PRIMES, *, pad: int, where: str) -> NDArray[np.uint64]:
    """Return ``count`` coefficients as residues, shape (primes, pad), zeros after them; else raise WireError.

    ``packed`` has exactly ``packed_bytes(count, primes)`` bytes. A residue that is not below its prime is refused, and
    so is an all-zero polynomial: nobody encrypts to one, and SEAL calls what has one transparent.
    """
    if len(packed) != packed_bytes(count, primes):
        raise WireError("a polynomial has the wrong size", where=where)
    residues = np.zeros((len(primes), pad), dtype=np.uint64)
    start = 0
    for row, prime in zip(residues, primes, strict=True):
        layout = _LAYOUTS[width(prime)]
        words = np.frombuffer(packed, dtype=layout, count=count, offset=start)
        start += words.nbytes
        used = row[:count]
        if "high" in (layout.names or ()):
            used[:] = words["high"]
            used <<= np.uint64(8 * layout["low"].itemsize)
        used |= words["low"]
        if int(row.max()) >= prime:
            raise WireError("a residue is not below its prime", where=where, fix="the sender's software is at fault")
    if not residues.any():
        raise WireError("a polynomial is zero: the ciphertext is transparent", where=where)
    return residues

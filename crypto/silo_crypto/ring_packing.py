"""Residues as bytes: 30 bits each, no padding, little-endian.

Invariant: ``unpack`` yields only residues below their prime, and accepts exactly one byte string for each array.

Sixteen residues make fifteen 32-bit words. The sixteen are not neighbours: a row of c residues is cut into 16 runs of
c / 16, and word k of column m holds bits of runs k and k + 1 at m. So every step works on contiguous memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silo_crypto.errors import WireError
from silo_crypto.protocol import Payload
from silo_crypto.ring import PRIME_BITS, Residues, Ring

GROUP = 16
_WORDS = GROUP * PRIME_BITS // 32


def packed_bytes(rows: int, count: int) -> int:
    """Return the size of ``rows`` rows of ``count`` residues, ``count`` a multiple of 16."""
    return rows * count * PRIME_BITS // 8


def pack(residues: NDArray[np.unsignedinteger]) -> bytes:
    """Return the reduced ``residues``, shape (k, c), c a multiple of 16, as bytes."""
    rows, count = residues.shape
    runs = residues.astype(np.uint32).reshape(rows, GROUP, count // GROUP)
    words = np.empty((rows, _WORDS, count // GROUP), dtype="<u4")
    for k in range(_WORDS):
        # Run k starts at bit 30 k = 32 k - 2 k: its first 2 k bits stand in the word before.
        words[:, k] = (runs[:, k] >> np.uint32(2 * k)) | (runs[:, k + 1] << np.uint32(PRIME_BITS - 2 * k))
    return words.tobytes()


def unpack(data: Payload, ring: Ring, count: int) -> Residues:
    """Return the residues in ``data``, shape (k, count), uint64; raise WireError on a wrong size or residue."""
    rows = ring.count
    if len(data) != packed_bytes(rows, count):
        raise WireError(
            f"expected {packed_bytes(rows, count)} bytes of residues, got {len(data)}",
            where="residues",
            fix="the sender uses other parameters or another model",
        )
    words = np.frombuffer(data, dtype="<u4").reshape(rows, _WORDS, count // GROUP)
    runs = np.empty((rows, GROUP, count // GROUP), dtype=np.uint64)
    mask = np.uint32((1 << PRIME_BITS) - 1)
    for k in range(GROUP):
        if k == 0:
            runs[:, k] = words[:, 0] & mask
        elif k == GROUP - 1:
            runs[:, k] = words[:, k - 1] >> np.uint32(2)
        else:
            runs[:, k] = ((words[:, k - 1] >> np.uint32(32 - 2 * k)) | (words[:, k] << np.uint32(2 * k))) & mask
    residues = runs.reshape(rows, count)
    if (residues >= ring.column).any():
        raise WireError("a residue is not below its prime", where="residues", fix="refuse the sender's message")
    return residues

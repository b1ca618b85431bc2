"""The one source of secret randomness: AES-256-CTR under a fresh 32-byte key from the operating system.

Invariant: a generator never yields the same bytes in two processes. ``os.fork`` changes the process id, and a
generator that finds itself in another process draws a new key before its next byte. Integers only, and uniform ones by
rejection, so nothing depends on floating point (PROTOCOL section 3, "Randomness").
"""

from __future__ import annotations

import os

import numpy as np
from Crypto.Cipher import AES
from numpy.typing import NDArray

KEY_BYTES = 32


class Csprng:
    """A stream of secret random bytes and integers; one per purpose, never shared across threads.

    It cannot be seeded, copied or pickled. Speed is about 500 MB/s.
    """

    def __init__(self) -> None:
        self._rekey()

    def _rekey(self) -> None:
        self._pid = os.getpid()
        # A fresh key makes the zero nonce safe: no two streams share (key, nonce).
        self._cipher = AES.new(os.urandom(KEY_BYTES), AES.MODE_CTR, nonce=bytes(8))

    def bytes(self, n: int) -> bytes:
        """Return ``n`` uniform bytes."""
        if os.getpid() != self._pid:
            self._rekey()
        return self._cipher.encrypt(bytes(n))

    def uint64(self, n: int) -> NDArray[np.uint64]:
        """Return ``n`` uniform 64-bit integers, shape (n,)."""
        return np.frombuffer(self.bytes(8 * n), dtype=np.uint64)

    def below(self, bound: int, n: int) -> NDArray[np.uint64]:
        """Return ``n`` integers uniform in [0, bound), 1 <= bound <= 2^64, by rejection of masked words."""
        if not 1 <= bound <= 1 << 64:
            raise ValueError(f"bound must be between 1 and 2^64, got {bound}")
        mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
        parts: list[NDArray[np.uint64]] = []
        missing = n
        while missing > 0:
            draw = self.uint64(missing + missing // 2 + 8) & mask
            if bound < 1 << 64:
                draw = draw[draw < np.uint64(bound)]
            parts.append(draw[:missing])
            missing -= len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

    def __repr__(self) -> str:
        return "Csprng(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a random generator is never copied or stored: two copies would repeat each other's noise")

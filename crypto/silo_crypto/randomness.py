"""The one source of secret randomness: AES-256-CTR under a fresh 32-byte key from the operating system.

Invariant: a generator never yields the same bytes in two processes. ``os.fork`` changes the process id, and a
generator that finds itself in another process draws a new key before its next byte. Integers only, and uniform ones by
rejection, so nothing depends on floating point (PROTOCOL section 3, "Randomness").
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
NONCE_BYTES = 8


def keystream(key: bytes, nonce: bytes) -> Callable[[int], bytes]:
    """Return AES-256-CTR (NIST SP 800-38A) under ``key``: called with a number of bytes, it returns the next ones.

    The 8 bytes of ``nonce`` are followed by a 64-bit big-endian counter from 0. OpenSSL's, because its CTR mode is six
    times as fast as pycryptodome's.
    """
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError("a keystream has a key of 32 bytes and a nonce of 8")
    cipher = Cipher(algorithms.AES(key), modes.CTR(nonce + bytes(8))).encryptor()
    return lambda n: cipher.update(bytes(n))


class Csprng:
    """A stream of secret random bytes and integers; one per purpose, never shared across threads.

    It cannot be seeded, copied or pickled. Speed is some GB/s.
    """

    def __init__(self) -> None:
        self._rekey()

    def _rekey(self) -> None:
        self._pid = os.getpid()
        # A fresh key makes the zero nonce safe: no two streams share (key, nonce).
        self._stream = keystream(os.urandom(KEY_BYTES), bytes(NONCE_BYTES))

    def bytes(self, n: int) -> bytes:
        """Return ``n`` uniform bytes."""
        if os.getpid() != self._pid:
            self._rekey()
        return self._stream(n)

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

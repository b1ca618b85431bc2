"""The fence around SEAL: the only module that imports TenSEAL. NumPy residues on one side, SEAL's objects on the other.

Invariant: SEAL's parser is fed only streams that this module composed, from constants of its own context and from
residues that were checked to be below their primes. No length, header or compressed byte from outside reaches it.

``tenseal.sealapi`` (0.3.18, SEAL 4.3) saves and loads by path only, and saves with zstd. A memfd serves as the path;
the stream that SEAL just wrote is decompressed and compared, byte by byte but for the residues and the seed, with what
this module would have written. Layouts, little-endian, uncompressed::

    stream      <HBBBBHQ  magic 0xA15E, header size 16, version 4.3, compression, 0, bytes in all; then the body
    array       stream header, u64 count, count x u64
    ciphertext  parms_id 32s, is_ntt u8, polynomials u64, degree u64, primes u64, scale f64, correction u64, array
                [, if seeded: stream header, u8 generator (1 = BLAKE2xb), 64s seed; the array holds c0 only]
    plaintext   parms_id 32s (zeros), coefficients u64, scale f64, array
    secret key  as a plaintext, with the key level's parms_id and the NTT form of s modulo all three primes
"""

from __future__ import annotations

import functools
import os
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from silo_crypto.errors import CryptoError
from silo_crypto.parameters import DEGREE, KEY_PRIME, PLAIN_MODULUS, PRIMES

Residues = NDArray[np.uint64]
SEED_BYTES = 64

_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC, _VERSION = 0xA15E, (4, 3)
_PLAIN, _ZSTD = 0, 2
_BLAKE2XB = 1
_COUNT = struct.Struct("<Q")
_CIPHERTEXT = struct.Struct("<32sBQQQdQ")
_PLAINTEXT = struct.Struct("<32sQd")
_ARRAY_BYTES = _HEADER.size + _COUNT.size
_LARGEST_STREAM = 1 << 18  # more than any object of degree 4096 takes


class Seal:
    """SEAL with this package's one encryption setting. Made once a process, by :func:`seal`."""

    def __init__(self) -> None:
        import tenseal.sealapi as api

        setting = api.EncryptionParameters(api.SCHEME_TYPE.BFV)
        setting.set_poly_modulus_degree(DEGREE)
        setting.set_coeff_modulus([api.Modulus(prime) for prime in (*PRIMES, KEY_PRIME)])
        setting.set_plain_modulus(PLAIN_MODULUS)
        self._api = api
        self._context = api.SEALContext(setting, True, api.SEC_LEVEL_TYPE.TC128)
        if not self._context.parameters_set():
            raise CryptoError("SEAL refuses the parameters", where=self._context.parameters_error_name())
        self._evaluator = api.Evaluator(self._context)
        first = struct.pack("<4Q", *self._context.first_parms_id())
        key = struct.pack("<4Q", *self._context.key_parms_id())
        words = len(PRIMES) * DEGREE
        meta = _CIPHERTEXT.pack(first, 0, 2, DEGREE, len(PRIMES), 1.0, 1)
        generator = _header(1 + SEED_BYTES) + bytes([_BLAKE2XB])
        # What stands before the residues of each kind of object, without the outer stream header.
        self._seeded_prefix = meta + _array_header(words)
        self._seeded_infix = generator
        self._full_prefix = meta + _array_header(2 * words)
        self._plain_prefix = _PLAINTEXT.pack(bytes(32), DEGREE, 1.0) + _array_header(DEGREE)
        self._key_prefix = _PLAINTEXT.pack(key, words + DEGREE, 1.0) + _array_header(words + DEGREE)

    # Keys: residues have shape (3, DEGREE), NTT form, modulo PRIMES and KEY_PRIME.

    def new_secret(self) -> Any:
        """Return a uniform ternary secret key from SEAL's generator, seeded by the operating system."""
        return self._api.KeyGenerator(self._context).secret_key()

    def secret_residues(self, secret: Any) -> Residues:
        """Return the key as residues, shape (3, DEGREE)."""
        body = _body(self._saved(secret))
        return _after(body, self._key_prefix, "secret key").reshape(len(PRIMES) + 1, DEGREE)

    def secret_from(self, residues: Residues) -> Any:
        """Return the native key for residues that the caller has checked."""
        return self._loaded(self._api.SecretKey(), (self._key_prefix, residues))

    # Ciphertexts: residues have shape (2, DEGREE) a polynomial, coefficient form, modulo PRIMES.

    def encryptor(self, secret: Any) -> Any:
        """Return a native symmetric encryptor, for :meth:`encrypt`."""
        return self._api.Encryptor(self._context, secret)

    def decryptor(self, secret: Any) -> Any:
        """Return a native decryptor, for :meth:`decrypt`."""
        return self._api.Decryptor(self._context, secret)

    def encrypt(self, encryptor: Any, coefficients: Residues, scratch: Scratch) -> bytes:
        """Return SEAL's stream of the encryption of (DEGREE,) coefficients below the plain modulus.

        :meth:`seeded` reads it, in whatever thread; and so :meth:`decrypt` and :meth:`coefficients`.
        """
        plaintext = self._loaded(self._api.Plaintext(), (self._plain_prefix, coefficients), scratch)
        return self._saved(encryptor.encrypt_symmetric(plaintext), scratch)

    def seeded(self, stream: bytes) -> tuple[bytes, Residues]:
        """Return (64-byte seed of c1, c0 of shape (2, DEGREE)) from what :meth:`encrypt` gave."""
        body = _body(stream)
        end = len(body) - SEED_BYTES - len(self._seeded_infix)
        if body[end : len(body) - SEED_BYTES] != self._seeded_infix:
            raise CryptoError("SEAL's seeded ciphertext has another layout", fix="install the pinned TenSEAL")
        c0 = _after(body[:end], self._seeded_prefix, "ciphertext").reshape(len(PRIMES), DEGREE)
        return body[-SEED_BYTES:], c0

    def from_seed(self, seed: bytes, c0: Residues, scratch: Scratch) -> Any:
        """Return the native ciphertext (c0, c1 expanded from ``seed``)."""
        return self._loaded(self._api.Ciphertext(), (self._seeded_prefix, c0, self._seeded_infix, seed), scratch)

    def from_residues(self, polynomials: Residues, scratch: Scratch) -> Any:
        """Return the native ciphertext for (c0, c1), shape (2, 2, DEGREE)."""
        return self._loaded(self._api.Ciphertext(), (self._full_prefix, polynomials), scratch)

    def residues(self, ciphertext: Any, scratch: Scratch) -> Residues:
        """Return (c0, c1) of a native ciphertext, shape (2, 2, DEGREE)."""
        body = _body(self._saved(ciphertext, scratch))
        return _after(body, self._full_prefix, "ciphertext").reshape(2, len(PRIMES), DEGREE)

    def add(self, total: Any, ciphertext: Any) -> None:
        """Add ``ciphertext`` to ``total`` in place."""
        self._evaluator.add_inplace(total, ciphertext)

    def decrypt(self, decryptor: Any, ciphertext: Any, scratch: Scratch) -> bytes:
        """Return SEAL's stream of the decrypted plaintext."""
        plaintext = self._api.Plaintext()
        decryptor.decrypt(ciphertext, plaintext)
        return self._saved(plaintext, scratch)

    def coefficients(self, stream: bytes) -> Residues:
        """Return a plaintext's coefficients, shape (DEGREE,), below its modulus, from what :meth:`decrypt` gave."""
        body = _body(stream)
        # SEAL drops leading zeros, so the count varies.
        coefficients: Residues = np.zeros(DEGREE, dtype=np.uint64)
        count = (len(body) - _PLAINTEXT.size - _ARRAY_BYTES) // 8
        prefix = _PLAINTEXT.pack(bytes(32), count, 1.0) + _array_header(count)
        coefficients[:count] = _after(body, prefix, "plaintext")
        return coefficients

    def _saved(self, native: Any, scratch: Scratch | None = None) -> bytes:
        """Return the stream that SEAL writes of ``native``."""
        if scratch is None:
            with Scratch() as scratch:
                return self._saved(native, scratch)
        native.save(scratch.outbox)
        return scratch.read()

    def _loaded(self, native: Any, parts: tuple[bytes | Residues, ...], scratch: Scratch | None = None) -> Any:
        """Let SEAL read the stream of a body in ``parts``; arrays go to the file without a copy."""
        if scratch is None:
            with Scratch() as scratch:
                return self._loaded(native, parts, scratch)
        buffers = [part if isinstance(part, bytes) else _words(part) for part in parts]
        scratch.write(_header(sum(map(len, buffers))), *buffers)
        native.load(self._context, scratch.inbox)
        return native


@functools.cache
def seal() -> Seal:
    """Return the process's one :class:`Seal`; the first call imports TenSEAL."""
    return Seal()


class Scratch:
    """Two files that only this process can reach, for an interface that takes paths. Used in one thread, then closed.

    SEAL reads ``inbox`` and writes ``outbox``. On Linux they are memfds and never touch a disk; elsewhere temporary
    files of mode 0600, deleted on exit.
    """

    def __enter__(self) -> Scratch:
        self._inbox, self.inbox = _private_file()
        self._outbox, self.outbox = _private_file()
        self._size = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, path in ((self._inbox, self.inbox), (self._outbox, self.outbox)):
            os.close(file)
            if not path.startswith("/proc/"):
                Path(path).unlink()

    def read(self) -> bytes:
        """Return what SEAL wrote last."""
        return os.pread(self._outbox, os.fstat(self._outbox).st_size, 0)

    def write(self, *parts: bytes | memoryview) -> None:
        """Let the inbox hold ``parts`` and nothing else."""
        size = sum(map(len, parts))
        if size < self._size:
            os.ftruncate(self._inbox, size)
        self._size = size
        if os.pwritev(self._inbox, parts, 0) != size:
            raise CryptoError("a scratch file could not be written whole", fix="free some memory or disk")


def _body(stream: bytes) -> bytes:
    """Return the decompressed body of what SEAL itself has written."""
    if stream[: _HEADER.size] != _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, _ZSTD, 0, len(stream)):
        raise CryptoError("SEAL writes another stream format", fix="install the pinned TenSEAL")
    frame = memoryview(stream)[_HEADER.size :]
    if zstandard.frame_content_size(frame) > _LARGEST_STREAM:
        raise CryptoError("SEAL wrote more than any object of this degree takes")
    # One decompressor a stream: python-zstandard's are not safe for threads, and silos may share a process.
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=_LARGEST_STREAM)


def _private_file() -> tuple[int, str]:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("silo", os.MFD_CLOEXEC)
        return file, f"/proc/self/fd/{file}"
    return tempfile.mkstemp()


def _header(body: int) -> bytes:
    """Return the header of an uncompressed stream around ``body`` bytes."""
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, _PLAIN, 0, _HEADER.size + body)


def _words(array: Residues) -> memoryview:
    return np.ascontiguousarray(array, dtype="<u8").reshape(-1).view(np.uint8).data


def _array_header(count: int) -> bytes:
    return _header(_COUNT.size + 8 * count) + _COUNT.pack(count)


def _after(body: bytes, prefix: bytes, kind: str) -> Residues:
    """Return the words after ``prefix``, which must be exactly what this module would have written."""
    if not body.startswith(prefix) or (len(body) - len(prefix)) % 8:
        raise CryptoError(f"SEAL's {kind} has another layout", fix="install the pinned TenSEAL")
    return np.frombuffer(body, dtype="<u8", offset=len(prefix)).astype(np.uint64, copy=False)

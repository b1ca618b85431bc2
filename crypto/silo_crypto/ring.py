"""Arithmetic in R_q = Z_q[x]/(x^N + 1), q a product of 30-bit primes p = 1 mod 2N, in NumPy.

Invariant: every intermediate value is an exact integer below 2^64; nothing overflows, nothing is rounded.

A ring element is its residues, shape (k, N), uint64, row i modulo primes[i]. Products are taken slot by slot after the
negacyclic number-theoretic transform of Longa and Naehrig (IACR 2016/504): slot i of ``forward(x)`` is x at
psi^(2 br(i) + 1), br reversing log2 N bits and psi = g^((p-1)/2N) for the smallest g without a square root modulo p.
The order of slots is part of the wire format, for ``a`` and the key shares are sampled in slots.

Both directions multiply first and then add (Cooley-Tukey), so a stage adds at most p to any value: after all 14 a
value is below 15 p < 2^34 and a product below 2^64, and only products are reduced. Stages whose runs are shorter than
128 work on the transpose, so that NumPy's inner loops stay long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_crypto.errors import ParameterError

Residues = NDArray[np.uint64]

PRIME_BITS = 30
_MAX_DEGREE = 16384  # 14 stages keep a value below 16 p, a product below 2^64


def is_prime(n: int) -> bool:
    """Tell whether ``n`` < 3.3e24 is prime: Miller-Rabin with the first 13 primes is exact there (Sorenson 2015)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if n in bases:
        return True
    if n < 2 or any(n % base == 0 for base in bases):
        return False
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    for base in bases:
        x = pow(base, (n - 1) >> twos, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def ntt_primes(degree: int, count: int) -> tuple[int, ...]:
    """Return the ``count`` largest primes below 2^30 that are 1 modulo 2 ``degree``, largest first."""
    found: list[int] = []
    candidate = (1 << PRIME_BITS) - 2 * degree + 1
    while len(found) < count and candidate > 1 << (PRIME_BITS - 1):
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * degree
    if len(found) < count:
        raise ParameterError(f"there are only {len(found)} such primes", where=f"ring of degree {degree}")
    return tuple(found)


def primitive_root(prime: int, degree: int) -> int:
    """Return psi, of order exactly 2 ``degree`` modulo ``prime``: from the smallest quadratic non-residue."""
    g = next(g for g in range(2, prime) if pow(g, (prime - 1) // 2, prime) == prime - 1)
    return pow(g, (prime - 1) // (2 * degree), prime)


class Ring:
    """R_q for a power of two ``degree`` from 16 to 16384 and distinct ``primes`` of 30 bits, 1 modulo 2 degree."""

    def __init__(self, degree: int, primes: Sequence[int]) -> None:
        if degree.bit_count() != 1 or not 16 <= degree <= _MAX_DEGREE:
            raise ParameterError(f"degree {degree} is not a power of two from 16 to {_MAX_DEGREE}", where="ring")
        for prime in primes:
            if prime.bit_length() != PRIME_BITS or prime % (2 * degree) != 1 or not is_prime(prime):
                raise ParameterError(f"{prime} is not a {PRIME_BITS}-bit prime 1 mod {2 * degree}", where="ring")
        if len(set(primes)) != len(primes) or not primes:
            raise ParameterError("the primes are not distinct, or there are none", where="ring")
        self.degree = degree
        self.primes = tuple(primes)
        self.modulus = math.prod(primes)
        self.column = np.array(primes, dtype=np.uint64)[:, None]
        self._short = 1 << (degree.bit_length() // 2)
        self._tables = [_tables(prime, degree, self._short) for prime in primes]

    @property
    def count(self) -> int:
        """Number k of primes."""
        return len(self.primes)

    def reduce(self, x: Residues) -> Residues:
        """Reduce ``x``, shape (k, ...), modulo the primes in place, and return it."""
        for row, prime in zip(x, self.primes, strict=True):
            # NumPy divides by a scalar with vector multiplications; its remainder does not.
            quotient = row // np.uint64(prime)
            quotient *= np.uint64(prime)
            row -= quotient
        return x

    def multiply(self, x: Residues, y: Residues) -> Residues:
        """Return the slotwise product of reduced ``x`` and ``y``, shapes (k, ...)."""
        return self.reduce(x * y)

    def constant(self, value: int) -> Residues:
        """Return ``value`` modulo each prime, shape (k, 1)."""
        return np.array([value % prime for prime in self.primes], dtype=np.uint64)[:, None]

    def lift(self, small: NDArray[np.int64]) -> Residues:
        """Return the residues of signed integers above -2^29, shape (n,), as shape (k, n)."""
        return self.reduce(small.view(np.uint64)[None, :] + self.column)

    def forward(self, x: Residues) -> Residues:
        """Return the slots of the reduced polynomial ``x``, shape (k, N)."""
        out = np.empty((self.count, self.degree), dtype=np.uint64)
        for prime, table, row, slots in zip(self.primes, self._tables, x, out, strict=True):
            y = row.copy()
            half = self.degree // 2
            for twiddle in table.forward_long:
                _stage(y.reshape(-1, 2, half), twiddle, prime)
                half //= 2
            turned = np.ascontiguousarray(y.reshape(-1, self._short).T)
            for twiddle in table.forward_short:
                _stage(turned.reshape(-1, 2, half, turned.shape[1]), twiddle, prime)
                half //= 2
            slots[:] = turned.T.reshape(-1)
        return self.reduce(out)

    def inverse(self, slots: Residues) -> Residues:
        """Return the polynomial with these reduced ``slots``, shape (k, N)."""
        out = np.empty((self.count, self.degree), dtype=np.uint64)
        for prime, table, row, y in zip(self.primes, self._tables, slots, out, strict=True):
            turned = np.ascontiguousarray(row.reshape(-1, self._short).T)
            half = 1
            for twiddle in table.inverse_short:
                _stage(turned.reshape(-1, 2, half, turned.shape[1]), twiddle, prime)
                half *= 2
            y[:] = turned.T.reshape(-1)
            for twiddle in table.inverse_long:
                _stage(y.reshape(-1, 2, half), twiddle, prime)
                half *= 2
            y *= table.untwist
        return self.reduce(out)

    def __repr__(self) -> str:
        return f"Ring(degree={self.degree}, log2 q={math.log2(self.modulus):.1f})"


@functools.cache
def ring(degree: int, primes: tuple[int, ...]) -> Ring:
    """Return the ring, made once: its tables are constants of about 13 MB at N = 16384."""
    return Ring(degree, primes)


@dataclass(frozen=True)
class _Table:
    """Powers of psi for one prime, one array for each stage, shaped to meet what :func:`_stage` multiplies."""

    forward_long: list[Residues]
    forward_short: list[Residues]
    inverse_short: list[Residues]
    inverse_long: list[Residues]
    untwist: Residues


def _tables(prime: int, degree: int, short: int) -> _Table:
    order, bits = 2 * degree, degree.bit_length() - 1
    psi = primitive_root(prime, degree)
    power = np.ones(order, dtype=np.uint64)
    filled = 1
    while filled < order:  # doubling: psi^(filled + i) = psi^filled psi^i
        power[filled : 2 * filled] = power[:filled] * np.uint64(pow(psi, filled, prime)) % np.uint64(prime)
        filled *= 2
    reversed_index = np.zeros(degree, dtype=np.int64)
    for bit in range(bits):
        reversed_index |= ((np.arange(degree) >> bit) & 1) << (bits - 1 - bit)
    twist = power[reversed_index]
    long, brief = [], []
    blocks = degree // short
    for stage in range(bits):
        groups = 1 << stage
        if degree // groups > short:  # group g of the stage is contiguous
            long.append(twist[groups : 2 * groups, None])
        else:  # group g = block * inner + j is at (j, block) of the transpose
            inner = groups // blocks
            brief.append(twist[groups : 2 * groups].reshape(blocks, inner).T[:, None, :].copy())
    inverse_short, inverse_long = [], []
    half = 1
    while half < degree:
        factors = power[-np.arange(half) * (degree // half) % order]
        if 2 * half <= short:
            inverse_short.append(factors[None, :, None])
        else:
            inverse_long.append(factors[None, :])
        half *= 2
    scale = np.uint64(pow(degree, -1, prime))
    untwist = power[-np.arange(degree) % order] * scale % np.uint64(prime)
    return _Table(long, brief, inverse_short, inverse_long, untwist)


def _stage(pairs: Residues, twiddle: Residues, prime: int) -> None:
    """Replace (u, v) by (u + w v, u - w v) in place; the pair is axis 1 of ``pairs``."""
    p = np.uint64(prime)
    u, v = pairs[:, 0], pairs[:, 1]
    product = v * twiddle
    quotient = product // p
    quotient *= p
    product -= quotient
    np.subtract(p, product, out=quotient)
    np.add(u, quotient, out=v)
    u += product

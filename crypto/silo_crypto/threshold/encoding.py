"""Integer fields to coefficients and back, exactly, block by block.

Invariant: ``decode(encode(m1) + ... + encode(mn) + noise) = m1 + ... + mn`` whenever the noise is below the limit that
:class:`~.parameters.ThresholdParameters` computes; no step rounds.

A field vector fills polynomial after polynomial; in one of c coefficients, field j of coefficient i is value j c + i.
The last polynomial is cut to the coefficients it needs, rounded up to a multiple of 16 for packing.

Encoding: field j counts round(q 2^(j field_bits) / t), not 2^(j field_bits) floor(q / t): with t^2 > q the latter's
error would exceed q / 2t. Decoding: m = round(t x / q) mod t, and x / q = sum y_i / p_i mod 1 with
y_i = x_i (q / p_i)^-1 mod p_i. 1 / p_i is a fixed-point number whose limbs are as wide as the fields, with at least 48
bits beyond the last field: the error is below 13 2^30 2^-48 < 2^-14 of a step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from silo_crypto.errors import EncodingError, ParameterError
from silo_crypto.ring import PRIME_BITS, Residues
from silo_crypto.ring_packing import GROUP, packed_bytes
from silo_crypto.threshold.parameters import ROUNDING_BITS, ThresholdParameters

_GUARD_BITS = 48
_HALF = 15
_COLUMNS = 512


@dataclass(frozen=True)
class Layout:
    """How ``length`` fields lie in polynomials under ``parameters``, and in bytes."""

    parameters: ThresholdParameters
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise EncodingError("there is nothing to encode", where="layout")

    @property
    def _per_polynomial(self) -> int:
        return self.parameters.fields * self.parameters.degree

    @property
    def polynomials(self) -> int:
        """Number of polynomials."""
        return -(-self.length // self._per_polynomial)

    def count(self, index: int) -> int:
        """Return how many coefficients polynomial ``index`` uses."""
        left = self.length - index * self._per_polynomial
        needed = -(-min(left, self._per_polynomial) // self.parameters.fields)
        return -(-needed // GROUP) * GROUP

    @property
    def coefficients(self) -> int:
        """Number of coefficients in all."""
        last = self.polynomials - 1
        return last * self.parameters.degree + self.count(last)

    @property
    def payload_bytes(self) -> int:
        """Size of an upload, a share or an aggregate."""
        return packed_bytes(len(self.parameters.primes), self.coefficients)

    def values(self, index: int) -> slice:
        """Return which values polynomial ``index`` holds."""
        start = index * self._per_polynomial
        return slice(start, min(self.length, start + self._per_polynomial))

    def bytes(self, index: int) -> slice:
        """Return where polynomial ``index`` stands in a payload."""
        rows = len(self.parameters.primes)
        start = packed_bytes(rows, index * self.parameters.degree)
        return slice(start, start + packed_bytes(rows, self.count(index)))


class Codec:
    """Encoding and decoding under one parameter set; a table of constants. Use :func:`codec`."""

    def __init__(self, parameters: ThresholdParameters) -> None:
        self._parameters = parameters
        self._ring = parameters.ring
        bits, q, fields = parameters.field_bits, parameters.modulus, parameters.fields
        if fields << (parameters.value_bits + PRIME_BITS) > 1 << 53:
            raise ParameterError("encoding would not be exact in float64", where=parameters.name)
        scale = [round(Fraction(q << (bits * j), 1 << parameters.plaintext_bits)) for j in range(fields)]
        self._scale = np.array([[s % p for s in scale] for p in parameters.primes], dtype=np.float64)
        self._extra = -(-_GUARD_BITS // bits)
        limbs = fields + self._extra
        inverse = [(1 << (limbs * bits)) // p for p in parameters.primes]
        mask = (1 << bits) - 1
        self._inverse = np.array([[(v >> (bits * i)) & mask for v in inverse] for i in range(limbs)], dtype=np.float64)
        if len(parameters.primes) << (_HALF + bits) > 1 << 53:
            raise ParameterError("decoding would not be exact in float64", where=parameters.name)
        weights = [pow(q // p, -1, p) for p in parameters.primes]
        self._weight = np.array(weights, dtype=np.uint64)[:, None]

    def encode(self, values: NDArray[np.uint32], count: int) -> Residues:
        """Return the polynomial of ``values``, at most fields * count of them, as shape (k, count), not reduced.

        The entries are below 2^53. Values not below 2^value_bits raise EncodingError.
        """
        parameters = self._parameters
        if values.size and int(values.max()) >> parameters.value_bits:
            raise EncodingError(
                f"a field is not below 2^{parameters.value_bits}", where="encode", fix="clip before encoding"
            )
        block = np.zeros(parameters.fields * count, dtype=np.float64)
        block[: values.size] = values
        # A sum of at most 16 products of 16 and 30 bits: exact in float64.
        return _product(self._scale, block.reshape(parameters.fields, count))

    def decode(self, x: Residues, out: NDArray[np.int64]) -> float:
        """Write the fields of the reduced polynomial ``x``, shape (k, c), to ``out`` (at most fields * c of them).

        Return the largest distance of a coefficient from its plaintext, in steps q/t: 0.5 means it means nothing.
        """
        parameters, bits = self._parameters, np.uint64(self._parameters.field_bits)
        mask = np.uint64((1 << parameters.field_bits) - 1)
        y = self._ring.multiply(x, np.broadcast_to(self._weight, x.shape))
        # A sum of 13 products of 15 and at most 23 bits each: exact in float64; together below 2^57.
        limbs = _product(self._inverse, (y >> np.uint64(_HALF)).astype(np.float64))
        limbs <<= np.uint64(_HALF)
        limbs += _product(self._inverse, (y & np.uint64((1 << _HALF) - 1)).astype(np.float64))
        extra = self._extra
        limbs[extra - 1] += np.uint64(1) << (bits - np.uint64(1))  # half a step: floor becomes round
        for i in range(len(limbs) - 1):
            limbs[i + 1] += limbs[i] >> bits
            limbs[i] &= mask
        limbs[-1] &= mask  # whole turns of x / q
        fields = limbs[extra:].reshape(-1)
        out[:] = fields[: out.size]
        # Two limbs, at least 38 bits, say how far from the middle of the step the coefficient lies.
        fraction = (limbs[extra - 1] << bits) + limbs[extra - 2]
        half = 1 << (2 * parameters.field_bits - 1)
        return float(np.abs(fraction.astype(np.int64) - half).max()) / (2 * half)


def _product(matrix: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return ``matrix @ x``, every entry an integer below 2^53, as integers.

    In blocks of columns: OpenBLAS starts threads of its own beyond 2^18 multiplications, and they fight with ours.
    """
    out = np.empty((matrix.shape[0], x.shape[1]), dtype=np.uint64)
    for start in range(0, x.shape[1], _COLUMNS):
        out[:, start : start + _COLUMNS] = matrix @ x[:, start : start + _COLUMNS]
    return out


@functools.cache
def codec(parameters: ThresholdParameters) -> Codec:
    """Return the codec of a parameter set, made once."""
    return Codec(parameters)


def tolerance(parameters: ThresholdParameters, silos: int, sharers: int) -> float:
    """Return the largest distance, in steps q/t, that :meth:`Codec.decode` may report for an honest sum."""
    steps = Fraction(parameters.noise(silos, sharers) << parameters.plaintext_bits, parameters.modulus)
    return float(steps + Fraction(2, 1 << ROUNDING_BITS))

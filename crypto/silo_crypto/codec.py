"""From clipped updates to integers and back: fixed point with stochastic rounding.

Invariant: decoding the exact integer sum of n encodings gives the mean of the clipped updates up to one step of the
grid a silo, and the rounding is unbiased: no direction of the update is favoured. Everything streams in chunks, so an
update of d float32 needs the d uint32 of the result and little more.

Source: PROTOCOL section 2; stochastic rounding as in QSGD (Alistarh et al. 2017, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_crypto.errors import EncodingError
from silo_crypto.protocol import Fields, Sums
from silo_crypto.randomness import Csprng

MAX_VALUE_BITS = 24  # beyond it a float32 has no digits left to encode
LEAST_BOUND = 2.0**-100  # far from where a step, or a float32 of the mean, underflows or overflows
_CHUNK = 1 << 16


@dataclass(frozen=True)
class FixedPoint:
    """The grid of 2^value_bits points over [-bound, bound], both ends included. Both numbers are public."""

    bound: float
    value_bits: int

    def __post_init__(self) -> None:
        if not LEAST_BOUND <= self.bound <= 1 / LEAST_BOUND:  # and no NaN
            raise EncodingError(f"value_bound is {self.bound}; it must be a number from 2^-100 to 2^100")
        if not 2 <= self.value_bits <= MAX_VALUE_BITS:
            raise EncodingError(f"value_bits is {self.value_bits}; it must be from 2 to {MAX_VALUE_BITS}")

    @property
    def step(self) -> float:
        """The distance of two grid points, in the update's unit."""
        return 2 * self.bound / self.largest

    @property
    def largest(self) -> int:
        """The largest encoded value, 2^value_bits - 1."""
        return (1 << self.value_bits) - 1

    def encode(self, update: NDArray[np.float32], rng: Csprng) -> Fields:
        """Return ``update``, shape (d,), clipped to the bound and rounded: integers in [0, 2^value_bits), uint32.

        A value between two grid points goes up with the probability of its distance from the lower one (to 2^-32).
        NaN and infinities raise EncodingError: no such value was meant, and a clip would hide it.
        """
        if update.ndim != 1:
            raise EncodingError(f"an update is one vector, not {update.ndim}-dimensional", fix="flatten it")
        fields = np.empty(len(update), dtype=np.uint32)
        for start in range(0, len(update), _CHUNK):
            chunk = update[start : start + _CHUNK].astype(np.float64)
            if not np.isfinite(chunk).all():
                raise EncodingError("the update holds NaN or infinite values", fix="lower the learning rate")
            np.clip(chunk, -self.bound, self.bound, out=chunk)
            chunk += self.bound
            chunk /= self.step
            dither = np.frombuffer(rng.bytes(4 * len(chunk)), dtype=np.uint32)
            # floor(y + u) for uniform u in [0, 1): the sum is exact enough, 24 + 32 bits nearly fill a float64.
            chunk += dither * 2.0**-32
            np.minimum(chunk, self.largest, out=chunk)
            fields[start : start + _CHUNK] = chunk  # y is not negative, so the cast is the floor
        return fields

    def decode_mean(self, sums: Sums, count: int) -> NDArray[np.float32]:
        """Return the mean update, shape (d,), float32, from the sums of ``count`` encodings, shape (d,), int64."""
        if count < 1:
            raise EncodingError(f"a mean over {count} uploads does not exist")
        mean = np.empty(len(sums), dtype=np.float32)
        for start in range(0, len(sums), _CHUNK):
            chunk = sums[start : start + _CHUNK]
            if int(chunk.min()) < 0 or int(chunk.max()) > count * self.largest:
                raise EncodingError(
                    f"a sum lies outside what {count} uploads can reach", fix="pass the number of uploaders"
                )
            mean[start : start + _CHUNK] = chunk * (self.step / count) - self.bound
        return mean

"""Gaussian noise on a fixed grid, from integers drawn by the silo's CSPRNG.

Construction. One table holds the discrete Gaussian D of standard deviation S = 682 on the integers -8192..8191, as an
alias table (Walker 1977) in exact integer arithmetic: every probability is a multiple of 2^-96. Three draws make
``y = K^2 x1 + K x2 + x3`` with K = 160, which is the discrete Gaussian of standard deviation ``UNITS`` = S sqrt(K^4 +
K^2 + 1), about 1.75e7, on Z (convolution: Peikert, CRYPTO 2010, theorem 3.1). :func:`add_gaussian` rounds the sums to
the grid of sigma / UNITS and adds y.

Invariant: what is released is a whole number of grid steps, and the grid depends on public constants alone. So the low
bits of a floating-point sum or of a sampler cannot tell two inputs apart (Mironov 2012; Jin et al. 2022).

Distance from the ideal. Per coordinate, in total variation (``DISTANCE``):
- table: 2^14 probabilities rounded down to 2^-96, what that leaves given to one of them, three draws: below 3 x 2^-82;
- tails beyond 12 S: below 3 x 2^-107;
- convolution: each step smooths K Z with 682 / 160 > 4.2 standard deviations; below 2^-500.
A discrete Gaussian of this width is the continuous one of sigma' = sqrt(1 - 16 / UNITS^2) sigma followed by rounding
that sees no data (same theorem, smoothing with standard deviation 4, error below 2^-400). Rounding the sums moves each
coordinate by at most half a step, so it adds sqrt(d) steps to the L2 sensitivity of a d-dimensional sum. Both are
accounted for in :func:`silo.training.accounting.effective_multiplier`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng

TABLE_BITS = 14
TABLE_DEVIATION = 682
FACTOR = 160
UNITS = TABLE_DEVIATION * math.sqrt(FACTOR**4 + FACTOR**2 + 1)
DISTANCE = 2.0**-80

_HALF = 1 << (TABLE_BITS - 1)
_HIGH_BITS = 32 - TABLE_BITS  # of a 32-bit word, what is left after choosing the column
_LOW_BITS = 64  # drawn only when the high bits tie
_CAPACITY_BITS = _HIGH_BITS + _LOW_BITS
_TOTAL = 1 << (TABLE_BITS + _CAPACITY_BITS)
_PRECISION = 320


def _exp_minus(numerator: int, denominator: int) -> int:
    """Return exp(-numerator / denominator) x 2^_PRECISION for a ratio in [0, 1], by its Taylor series in integers."""
    term = total = 1 << _PRECISION
    n = 1
    while term:
        term = term * numerator // (denominator * n)
        total += -term if n % 2 else term
        n += 1
    return total


def probabilities() -> list[int]:
    """Return P(x) x 2^96 for x = -8192..8191, whole numbers that add up to 2^96 exactly."""
    # exp(-k^2 / 2 S^2) by recurrence: w(k+1) = w(k) r(k), r(k+1) = r(k) r, 2^-320 a step.
    step = _exp_minus(1, 2 * TABLE_DEVIATION**2)
    square = step * step >> _PRECISION
    weights = [1 << _PRECISION]
    ratio = step
    for _ in range(_HALF):
        weights.append(weights[-1] * ratio >> _PRECISION)
        ratio = ratio * square >> _PRECISION
    line = weights[_HALF:0:-1] + weights[:_HALF]
    total = sum(line)
    scaled = [weight * _TOTAL // total for weight in line]
    # What flooring lost (below 2^14 of 2^96) goes to the middle.
    scaled[_HALF] += _TOTAL - sum(scaled)
    return scaled


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.int16]]:
    """Return each column's threshold (high bits, low bits) and alias, by Vose's method (1991) in integers."""
    size, capacity = 1 << TABLE_BITS, 1 << _CAPACITY_BITS
    left = probabilities()
    threshold, alias = [capacity] * size, list(range(size))
    small = [i for i, p in enumerate(left) if p < capacity]
    large = [i for i, p in enumerate(left) if p >= capacity]
    while small:
        i, j = small.pop(), large[-1]
        threshold[i], alias[i] = left[i], j
        left[j] -= capacity - left[i]
        if left[j] < capacity:
            small.append(large.pop())
    mask = (1 << _LOW_BITS) - 1
    return (
        np.array([t >> _LOW_BITS for t in threshold], dtype=np.uint32),
        np.array([t & mask for t in threshold], dtype=np.uint64),
        np.array([a - _HALF for a in alias], dtype=np.int16),
    )


def _draw(n: int, rng: Csprng) -> NDArray[np.int64]:
    """Return n draws of the table's discrete Gaussian, int64 (n,)."""
    high, low, alias = _table()
    words = np.frombuffer(rng.bytes(4 * n), dtype=np.uint32)
    column = words >> np.uint32(_HIGH_BITS)
    rest = words & np.uint32((1 << _HIGH_BITS) - 1)
    limit = high[column]
    stay = rest < limit
    ties = np.flatnonzero(rest == limit)
    if ties.size:
        stay[ties] = rng.uint64(ties.size) < low[column[ties]]
    return np.where(stay, column.astype(np.int64) - _HALF, alias[column])


def discrete_gaussian(n: int, rng: Csprng) -> NDArray[np.int64]:
    """Return n draws from the discrete Gaussian on Z of standard deviation ``UNITS``, int64 (n,), |y| < 2^28."""
    total = _draw(n, rng)
    total *= FACTOR
    total += _draw(n, rng)
    total *= FACTOR
    total += _draw(n, rng)
    return total


def add_gaussian(sums: NDArray[np.float64], sigma: float, rng: Csprng) -> NDArray[np.float64]:
    """Return ``sums`` rounded to the grid plus Gaussian noise of standard deviation ``sigma`` > 0, float64 (d,).

    Every result is a whole number of grid steps sigma / UNITS. ``sums`` must be finite.
    """
    step = sigma / UNITS
    return np.asarray((np.rint(sums / step) + discrete_gaussian(sums.size, rng)) * step, dtype=np.float64)

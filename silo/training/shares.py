"""Noise shares: one draw that rounds and adds noise, the discrete Gaussian on Z around a real centre.

:class:`ShareSampler` draws y with P(y) proportional to exp(-(y - c)^2 / 2 sigma^2) on the integers within 12 sigma of
the real number c. Rounding is part of the draw, so the sensitivity of what is sent is that of c and no rounding term
exists (PROTOCOL section 5, "DistributedDP").

Construction. With f = c - rint(c), exact in float64, an offset k comes from the discrete Gaussian around 0 and is kept
with probability exp((2kf - f^2 - 1/4 - 12 sigma) / 2 sigma^2), at most 1 on the support; y = rint(c) + k. The table of
k is an alias table (Walker 1977) whose probabilities are multiples of 2^-160. Whether k is kept is decided in float64
where that is certain, and else by 320-bit integers against 320 random bits, so that no draw depends on how a machine
rounds. How often k is refused, about 6 / sigma, hardly depends on f: exp(f^2 / 2 sigma^2) is within 0.8 % of 1.

Invariant: |y - c| <= 12 sigma, rounded up to whole numbers, always: fields sized for it cannot overflow.

Distance from the ideal, in total variation and per coordinate of a sum of up to 128 shares (``DISTANCE``), sigma >= 4:
- beyond 12 sigma lies less than 2^-105 of a share, of 128 shares less than 2^-98;
- a sum of shares is the discrete Gaussian of the summed variances around the summed centres up to 2^-200, and that is
  the continuous one of variance less 4, rounded by a draw that sees no data, up to 2^-110 (Peikert, CRYPTO 2010,
  theorem 3.1; both are computed in the tests);
- the table and the decisions: below 2^-120.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng

from silo.training.noise import _PRECISION, _exp_minus

TAIL = 12
"""Draws farther than so many sigma from their centre are redrawn."""
SMOOTHING = 4.0
"""The least sigma of one share, and the variance that making the sum continuous costs."""
MAX_SIGMA = 4096.0
DISTANCE = 2.0**-97

_WORD = 32
_LOW = 128
_CHUNK = 1 << 16
# float64 gives the probability of keeping k to better than 2^-48.
_UNCERTAIN = 2.0**-45


class AliasTable:
    """Draws from a distribution on ``first``, ``first`` + 1, ... whose probabilities are whole multiples of 2^-160.

    ``probabilities`` are those multiples: 2^b of them, 1 <= b <= 20, that add up to 2^160.
    """

    def __init__(self, probabilities: Sequence[int], first: int) -> None:
        size = len(probabilities)
        bits = size.bit_length() - 1
        if size != 1 << bits or not 1 <= bits <= 20 or sum(probabilities) != 1 << (_WORD + _LOW):
            raise ValueError("a table has 2^b probabilities that add up to one")
        capacity, left = 1 << (_WORD - bits + _LOW), list(probabilities)
        self.threshold, self.alias = [capacity] * size, list(range(size))
        small = [i for i, p in enumerate(left) if p < capacity]
        large = [i for i, p in enumerate(left) if p >= capacity]
        # Vose (1991), in integers.
        while small:
            i, j = small.pop(), large[-1]
            self.threshold[i], self.alias[i] = left[i], j
            left[j] -= capacity - left[i]
            if left[j] < capacity:
                small.append(large.pop())
        self._shift = np.uint32(_WORD - bits)
        self._mask = np.uint32((1 << (_WORD - bits)) - 1)
        self._high = np.array([t >> _LOW for t in self.threshold], dtype=np.uint32)
        self._own = np.arange(first, first + size, dtype=np.int64)
        self._other = self._own[self.alias]

    def draw(self, n: int, rng: Csprng) -> NDArray[np.int64]:
        """Return n independent draws, int64 (n,)."""
        words = np.frombuffer(rng.bytes(4 * n), dtype=np.uint32)
        column = words >> self._shift
        rest = words & self._mask
        limit = self._high[column]
        stay = rest < limit
        for tie in np.flatnonzero(rest == limit):
            low = self.threshold[column[tie]] & ((1 << _LOW) - 1)
            stay[tie] = int.from_bytes(rng.bytes(_LOW // 8), "little") < low
        drawn: NDArray[np.int64] = np.where(stay, self._own[column], self._other[column])
        return drawn


def probabilities(sigma: float) -> tuple[list[int], int]:
    """Return 2^160 P(k), whole numbers that add up to 2^160, for k = first, first + 1, ..., and first.

    P is the discrete Gaussian of width ``sigma`` around 0, cut off beyond 12 sigma + 1/2; there the list holds zeros.
    """
    furthest = int(TAIL * sigma + 0.5)
    half = 1 << (furthest + 1).bit_length()
    twice = 2 * Fraction(sigma) ** 2
    # exp(-k^2 / 2 sigma^2) by recurrence: w(k+1) = w(k) r(k), r(k+1) = r(k) r, 2^-320 a step.
    step = _exp_minus(twice.denominator, twice.numerator)
    square = step * step >> _PRECISION
    weights, ratio = [1 << _PRECISION], step
    for _ in range(half):
        weights.append(weights[-1] * ratio >> _PRECISION if len(weights) <= furthest else 0)
        ratio = ratio * square >> _PRECISION
    line = weights[half:0:-1] + weights[:half]
    total = sum(line)
    scaled = [(weight << (_WORD + _LOW)) // total for weight in line]
    # What flooring lost, below 2^17 of 2^160, goes to the middle.
    scaled[half] += (1 << (_WORD + _LOW)) - sum(scaled)
    return scaled, -half


class ShareSampler:
    """Draws shares of width ``sigma`` (4 to 4096, in steps of the integers that are sent). Counts what it draws.

    ``draws`` is the number of vectors drawn: one for every step that is accounted for.
    """

    def __init__(self, sigma: float) -> None:
        if not SMOOTHING <= sigma <= MAX_SIGMA:
            raise ValueError(f"sigma is from {SMOOTHING:g} to {MAX_SIGMA:g}, got {sigma}")
        self.sigma = float(sigma)
        self.draws = 0
        self._table = AliasTable(*probabilities(self.sigma))

    @property
    def reach(self) -> float:
        """The farthest that a draw lies from its centre."""
        return TAIL * self.sigma

    def draw(self, centres: NDArray[np.float64], rng: Csprng) -> NDArray[np.int64]:
        """Return one independent draw around each centre, int64 (d,); centres are finite, |c| < 2^50."""
        drawn = np.empty(len(centres), dtype=np.int64)
        for start in range(0, len(centres), _CHUNK):
            drawn[start : start + _CHUNK] = self._chunk(centres[start : start + _CHUNK], rng)
        self.draws += 1
        return drawn

    def _chunk(self, centres: NDArray[np.float64], rng: Csprng) -> NDArray[np.int64]:
        nearest = np.rint(centres)
        fractions = centres - nearest
        drawn = nearest.astype(np.int64)
        due = np.arange(len(centres))
        while due.size:
            f = fractions[due]
            k = self._table.draw(due.size, rng)
            kept = self._keep(k, f, rng)
            drawn[due[kept]] += k[kept]
            due = due[~kept]
        return drawn

    def _keep(self, k: NDArray[np.int64], f: NDArray[np.float64], rng: Csprng) -> NDArray[np.bool_]:
        """Decide for each k whether it is kept at the fraction f, bool (m,)."""
        exponent = (2.0 * k - f) * f - (TAIL * self.sigma + 0.25)
        chance = np.exp(exponent / (2 * self.sigma**2))
        words = rng.uint64(len(k))
        distance = (words >> np.uint64(11)) * 2.0**-53 - chance
        kept = distance < 0
        for i in np.flatnonzero(np.abs(distance) < _UNCERTAIN):
            kept[i] = self._exactly(int(k[i]), float(f[i]), int(words[i]), rng)
        return kept & (np.abs(k - f) <= self.reach)

    def _exactly(self, k: int, f: float, word: int, rng: Csprng) -> bool:
        """Decide one close case with 256 more random bits."""
        sigma, fraction = Fraction(self.sigma), Fraction(f)
        exponent = (TAIL * sigma + Fraction(1, 4) - (2 * k - fraction) * fraction) / (2 * sigma**2)
        rest = _PRECISION - 64
        uniform = (word << rest) + int.from_bytes(rng.bytes(rest // 8), "little")
        return exponent <= 0 or uniform < _exp_minus(exponent.numerator, exponent.denominator)

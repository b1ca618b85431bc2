"""Auditing privacy with one training run: from guesses about canaries to a lower bound on epsilon.

Each of m canaries is put into training or left out by its own fair coin. An auditor who sees what was released guesses
some of the coins. If the release is (epsilon, delta)-differentially private, the number of right guesses is hardly
above that of a coin with head probability e^epsilon / (1 + e^epsilon); so many right guesses refute small epsilons.

Invariant: how many coins are guessed is fixed before anything is seen (:func:`guesses_for` reads public numbers only),
so one p-value is computed and the bound holds with the confidence it states. A bound is never above
:func:`ceiling`, and never more than evidence: it refutes an epsilon, it proves none.

Source: Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", algorithm 1 and appendix D; add or
remove one record, as :class:`~silo.api.LocalDP`. A bug that changes the noise by a few per cent stays far below such a
bound; ``tests/unit/training/test_conformance.py`` is what catches those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
MIN_CANARIES, MAX_CANARIES = 2, 100_000
_LARGEST = 50.0
# Of how many canaries one is guessed, the surest: a fifth is near the best for epsilon 1 to 8 (measured). More are
# guessed only where the bound could not reach the proven epsilon otherwise.
_SHARES = (5, 2, 1)


@lru_cache(maxsize=8)
def _log_binomials(n: int) -> NDArray[np.float64]:
    """Return log C(n, k) for k = 0..n."""
    factorials = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    return np.asarray(factorials[-1] - factorials - factorials[::-1])


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of at least ``correct`` right guesses under (epsilon, delta)-DP.

    0 <= correct <= guesses <= canaries, epsilon >= 0, 0 <= delta <= 1.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} of {guesses} guesses about {canaries} canaries")
    right = -math.log1p(math.exp(-epsilon))  # log of e^epsilon / (1 + e^epsilon)
    k = np.arange(guesses + 1)
    masses = np.exp(_log_binomials(guesses) + k * right + (guesses - k) * (right - epsilon))
    tail = float(masses[correct:].sum())
    below = np.cumsum(masses[:correct][::-1])  # P[correct > W >= correct - i], i = 1, 2, ...
    alpha = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, tail + 2 * canaries * delta * alpha)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest epsilon that the guesses refute at ``confidence``, less at most 1e-6; 0 if none."""
    limit = 1 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) > limit:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= limit:
            low = middle
        else:
            high = middle
    return low


def ceiling(guesses: int, confidence: float = CONFIDENCE) -> float:
    """Return what :func:`lower_bound` comes to, at delta 0, when all guesses are right: -ln((1-confidence)^(-1/m) - 1).

    2.3 for 30 guesses, 3.5 for 100, 5.8 for 1,000 at 95 %; never below 0.
    """
    return max(0.0, -math.log(math.expm1(-math.log(1 - confidence) / guesses)))


def canaries_for(epsilon: float, confidence: float = CONFIDENCE) -> int:
    """Return the least number of canaries whose ceiling is above ``epsilon``."""
    return math.floor(math.log(1 - confidence) / -math.log1p(math.exp(-epsilon))) + 1


def guesses_for(canaries: int, proven: float) -> int:
    """Return how many coins to guess: a fifth, or more where so few could hardly refute ``proven``."""
    return next((canaries // share for share in _SHARES if _could(canaries // share, proven)), canaries)


def _could(guesses: int, proven: float) -> bool:
    return guesses > 0 and ceiling(guesses) > 1.1 * proven


@dataclass(frozen=True)
class Audit:
    """What came of one audit. ``proven`` is the accountant's epsilon at ``delta``, per record, add/remove adjacency."""

    canaries: int
    guesses: int
    correct: int
    proven: float
    delta: float
    confidence: float = CONFIDENCE

    @property
    def bound(self) -> float:
        """Epsilons below it are refuted with :attr:`confidence`, at :attr:`delta`."""
        return lower_bound(self.canaries, self.guesses, self.correct, self.delta, self.confidence)

    @property
    def ceiling(self) -> float:
        """The most that this many guesses can refute."""
        return ceiling(self.guesses, self.confidence)

    @property
    def can_refute(self) -> bool:
        """Whether an unprotected release could have been noticed at all: all right would refute ``proven``."""
        return lower_bound(self.canaries, self.guesses, self.guesses, self.delta, self.confidence) > self.proven

    @property
    def refuted(self) -> bool:
        """Whether the proven epsilon is refuted: something is wrong with noise, clipping, sampling or accounting."""
        return self.bound > self.proven


def judge(
    scores: NDArray[np.float64], included: NDArray[np.bool_], *, proven: float, delta: float, guesses: int
) -> Audit:
    """Return the audit that guesses "in" above the middle of the scores and "out" below it, where it is surest.

    ``scores`` and ``included`` have shape (m,); ``guesses``, at most m, was fixed beforehand. The guesses read scores
    alone, so the middle (halfway between the means of the upper and of the lower half) may too.
    """
    if not 0 < guesses <= len(scores) or scores.shape != included.shape:
        raise ValueError(f"{guesses} guesses about {len(scores)} canaries")
    ordered, half = np.sort(scores), len(scores) // 2
    offsets = scores - (ordered[:half].mean() + ordered[half:].mean()) / 2
    guessed = np.argsort(-np.abs(offsets), kind="stable")[:guesses]
    correct = int(((offsets[guessed] > 0) == included[guessed]).sum())
    return Audit(len(scores), guesses, correct, proven, delta)

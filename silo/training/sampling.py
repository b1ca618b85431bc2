"""Poisson sampling: every record joins a step on its own, with the public probability q.

Invariant: which records take part depends on fresh CSPRNG integers and q alone, never on torch's or NumPy's
generators, and never on how many records there are. Amplification by sampling (Abadi et al. 2016; Zhu and Wang 2019)
holds for exactly this sampler; shuffled fixed-size batches are another mechanism.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng


def inclusion_threshold(rate: float) -> int:
    """Return floor(rate x 2^64), exactly: the rate that is used is never above the one that is accounted for."""
    if not 0 < rate <= 1:
        raise ValueError(f"the sample rate must be above 0 and at most 1, got {rate}")
    return int(Fraction(rate) * (1 << 64))


def poisson_sample(n: int, rate: float, rng: Csprng) -> NDArray[np.int64]:
    """Return the ascending indices of the records that join, int64 (m,), 0 <= m <= n."""
    threshold = inclusion_threshold(rate)
    if threshold == 1 << 64:
        return np.arange(n, dtype=np.int64)
    return np.flatnonzero(rng.uint64(n) < np.uint64(threshold))

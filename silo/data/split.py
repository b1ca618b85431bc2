"""The split of one hospital's rows into a training and a test part.

The seed is public and fixes this split (and model initialisation), nothing secret. Each label keeps its share, so
that a hospital with 8 negatives has some on both sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TEST_FRACTION = 0.25


def split_rows(labels: NDArray[np.generic], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (train, test): disjoint ascending row indices that together are all rows of ``labels``, shape (n,).

    Of each label's k rows, round(k / 4) are test rows, at least one and at most k - 1 when k > 1 (a label seen once
    stays in training). ``seed`` is a non-negative integer.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    test: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(len(rows) * TEST_FRACTION), 1), len(rows) - 1)
        test.append(generator.permutation(rows)[:count])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen

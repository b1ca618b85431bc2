"""The split of one silo's rows into a training and a test part. The seed is public; it fixes nothing secret.

Two ways, because of what a split may look at. For private data whether a record trains must depend on that record
alone, or on its patient where that is the privacy unit: one more must not move others (:func:`split_each`). A split
that keeps each label's share looks at all labels; it is for data that are public anyway, where the training part is
what the privacy promise is about (:func:`split_rows`).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from silo.api.records import Records

TEST_FRACTION = 0.25


def split_each(records: Records, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (train, test): ascending row indices; each row is a test row if SHA-256 of (seed, row) says so, one in 4.

    Nothing but the row and the public seed decides, so neighbouring tables differ in one row of one part. Where the
    records say whose they are, the patient is hashed instead of the row: all of one's rows lie in one part.
    """
    patients = records.patients
    decides = records.row_bytes() if patients is None else (str(each).encode() for each in patients)
    marks = [hashlib.sha256(b"%d\0" % seed + each).digest() for each in decides]
    drawn = np.array([int.from_bytes(mark[:8], "big") for mark in marks], dtype=np.uint64)
    is_test = drawn < np.uint64(int(TEST_FRACTION * 2**64))
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


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

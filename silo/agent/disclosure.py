"""What of a silo's metrics and counts leaves it: exact, rounded or noised, as little changed as its policies permit.

Counts and metrics are releases like the model. A silo first asks its policies whether the exact number may leave, then
whether a coarser one may; what no policy permits stays. Noise is paid for: the ledger reserves and charges it before a
number is computed from it.

How metrics are noised. The records of the test part are counted in a public histogram, ``BINS`` bins of the model's
score (after a sigmoid) by two classes. A record is in one bin, so adding or removing it changes one count by one, and
Gaussian noise of the calibrated multiplier on all counts is the mechanism. Metrics are computed from records made up
to fit the noisy counts, which is post-processing: no metric needs a sensitivity of its own.

Source: NIST SP 800-226 2.6 (what is released without protection); histograms as Gaussian mechanism: Dwork, Roth 2014,
section 3.3 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from silo_policies import ReleaseFacts

from silo.home import DataSet

ROUNDINGS = (1, 5, 10, 20, 50, 100, 1000)
"""Counts leave as multiples of the first of these that the policies permit."""
BINS = 16
CELLS = 2 * BINS
DELTA_SHARE = 1e-3
"""Of the population's delta, what one noised release of metrics takes."""
_MOST = 1 << 20  # made-up records: beyond it, counts are scaled down, which changes no rate


def candidates(kind: str, dataset: DataSet) -> Iterator[ReleaseFacts]:
    """Yield what may leave of a release of ``kind`` (model, metrics or records), the exact one first."""
    exact = ReleaseFacts(kind=kind, recipient="researcher", rounding=1, epsilon=0.0)
    yield exact
    if kind == "records":
        for step in ROUNDINGS[1:]:
            yield exact.model_copy(update={"rounding": step})
    elif kind == "metrics" and dataset.metrics_epsilon > 0 and dataset.unit == "record":
        # A patient may be many records of the histogram: noise for one would not hide one.
        yield exact.model_copy(update={"epsilon": dataset.metrics_epsilon})


def rounded(count: int, step: int) -> int:
    """Return ``count`` >= 0 rounded to the nearest multiple of ``step`` >= 1, halves up."""
    return (count + step // 2) // step * step


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the multiplier of the noise for one noised histogram at (epsilon, delta), calibrated from above."""
    from silo.training.accounting import calibrate

    return calibrate(epsilon, delta, 1.0, 1, CELLS)


def noised_records(
    outputs: NDArray[np.float64], labels: NDArray[np.float64], multiplier: float, rng: Csprng
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return made-up outputs and labels, float64 (m,), that fit the noisy histogram of the real ones, (n,).

    ``outputs`` are logits; one that is not finite counts as 0. Labels are positive above 0. m is about n.
    """
    from silo.training.noise import add_gaussian

    shares = 1 / (1 + np.exp(-np.clip(np.nan_to_num(outputs, nan=0.0), -30, 30)))
    cells = np.minimum((shares * BINS).astype(np.int64), BINS - 1) + BINS * (labels > 0)
    counts = np.bincount(cells, minlength=CELLS).astype(np.float64)
    noisy = np.maximum(0, np.rint(add_gaussian(counts, multiplier, rng)))
    noisy = np.floor(noisy * min(1.0, _MOST / max(noisy.sum(), 1.0))).astype(np.int64)
    centres = (np.arange(BINS) + 0.5) / BINS
    logits = np.log(centres / (1 - centres))
    return np.repeat(np.tile(logits, 2), noisy), np.repeat(np.repeat([0.0, 1.0], BINS), noisy)


def deviation_of_a_count(multiplier: float) -> float:
    """Return the standard deviation of the noise on one class's count, in records."""
    return multiplier * math.sqrt(BINS)

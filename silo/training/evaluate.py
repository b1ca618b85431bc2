"""Scores, metrics and their uncertainty on one silo's records.

A metric on private records is a release of its own and not differentially private; whether it leaves a silo is for its
policies to say (PROTOCOL section 5, "Everything else that leaves is a release"). Nothing here sends anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silo.api import Experiment
from silo.errors import ConfigError
from silo.training.model import build_model, ignored_warnings, torch_generator, unflatten

if TYPE_CHECKING:
    from silo.api.experiment import Metric

# An interval from fewer of either class says next to nothing.
FEWEST_PER_CLASS = 5


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve with its interval at ``confidence``, 0 <= low <= value <= high <= 1."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


def scores(experiment: Experiment, weights: NDArray[np.float32], features: Tensor, *, seed: int) -> NDArray[np.float64]:
    """Return the model's outputs in evaluation mode, float64, shape (n,) (or (n, k) for a model with k outputs)."""
    model = build_model(experiment, seed)
    unflatten(model, weights)
    model.eval()
    try:
        with torch_generator(seed), torch.no_grad():
            outputs = model(features)
    except Exception as error:
        raise ConfigError(
            f"the model failed on this silo's records with {type(error).__name__}",
            where=f"experiment {experiment.name!r}, model",
            fix="try it on made-up records of the same schema",
        ) from error
    values: NDArray[np.float64] = outputs.double().numpy()
    return values.reshape(len(features), -1).squeeze(axis=1) if values.size == len(features) else values


def measured(
    experiment: Experiment, outputs: NDArray[np.float64], labels: NDArray[np.float64]
) -> dict[str, float | None]:
    """Return each of the experiment's metrics; None where it cannot be had (no records, one class, NaN, an error)."""
    if len(labels) == 0:
        return dict.fromkeys(experiment.metrics)
    return {name: _measure(metric, outputs, labels) for name, metric in experiment.metrics.items()}


def _measure(metric: Metric, outputs: NDArray[np.float64], labels: NDArray[np.float64]) -> float | None:
    try:
        with ignored_warnings():  # scikit-learn warns of a single class and returns NaN
            value = float(metric(outputs, labels))
    except (ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) else None


def auc_interval(outputs: NDArray[np.float64], labels: NDArray[np.generic], *, confidence: float = 0.95) -> Auc | None:
    """Return the AUC and its interval, or None with fewer than 5 records of either class.

    ``outputs`` (n,) rank the records, ``labels`` (n,) are above 0 for the positive class. The interval holds every
    AUC from which the observed one lies within z standard errors, by the standard error of Hanley and McNeil
    (Radiology 1982; 143:29), inverted as in Newcombe (Stat Med 2006; 25:559), so that it stays inside [0, 1] and does
    not collapse at 1.
    """
    from sklearn.metrics import roc_auc_score

    positive = np.asarray(labels) > 0
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < FEWEST_PER_CLASS or not np.isfinite(outputs).all():
        return None
    return interval_of(float(roc_auc_score(positive, outputs)), m, n, confidence=confidence)


def interval_of(value: float, positives: int, negatives: int, *, confidence: float = 0.95) -> Auc | None:
    """Return the interval around an AUC that was computed elsewhere, as :func:`auc_interval` does."""
    if min(positives, negatives) < FEWEST_PER_CLASS:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def far(candidate: float) -> bool:
        return abs(value - candidate) > z * _standard_error(candidate, positives, negatives)

    return Auc(value, _edge(0.0, value, far), 1 - _edge(0.0, 1 - value, lambda c: far(1 - c)), confidence)


def _standard_error(auc: float, m: int, n: int) -> float:
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    return math.sqrt((auc * (1 - auc) + (m - 1) * (q1 - auc * auc) + (n - 1) * (q2 - auc * auc)) / (m * n))


def _edge(far_end: float, near_end: float, far: Callable[[float], bool]) -> float:
    """Return the boundary between what is ``far`` and what is not, by bisection; ``near_end`` is not far."""
    if not far(far_end):
        return far_end
    for _ in range(60):
        middle = (far_end + near_end) / 2
        far_end, near_end = (middle, near_end) if far(middle) else (far_end, middle)
    return near_end

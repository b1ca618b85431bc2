"""The non-private baselines of the demo: what pooling all records would reach, and what each hospital reaches alone.

Invariant: this step is apart from the federation. It opens every hospital's public file, which no agent and no
aggregator may, so neither can import it (import-linter), and its numbers are labelled a non-private evaluation of
public data.

Same model and loss as the experiment, all records at once, no clipping, no noise, L-BFGS to convergence with an L2
penalty of 1/2 |w|^2 on the summed loss (the default strength of scikit-learn's logistic regression).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silo.api import Experiment
from silo.data import load, split_rows
from silo.errors import ConfigError
from silo.training.evaluate import scores
from silo.training.model import build_model, flatten, torch_generator, trainable
from silo.training.trainer import to_tensors

L2 = 1.0
ITERATIONS = 500


@dataclass(frozen=True)
class Parts:
    """One hospital's records as tensors, split: features (n, d) and targets (n,) of each part."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Baseline:
    """AUC on the union of the hospitals' test parts.

    ``pooled`` is the model trained on all training parts, ``alone`` that of each hospital's own, ``silo_only`` the mean
    of ``alone``.
    """

    pooled: float
    silo_only: float
    alone: Mapping[str, float]


def open_all(experiment: Experiment, sources: Mapping[str, str], *, seed: int) -> dict[str, Parts]:
    """Return every hospital's parts, by name; ``sources`` maps names to data sources. Not private."""
    parts = {}
    for name, source in sources.items():
        features, targets = to_tensors(experiment, load(source))
        train, test = split_rows(targets.numpy(), seed)
        parts[name] = Parts((features[train], targets[train]), (features[test], targets[test]))
    return parts


def run_baseline(experiment: Experiment, sources: Mapping[str, str], *, seed: int) -> Baseline:
    """Train and score the pooled model and each hospital's own. ``seed`` is that of the federated run."""
    parts = open_all(experiment, sources, seed=seed)
    pooled = train_plain(experiment, *_union([part.train for part in parts.values()]), seed=seed)
    alone = {
        name: _auc(experiment, train_plain(experiment, *part.train, seed=seed), parts, seed)
        for name, part in parts.items()
    }
    return Baseline(_auc(experiment, pooled, parts, seed), float(np.mean(list(alone.values()))), alone)


def union_auc(experiment: Experiment, weights: NDArray[np.float32], sources: Mapping[str, str], *, seed: int) -> float:
    """Return the AUC of a model, float32 weights (d,), on the union of the hospitals' test parts. Not private."""
    return _auc(experiment, weights, open_all(experiment, sources, seed=seed), seed)


def train_plain(experiment: Experiment, features: Tensor, targets: Tensor, *, seed: int) -> NDArray[np.float32]:
    """Return the weights, float32 (d,), trained without privacy to convergence."""
    model = build_model(experiment, seed)
    parameters = trainable(model)
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum((p.square().sum() for p in parameters), torch.zeros(()))
        loss = (experiment.loss(model(features), targets).sum() + L2 / 2 * penalty) / len(targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch_generator(seed):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return flatten(model)


def _union(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([features for features, _ in pairs]), torch.cat([targets for _, targets in pairs])


def _auc(experiment: Experiment, weights: NDArray[np.float32], parts: Mapping[str, Parts], seed: int) -> float:
    from sklearn.metrics import roc_auc_score

    features, targets = _union([part.test for part in parts.values()])
    labels = targets.numpy() > 0
    if labels.all() or not labels.any():
        raise ConfigError("the test parts hold one class only", where="baseline", fix="use sources with both classes")
    return float(roc_auc_score(labels, scores(experiment, weights, features, seed=seed)))

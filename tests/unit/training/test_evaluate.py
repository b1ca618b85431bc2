"""Scores in evaluation mode, metrics that may have no value, and an interval that has the coverage it claims."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from silo.errors import ConfigError
from silo.training.evaluate import Auc, auc_interval, measured, scores
from silo.training.model import build_model, flatten
from tests.unit.training.training_support import linear, make


def test_scores_are_the_models_outputs_without_dropout() -> None:
    experiment = make(lambda: nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.9)))
    weights = np.array([1, 2, 3, 4, 0.5], np.float32)
    found = scores(experiment, weights, torch.eye(4), seed=0)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [1.5, 2.5, 3.5, 4.5])


def test_several_outputs_stay_apart() -> None:
    experiment = make(lambda: nn.Linear(4, 3))
    assert scores(experiment, flatten(build_model(experiment, 0)), torch.eye(4), seed=0).shape == (4, 3)


def test_a_model_that_fails_says_nothing_of_the_records() -> None:
    with pytest.raises(ConfigError, match="failed on this silo's records with RuntimeError"):
        scores(make(linear(4)), np.zeros(5, np.float32), torch.zeros(2, 3), seed=0)


def test_metrics_get_scores_and_labels_and_may_have_no_value() -> None:
    from sklearn.metrics import roc_auc_score

    metrics = {
        "mean": lambda outputs, labels: outputs.mean() + 10 * labels.mean(),
        "auc": lambda outputs, labels: roc_auc_score(labels, outputs),
        "nan": lambda outputs, labels: math.nan,
        "fails": lambda outputs, labels: 1 / 0,
    }
    experiment = make(metrics=metrics)
    ones = measured(experiment, np.ones(4), np.ones(4))
    assert ones == {"mean": 11.0, "auc": None, "nan": None, "fails": None}
    none = measured(experiment, np.zeros(0), np.zeros(0))
    assert none == dict.fromkeys(metrics)


def test_too_few_of_a_class_have_no_interval() -> None:
    outputs = np.arange(20.0)
    assert auc_interval(outputs, np.array([1] * 4 + [0] * 16)) is None
    assert auc_interval(outputs, np.array([1] * 16 + [0] * 4)) is None
    assert auc_interval(np.full(20, np.nan), np.array([1, 0] * 10)) is None
    assert isinstance(auc_interval(outputs, np.array([1] * 5 + [0] * 15)), Auc)


@pytest.mark.parametrize("order", [1, -1])
def test_at_the_ends_the_interval_stays_inside_and_does_not_collapse(order: int) -> None:
    found = auc_interval(order * np.arange(20.0), np.array([0] * 10 + [1] * 10))
    assert found is not None
    assert found.value == (1 if order == 1 else 0)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert 0.1 < found.high - found.low < 0.4


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([1] * 30 + [0] * 40)
    truth = 0.8556  # Phi(1.5 / sqrt 2)
    covered = 0
    for _ in range(400):
        found = auc_interval(rng.normal(size=70) + 1.5 * labels, labels)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 400 <= 0.99

"""Heart disease from 13 clinical columns at four hospitals: logistic regression, epsilon 3 for every record."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from silo import Encryption, Experiment, FedAvg, LocalDP, Records

USED = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak", "slope", "ca", "thal"]


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(31, 1), torch.nn.Flatten(0))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def tensors(records: Records) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(records.features(USED)), torch.from_numpy(records.numbers("num") > 0).float()


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(roc_auc_score(labels, scores))


experiment = Experiment(
    name="heart-disease",
    purpose="heart-disease-research",
    model=model,
    loss=loss,
    tensors=tensors,
    metrics={"auc": auc},
    rounds=10,
    privacy=LocalDP(
        epsilon=3, delta=1e-4, clipping_norm=1, sample_rate=0.5, steps_per_round=1, expected_batch=75, learning_rate=5
    ),
    encryption=Encryption(custody="shared", value_bits=16, value_bound=64.0),
    aggregation=FedAvg(weighting="uniform"),
    releases=["model", "metrics", "records"],
)

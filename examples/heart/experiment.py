"""Heart disease from 13 clinical columns at four hospitals: logistic regression, epsilon 3 for every patient record."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from silo import Encryption, Experiment, FedAvg, LocalDP, Records

COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak", "slope", "ca", "thal"]


def model() -> torch.nn.Module:
    net = torch.nn.Linear(31, 1)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return torch.nn.Sequential(net, torch.nn.Flatten(0))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def tensors(records: Records) -> tuple[torch.Tensor, torch.Tensor]:
    disease = (records["num"] > 0).astype(np.float32)
    return torch.from_numpy(records.features(COLUMNS)), torch.from_numpy(disease)


experiment = Experiment(
    name="heart-disease",
    purpose="Predict coronary heart disease from routine examinations, for research on diagnosis",
    model=model,
    loss=loss,
    tensors=tensors,
    metrics={"auc": roc_auc_score},
    rounds=5,
    privacy=LocalDP(
        epsilon=3.0,
        delta=1e-4,
        clipping_norm=1.0,
        sample_rate=1.0,
        steps_per_round=4,
        expected_batch=150,
        learning_rate=2.0,
    ),
    encryption=Encryption(custody="shared", value_bits=16, value_bound=4.0),
    aggregation=FedAvg(weighting="uniform"),
    releases=["model", "metrics", "records"],
)

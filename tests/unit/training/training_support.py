"""Small experiments and plans that the training tests share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from silo.api import Experiment, LocalDP
from silo.training.accounting import Plan

PRIVACY = LocalDP(
    epsilon=3, delta=1e-4, clipping_norm=1, sample_rate=0.5, steps_per_round=3, expected_batch=10, learning_rate=0.1
)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) ** 2


def linear(d: int = 4) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(d, 1), nn.Flatten(0))


def make(model: Callable[[], nn.Module] | None = None, **changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "test",
        "purpose": "test",
        "model": model or linear(),
        "loss": squared,
        "tensors": lambda records: (
            torch.from_numpy(records.features()),
            torch.from_numpy(records.numbers("num")).float(),
        ),
        "metrics": {},
        "rounds": 4,
        "privacy": PRIVACY,
    }
    return Experiment(**{**fields, **changes})


def plan(parameters: int = 5, **changes: Any) -> Plan:
    base = Plan(
        epsilon=20.0,
        delta=1e-4,
        clipping_norm=1.0,
        noise_multiplier=2.0,
        sample_rate=0.5,
        steps_per_round=3,
        expected_batch=10.0,
        learning_rate=0.1,
        rounds=4,
        parameters=parameters,
    )
    return replace(base, **changes)

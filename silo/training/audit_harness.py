"""The product audited on gradients made up for it: canaries that do not overlap, nothing else in the way.

Invariant: what is audited is what trains at a silo. The update comes from :class:`~silo.training.trainer.LocalTrainer`
with its own sampler, per-record gradients, clipping and noise; this module makes records and a loss whose gradient is
the record itself, and reads the update. It has no switch for noise or clipping, so no command can turn one off.

Canary i's gradient points along coordinate i and is a hundred times longer than the clipping norm: clipped, it is the
most one record may contribute; not clipped, it cannot be overlooked. No real record is touched and no budget is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from silo_crypto.randomness import Csprng
from torch import Tensor, nn

from silo.api import Experiment, LocalDP
from silo.errors import UsageError
from silo.training.accounting import make_plan
from silo.training.audit import MAX_CANARIES, MIN_CANARIES, Audit, guesses_for, judge
from silo.training.trainer import LocalTrainer

MIN_DIMENSIONS, MAX_DIMENSIONS = 1_000, 1 << 20
_MAX_VALUES = 1 << 26  # canaries x dimensions in memory, float32
_LOUDNESS = 100.0


@dataclass(frozen=True)
class Setting:
    """What is audited: DP-SGD of ``steps`` steps at (epsilon, delta), ``dimensions`` parameters, ``canaries`` canaries.

    Raises :class:`UsageError` or :class:`~silo.errors.ConfigError` naming the number that makes no sense.
    """

    canaries: int = 1_000
    dimensions: int = 4_096
    epsilon: float = 3.0
    delta: float = 1e-5
    sample_rate: float = 0.5
    steps: int = 10

    def __post_init__(self) -> None:
        if not MIN_CANARIES <= self.canaries <= MAX_CANARIES:
            raise UsageError(f"{self.canaries} canaries", fix=f"take {MIN_CANARIES} to {MAX_CANARIES}")
        if not MIN_DIMENSIONS <= self.dimensions <= MAX_DIMENSIONS:
            raise UsageError(f"{self.dimensions} dimensions", fix=f"take {MIN_DIMENSIONS} to {MAX_DIMENSIONS}")
        if self.canaries > self.dimensions:
            fix = "each canary has a coordinate of its own: take as many dimensions as canaries, or more"
            raise UsageError(f"{self.canaries} canaries in {self.dimensions} dimensions", fix=fix)
        if self.canaries * self.dimensions > _MAX_VALUES:
            fix = f"canaries x dimensions may be at most {_MAX_VALUES}"
            raise UsageError(f"{self.canaries} canaries in {self.dimensions} dimensions do not fit the memory", fix=fix)
        self.privacy()

    def privacy(self) -> LocalDP:
        """Return the mechanism under audit, as an experiment would ask for it: clipping norm, rate and batch are 1."""
        return LocalDP(
            epsilon=self.epsilon,
            delta=self.delta,
            clipping_norm=1.0,
            sample_rate=self.sample_rate,
            steps_per_round=self.steps,
            expected_batch=1.0,
            learning_rate=1.0,
        )


def audit_product(setting: Setting) -> Audit:
    """Train once on the canaries that the coins put in, guess the coins from the update, and return what came of it."""
    experiment = Experiment(
        name="audit",
        purpose="audit",
        model=lambda: nn.Linear(setting.dimensions, 1, bias=False),
        loss=_gradient_is_the_record,
        tensors=_no_records,
        metrics={},
        rounds=1,
        privacy=setting.privacy(),
    )
    plan = make_plan(setting.privacy(), rounds=1, parameters=setting.dimensions)
    included = (Csprng().uint64(setting.canaries) & np.uint64(1)).astype(np.bool_)
    features = torch.zeros(int(included.sum()), setting.dimensions)
    features[torch.arange(len(features)), torch.from_numpy(np.flatnonzero(included))] = _LOUDNESS
    trainer = LocalTrainer(experiment, plan, features, torch.zeros(len(features)), seed=0)
    update = trainer.run(np.zeros(setting.dimensions, dtype=np.float32))
    proven = plan.epsilon_after(update.steps)
    scores = -update.vector[: setting.canaries].astype(np.float64)  # descent goes against the gradient
    return judge(scores, included, proven=proven, delta=plan.delta, guesses=guesses_for(setting.canaries, proven))


def _gradient_is_the_record(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return <w, x> per record, shape (n,): its gradient in w is x."""
    return outputs.flatten()


def _no_records(records: object) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("the harness makes its tensors itself")

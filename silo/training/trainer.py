"""Local training: one round of DP-SGD on one silo's records.

Invariant: record-level (epsilon, delta)-DP of every update that :meth:`LocalTrainer.run` returns, by a
:class:`~silo.training.accounting.Plan` whose numbers are all public. Nothing here depends on how many records there
are, and no error or return value says anything about a record: a record with a NaN gradient contributes 0, an empty
batch sends noise.

Source: PROTOCOL section 5, "LocalDP".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from torch import Tensor

from silo.api import Experiment, Records
from silo.errors import BudgetExceeded, ConfigError, SiloError
from silo.training.accounting import Plan
from silo.training.gradients import Gradients, OnGradients


@dataclass(frozen=True)
class Update:
    """What one round of training gives: ``vector`` is new minus old weights, float32 (d,); ``steps`` were taken."""

    vector: NDArray[np.float32]
    steps: int


class LocalTrainer(OnGradients[Plan]):
    """Trains on one silo's tensors; keeps the count of private steps over the rounds of a run.

    ``features`` (n, ...) and ``targets`` (n,) come from :func:`to_tensors`; n may be 0. ``seed`` is the public seed of
    the model; ``patients``, str (n,), says whose each row is, where the plan protects patients. Not for two threads at
    once.
    """

    def _begin(self, gradients: Gradients, plan: Plan, name: str) -> None:
        from silo.training.optimizer import SiloOptimizer

        self._name = name
        self._plan = plan
        self._rng = Csprng()
        self._gradients = gradients
        self._optimizer = SiloOptimizer(
            torch.optim.SGD(gradients.parameters, lr=plan.learning_rate),
            noise_multiplier=plan.noise_multiplier,
            clipping_norm=plan.clipping_norm,
            expected_batch=plan.expected_batch,
            rng=self._rng,
        )

    @property
    def steps(self) -> int:
        """Private steps taken so far: what accounting is given."""
        return self._optimizer.steps

    def resume(self, steps: int) -> None:
        """Count on from ``steps``, which an earlier process took and charged."""
        self._optimizer.steps = self._optimizer.noise_draws = steps

    @property
    def epsilon(self) -> float:
        """Epsilon at the plan's delta for the steps taken so far, rounded up."""
        return self._plan.epsilon_after(self.steps)

    def run(self, start: NDArray[np.float32]) -> Update:
        """Train one round from the weights ``start``, float32 (d,), with newly drawn samples and noise.

        Raises :class:`~silo.errors.BudgetExceeded` before it starts if the steps would exceed the plan's, and
        :class:`~silo.errors.ConfigError` if the experiment's code fails or the weights leave float32.
        """
        if self.steps + self._plan.steps_per_round > self._plan.steps:
            raise BudgetExceeded(
                f"{self._plan.steps} private steps were planned and {self.steps} are taken",
                where=f"experiment {self._name!r}",
                fix="start a new run: its budget is its own",
            )
        before = self.steps
        # Our own copy of the weights: what leaves is made from noised gradients only, whatever the experiment's
        # forward pass wrote into its module's parameters meanwhile.
        weights, rate = start.copy(), np.float32(self._plan.learning_rate)
        with self._gradients.at(start), np.errstate(all="ignore"):
            for _ in range(self._plan.steps_per_round):
                self._gradients.place(weights)
                self._gradients.sample(self._plan.sample_rate, self._rng)
                self._optimizer.step()
                _descend(weights, rate, self._gradients.noised)
                self._gradients.clear()
                if not np.isfinite(weights).all():
                    break
            vector = np.subtract(weights, start, out=weights)
        if not np.isfinite(vector).all():
            raise ConfigError(
                "training left the range of float32",
                where=f"experiment {self._name!r}",
                fix="lower learning_rate, or raise expected_batch",
            )
        return Update(vector, self.steps - before)


def _descend(weights: NDArray[np.float32], rate: np.float32, noised: NDArray[np.float32]) -> None:
    """Take a step in place; ``noised`` is overwritten."""
    noised *= rate
    weights -= noised


def to_tensors(experiment: Experiment, records: Records) -> tuple[Tensor, Tensor]:
    """Return (features (n, ...), targets (n,)) of a silo's records as the experiment makes them.

    Raises :class:`~silo.errors.ConfigError`, which quotes no record, when the function fails or gives another shape.
    """
    where = f"experiment {experiment.name!r}, tensors"
    try:
        pair = experiment.tensors(records.without_patients())
    except SiloError:
        raise
    except Exception as error:
        raise ConfigError(
            f"it failed on this silo's records with {type(error).__name__}",
            where=where,
            fix="try it on made-up records of the same schema",
        ) from error
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise ConfigError("it must return two tensors", where=where, fix="return (features, targets)")
    features, targets = pair
    if features.ndim < 2 or len(features) != len(records) or targets.shape[:1] != (len(records),):
        raise ConfigError("it must return one row per record", where=where, fix="return shapes (n, d) and (n,)")
    return features.detach(), targets.detach()

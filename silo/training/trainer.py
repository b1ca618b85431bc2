"""Local training: one round of DP-SGD on one silo's records.

Invariant: record-level (epsilon, delta)-DP of every update that :meth:`LocalTrainer.run` returns, by a
:class:`~silo.training.accounting.Plan` whose numbers are all public. Nothing here depends on how many records there
are, and no error or return value says anything about a record: a record with a NaN gradient contributes 0, an empty
batch sends noise.

Source: PROTOCOL section 5, "LocalDP".
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from torch import Tensor

from silo.api import Experiment, Records
from silo.errors import BudgetExceeded, ConfigError, SiloError
from silo.training.accounting import Plan
from silo.training.model import build_model, count, flatten, torch_generator, trainable, unflatten
from silo.training.sampling import poisson_sample


@dataclass(frozen=True)
class Update:
    """What one round of training gives: ``vector`` is new minus old weights, float32 (d,); ``steps`` were taken."""

    vector: NDArray[np.float32]
    steps: int


class LocalTrainer:
    """Trains on one silo's tensors; keeps the count of private steps over the rounds of a run.

    ``features`` (n, ...) and ``targets`` (n,) come from :func:`to_tensors`; n may be 0. ``seed`` is the public seed of
    the model. Not for two threads at once.
    """

    def __init__(self, experiment: Experiment, plan: Plan, features: Tensor, targets: Tensor, *, seed: int) -> None:
        from opacus import GradSampleModule

        from silo.training.optimizer import SiloOptimizer

        if len(features) != len(targets):
            raise ConfigError("features and targets differ in length", where=f"experiment {experiment.name!r}, tensors")
        self._experiment = experiment
        self._plan = plan
        self._features = features
        self._targets = targets
        self._rng = Csprng()
        model = build_model(experiment, seed)
        if count(model) != plan.parameters:
            raise ConfigError(
                f"the model has {count(model)} parameters and the plan {plan.parameters}",
                where=f"experiment {experiment.name!r}, model",
                fix="submit the run again: the manifest was made for another model",
            )
        self._model = GradSampleModule(model, loss_reduction="sum")
        self._optimizer = SiloOptimizer(
            torch.optim.SGD(trainable(model), lr=plan.learning_rate),
            noise_multiplier=plan.noise_multiplier,
            clipping_norm=plan.clipping_norm,
            expected_batch=plan.expected_batch,
            rng=self._rng,
        )

    @property
    def steps(self) -> int:
        """Private steps taken so far: what accounting is given."""
        return self._optimizer.steps

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
                where=f"experiment {self._experiment.name!r}",
                fix="start a new run: its budget is its own",
            )
        before = self.steps
        # Dropout may draw from torch's generator: its seed is of no run and no researcher.
        with torch_generator(int.from_bytes(os.urandom(7), "little")):
            unflatten(self._model._module, start)
            self._model.train()
            for _ in range(self._plan.steps_per_round):
                self._step()
            end = flatten(self._model._module)
        with np.errstate(all="ignore"):
            vector = end - start
        if not np.isfinite(vector).all():
            raise ConfigError(
                "training left the range of float32",
                where=f"experiment {self._experiment.name!r}",
                fix="lower learning_rate, or raise expected_batch",
            )
        return Update(vector, self.steps - before)

    def _step(self) -> None:
        rows = torch.from_numpy(poisson_sample(len(self._targets), self._plan.sample_rate, self._rng))
        self._optimizer.zero_grad(set_to_none=True)
        if len(rows):
            self._backward(self._features[rows], self._targets[rows])
        else:
            for p in self._optimizer.params:
                p.grad_sample = p.new_zeros((0, *p.shape))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _backward(self, features: Tensor, targets: Tensor) -> None:
        """Fill ``p.grad_sample``, shape (m, *p.shape), for the m records of a batch."""
        where = f"experiment {self._experiment.name!r}"
        try:
            with warnings.catch_warnings():
                # torch tells that the records themselves need no gradient; Opacus wants only those of the layers.
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                losses = self._experiment.loss(self._model(features), targets)
                if not isinstance(losses, Tensor) or losses.shape != (len(targets),):
                    raise ConfigError(
                        "the loss does not give one number per record",
                        where=f"{where}, loss",
                        fix="use reduction='none' and return shape (n,)",
                    )
                losses.sum().backward()  # type: ignore[no-untyped-call]
            for p in self._optimizer.params:
                if p.grad_sample is None or len(p.grad_sample) != len(targets):
                    raise ConfigError(
                        "a parameter took no part in the loss", where=f"{where}, model", fix="freeze or drop it"
                    )
        except SiloError:
            raise
        except Exception as error:
            # The text of a foreign exception may quote a record: it stays in the chain, for this silo's --debug.
            raise ConfigError(
                f"model or loss failed on this silo's records with {type(error).__name__}",
                where=where,
                fix="try them on made-up records of the same schema",
            ) from error


def to_tensors(experiment: Experiment, records: Records) -> tuple[Tensor, Tensor]:
    """Return (features (n, ...), targets (n,)) of a silo's records as the experiment makes them.

    Raises :class:`~silo.errors.ConfigError`, which quotes no record, when the function fails or gives another shape.
    """
    where = f"experiment {experiment.name!r}, tensors"
    try:
        pair = experiment.tensors(records)
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

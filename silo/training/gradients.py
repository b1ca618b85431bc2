"""Gradients of single records, or patients: a Poisson batch of them, run through the experiment's model and loss.

Invariant: what a batch costs others to know is nothing: an empty one skips the model, and no error quotes a record.
What the gradients become (clipped, summed, noised) is :mod:`silo.training.optimizer`'s and
:mod:`silo.training.distributed`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from torch import Tensor, nn

from silo.api import Experiment
from silo.errors import ConfigError, SiloError
from silo.training.model import build_model, count, ignored_warnings, torch_generator, trainable, unflatten
from silo.training.sampling import poisson_sample
from silo.training.units import Records, Units, sum_by_owner, units_of


class Gradients(Protocol):
    """What a trainer needs of a silo's records: per-record gradients of batches that the silo's own code drew.

    :class:`RecordGradients` computes them here, :class:`~silo.sandbox.remote.RemoteGradients` in a confined child.
    """

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the order of the flat vector."""
        ...

    @property
    def noised(self) -> NDArray[np.float32]:
        """``p.grad``, float32 (d,), as the optimiser left it: a copy, or the thing itself until :meth:`clear`."""
        ...

    def at(self, start: NDArray[np.float32]) -> AbstractContextManager[None]:
        """Set the weights, float32 (d,), while gradients are taken."""
        ...

    def place(self, weights: NDArray[np.float32]) -> None:
        """Set the weights, float32 (d,)."""
        ...

    def sample(self, rate: float, rng: Csprng) -> None:
        """Draw a batch, each unit with probability ``rate``, and set ``p.grad_sample``, (m, \\*p.shape) for m units."""
        ...

    def clear(self) -> None:
        """Forget the gradients."""
        ...


class RecordGradients:
    """The experiment's model over one silo's tensors: features (n, ...) and targets (n,), n may be 0.

    ``seed`` is the public seed of the model, ``parameters`` the d it must have; ``units`` are what is sampled, each
    record by itself if None; ``whole`` asks for every gradient as a tensor, never as factors. Not for two threads at
    once.
    """

    def __init__(
        self,
        experiment: Experiment,
        features: Tensor,
        targets: Tensor,
        *,
        parameters: int,
        seed: int,
        units: Units | None = None,
        whole: bool = False,
    ) -> None:
        from silo.training.per_record import PerRecordModule

        if len(features) != len(targets):
            raise ConfigError("features and targets differ in length", where=f"experiment {experiment.name!r}, tensors")
        self._experiment = experiment
        self._features = features
        self._targets = targets
        self._units = Records(len(targets)) if units is None else units
        model = build_model(experiment, seed)
        if count(model) != parameters:
            raise ConfigError(
                f"the model has {count(model)} parameters and the plan {parameters}",
                where=f"experiment {experiment.name!r}, model",
                fix="submit the run again: the manifest was made for another model",
            )
        self._module = model
        self._model = PerRecordModule(model, ghost=not whole and isinstance(self._units, Records))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the order of the flat vector."""
        return trainable(self._module)

    @property
    def noised(self) -> NDArray[np.float32]:
        """A copy of ``p.grad``, float32 (d,), as the optimiser left it after its step."""
        return np.concatenate([p.grad.numpy().ravel() for p in self.parameters if p.grad is not None])

    def place(self, weights: NDArray[np.float32]) -> None:
        """Write the weights, float32 (d,), into the model."""
        unflatten(self._module, weights)

    @contextmanager
    def at(self, start: NDArray[np.float32] | None) -> Iterator[None]:
        """Set the weights, float32 (d,), if not None, and hold torch's generator while gradients are taken."""
        # Dropout may draw from torch's generator: its seed is of no run and no researcher.
        with torch_generator(int.from_bytes(os.urandom(7), "little")):
            if start is not None:
                self.place(start)
            self._model.train()
            yield

    def sample(self, rate: float, rng: Csprng) -> None:
        """Draw a batch, each unit with probability ``rate``, and set ``p.grad_sample``, (m, \\*p.shape) for m units."""
        batch = self._units.batch(poisson_sample(len(self._units), rate, rng))
        self.take(batch.rows)
        sum_by_owner(self.parameters, batch)

    def take(self, drawn: NDArray[np.int64]) -> None:
        """Set ``p.grad_sample``, shape (m, \\*p.shape), for the records at the indices ``drawn``, shape (m,)."""
        rows = torch.from_numpy(drawn)
        self.clear()
        if len(rows):
            self._backward(self._features[rows], self._targets[rows])
        else:
            for p in self.parameters:
                p.grad_sample = p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]

    def clear(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = p.grad_sample = None  # type: ignore[attr-defined]

    def _backward(self, features: Tensor, targets: Tensor) -> None:
        """Fill ``p.grad_sample``, shape (m, *p.shape), for the m records of a batch."""
        where = f"experiment {self._experiment.name!r}"
        try:
            # torch tells that the records themselves need no gradient; Opacus wants only those of the layers.
            with ignored_warnings("Full backward hook is firing", UserWarning):
                losses = self._experiment.loss(self._model(features), targets)
                if not isinstance(losses, Tensor) or losses.shape != (len(targets),):
                    raise ConfigError(
                        "the loss does not give one number per record",
                        where=f"{where}, loss",
                        fix="use reduction='none' and return shape (n,)",
                    )
                losses.sum().backward()  # type: ignore[no-untyped-call]
            for p in self.parameters:
                p.grad = None  # the sum over the batch, which autograd makes too
            for p in self.parameters:
                if p.grad_sample is None or len(p.grad_sample) != len(targets):  # type: ignore[attr-defined]
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


class PlanOfUnits(Protocol):
    """What both mechanisms' plans say of the model and of what is sampled."""

    @property
    def unit(self) -> str:
        """Whom the run protects: ``record`` or ``patient``."""
        ...

    @property
    def records_per_patient(self) -> int | None:
        """The most rows of one patient that count, for unit patient."""
        ...

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        ...


P = TypeVar("P", bound=PlanOfUnits)


class OnGradients(Generic[P]):
    """How a trainer of either mechanism is made: on tensors here, or on gradients that are computed elsewhere."""

    def __init__(
        self,
        experiment: Experiment,
        plan: P,
        features: Tensor,
        targets: Tensor,
        *,
        seed: int,
        patients: NDArray[np.str_] | None = None,
    ) -> None:
        units = units_of(plan.unit, plan.records_per_patient, patients, len(targets))
        gradients = RecordGradients(experiment, features, targets, parameters=plan.parameters, seed=seed, units=units)
        self._begin(gradients, plan, experiment.name)

    @classmethod
    def over(cls, gradients: Gradients, plan: P, name: str) -> Self:
        """Return a trainer on gradients that are computed elsewhere; ``name`` is the experiment's."""
        trainer = cls.__new__(cls)
        trainer._begin(gradients, plan, name)
        return trainer

    def _begin(self, gradients: Gradients, plan: P, name: str) -> None:
        """Take up ``gradients``; what a trainer draws and counts begins here."""
        raise NotImplementedError

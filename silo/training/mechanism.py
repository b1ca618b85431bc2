"""A privacy mechanism as a run sees it: what this silo sends in a round, and the model that the opened sum makes.

Invariant: everything here comes from the signed manifest; the experiment gives model and loss only. Both mechanisms
are used in the same way, so that a run is one flow.

    experiment -> plan_for -> privacy_spec -> manifest -> plan_of -> mechanism_for -> contribute / apply, every round
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from silo_crypto.codec import FixedPoint
from silo_crypto.protocol import Fields, Sums
from silo_crypto.randomness import Csprng
from silo_policies import PrivacySpec, RunManifest

from silo.api import DistributedDP, Experiment
from silo.errors import ConfigError
from silo.training.accounting import ACCOUNTANT, Plan, make_plan
from silo.training.distributed_plan import DistributedPlan, make_distributed_plan
from silo.training.server import ServerOptimizer, State, server_optimizer

if TYPE_CHECKING:
    from silo.training.distributed import DistributedTrainer
    from silo.training.gradients import Gradients
    from silo.training.trainer import LocalTrainer

Model = NDArray[np.float32]
AnyPlan = Plan | DistributedPlan


@dataclass(frozen=True)
class Contribution:
    """One round of one silo: ``values`` to encrypt, uint32 (d,), each below 2^value_bits, and the steps they cost."""

    values: Fields
    steps: int


class Mechanism(Protocol):
    """One run's mechanism at one silo. Not for two threads at once."""

    @property
    def steps(self) -> int:
        """Private steps taken so far: noise draws, and events in the ledger."""
        ...

    def contribute(self, model: Model) -> Contribution:
        """Draw a new sample and new noise, and return what to encrypt."""
        ...

    def apply(self, model: Model, sums: Sums, uploads: int) -> Model:
        """Return the next model, float32 (d,), from the verified sums, int64 (d,), of ``uploads`` contributions."""
        ...

    def state(self) -> State:
        """Return what the server's optimiser keeps from round to round. No generator is in it: noise is drawn anew."""
        ...

    def resume(self, state: Mapping[str, NDArray[np.float64]], steps: int) -> None:
        """Go on, in a new process, from what :meth:`state` gave after ``steps`` steps were charged."""
        ...


class LocalMechanism:
    """LocalDP: an update trained and noised in the silo, as fixed point; the average is the server's update."""

    def __init__(self, trainer: LocalTrainer, codec: FixedPoint, server: ServerOptimizer) -> None:
        self._trainer, self._codec, self._server = trainer, codec, server
        self._rng = Csprng()

    @property
    def steps(self) -> int:
        """Private steps taken so far."""
        return self._trainer.steps

    def contribute(self, model: Model) -> Contribution:
        """Train one round."""
        update = self._trainer.run(model)
        return Contribution(self._codec.encode(update.vector, self._rng), update.steps)

    def apply(self, model: Model, sums: Sums, uploads: int) -> Model:
        """Step by the mean update."""
        return self._server.step(model, self._codec.decode_mean(sums, uploads))

    def state(self) -> State:
        """Return the optimiser's state."""
        return self._server.state()

    def resume(self, state: Mapping[str, NDArray[np.float64]], steps: int) -> None:
        """Go on in a new process."""
        self._server.resume(state)
        self._trainer.resume(steps)


class DistributedMechanism:
    """DistributedDP: a gradient sum with a share of the noise; -learning_rate x the mean is the server's update."""

    def __init__(self, trainer: DistributedTrainer, plan: DistributedPlan, server: ServerOptimizer) -> None:
        self._trainer, self._plan, self._server = trainer, plan, server

    @property
    def steps(self) -> int:
        """Private steps taken so far."""
        return self._trainer.steps

    def contribute(self, model: Model) -> Contribution:
        """Draw this round's share."""
        share = self._trainer.run(model)
        return Contribution(share.values, share.steps)

    def apply(self, model: Model, sums: Sums, uploads: int) -> Model:
        """Step against the noised gradient; raises for a sum of fewer silos than the noise needs."""
        from silo.training.distributed import gradient_of

        return self._server.step(model, -self._plan.learning_rate * gradient_of(self._plan, sums, uploads))

    def state(self) -> State:
        """Return the optimiser's state."""
        return self._server.state()

    def resume(self, state: Mapping[str, NDArray[np.float64]], steps: int) -> None:
        """Go on in a new process."""
        self._server.resume(state)
        self._trainer.resume(steps)


def plan_for(experiment: Experiment, parameters: int) -> AnyPlan:
    """Return the calibrated plan of an experiment whose model trains ``parameters`` weights."""
    privacy = experiment.privacy
    if isinstance(privacy, DistributedDP):
        return make_distributed_plan(privacy, experiment.rounds, parameters, experiment.encryption.value_bits)
    return make_plan(privacy, experiment.rounds, parameters)


def privacy_spec(plan: AnyPlan) -> PrivacySpec:
    """Return what the run manifest says of a plan."""
    distributed = isinstance(plan, DistributedPlan)
    own = ("minimum_silos", "colluders", "share_sigma", "scale") if distributed else ()
    return PrivacySpec(
        mechanism="distributed-dp" if distributed else "local-dp",
        epsilon=plan.epsilon,
        delta=plan.delta,
        unit=plan.unit,
        records_per_patient=plan.records_per_patient,
        adjacency="add-remove",
        accountant=ACCOUNTANT,
        clipping_norm=plan.clipping_norm,
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        steps_per_round=plan.steps_per_round,
        expected_batch=plan.expected_batch,
        learning_rate=plan.learning_rate,
        **{name: getattr(plan, name) for name in own},
    )


def value_bound(experiment: Experiment, plan: AnyPlan) -> float:
    """Return the bound that the manifest states: the experiment's, or with DistributedDP what the fields hold."""
    return plan.value_bound if isinstance(plan, DistributedPlan) else float(experiment.encryption.value_bound)


def minimum_silos(experiment: Experiment, agreed: int) -> int:
    """Return the fewest uploads of a run: what the consortium ``agreed`` on, or more where the noise needs more."""
    privacy = experiment.privacy
    return max(agreed, privacy.minimum_silos) if isinstance(privacy, DistributedDP) else agreed


def plan_of(run: RunManifest) -> AnyPlan:
    """Return the plan of a signed manifest, verified: its noise keeps its promise, its fields hold its values.

    Raises :class:`~silo.errors.ConfigError` where they do not, or where the manifest's numbers contradict each other.
    """
    spec, parameters = run.privacy, run.model.parameters
    plan: AnyPlan
    if spec.mechanism == "local-dp":
        plan = Plan(
            epsilon=spec.epsilon,
            delta=spec.delta,
            clipping_norm=spec.clipping_norm,
            noise_multiplier=spec.noise_multiplier,
            sample_rate=spec.sample_rate,
            steps_per_round=spec.steps_per_round,
            expected_batch=spec.expected_batch,
            learning_rate=spec.learning_rate,
            rounds=run.rounds,
            parameters=parameters,
            unit=spec.unit,
            records_per_patient=spec.records_per_patient,
        )
        plan.verify()
        return plan
    # The manifest's model has all four for distributed-dp, and only then.
    plan = DistributedPlan(
        epsilon=spec.epsilon,
        delta=spec.delta,
        clipping_norm=spec.clipping_norm,
        sample_rate=spec.sample_rate,
        expected_batch=spec.expected_batch,
        learning_rate=spec.learning_rate,
        minimum_silos=spec.minimum_silos or 0,
        colluders=spec.colluders or 0,
        share_sigma=spec.share_sigma or 0.0,
        scale=spec.scale or 0.0,
        value_bits=run.encryption.value_bits,
        rounds=run.rounds,
        parameters=parameters,
        unit=spec.unit,
        records_per_patient=spec.records_per_patient,
    )
    plan.verify()
    claims = (("noise_multiplier", spec.noise_multiplier), ("value_bound", run.encryption.value_bound))
    for name, claimed in claims:
        due = getattr(plan, name)
        if abs(claimed - due) > 1e-6 * due:
            raise ConfigError(
                f"the manifest states {name} {claimed:g}, its other numbers make {due:g}",
                where="privacy plan",
                fix="make the manifest again from the experiment",
            )
    return plan


def mechanism_for(run: RunManifest, plan: AnyPlan, gradients: Gradients) -> Mechanism:
    """Return the mechanism of a run over the gradients of one silo's training records."""
    server = server_optimizer(run.aggregation)
    if isinstance(plan, DistributedPlan):
        from silo.training.distributed import DistributedTrainer

        return DistributedMechanism(DistributedTrainer.over(gradients, plan, run.name), plan, server)
    from silo.training.trainer import LocalTrainer

    codec = FixedPoint(run.encryption.value_bound, run.encryption.value_bits)
    return LocalMechanism(LocalTrainer.over(gradients, plan, run.name), codec, server)

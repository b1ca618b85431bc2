"""An experiment audited on a silo's own records: a release like any other, reserved and charged before it is read.

Canary records, made up from the public schema, are put among the silo's records by fair coins; the experiment trains
for all its rounds with its own constants, and the coins are guessed from the updates.

Invariant: the population's ledger has reserved every step before the first one is taken, and charged a round, durably,
before anything is computed from its update. What the audit returns is computed from charged updates, canaries and coins
alone, so it tells no more about a record than the run itself would; the canaries are nobody's.

The update is read as its strongest receiver could read it: without encryption and without other silos' sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from torch import Tensor

from silo.api import Experiment, Schema
from silo.canonical import digest_of
from silo.errors import UsageError
from silo.ledger import Ledger
from silo.ledger.mechanism import Mechanism, epsilon_of_run
from silo.training.accounting import Plan
from silo.training.audit import MIN_CANARIES, Audit, guesses_for, judge
from silo.training.check import made_up
from silo.training.model import build_model, flatten, torch_generator, trainable, unflatten
from silo.training.trainer import LocalTrainer, to_tensors

PART = "audit"
_MAX_CANARIES = 4_000  # their overlaps are a matrix
_MAX_VALUES = 1 << 26  # canaries x parameters in memory, float64


@dataclass(frozen=True)
class Account:
    """To whom an audit is charged: the population, the audit's own run id, and the digests of code and data."""

    population: str
    run: str
    code_digest: str
    data_digest: str


def price_of(plan: Plan) -> float:
    """Return the epsilon, at ``plan.delta``, that the ledger will hold for an audit of the whole plan."""
    return epsilon_of_run(Mechanism.of(plan.event()), plan.steps, plan.delta)


def audit_release(
    ledger: Ledger,
    account: Account,
    experiment: Experiment,
    plan: Plan,
    data: tuple[Tensor, Tensor],
    schema: Schema,
    *,
    canaries: int,
    seed: int = 0,
    patients: NDArray[np.str_] | None = None,
) -> Audit:
    """Return the audit of ``experiment`` on ``data``, (features (n, ...), targets (n,)), after charging all its steps.

    ``patients``, str (n,), says whose each record is, where the plan protects patients; each canary is one of its own.

    Raises :class:`~silo.errors.BudgetExceeded` before anything is trained if the population's budget does not cover
    the whole plan, and what :class:`~silo.training.trainer.LocalTrainer` raises; what was charged stays charged.
    """
    if not MIN_CANARIES <= canaries <= _MAX_CANARIES or canaries * plan.parameters > _MAX_VALUES:
        fix = f"take {MIN_CANARIES} to {min(_MAX_CANARIES, _MAX_VALUES // plan.parameters)}"
        raise UsageError(f"{canaries} canaries for {plan.parameters} parameters", fix=fix)
    plan.verify()
    reservation = ledger.reserve(
        account.population,
        account.run,
        plan.event(),
        plan.steps,
        delta=plan.delta,
        code_digest=account.code_digest,
        data_digest=account.data_digest,
        unit=plan.unit,
        part=PART,
    )
    try:
        strangers = to_tensors(experiment, made_up(schema, canaries))
        included = (Csprng().uint64(canaries) & np.uint64(1)).astype(np.bool_)
        rows = torch.from_numpy(np.flatnonzero(included))
        features, targets = (torch.cat([ours, theirs[rows]]) for ours, theirs in zip(data, strangers, strict=True))
        owners = patients
        if patients is not None:
            owners = np.concatenate([patients, [f"canary\n{row}" for row in rows.tolist()]])  # no patient's name
        trainer = LocalTrainer(experiment, plan, features, targets, seed=seed, patients=owners)
        weights = flatten(build_model(experiment, seed))
        overlaps, aligned, energy = np.zeros((canaries, canaries)), np.zeros(canaries), 0.0
        for number in range(1, plan.rounds + 1):
            update = trainer.run(weights)
            digest = digest_of(update.vector.astype("<f4").tobytes())
            ledger.charge(reservation, number, 1, update.steps, upload_digest=digest)
            directions = _clipped_gradients(experiment, weights, strangers, plan.clipping_norm, seed)
            overlaps += directions @ directions.T
            change = -update.vector.astype(np.float64)  # descent goes against the gradient
            aligned += directions @ change
            energy += float(change @ change)
            weights = weights + update.vector
        proven = plan.epsilon_after(trainer.steps)
    finally:
        ledger.settle(reservation)
    scores = _unmix(overlaps, aligned, energy, plan)
    return judge(scores, included, proven=proven, delta=plan.delta, guesses=guesses_for(canaries, proven))


def _unmix(
    overlaps: NDArray[np.float64], aligned: NDArray[np.float64], energy: float, plan: Plan
) -> NDArray[np.float64]:
    """Return an estimate of each canary's part in the updates, float64 (m,).

    Canaries of one schema point in similar directions, so an update that moved along one's gradient may have moved for
    another. Ridge regression of the updates on the clipped gradients tells them apart as far as the noise allows; the
    ridge is the best one for fair coins (variance 1/4) under the noise that the updates show where no canary points.
    """
    step = plan.learning_rate / plan.expected_batch
    gain = step * plan.steps_per_round * plan.sample_rate  # how far a canary moves an update along its gradient
    variance = plan.steps_per_round * (step * plan.noise_multiplier * plan.clipping_norm) ** 2
    freedom = plan.rounds * plan.parameters - len(aligned)
    if freedom > 0:
        fitted = np.linalg.lstsq(overlaps, aligned, rcond=1e-10)[0]
        variance = max((energy - float(aligned @ fitted)) / freedom, 1e-9 * variance)
    centred = aligned - gain * overlaps.sum(1) / 2  # half of the canaries are expected to be in
    return np.asarray(np.linalg.solve(overlaps + 4 * variance / gain**2 * np.eye(len(aligned)), centred))


def _clipped_gradients(
    experiment: Experiment, weights: NDArray[np.float32], records: tuple[Tensor, Tensor], norm: float, seed: int
) -> NDArray[np.float64]:
    """Return each record's gradient at ``weights``, clipped, float64 (m, d); 0 where it is not finite."""
    model = build_model(experiment, seed).eval()
    unflatten(model, weights)
    with torch_generator(seed):
        losses = experiment.loss(model(records[0]), records[1])
    parameters = trainable(model)
    found = []
    for position in range(len(losses)):
        parts = torch.autograd.grad(losses[position], parameters, retain_graph=True)
        gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
        length = np.linalg.norm(gradient)
        found.append(gradient * min(1.0, norm / length) if np.isfinite(length) and length > 0 else 0 * weights)
    return np.stack(found)

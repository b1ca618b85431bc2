"""What :mod:`benchmarks.privacy` measures: one model, trained under one mechanism on one split of one data set.

The mechanisms are the product's own objects (:mod:`silo.training`): its sampler, clipping, noise, encoding, accounting
and server step, as a run calls them. Encryption is left out of the loop: a sum of encrypted integers is the sum of the
integers, bit for bit, which other tests and benchmarks show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from silo_crypto.codec import FixedPoint
from silo_policies import AggregationSpec
from torch import Tensor, nn

from silo.api import DistributedDP, Experiment, LocalDP
from silo.data import HOSPITALS, load, split_rows
from silo.demo.baseline import train_plain
from silo.demo.run import shipped_experiment
from silo.training.accounting import make_plan
from silo.training.distributed import DistributedTrainer
from silo.training.distributed_plan import make_distributed_plan
from silo.training.evaluate import scores
from silo.training.mechanism import DistributedMechanism, LocalMechanism, Mechanism
from silo.training.model import build_model, count, flatten
from silo.training.server import ServerOptimizer, server_optimizer
from silo.training.trainer import LocalTrainer, to_tensors

DELTA = 1e-4
SILOS = 8  # of the data sets that have no hospitals of their own
DIRICHLET = 0.5
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """What is tuned: ``rounds`` of one step each, the ``rate`` at which records are sampled, the ``norm`` they are
    clipped to, and the ``step``, learning rate times norm: how far a batch moves the model at most."""

    rounds: int
    rate: float
    norm: float
    step: float

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return self.step / self.norm


GRID = tuple(
    Setting(rounds, rate, norm, step)
    for rounds, rate in ((10, 1.0), (40, 1.0), (20, 0.5))
    for norm in (0.3, 1.0)
    for step in (0.1, 0.4, 1.6)
)


@dataclass(frozen=True)
class Split:
    """One split of one data set: every silo's training records, and the test records of all."""

    train: tuple[Pair, ...]
    test: Pair


@dataclass(frozen=True)
class Data:
    """A data set: its model, and its records by silo. ``records`` is its published size, a public constant."""

    name: str
    experiment: Experiment
    silos: tuple[Pair, ...] | None  # None: dealt anew for each seed
    whole: Pair | None
    records: int

    @property
    def count(self) -> int:
        """How many silos."""
        return SILOS if self.silos is None else len(self.silos)

    @property
    def trained(self) -> float:
        """How many records are trained on, all silos together: three quarters of the published number."""
        return 0.75 * self.records

    def split(self, seed: int) -> Split:
        """Return the split of one seed."""
        silos = self._dealt(seed) if self.silos is None else self.silos
        train, test = [], []
        for features, targets in silos:
            ours, theirs = split_rows(targets.numpy(), seed)
            train.append((features[ours], targets[ours]))
            test.append((features[theirs], targets[theirs]))
        return Split(tuple(train), pooled(test))

    def _dealt(self, seed: int) -> tuple[Pair, ...]:
        """Deal each class to the silos in proportions from a symmetric Dirichlet distribution (Hsu et al. 2019)."""
        assert self.whole is not None
        features, targets = self.whole
        generator = np.random.Generator(np.random.PCG64([seed, 17]))
        owner = np.empty(len(targets), dtype=np.int64)
        for label in np.unique(targets.numpy()):
            rows = generator.permutation(np.flatnonzero(targets.numpy() == label))
            cuts = np.cumsum(generator.dirichlet([DIRICHLET] * SILOS))[:-1] * len(rows)
            for silo, part in enumerate(np.split(rows, cuts.astype(np.int64))):
                owner[part] = silo
        return tuple((features[owner == silo], targets[owner == silo]) for silo in range(SILOS))


def pooled(pairs: Sequence[Pair]) -> Pair:
    """Return the records of several silos as one."""
    return torch.cat([features for features, _ in pairs]), torch.cat([targets for _, targets in pairs])


@lru_cache
def dataset(name: str) -> Data:
    """Return ``heart``, ``breast-cancer`` or ``digits``."""
    if name == "heart":
        from silo.api import load_experiment

        experiment, _ = load_experiment(shipped_experiment())
        silos = tuple(to_tensors(experiment, load(f"uci-heart:{hospital}")) for hospital in sorted(HOSPITALS))
        return Data(name, experiment, silos, None, sum(len(targets) for _, targets in silos))
    from sklearn import datasets

    if name == "breast-cancer":
        raw, labels = datasets.load_breast_cancer(return_X_y=True)
        # These ranges come from the data, which are public; private data would need public ranges.
        scaled = (raw - raw.min(0)) / (raw.max(0) - raw.min(0)) * 2 - 1
        whole = torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(labels).float()
        return Data(name, _experiment(name, _binary, _binary_loss), None, whole, len(labels))
    if name == "digits":
        raw, labels = datasets.load_digits(return_X_y=True)
        whole = torch.from_numpy((raw / 8 - 1).astype(np.float32)), torch.from_numpy(labels).long()
        return Data(name, _experiment(name, _ten, _ten_loss), None, whole, len(labels))
    raise SystemExit(f"there is no data set {name!r}: heart, breast-cancer or digits")


def _binary() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))


def _ten() -> nn.Module:
    return nn.Linear(64, 10)


def _binary_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def _ten_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def _experiment(name: str, model: object, loss: object) -> Experiment:
    privacy = LocalDP(
        epsilon=1, delta=DELTA, clipping_norm=1, sample_rate=1, steps_per_round=1, expected_batch=1, learning_rate=1
    )
    return Experiment(
        name=name,
        purpose="benchmark",
        model=model,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        tensors=lambda records: (torch.empty(0, 1), torch.empty(0)),
        metrics={},
        rounds=1,
        privacy=privacy,
    )


def auc(data: Data, weights: NDArray[np.float32], test: Pair, seed: int) -> float:
    """Return the area under the ROC curve on the test records; of ten classes, the mean of one against the rest."""
    from sklearn.metrics import roc_auc_score

    features, targets = test
    outputs = scores(data.experiment, weights, features, seed=seed)
    if outputs.ndim == 1:
        return float(roc_auc_score(targets.numpy() > 0, outputs))
    return float(np.mean([roc_auc_score(targets.numpy() == k, outputs[:, k]) for k in range(outputs.shape[1])]))


def measure(data: Data, mechanism: str, honest: int, epsilon: float, setting: Setting, seed: int) -> float:
    """Return the AUC of one model: split and initial weights by ``seed``, sampling and noise from the CSPRNG.

    ``mechanism`` is ``none`` (all records together, no privacy), ``central`` (all records at one trusted place),
    ``distributed`` (the noise of ``honest`` silos counts), ``local``, or ``alone`` (each silo by itself, with DP; the
    mean over the silos).
    """
    split = data.split(seed)
    if mechanism == "none":
        return auc(data, train_plain(data.experiment, *pooled(split.train), seed=seed), split.test, seed)
    everywhere = data.trained * setting.rate
    if mechanism == "distributed":
        mechanisms = _distributed(data, honest, epsilon, setting, split, everywhere, seed)
        return auc(data, trained(data, mechanisms, setting.rounds, seed), split.test, seed)
    if mechanism == "central":
        mechanisms = _local(data, epsilon, setting, [pooled(split.train)], everywhere, seed)
        return auc(data, trained(data, mechanisms, setting.rounds, seed), split.test, seed)
    mechanisms = _local(data, epsilon, setting, split.train, everywhere / data.count, seed)
    if mechanism == "local":
        return auc(data, trained(data, mechanisms, setting.rounds, seed), split.test, seed)
    alone = [auc(data, trained(data, [each], setting.rounds, seed), split.test, seed) for each in mechanisms]
    return float(np.mean(alone))


def trained(data: Data, mechanisms: Sequence[Mechanism], rounds: int, seed: int) -> NDArray[np.float32]:
    """Return the weights after all rounds: every silo contributes, the integers are added, one silo's step is taken."""
    weights = flatten(build_model(data.experiment, seed))
    for _ in range(rounds):
        sums = np.zeros(len(weights), dtype=np.int64)
        for mechanism in mechanisms:
            sums += mechanism.contribute(weights).values
        weights = mechanisms[0].apply(weights, sums, len(mechanisms))
    return weights


def _local(
    data: Data, epsilon: float, setting: Setting, parts: Sequence[Pair], batch: float, seed: int
) -> list[Mechanism]:
    privacy = LocalDP(
        epsilon=epsilon,
        delta=DELTA,
        clipping_norm=setting.norm,
        sample_rate=setting.rate,
        steps_per_round=1,
        expected_batch=batch,
        learning_rate=setting.learning_rate,
    )
    plan = make_plan(privacy, setting.rounds, count(build_model(data.experiment, 0)))
    # Room for the largest batch there may be and ten deviations of the noise: nothing is cut off.
    bound = setting.learning_rate * setting.norm * (10 + 10 * plan.noise_multiplier / batch)
    return [
        LocalMechanism(LocalTrainer(data.experiment, plan, *part, seed=seed), FixedPoint(bound, 24), average())
        for part in parts
    ]


def _distributed(
    data: Data, honest: int, epsilon: float, setting: Setting, split: Split, batch: float, seed: int
) -> list[Mechanism]:
    privacy = DistributedDP(
        epsilon=epsilon,
        delta=DELTA,
        clipping_norm=setting.norm,
        sample_rate=setting.rate,
        expected_batch=batch,
        learning_rate=setting.learning_rate,
        minimum_silos=data.count,
        colluders=data.count - honest,
    )
    plan = make_distributed_plan(privacy, setting.rounds, count(build_model(data.experiment, 0)), 16)
    return [
        DistributedMechanism(DistributedTrainer(data.experiment, plan, *part, seed=seed), plan, average())
        for part in split.train
    ]


def average() -> ServerOptimizer:
    return server_optimizer(AggregationSpec(rule="fedavg", weighting="uniform"))

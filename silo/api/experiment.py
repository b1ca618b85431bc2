"""The experiment: what is trained, on what, for which purpose, with which privacy and encryption.

Invariant: an :class:`Experiment` that exists is well formed. Every field is checked where the object is built, and the
error names the field, what it holds and what to change. What needs a model or a tensor to check (BatchNorm, losses
that mix records) is checked by :mod:`silo.training.check`, because only training imports torch.

The numbers in :class:`LocalDP` are public constants of the signed run manifest; none may be derived from how many
records a silo holds (PROTOCOL section 5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from silo.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from silo.api.records import Records

    Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
METRIC_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
Release = Literal["model", "metrics", "records"]
Custody = Literal["shared", "threshold"]
Weighting = Literal["uniform", "examples"]
RELEASES: tuple[Release, ...] = get_args(Release)

# Bounds on what is accepted at all; a silo's policy is where institutions set what they allow. Above these an
# epsilon or delta promises nothing, and below MIN_DELTA the distance of our noise from an exact Gaussian
# (silo.training.noise) would show in delta.
MAX_EPSILON = 20.0
MAX_DELTA = 1e-2
MIN_DELTA = 1e-9
MAX_ROUNDS = 10_000
MAX_STEPS = 1_000_000


def _reject(owner: str, field: str, value: object, wants: str) -> ConfigError:
    return ConfigError(f"{field} is {value!r}", where=owner, fix=f"{field} must be {wants}")


def _number(owner: str, field: str, value: object, wants: str, low: float, high: float) -> None:
    """Accept a real number with low < value <= high; NaN, infinities and booleans are not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _reject(owner, field, value, wants)
    if not low < value <= high:
        raise _reject(owner, field, value, wants)


def _integer(owner: str, field: str, value: object, wants: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _reject(owner, field, value, wants)


@dataclass(frozen=True)
class LocalDP:
    """DP-SGD inside each silo: (epsilon, delta) per record under add/remove adjacency, for the whole run.

    Each of a round's ``steps_per_round`` steps includes every record independently with probability ``sample_rate``,
    clips its gradient to L2 norm ``clipping_norm``, adds Gaussian noise to the sum, divides by ``expected_batch`` and
    takes a plain gradient step of ``learning_rate``. The noise multiplier is calibrated from the rest
    (:mod:`silo.training.accounting`). ``expected_batch`` is the same public number at every silo, never a count of
    records. Holds even if the encryption is broken. Source: Abadi et al. 2016; PROTOCOL section 5.
    """

    epsilon: float
    delta: float
    clipping_norm: float
    sample_rate: float
    steps_per_round: int
    expected_batch: float
    learning_rate: float
    unit: Literal["record"] = "record"

    mechanism = "local-dp"
    adjacency = "add-remove"

    def __post_init__(self) -> None:
        owner = "LocalDP"
        _number(owner, "epsilon", self.epsilon, f"above 0 and at most {MAX_EPSILON:g}", 0, MAX_EPSILON)
        wants = f"at least {MIN_DELTA:g} and at most {MAX_DELTA:g}, and far below 1/records"
        _number(owner, "delta", self.delta, wants, MIN_DELTA * (1 - 1e-12), MAX_DELTA)
        wants = "above 1e-6 and at most 1e6 (an L2 norm, often 0.1 to 10)"
        _number(owner, "clipping_norm", self.clipping_norm, wants, 1e-6, 1e6)
        _number(
            owner, "sample_rate", self.sample_rate, "above 0 and at most 1 (1 takes every record in each step)", 0, 1
        )
        _integer(owner, "steps_per_round", self.steps_per_round, f"a whole number from 1 to {MAX_STEPS}", 1, MAX_STEPS)
        wants = "above 0: a public guess of sample_rate x records of one silo, not a count of its data"
        _number(owner, "expected_batch", self.expected_batch, wants, 0, 1e9)
        _number(owner, "learning_rate", self.learning_rate, "above 0", 0, 1e6)
        if self.unit != "record":
            raise _reject(owner, "unit", self.unit, "'record': LocalDP protects one record")


@dataclass(frozen=True)
class Encryption:
    """Who can open the aggregate, and how updates become integers.

    ``value_bits`` integers cover [-value_bound, value_bound] (the unit is that of a model weight); larger values are
    cut off before encryption. ``threshold`` is how many silos must act together to open a sum (custody "threshold").
    """

    custody: Custody = "shared"
    value_bits: int = 16
    value_bound: float = 1.0
    threshold: int | None = None

    def __post_init__(self) -> None:
        owner = "Encryption"
        if self.custody not in get_args(Custody):
            raise _reject(owner, "custody", self.custody, "'shared' or 'threshold'")
        _integer(owner, "value_bits", self.value_bits, "a whole number from 8 to 24", 8, 24)
        wants = "above 0: the largest change of one weight in one round that is kept"
        _number(owner, "value_bound", self.value_bound, wants, 0, 1e6)
        if self.custody == "shared" and self.threshold is not None:
            raise _reject(
                owner, "threshold", self.threshold, "left out with custody 'shared', where any silo holds the key"
            )
        if self.threshold is not None:
            wants = "a whole number of at least 2: how many silos open a sum together"
            _integer(owner, "threshold", self.threshold, wants, 2, 1024)


@dataclass(frozen=True)
class FedAvg:
    """Average of the silos' updates (McMahan et al. 2017).

    "uniform" weighs every silo alike; with LocalDP's constant ``expected_batch`` that already counts every record
    alike. "examples" weighs by record counts, which are a release: each silo's policy has to allow it.
    """

    weighting: Weighting = "uniform"

    rule = "fedavg"

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise _reject("FedAvg", "weighting", self.weighting, "'uniform' or 'examples'")


@dataclass(frozen=True)
class Experiment:
    """One federated training run as the researcher describes it; see ``examples/heart/experiment.py``.

    - ``model()`` returns a ``torch.nn.Module`` with float32 parameters, built from torch's generator only;
    - ``tensors(records)`` returns (features (n, d), targets (n,)), row i made from record i alone;
    - ``loss(outputs, targets)`` returns one loss per record, shape (n,);
    - ``metrics[name](scores, labels)`` returns a number from model outputs and targets, both ndarrays of shape (n,);
    - ``releases`` says what leaves the silos in the clear: any of "model", "metrics", "records" (their counts).

    Raises :class:`~silo.errors.ConfigError` where it is built.
    """

    name: str
    purpose: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    tensors: Callable[[Records], tuple[Tensor, Tensor]]
    metrics: Mapping[str, Metric]
    rounds: int
    privacy: LocalDP
    encryption: Encryption = Encryption()
    aggregation: FedAvg = FedAvg()
    releases: Collection[Release] = RELEASES

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise _reject("Experiment", "name", self.name, "1 to 64 of a-z, 0-9 and '-', not beginning with '-'")
        owner = f"Experiment {self.name!r}"
        if not isinstance(self.purpose, str) or not NAME.fullmatch(self.purpose):
            wants = "a purpose as the silos' policies name it, such as 'heart-disease-research' (a-z, 0-9 and '-')"
            raise _reject(owner, "purpose", self.purpose, wants)
        for field in ("model", "loss", "tensors"):
            if not callable(getattr(self, field)):
                wants = "a function" + (" that returns a new model, not a model" if field == "model" else "")
                raise _reject(owner, field, type(getattr(self, field)).__name__, wants)
        self._check_metrics(owner)
        _integer(owner, "rounds", self.rounds, f"a whole number from 1 to {MAX_ROUNDS}", 1, MAX_ROUNDS)
        for field, kind in (("privacy", LocalDP), ("encryption", Encryption), ("aggregation", FedAvg)):
            if not isinstance(getattr(self, field), kind):
                raise _reject(owner, field, type(getattr(self, field)).__name__, f"a {kind.__name__}(...)")
        if self.rounds * self.privacy.steps_per_round > MAX_STEPS:
            wants = f"such that rounds x steps_per_round is at most {MAX_STEPS}"
            raise _reject(owner, "rounds", self.rounds, wants)
        if isinstance(self.releases, str) or not isinstance(self.releases, Collection):
            raise _reject(owner, "releases", self.releases, f"a list of any of: {', '.join(RELEASES)}")
        unknown = [release for release in self.releases if release not in RELEASES]
        if unknown:
            raise _reject(owner, "releases", unknown[0], f"made of: {', '.join(RELEASES)}")
        object.__setattr__(self, "releases", tuple(sorted(set(self.releases))))

    def _check_metrics(self, owner: str) -> None:
        if not isinstance(self.metrics, Mapping):
            raise _reject(owner, "metrics", type(self.metrics).__name__, "a mapping from a name to a function")
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
                raise _reject(owner, "metrics", name, "named by 1 to 32 of a-z, 0-9, '_' and '-'")
            if not callable(metric):
                raise _reject(owner, f"metrics[{name!r}]", type(metric).__name__, "a function of (scores, labels)")

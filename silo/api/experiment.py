"""The experiment: what is trained, on what, for which purpose, with which privacy and encryption.

Invariant: an :class:`Experiment` that exists is well formed. Every field is checked where the object is built, and the
error names the field, what it holds and what to change. What needs a model or a tensor to check (BatchNorm, losses
that mix records) is checked by :mod:`silo.training.check`, because only training imports torch.

The numbers in :class:`LocalDP` and :class:`DistributedDP` are public constants of the signed run manifest; none may be
derived from how many records a silo holds (PROTOCOL section 5).
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
Unit = Literal["record", "patient"]
RELEASES: tuple[Release, ...] = get_args(Release)

# Bounds on what is accepted at all; a silo's policy is where institutions set what they allow. Above these an
# epsilon or delta promises nothing, and below MIN_DELTA the distance of our noise from an exact Gaussian
# (silo.training.noise) would show in delta.
MAX_EPSILON = 20.0
MAX_DELTA = 1e-2
MIN_DELTA = 1e-9
MAX_ROUNDS = 10_000
MAX_STEPS = 1_000_000
# A noise share narrower than 4 steps of its integers is no longer nearly Gaussian; wider than 2048, a 16-bit field
# would hold little but noise.
MIN_SHARE_SIGMA, MAX_SHARE_SIGMA = 4.0, 2048.0
# A patient with more records than this has them cut off: a batch has to fit the memory whoever is in it.
MAX_RECORDS_PER_PATIENT = 4096


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
    """DP-SGD inside each silo: (epsilon, delta) per ``unit`` under add/remove adjacency, for the whole run.

    Each of a round's ``steps_per_round`` steps includes every record independently with probability ``sample_rate``,
    clips its gradient to L2 norm ``clipping_norm``, adds Gaussian noise to the sum, divides by ``expected_batch`` and
    takes a plain gradient step of ``learning_rate``. The noise multiplier is calibrated from the rest
    (:mod:`silo.training.accounting`). ``expected_batch`` is the same public number at every silo, never a count of
    records. Holds even if the encryption is broken. Source: Abadi et al. 2016; PROTOCOL section 5.

    With ``unit="patient"`` read "patient" for "record": patients are sampled, and the sum of the gradients of at most
    ``records_per_patient`` of one's records is clipped once. The silo's ``data.toml`` says which column names patients.
    """

    epsilon: float
    delta: float
    clipping_norm: float
    sample_rate: float
    steps_per_round: int
    expected_batch: float
    learning_rate: float
    unit: Unit = "record"
    records_per_patient: int | None = None

    mechanism = "local-dp"
    adjacency = "add-remove"

    def __post_init__(self) -> None:
        owner = "LocalDP"
        _check_constants(owner, self)
        _integer(owner, "steps_per_round", self.steps_per_round, f"a whole number from 1 to {MAX_STEPS}", 1, MAX_STEPS)
        wants = "above 0: a public guess of sample_rate x records of one silo, not a count of its data"
        _number(owner, "expected_batch", self.expected_batch, wants, 0, 1e9)


@dataclass(frozen=True)
class DistributedDP:
    """Central DP-SGD without a centre: every silo adds a share of the noise, and only the sum is ever opened.

    Each round is one step. Every silo includes each of its records with probability ``sample_rate``, clips each one's
    gradient to L2 norm ``clipping_norm``, and sends the sum with a noise share inside the encryption (with
    ``unit="patient"`` each patient's, as in :class:`LocalDP`). The shares of
    ``minimum_silos`` - ``colluders`` silos make the noise that (epsilon, delta) is proven with, per ``unit`` under
    add/remove adjacency, for the whole run: ``minimum_silos`` uploads are in every sum that is opened, and up to
    ``colluders`` of those silos may have pooled what they know, or sent no noise. The sum is divided by
    ``expected_batch``, a public guess of sample_rate x the records of all silos together, and the server optimiser
    takes the step of ``learning_rate``.

    Needs threshold custody: whoever holds a shared key could open one upload, which carries one share of noise only.
    ``colluders`` is at least threshold - 1. ``share_sigma`` is the width of one share in steps of the integers that
    are encrypted. Source: PROTOCOL section 5, "DistributedDP".
    """

    epsilon: float
    delta: float
    clipping_norm: float
    sample_rate: float
    expected_batch: float
    learning_rate: float
    minimum_silos: int
    colluders: int = 1
    share_sigma: float = 32.0
    unit: Unit = "record"
    records_per_patient: int | None = None

    mechanism = "distributed-dp"
    adjacency = "add-remove"
    steps_per_round = 1

    def __post_init__(self) -> None:
        owner = "DistributedDP"
        _check_constants(owner, self)
        wants = "above 0: a public guess of sample_rate x records of all silos, not a count of data"
        _number(owner, "expected_batch", self.expected_batch, wants, 0, 1e9)
        wants = "a whole number from 3 to 128: no sum of fewer silos is opened"
        _integer(owner, "minimum_silos", self.minimum_silos, wants, 3, 128)
        wants = f"a whole number from 1 to {self.minimum_silos - 1}: somebody's noise has to be left"
        _integer(owner, "colluders", self.colluders, wants, 1, self.minimum_silos - 1)
        wants = f"at least {MIN_SHARE_SIGMA:g} and at most {MAX_SHARE_SIGMA:g}"
        _number(owner, "share_sigma", self.share_sigma, wants, MIN_SHARE_SIGMA * (1 - 1e-12), MAX_SHARE_SIGMA)

    @property
    def honest(self) -> int:
        """h: the silos whose noise is counted on."""
        return self.minimum_silos - self.colluders


Privacy = LocalDP | DistributedDP


def _check_constants(owner: str, privacy: Privacy) -> None:
    """Check what both mechanisms have."""
    _number(owner, "epsilon", privacy.epsilon, f"above 0 and at most {MAX_EPSILON:g}", 0, MAX_EPSILON)
    wants = f"at least {MIN_DELTA:g} and at most {MAX_DELTA:g}, and far below 1/records"
    _number(owner, "delta", privacy.delta, wants, MIN_DELTA * (1 - 1e-12), MAX_DELTA)
    wants = "above 1e-6 and at most 1e6 (an L2 norm, often 0.1 to 10)"
    _number(owner, "clipping_norm", privacy.clipping_norm, wants, 1e-6, 1e6)
    wants = "above 0 and at most 1 (1 takes every record in each step)"
    _number(owner, "sample_rate", privacy.sample_rate, wants, 0, 1)
    _number(owner, "learning_rate", privacy.learning_rate, "above 0", 0, 1e6)
    if privacy.unit not in get_args(Unit):
        raise _reject(owner, "unit", privacy.unit, "'record' or 'patient': whom epsilon protects")
    most = privacy.records_per_patient
    if privacy.unit == "record":
        if most is not None:
            raise _reject(owner, "records_per_patient", most, "left out with unit 'record'")
        return
    wants = f"a whole number from 1 to {MAX_RECORDS_PER_PATIENT}: how many records of one patient count"
    _integer(owner, "records_per_patient", most, wants, 1, MAX_RECORDS_PER_PATIENT)


@dataclass(frozen=True)
class Encryption:
    """Who can open the aggregate, and how updates become integers.

    ``value_bits`` integers cover [-value_bound, value_bound] (the unit is that of a model weight); larger values are
    cut off before encryption. With :class:`DistributedDP` it is left out: the noise sets the scale of the integers.
    ``threshold`` is how many silos must act together to open a sum (custody "threshold").
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
    """Average of the silos' updates, taken as the step (McMahan et al. 2017).

    "uniform" weighs every silo alike; with LocalDP's constant ``expected_batch`` that already counts every record
    alike. "examples" weighs by record counts, which are a release: each silo's policy has to allow it.
    """

    weighting: Weighting = "uniform"

    rule = "fedavg"

    def __post_init__(self) -> None:
        _check_weighting("FedAvg", self.weighting)


@dataclass(frozen=True)
class FedAvgM:
    """FedAvg with momentum at the server (Hsu, Qi, Brown 2019): v <- momentum v + update; w <- w + learning_rate v."""

    momentum: float = 0.9
    learning_rate: float = 1.0
    weighting: Weighting = "uniform"

    rule = "fedavgm"

    def __post_init__(self) -> None:
        _number("FedAvgM", "momentum", self.momentum, "above 0 and below 1", 0, 1 - 1e-9)
        _number("FedAvgM", "learning_rate", self.learning_rate, "above 0", 0, 1e6)
        _check_weighting("FedAvgM", self.weighting)


@dataclass(frozen=True)
class FedAdam:
    """Adaptive steps at the server (Reddi et al. 2021, algorithm 2).

    m <- beta1 m + (1 - beta1) update; v <- beta2 v + (1 - beta2) update^2; w <- w + learning_rate m / (sqrt(v) + tau).
    m and v start at 0, without bias correction.
    """

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    weighting: Weighting = "uniform"

    rule = "fedadam"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for field in ("beta1", "beta2"):
            _number(owner, field, getattr(self, field), "at least 0 and below 1", -1e-300, 1 - 1e-9)
        _number(owner, "learning_rate", self.learning_rate, "above 0", 0, 1e6)
        _number(owner, "tau", self.tau, "above 0: it keeps steps small where updates are", 0, 1e6)
        _check_weighting(owner, self.weighting)


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """FedAdam whose v moves by a bounded step: v <- v - (1 - beta2) update^2 sign(v - update^2) (Reddi et al. 2021)."""

    rule = "fedyogi"


Aggregation = FedAvg | FedAvgM | FedAdam | FedYogi


def _check_weighting(owner: str, weighting: object) -> None:
    if weighting not in get_args(Weighting):
        raise _reject(owner, "weighting", weighting, "'uniform' or 'examples'")


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
    privacy: Privacy
    encryption: Encryption = Encryption()
    aggregation: Aggregation = FedAvg()
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
        for field, kind in (("privacy", Privacy), ("encryption", Encryption), ("aggregation", Aggregation)):
            if not isinstance(getattr(self, field), kind):
                wants = " or ".join(f"{each.__name__}(...)" for each in get_args(kind) or (kind,))
                raise _reject(owner, field, type(getattr(self, field)).__name__, f"a {wants}")
        self._check_distributed(owner)
        if self.rounds * self.privacy.steps_per_round > MAX_STEPS:
            wants = f"such that rounds x steps_per_round is at most {MAX_STEPS}"
            raise _reject(owner, "rounds", self.rounds, wants)
        if isinstance(self.releases, str) or not isinstance(self.releases, Collection):
            raise _reject(owner, "releases", self.releases, f"a list of any of: {', '.join(RELEASES)}")
        unknown = [release for release in self.releases if release not in RELEASES]
        if unknown:
            raise _reject(owner, "releases", unknown[0], f"made of: {', '.join(RELEASES)}")
        object.__setattr__(self, "releases", tuple(sorted(set(self.releases))))

    def _check_distributed(self, owner: str) -> None:
        privacy, encryption = self.privacy, self.encryption
        if not isinstance(privacy, DistributedDP):
            return
        if encryption.custody != "threshold":
            raise _reject(
                f"{owner}, encryption",
                "custody",
                encryption.custody,
                "'threshold' with DistributedDP: any silo that holds a shared key could open one upload alone, and "
                "one upload carries one share of the noise only",
            )
        if encryption.threshold is not None and privacy.colluders < encryption.threshold - 1:
            raise _reject(
                f"{owner}, privacy",
                "colluders",
                privacy.colluders,
                f"at least {encryption.threshold - 1}: threshold custody holds against so many silos, and so must the "
                "noise",
            )
        if encryption.value_bound != Encryption.value_bound:
            raise _reject(
                f"{owner}, encryption",
                "value_bound",
                encryption.value_bound,
                "left out with DistributedDP: the noise sets the scale",
            )
        if self.aggregation.weighting != "uniform":
            raise _reject(f"{owner}, aggregation", "weighting", "examples", "'uniform' with DistributedDP")

    def _check_metrics(self, owner: str) -> None:
        if not isinstance(self.metrics, Mapping):
            raise _reject(owner, "metrics", type(self.metrics).__name__, "a mapping from a name to a function")
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
                raise _reject(owner, "metrics", name, "named by 1 to 32 of a-z, 0-9, '_' and '-'")
            if not callable(metric):
                raise _reject(owner, f"metrics[{name!r}]", type(metric).__name__, "a function of (scores, labels)")

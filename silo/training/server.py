"""Server optimisers that run at every silo: the step from the opened update to the next model.

Invariant: the step is a function of the manifest's numbers and of every sum opened so far, in float64 and in one fixed
order of operations that IEEE 754 rounds alike everywhere (+, -, x, /, square root; no reductions, no BLAS, no torch).
So silos on different machines hold models that are equal bit for bit, and the aggregator needs none.

Post-processing of what was opened: no further privacy cost. Sources: Hsu, Qi, Brown 2019 (FedAvgM); Reddi et al. 2021,
algorithm 2 (FedAdam, FedYogi).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from silo_policies import AggregationSpec

from silo.api import Aggregation, FedAdam, FedAvg, FedAvgM, FedYogi
from silo.errors import ConfigError

Model = NDArray[np.float32]
Update = NDArray[np.float32] | NDArray[np.float64]
State = dict[str, NDArray[np.float64]]
_CHUNK = 1 << 16  # float64 copies of models of any length stay in the cache


class ServerOptimizer(Protocol):
    """Takes one step per opened sum; keeps state from step to step."""

    def step(self, model: Model, update: Update) -> Model:
        """Return the next model, float32 (d,), from this one and the average update, float32 or float64 (d,)."""
        ...

    def state(self) -> State:
        """Return what it keeps from step to step: float64 arrays (d,) by name; none before the first step."""
        ...

    def resume(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Go on from what :meth:`state` gave."""
        ...


class _Average:
    def state(self) -> State:
        return {}

    def resume(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """There is nothing to go on with."""

    def step(self, model: Model, update: Update) -> Model:
        return _moved(model, update)


class _Momentum:
    def __init__(self, learning_rate: float, momentum: float) -> None:
        self._rate, self._momentum = learning_rate, momentum
        self._velocity: NDArray[np.float64] | None = None

    def state(self) -> State:
        return {} if self._velocity is None else {"velocity": self._velocity}

    def resume(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        self._velocity = state.get("velocity")

    def step(self, model: Model, update: Update) -> Model:
        delta = update.astype(np.float64)
        self._velocity = delta if self._velocity is None else self._momentum * self._velocity + delta
        return _moved(model, self._rate * self._velocity)


class _Adaptive:
    def __init__(self, learning_rate: float, beta1: float, beta2: float, tau: float, *, yogi: bool) -> None:
        self._rate, self._beta1, self._beta2, self._tau, self._yogi = learning_rate, beta1, beta2, tau, yogi
        self._m: NDArray[np.float64] | None = None
        self._v: NDArray[np.float64] | None = None

    def state(self) -> State:
        return {} if self._m is None or self._v is None else {"m": self._m, "v": self._v}

    def resume(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        self._m, self._v = state.get("m"), state.get("v")

    def step(self, model: Model, update: Update) -> Model:
        delta = update.astype(np.float64)
        square = delta * delta
        m = np.zeros(len(delta)) if self._m is None else self._m
        v = np.zeros(len(delta)) if self._v is None else self._v
        self._m = self._beta1 * m + (1 - self._beta1) * delta
        if self._yogi:
            self._v = v - (1 - self._beta2) * (square * np.sign(v - square))
        else:
            self._v = self._beta2 * v + (1 - self._beta2) * square
        return _moved(model, self._rate * self._m / (np.sqrt(self._v) + self._tau))


def _moved(model: Model, step: Update) -> Model:
    moved = np.empty(len(model), dtype=np.float32)
    with np.errstate(over="ignore"):  # an infinite weight is refused, by name, where the model is used
        for start in range(0, len(model), _CHUNK):
            part = slice(start, start + _CHUNK)
            moved[part] = model[part].astype(np.float64) + step[part]
    return moved


def aggregation_spec(aggregation: Aggregation) -> AggregationSpec:
    """Return what the run manifest says of an experiment's aggregation; refuse what no silo would do."""
    _check_weighting(aggregation.weighting)
    if isinstance(aggregation, FedAvgM):
        numbers = {"learning_rate": aggregation.learning_rate, "momentum": aggregation.momentum}
    elif isinstance(aggregation, FedAdam):
        numbers = {name: getattr(aggregation, name) for name in ("learning_rate", "beta1", "beta2", "tau")}
    else:
        numbers = {}
    numbers = {name: float(value) for name, value in numbers.items()}
    return AggregationSpec(rule=aggregation.rule, weighting=aggregation.weighting, **numbers)


def server_optimizer(spec: AggregationSpec) -> ServerOptimizer:
    """Return the optimiser of a signed manifest, at its beginning; refuse a rule that there is none for."""
    _check_weighting(spec.weighting)
    match spec:
        case AggregationSpec(rule=FedAvg.rule):
            return _Average()
        case AggregationSpec(rule=FedAvgM.rule, learning_rate=float(rate), momentum=float(momentum)):
            return _Momentum(rate, momentum)
        case AggregationSpec(
            rule=(FedAdam.rule | FedYogi.rule) as rule,
            learning_rate=float(rate),
            beta1=float(beta1),
            beta2=float(beta2),
            tau=float(tau),
        ):
            return _Adaptive(rate, beta1, beta2, tau, yogi=rule == FedYogi.rule)
    raise ConfigError(f"there is no aggregation {spec.rule!r}", where="run manifest", fix="see silo.api for the rules")


def _check_weighting(weighting: str) -> None:
    if weighting != "uniform":
        # Weights would have to be applied before encryption and their sum be public; no mechanism does so yet.
        raise ConfigError(f"weighting {weighting!r} is not built", where="aggregation", fix="use weighting='uniform'")

"""Every silo takes the same step: the formulas, digit for digit, in every thread and process."""

import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from silo_policies import AggregationSpec
from silo_policies.errors import DocumentError
from silo_policies.signing import parse_body

from silo.api import Aggregation, FedAdam, FedAvg, FedAvgM, FedYogi
from silo.errors import ConfigError
from silo.training.server import aggregation_spec, server_optimizer

ALL: list[Aggregation] = [
    FedAvg(),
    FedAvgM(momentum=0.7, learning_rate=0.3),
    FedAdam(learning_rate=0.05, beta1=0.8, beta2=0.95, tau=1e-3),
    FedYogi(learning_rate=0.05, beta1=0.8, beta2=0.95, tau=1e-3),
]
NAMES = [type(each).__name__ for each in ALL]


def by_hand(one: Aggregation, model: list[float], updates: list[list[float]]) -> list[float]:
    """The papers' formulas in Python's own floats, weight by weight; float32 after every step."""
    weights, m, v = list(model), [0.0] * len(model), [0.0] * len(model)
    for update in updates:
        for i, delta in enumerate(update):
            step = delta
            if isinstance(one, FedAvgM):
                m[i] = one.momentum * m[i] + delta
                step = one.learning_rate * m[i]
            elif isinstance(one, FedAdam):
                square = delta * delta
                m[i] = one.beta1 * m[i] + (1 - one.beta1) * delta
                if isinstance(one, FedYogi):
                    sign = (v[i] > square) - (v[i] < square)
                    v[i] = v[i] - (1 - one.beta2) * (square * sign)
                else:
                    v[i] = one.beta2 * v[i] + (1 - one.beta2) * square
                step = one.learning_rate * m[i] / (math.sqrt(v[i]) + one.tau)
            weights[i] = float(np.float32(weights[i] + step))
    return weights


def sequence(d: int = 50, rounds: int = 6) -> tuple[np.ndarray, list[np.ndarray]]:
    generator = np.random.Generator(np.random.PCG64(3))
    model = generator.normal(size=d).astype(np.float32)
    updates = [generator.normal(size=d) * 10.0 ** generator.uniform(-6, 2, d) for _ in range(rounds)]
    updates[2][:5] = 0.0
    return model, updates


def run(one: Aggregation, *, single: bool = False) -> np.ndarray:
    model, updates = sequence()
    server = server_optimizer(aggregation_spec(one))
    for update in updates:
        model = server.step(model, update.astype(np.float32) if single else update)
    return model


@pytest.mark.parametrize("one", ALL, ids=NAMES)
@pytest.mark.parametrize("single", [False, True])
def test_a_step_is_the_papers_formula_to_the_last_bit(one: Aggregation, single: bool) -> None:
    model, updates = sequence()
    given = [update.astype(np.float32).astype(np.float64) if single else update for update in updates]
    found = run(one, single=single)
    assert found.dtype == np.float32
    assert found.tolist() == by_hand(one, model.tolist(), [update.tolist() for update in given])


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_threads_and_processes_hold_the_same_model_bit_for_bit(one: Aggregation) -> None:
    wanted = run(one).tobytes()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(run(one).tobytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4
    program = (
        "import sys; from silo.api import *; from tests.unit.training.test_server_optimizers import run;"
        f"sys.stdout.write(run({one!r}).tobytes().hex())"
    )
    root = Path(__file__).parents[3]
    for threads_of_numpy in ("1", "4"):
        environment = {"OMP_NUM_THREADS": threads_of_numpy, "PATH": "", "HOME": str(root)}
        child = subprocess.run(
            [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert bytes.fromhex(child.stdout) == wanted


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_a_spec_travels_through_the_manifest_unchanged(one: Aggregation) -> None:
    spec = aggregation_spec(one)
    assert AggregationSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.rule == type(one).__name__.lower()


def test_averaging_adds_the_update_in_float32_once() -> None:
    model = np.array([1.0, 2.0], dtype=np.float32)
    assert server_optimizer(aggregation_spec(FedAvg())).step(model, np.array([0.5, -4.0])).tolist() == [1.5, -2.0]
    assert model.tolist() == [1.0, 2.0]


def test_a_step_beyond_float32_is_infinite_and_silent() -> None:
    """The model's own check then refuses it by name (silo.training.model.unflatten)."""
    model = server_optimizer(aggregation_spec(FedAvg())).step(np.zeros(1, dtype=np.float32), np.array([1e300]))
    assert np.isinf(model).all()


def test_unknown_rules_and_missing_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="no aggregation 'median'"):
        server_optimizer(AggregationSpec(rule="median", weighting="uniform"))
    for rule, numbers in (("fedavg", {"momentum": 0.9}), ("fedavgm", {}), ("fedadam", {"learning_rate": 1.0})):
        with pytest.raises(DocumentError, match="the rule fed"):
            parse_body(AggregationSpec, {"rule": rule, "weighting": "uniform", **numbers}, where="test")


def test_weights_that_nobody_would_apply_are_refused_before_a_run_and_in_it() -> None:
    with pytest.raises(ConfigError, match="not built"):
        aggregation_spec(FedAvg(weighting="examples"))
    with pytest.raises(ConfigError, match="not built"):
        server_optimizer(AggregationSpec(rule="fedavg", weighting="examples"))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (FedAvgM, "momentum", 1.0),
        (FedAvgM, "momentum", -0.1),
        (FedAvgM, "learning_rate", 0.0),
        (FedAdam, "beta1", 1.0),
        (FedAdam, "beta2", -0.1),
        (FedYogi, "tau", 0.0),
        (FedYogi, "learning_rate", math.nan),
        (FedAdam, "weighting", "secret"),
    ],
)
def test_numbers_that_make_no_step_are_refused(kind: type, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        kind(**{field: value})

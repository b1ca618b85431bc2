"""An experiment that exists is well formed, and what is wrong with one is said in words that help."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest

import silo
import silo.client
from silo.api import Encryption, Experiment, FedAvg, LocalDP
from silo.errors import ConfigError

PRIVACY: dict[str, Any] = {
    "epsilon": 3.0,
    "delta": 1e-4,
    "clipping_norm": 1.0,
    "sample_rate": 0.5,
    "steps_per_round": 1,
    "expected_batch": 75,
    "learning_rate": 1.0,
}


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "heart",
        "purpose": "heart-research",
        "model": lambda: None,
        "loss": lambda outputs, targets: None,
        "tensors": lambda records: None,
        "metrics": {},
        "rounds": 3,
        "privacy": LocalDP(**PRIVACY),
    }
    return Experiment(**{**fields, **changes})


def test_defaults_are_shared_custody_uniform_weights_and_all_releases() -> None:
    made = experiment()
    assert made.encryption == Encryption(custody="shared", value_bits=16)
    assert made.aggregation == FedAvg("uniform")
    assert made.releases == ("metrics", "model", "records")
    assert (made.privacy.mechanism, made.privacy.adjacency, made.privacy.unit) == ("local-dp", "add-remove", "record")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", -1.0),
        ("epsilon", 0),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("epsilon", 1000.0),
        ("epsilon", True),
        ("epsilon", "3"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", 0.5),
        ("delta", -1e-5),
        ("delta", math.nan),
        ("clipping_norm", 0),
        ("clipping_norm", math.inf),
        ("sample_rate", 0),
        ("sample_rate", 1.01),
        ("sample_rate", math.nan),
        ("steps_per_round", 0),
        ("steps_per_round", 1.5),
        ("steps_per_round", True),
        ("expected_batch", 0),
        ("learning_rate", -0.1),
        ("unit", "household"),
    ],
)
def test_a_privacy_number_out_of_range_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        LocalDP(**{**PRIVACY, field: value})
    assert caught.value.what == f"{field} is {value!r}"
    assert caught.value.fix.startswith(field)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("field", "value"), [("sample_rate", 1), ("sample_rate", 1e-9), ("delta", 1e-9), ("epsilon", 20)]
)
def test_the_ends_of_the_ranges_are_accepted(field: str, value: float) -> None:
    assert getattr(LocalDP(**{**PRIVACY, field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Heart Disease"),
        ("name", ""),
        ("name", "-x"),
        ("name", "a" * 65),
        ("name", 7),
        ("purpose", "  "),
        ("purpose", None),
        ("model", "a model"),
        ("loss", None),
        ("tensors", 3),
        ("metrics", [len]),
        ("rounds", 0),
        ("rounds", 2.0),
        ("rounds", 10_001),
        ("privacy", {"epsilon": 3}),
        ("encryption", "shared"),
        ("aggregation", None),
        ("releases", "model"),
        ("releases", ["weights"]),
        ("releases", None),
    ],
)
def test_a_field_of_an_experiment_that_cannot_be_used_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        experiment(**{field: value})


def test_metrics_need_names_and_functions() -> None:
    with pytest.raises(ConfigError, match="named by"):
        experiment(metrics={"A U C": len})
    with pytest.raises(ConfigError, match=r"metrics\['auc'\]"):
        experiment(metrics={"auc": 0.9})


def test_too_many_steps_in_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds x steps_per_round"):
        experiment(rounds=10_000, privacy=LocalDP(**{**PRIVACY, "steps_per_round": 1000}))


@pytest.mark.parametrize(
    "fields",
    [
        {"custody": "escrow"},
        {"value_bits": 4},
        {"value_bits": 16.0},
        {"value_bound": 0},
        {"value_bound": math.nan},
        {"threshold": 2},
        {"custody": "threshold", "threshold": 1},
    ],
)
def test_encryption_is_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Encryption"):
        Encryption(**fields)


def test_weighting_is_checked() -> None:
    with pytest.raises(ConfigError, match="'uniform' or 'examples'"):
        FedAvg("by size")  # type: ignore[arg-type]


def test_a_changed_copy_is_checked_again() -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        dataclasses.replace(LocalDP(**PRIVACY), epsilon=-3.0)


def test_the_researchers_names_come_from_silo_itself() -> None:
    for name in silo.__all__:
        assert getattr(silo, name) is getattr(silo.client if hasattr(silo.client, name) else silo.api, name)
        assert name in dir(silo)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = silo.no_such_name


def test_the_api_and_the_data_import_nothing_heavy() -> None:
    heavy = "torch", "opacus", "sklearn", "flwr", "scipy", "tenseal", "dp_accounting"
    code = f"import sys, silo, silo.data; silo.Experiment; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

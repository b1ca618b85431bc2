"""Bad input to LocalDP and its ledger: each kind has one behaviour, which does not depend on what is in the data.

Public numbers (epsilon, delta, rates) are refused where they are written, with the number. Records are never a reason
to refuse, to skip a step or to answer in another form: whatever a table holds, an update of the same form leaves and
the same steps are charged.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from silo_crypto.codec import FixedPoint
from silo_crypto.randomness import Csprng
from torch import Tensor

from silo.agent.facts import reserve
from silo.api import LocalDP, Numeric, Records, Schema
from silo.data import HEART, HOSPITALS, load
from silo.errors import BudgetExceeded, ConfigError
from silo.home import DataSet
from silo.ledger import Ledger
from silo.training.check import check_experiment, made_up
from silo.training.model import build_model, flatten
from silo.training.sampling import poisson_sample
from silo.training.trainer import LocalTrainer, to_tensors
from tests.unit.training.training_support import linear, make, plan

CODE = "sha256:" + "0" * 64
BASE: dict[str, Any] = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "clipping_norm": 1.0,
    "sample_rate": 0.5,
    "steps_per_round": 2,
    "expected_batch": 10.0,
    "learning_rate": 0.1,
}
NUMBERS = [
    ("epsilon", 0.0),
    ("epsilon", -1.0),
    ("epsilon", math.nan),
    ("epsilon", math.inf),
    ("epsilon", 1e6),
    ("delta", 0.0),
    ("delta", -1e-5),
    ("delta", 0.05),
    ("delta", 1.0),
    ("sample_rate", 0.0),
    ("sample_rate", 1.0000001),
    ("sample_rate", 2.0),
    ("sample_rate", math.nan),
    ("expected_batch", 0.0),
    ("clipping_norm", 0.0),
]


@pytest.mark.parametrize(("field", "value"), NUMBERS)
def test_a_public_number_out_of_range_is_refused_by_researcher_and_silo_alike(field: str, value: float) -> None:
    with pytest.raises(ConfigError) as where_written:
        LocalDP(**{**BASE, field: value})
    assert f"{field} is {value!r}" in str(where_written.value)
    with pytest.raises(ConfigError):  # a manifest somebody else wrote
        replace(plan(), **{field: value}).verify()


def test_a_sample_rate_above_one_reaches_neither_sampler_nor_ledger(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample rate"):
        poisson_sample(10, 1.5, Csprng())
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.open_population("patients", 15.0, 1e-3)
        event = PoissonSampledDpEvent(1.5, GaussianDpEvent(4.0))
        with pytest.raises(ConfigError, match="sampling probability"):
            ledger.reserve("patients", "run", event, 1, delta=1e-5, code_digest=CODE, data_digest=CODE)
        assert not ledger.reservations()


# -- records that are odd ---------------------------------------------------------------------------------------------

FEATURES, TARGETS = torch.rand(30, 4), torch.rand(30)


def with_nan() -> tuple[Tensor, Tensor]:
    features = FEATURES.clone()
    features[::3] = torch.nan
    return features, TARGETS


def huge() -> tuple[Tensor, Tensor]:
    features = FEATURES.clone()
    features[1], features[2] = 3e38, torch.inf
    return features, TARGETS


TABLES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "ordinary": lambda: (FEATURES, TARGETS),
    "no records": lambda: (FEATURES[:0], TARGETS[:0]),
    "one record": lambda: (FEATURES[:1], TARGETS[:1]),
    "NaN in records": with_nan,
    "all NaN": lambda: (torch.full((30, 4), torch.nan), TARGETS),
    "NaN targets": lambda: (FEATURES, torch.full((30,), torch.nan)),
    "infinite and huge": huge,
    "all alike": lambda: (torch.ones(30, 4), torch.ones(30)),
}


def dataset(**changes: Any) -> DataSet:
    fields = {
        "name": "table",
        "population": "patients",
        "source": "table.csv",
        "categories": ("health",),
        "permitted_purposes": ("test",),
        "epsilon_cap": 10.0,
        "delta": 1e-4,
    }
    return DataSet(**{**fields, **changes})


@pytest.mark.parametrize("rate", [0.5, 1.0, 1e-3])  # at the last, nearly every batch is empty
@pytest.mark.parametrize("table", TABLES)
def test_whatever_a_table_holds_the_same_leaves_and_the_same_is_charged(
    table: str, rate: float, tmp_path: Path
) -> None:
    experiment, public = make(), plan(sample_rate=rate)
    with Ledger(tmp_path / "ledger.db") as ledger, warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.open_population("patients", 15.0, 1e-3)
        held = reserve(ledger, dataset(), public, run="run", code=CODE, data=CODE)
        trainer = LocalTrainer(experiment, public, *TABLES[table](), seed=0)
        weights = flatten(build_model(experiment, 0))
        for number in range(1, 5):
            update = trainer.run(weights)
            sent = FixedPoint(1e6, 16).encode(update.vector, Csprng())  # refuses NaN and infinity
            ledger.charge(held, number, 1, update.steps, upload_digest=f"sha256:{number:064x}")
            assert (update.steps, update.vector.shape, update.vector.dtype, sent.shape) == (3, (5,), np.float32, (5,))
            assert np.count_nonzero(update.vector) == 5  # noise, in every coordinate
        spent = ledger.settle(held)
    assert (spent.charged, len(spent.charges)) == (12, 4)
    assert trainer.epsilon == public.epsilon_after(12)


def test_a_table_with_a_header_alone_is_a_silo_without_records(tmp_path: Path) -> None:
    file = tmp_path / "empty.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerow(HEART.names)
    records = load(str(file))
    features, targets = to_tensors(make(), records)
    assert (len(records), features.shape[0], targets.shape) == (0, 0, (0,))
    assert features.shape[1] == made_up(HEART, 3).features().shape[1]


# -- populations ------------------------------------------------------------------------------------------------------


def rows(file: Path, change: Callable[[list[list[str]]], None] | None = None) -> Records:
    """Write Cleveland's records to a file of the silo's own, changed, and load it."""
    source = load("uci-heart:cleveland")
    table = [
        ["" if str(source[name][row]) == "nan" else str(source[name][row]) for name in HEART.names]
        for row in range(len(source))
    ]
    if change:
        change(table)
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([list(HEART.names), *table])
    return load(str(file))


def test_the_same_table_under_another_populations_name_is_refused(tmp_path: Path) -> None:
    public = plan()
    before = rows(tmp_path / "a.csv")
    again = rows(tmp_path / "b.csv")  # another file name, the same bytes
    with Ledger(tmp_path / "ledger.db") as ledger:
        for name in ("patients", "patients-again"):
            ledger.open_population(name, 5.0, 1e-3)
        reserve(ledger, dataset(), public, run="run-1", code=CODE, data=before.source)
        with pytest.raises(ConfigError, match="belong to population 'patients'"):
            reserve(ledger, dataset(population="patients-again"), public, run="run-2", code=CODE, data=again.source)
        with pytest.raises(BudgetExceeded):  # and under its own name the budget is what is left
            reserve(ledger, dataset(), public, run="run-2", code=CODE, data=again.source)


def test_a_changed_table_under_a_new_name_is_not_noticed_which_is_why_populations_are_named_by_people(
    tmp_path: Path,
) -> None:
    """Known limit: one changed cell makes another digest. A steward declares who is in a table; no hash can."""

    def older(table: list[list[str]]) -> None:
        table[0][0] = "64.0" if table[0][0] != "64.0" else "65.0"

    public = plan()
    before, after = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv", older)
    assert before.source != after.source
    with Ledger(tmp_path / "ledger.db") as ledger:
        for name in ("patients", "newcomers"):
            ledger.open_population(name, 5.0, 1e-3)
        reserve(ledger, dataset(), public, run="run-1", code=CODE, data=before.source)
        # Under the population's own name the changed table has the old budget: a digest does not reset it ...
        with pytest.raises(BudgetExceeded):
            reserve(ledger, dataset(), public, run="run-2", code=CODE, data=after.source)
        # ... under a new name it has a new one.
        reserve(ledger, dataset(population="newcomers"), public, run="run-2", code=CODE, data=after.source)


# -- nothing is estimated from the data -------------------------------------------------------------------------------


def test_features_of_a_record_come_from_the_schema_whatever_the_others_are() -> None:
    schema = Schema("one", (Numeric("age", 0, 100),))
    quiet = Records(schema, {"age": np.array([20.0, 40.0, 60.0])}).features()
    for loud in (1e30, -1e30, np.nan):
        found = Records(schema, {"age": np.array([20.0, 40.0, 60.0, loud])}).features()
        np.testing.assert_array_equal(found[:3], quiet)
        assert abs(found).max() <= 1


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_real_records_give_the_same_features_alone_as_together(hospital: str) -> None:
    records = load(f"uci-heart:{hospital}")
    together = records.features()
    for row in range(0, len(records), 17):
        np.testing.assert_array_equal(records.take(np.array([row])).features()[0], together[row])


@pytest.mark.parametrize(
    "scale",
    [
        lambda x: (x - x.mean(0)) / (x.std(0) + 1),
        lambda x: x / x.abs().amax(0).clamp(min=1e-6),
        lambda x: x.argsort(0).argsort(0) / len(x),
        lambda x: x - x.median(0).values,
        lambda x: x[torch.randperm(len(x))],
    ],
    ids=["mean and deviation", "maximum", "ranks", "median", "shuffled"],
)
def test_whatever_estimates_from_the_data_is_refused_before_any_record_is_read(
    scale: Callable[[Tensor], Tensor],
) -> None:
    width = made_up(HEART, 2).features().shape[1]

    def tensors(records: Records) -> tuple[Tensor, Tensor]:
        return scale(torch.from_numpy(records.features())), torch.zeros(len(records))

    with pytest.raises(ConfigError, match=r"change with the other records.*public ranges"):
        check_experiment(make(linear(width), tensors=tensors), HEART)

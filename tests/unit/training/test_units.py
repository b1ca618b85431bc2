"""The patient unit: patients are sampled, one patient's records move a sum by one clipping norm, however many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from silo.agent.facts import reserve
from silo.api import DistributedDP, LocalDP
from silo.errors import ConfigError
from silo.ledger import Ledger
from silo.training import distributed, gradients
from silo.training.accounting import Plan, make_plan
from silo.training.distributed import DistributedTrainer
from silo.training.distributed_plan import make_distributed_plan
from silo.training.mechanism import privacy_spec
from silo.training.model import build_model, flatten
from silo.training.trainer import LocalTrainer
from silo.training.units import Patients, units_of
from tests.unit.training.test_conformance import CODE, DATA, DATASET
from tests.unit.training.training_support import PRIVACY, make, plan

OF_PATIENTS = replace(PRIVACY, unit="patient", records_per_patient=3)
START = flatten(build_model(make(), 0))


def patient_plan(most: int = 3, **changes: object) -> Plan:
    return plan(unit="patient", records_per_patient=most, **changes)


def quiet(most: int = 3, **changes: object) -> Plan:
    """A plan whose noise is too small to see, one step on everybody."""
    return patient_plan(most, **{"noise_multiplier": 1e-6, "sample_rate": 1.0, "steps_per_round": 1, **changes})


def gradient(p: Plan, features: Tensor, targets: Tensor, patients: list[str]) -> NDArray[np.float64]:
    """Return the clipped sum that one quiet step released."""
    one = LocalTrainer(make(), p, features, targets, seed=0, patients=np.array(patients, dtype=np.str_))
    return -one.run(START).vector.astype(np.float64) * p.expected_batch / p.learning_rate


def records(n: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(n)) * 2 - 1
    return x * scale, x.sum(1) * scale


def by_hand(features: Tensor, targets: Tensor, patients: list[str], most: int, norm: float) -> NDArray[np.float64]:
    """Return the same sum by autograd, one record at a time."""
    model = build_model(make(), 0)
    total = np.zeros(5)
    for patient in sorted(set(patients)):
        rows = [i for i, each in enumerate(patients) if each == patient][:most]
        summed = np.zeros(5)
        for i in rows:
            loss = make().loss(model(features[i : i + 1]), targets[i : i + 1]).sum()
            parts = torch.autograd.grad(loss, list(model.parameters()))
            summed += torch.cat([part.flatten() for part in parts]).double().numpy()
        total += summed * min(1.0, norm / max(np.linalg.norm(summed), 1e-300))
    return total


def test_a_patients_records_are_summed_then_clipped_once() -> None:
    features, targets = records(12, scale=3.0)
    patients = ["a", "b", "a", "c", "b", "a", "d", "a", "a", "e", "b", "c"]  # a has 5 records, of which 3 count
    for norm in (0.5, 1e3):
        found = gradient(quiet(clipping_norm=norm), features, targets, patients)
        np.testing.assert_allclose(found, by_hand(features, targets, patients, 3, norm), rtol=1e-3, atol=1e-3 * norm)


@pytest.mark.parametrize("rows", [1, 3, 200])
def test_one_patient_moves_a_sum_by_at_most_the_clipping_norm_however_many_rows(rows: int) -> None:
    features, targets = records(12)
    theirs = [str(i // 2) for i in range(12)]
    without = gradient(quiet(clipping_norm=0.5), features, targets, theirs)
    more = torch.cat([features, torch.full((rows, 4), 1e6)]), torch.cat([targets, torch.full((rows,), -1e6)])
    moved = gradient(quiet(clipping_norm=0.5), *more, [*theirs, *["new"] * rows]) - without
    assert np.linalg.norm(moved) == pytest.approx(0.5, rel=1e-3)


def test_clipping_each_record_would_not_do() -> None:
    """The same rows as records: 200 of one patient move the sum by 200 norms. So the test above can fail."""
    features, targets = records(12)
    p = plan(noise_multiplier=1e-6, sample_rate=1.0, steps_per_round=1, clipping_norm=0.5)
    more = torch.cat([features, torch.full((200, 4), 1e6)]), torch.cat([targets, torch.full((200,), -1e6)])
    runs = [LocalTrainer(make(), p, *each, seed=0).run(START).vector for each in ((features, targets), more)]
    moved = np.linalg.norm((runs[1].astype(np.float64) - runs[0]) * p.expected_batch / p.learning_rate)
    assert moved == pytest.approx(100.0, rel=1e-3)


def test_which_records_count_never_changes() -> None:
    units = Patients(np.array(["x", "y", "x", "x", "y"]), 2)
    for _ in range(3):
        batch = units.batch(np.array([0, 1]))
        assert batch.rows.tolist() == [0, 2, 1, 4]
        assert batch.owners is not None
        assert batch.owners.tolist() == [0, 0, 1, 1]
    assert units.batch(np.array([1])).rows.tolist() == [1, 4]
    nobody = units.batch(np.empty(0, dtype=np.int64))
    assert (nobody.rows.tolist(), nobody.units) == ([], 0)
    assert len(Patients(np.empty(0, dtype=np.str_), 2)) == 0


def test_patients_are_sampled_and_not_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the patients with all their records, not half the records: both of two rows are in, or neither."""
    asked: list[int] = []
    seen: list[Tensor] = []
    sample, backward = gradients.poisson_sample, gradients.RecordGradients._backward

    def sampled(n: int, *rest: object) -> NDArray[np.int64]:
        asked.append(n)
        return sample(n, *rest)  # type: ignore[arg-type]

    def watched(self: gradients.RecordGradients, features: Tensor, targets: Tensor) -> None:
        seen.append(targets.clone())
        backward(self, features, targets)

    monkeypatch.setattr(gradients, "poisson_sample", sampled)
    monkeypatch.setattr(gradients.RecordGradients, "_backward", watched)
    n = 400
    targets = torch.arange(n).repeat(2).float()  # rows i and n + i are patient i's
    names = np.array([str(i % n) for i in range(2 * n)])
    one = LocalTrainer(make(), patient_plan(rounds=20), torch.zeros(2 * n, 4), targets, seed=0, patients=names)
    for _ in range(20):
        one.run(START)
    assert set(asked) == {n}
    sizes = []
    for batch in seen:
        values, counts = np.unique(batch.numpy(), return_counts=True)
        assert (counts == 2).all()
        sizes.append(len(values))
    spread = sum((size - n / 2) ** 2 for size in sizes) / (n / 4)
    assert stats.chi2.ppf(1e-6, len(sizes)) < spread < stats.chi2.isf(1e-6, len(sizes))


def test_a_nan_record_is_none_and_takes_no_other_of_its_patient_along() -> None:
    features, targets = records(6)
    patients = ["a", "a", "b", "b", "c", "c"]
    clean = gradient(quiet(most=5), features, targets, patients)
    dirty = torch.cat([features, torch.full((2, 4), torch.nan)]), torch.cat([targets, torch.ones(2)])
    found = gradient(quiet(most=5), *dirty, [*patients, "a", "d"])
    np.testing.assert_allclose(found, clean, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_no_patients_send_noise_and_count(n: int) -> None:
    names = np.array(["a"] * n, dtype=np.str_)
    one = LocalTrainer(
        make(), patient_plan(sample_rate=1e-9), torch.zeros(n, 4), torch.zeros(n), seed=0, patients=names
    )
    assert np.count_nonzero(one.run(START).vector) == 5
    assert one.steps == 3


def test_a_distributed_share_is_of_patients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    centres: list[NDArray[np.float64]] = []
    draw = distributed.ShareSampler.draw

    def recording(self: distributed.ShareSampler, c: NDArray[np.float64], rng: object) -> NDArray[np.int64]:
        centres.append(c.copy())
        return draw(self, c, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(distributed.ShareSampler, "draw", recording)
    asked = DistributedDP(
        epsilon=5, delta=1e-4, clipping_norm=1, sample_rate=1, expected_batch=20, learning_rate=1, minimum_silos=3,
        unit="patient", records_per_patient=2,
    )  # fmt: skip
    p = make_distributed_plan(asked, 4, 5, 16)
    features, targets = records(5)
    patients = ["a", "a", "b", "a", "b"]
    DistributedTrainer(make(), p, features, targets, seed=0, patients=np.array(patients)).run(START)
    np.testing.assert_allclose(centres[0] / p.scale, by_hand(features, targets, patients, 2, 1.0), rtol=1e-4, atol=1e-4)


def test_a_run_on_patients_needs_to_know_them() -> None:
    with pytest.raises(ConfigError, match="does not say whose its rows are"):
        LocalTrainer(make(), patient_plan(), *records(5), seed=0)
    with pytest.raises(ConfigError, match="does not say whose its rows are"):
        units_of("patient", 2, np.array(["a"]), 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "patient"},
        {"unit": "household"},
        {"records_per_patient": 3},
        {"unit": "patient", "records_per_patient": 0},
    ],
)  # fmt: skip
def test_unit_and_records_per_patient_go_together(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"unit|records_per_patient"):
        replace(PRIVACY, **changes)
    with pytest.raises(ConfigError, match=r"unit|records_per_patient"):
        replace(plan(), **changes).verify()  # type: ignore[type-var]


def test_epsilon_of_patients_is_charged_to_a_budget_of_patients_only(tmp_path: Path) -> None:
    assert isinstance(OF_PATIENTS, LocalDP)
    public = make_plan(OF_PATIENTS, rounds=4, parameters=5)
    spec = privacy_spec(public)
    assert (spec.unit, spec.records_per_patient) == ("patient", 3)
    assert (
        public.noise_multiplier == make_plan(PRIVACY, rounds=4, parameters=5).noise_multiplier
    )  # of a unit is of a unit
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.open_population("patients", 10.0, 1e-3)
        with pytest.raises(ConfigError, match="per record, the run protects each patient"):
            reserve(ledger, DATASET, public, run="run-1", code=CODE, data=DATA)
        ledger.open_population("people", 10.0, 1e-3, unit="patient")
        people = DATASET.model_copy(update={"population": "people"})
        held = reserve(ledger, people, public, run="run-1", code=CODE, data=DATA)
        assert ledger.spent("people").unit == "patient"
        with pytest.raises(ConfigError, match="per patient, the run protects each record"):
            reserve(ledger, people, plan(), run="run-2", code=CODE, data=DATA)
        assert held.epsilon <= OF_PATIENTS.epsilon

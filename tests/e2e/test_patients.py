"""Whole runs that protect patients: tables with a patient column, budgets per patient, and a hospital that insists."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from silo.agent.prepare import source_of
from silo.api import load_experiment
from silo.data import HEART, load
from silo.demo.hospitals import REFUSER, cast
from silo.demo.run import shipped_experiment
from silo.demo.setting import set_the_stage
from silo.errors import SiloError
from silo.flower import client_app
from silo.home import Home
from silo.home.settings import write_data
from tests.e2e.federation import Federation, Tap


class OfPatients(Federation):
    """The demo's parties; every table says whose each row is, two rows a patient, and some rows do not."""

    def __init__(self, directory: Path) -> None:  # not the base's: it would set another stage
        path = shipped_experiment()
        experiment, digest = load_experiment(path)
        privacy = dataclasses.replace(
            experiment.privacy, epsilon=0.5, delta=1e-6, unit="patient", records_per_patient=2
        )
        self.experiment = dataclasses.replace(experiment, rounds=1, privacy=privacy)
        self.setting = set_the_stage(
            directory, cast(None), self.experiment, path.read_bytes(), code_digest=digest, model_size=32, seed=0
        )
        self.homes = self.setting.homes
        self.names = sorted(self.homes)
        self.nodes = {name: number for number, name in enumerate(self.homes, start=101)}
        self._numbers = itertools.count(1)
        self.patients = {name: declare_patients(home) for name, home in self.homes.items()}


def declare_patients(home: Home) -> int:
    """Give the home's table a column of patients and its data set a budget per patient; return how many there are."""
    (dataset,) = home.data()
    records = load(source_of(dataset, home.path))
    with (home.path / "visits.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["patient", *HEART.names])
        for row in range(len(records)):
            cells = [str(records[name][row]) for name in HEART.names]
            # One row in nine says no patient.
            writer.writerow(["" if row % 9 == 0 else f"p{row // 2}", *("" if c == "nan" else c for c in cells)])
    population = f"{home.name}-people"
    changes = {"source": "visits.csv", "unit": "patient", "patients": "patient", "population": population}
    write_data(home.path, [dataset.model_copy(update=changes)])
    return len({row // 2 for row in range(len(records)) if row % 9})


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfPatients]:
    made = OfPatients(tmp_path_factory.mktemp("patients"))
    yield made
    for home in made.homes.values():
        if home.path in client_app._agents:
            client_app._agents.pop(home.path).close()


def test_a_run_on_patients_is_permitted_charged_and_counted_per_patient(federation: OfPatients) -> None:
    submission = federation.submit()
    assert (submission.run.body.privacy.unit, submission.run.body.privacy.records_per_patient) == ("patient", 2)
    result = federation.play(submission)
    assert REFUSER in result["members"]  # its charter asks for whole patients, and refuses runs on records
    for name in federation.names:
        with federation.homes[name].ledger() as ledger:
            spent = ledger.spent(f"{name}-people")
        assert spent.unit == "patient"
        assert 0 < spent.epsilon <= 0.5
        counted = result["silos"][name]["records"]
        assert 0 < counted < federation.patients[name]  # patients of the training part, not rows


def test_a_run_on_records_is_refused_where_the_budget_is_of_patients(federation: OfPatients) -> None:
    privacy = federation.setting.submission.run.body.privacy
    of_records = privacy.model_copy(update={"unit": "record", "records_per_patient": None})
    submission = federation.submit(privacy=of_records)
    tap = Tap(federation)
    with pytest.raises(SiloError):
        federation.play(submission, tap)
    told = [head["what"] for heads in tap.heads("fault").values() for head in heads]
    assert len(told) == len(federation.names)
    assert all("privacy.unit 'record'; this silo does 'patient'" in each for each in told)
    assert all(federation.charged(name, submission) == 0 for name in federation.names)

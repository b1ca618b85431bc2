"""`silo experiment new` and `check`: what is begun runs as it is, and its cost is told before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import silo_crypto.keys

from silo.api import load_experiment
from tests.cli.conftest import Command

SCHEMA = """
name = "diabetes"
[[columns]]
name = "age"
range = [18, 90]
[[columns]]
name = "sex"
values = ["female", "male"]
[[columns]]
name = "outcome"
values = ["no", "yes"]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(silo_crypto.keys._SCRYPT, "iteration_count", 1 << 10)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path


def test_the_heart_template_is_the_shipped_example_renamed(silo: Command) -> None:
    said = silo("experiment", "new", "my-study").out
    assert "next: silo experiment check my-study/experiment.py" in said
    experiment, _ = load_experiment("my-study/experiment.py")
    assert (experiment.name, experiment.rounds) == ("my-study", 10)


def test_an_experiment_on_the_silos_own_columns_runs_and_tells_its_cost(silo: Command) -> None:
    files = silo("experiment", "new", "own", "--schema", "schema.toml", "--label", "sex", "--json").json["files"]
    assert files == ["experiment.py", "schema.toml"]
    words = ("experiment", "check", "own/experiment.py", "--schema", "own/schema.toml")
    facts = silo(*words, "--json").json
    assert (facts["parameters"], facts["silos"], facts["rounds"]) == (2 + 2 + 1, 3, 10)
    asked = facts["asked"]
    assert (asked["epsilon"], asked["delta"], asked["unit"], facts["steps"]) == (3, 1e-5, "record", 10)
    assert asked["code_digest"] == load_experiment("own/experiment.py")[1]
    assert 0 < facts["plain_bytes_up_a_round"] < facts["bytes_up_a_round"] < 10_000
    assert facts["bytes_up"] > 10 * facts["bytes_up_a_round"]
    assert facts["bytes_down"] > 10 * facts["bytes_down_a_round"] > 0
    assert facts["seconds"] > 10 * facts["seconds_a_round"] > 0


def test_what_no_silo_would_permit_is_told_before_anybody_is_asked(silo: Command) -> None:
    silo("experiment", "new", "own", "--schema", "schema.toml")
    file = Path("own/experiment.py")
    file.write_text(file.read_text().replace("epsilon=3", "epsilon=19"))
    line = silo("experiment", "check", file, "--schema", "schema.toml", status=4).line
    assert "baseline/epsilon-bounded" in line


def test_patients_and_distributed_noise_are_tried_as_they_are(silo: Command) -> None:
    silo("experiment", "new", "own", "--schema", "schema.toml")
    file = Path("own/experiment.py")
    text = file.read_text().replace("LocalDP", "DistributedDP").replace("steps_per_round=1, ", "minimum_silos=4, ")
    text = text.replace('custody="shared", value_bits=16, value_bound=64.0', 'custody="threshold"')
    text = text.replace("rounds=10", "rounds=2").replace(
        "learning_rate=5", 'learning_rate=5, unit="patient", records_per_patient=4'
    )
    file.write_text(text)
    shown = silo("experiment", "check", file, "--schema", "schema.toml").out
    assert "4 silos, made-up records" in shown
    assert "per patient" in shown
    assert "distributed-dp" in shown


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("new", "schema.toml"), 2, "cannot be an experiment's name"),
        (("new", "My Study"), 2, "cannot be an experiment's name"),
        (("new", "there"), 3, "already there"),
        (("new", "x", "--label", "sex"), 2, "--label goes with --schema"),
        (("new", "x", "--schema", "schema.toml", "--label", "height"), 2, "no column 'height'"),
        (("new", "x", "--schema", "none.toml"), 3, "cannot read"),
        (("check", "none.py"), 3, "cannot read"),
        (("check", "schema.toml"), 3, "schema.toml"),
        (("check", "schema.toml", "--silos", "2"), 2, "--silos"),
    ],
)
def test_what_cannot_be_begun(silo: Command, here: Path, words: tuple[str, ...], status: int, named: str) -> None:
    (here / "there").mkdir()
    assert named in silo("experiment", *words, status=status).line
    assert not (here / "x").exists()

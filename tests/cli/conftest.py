"""A consortium of three hospitals made with the commands themselves, and a run that waits for their decision."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import silo_crypto.keys
from silo_policies import RunManifest, parse_signed

from silo.cli import main
from silo.home import DataSet, Home

SILOS = {"alpha": "cleveland", "beta": "hungary", "gamma": "va-long-beach"}
EXPERIMENT = Path(__file__).parents[2] / "examples" / "heart" / "experiment.py"
PEOPLE = {"olga": ("officer", "alpha"), "sven": ("steward", "alpha"), "otto": ("officer", "beta")}


@dataclass(frozen=True)
class Said:
    """What a command left: its status, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of an error."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("silo: ")
        return self.err.strip()


def silo(*words: str | Path, status: int = 0) -> Said:
    """Run the command line in this process; the status must be the one named."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    said = Said(int(str(stopped.value.code)), out.getvalue(), err.getvalue())
    assert said.code == status, f"{words}: {said.code}\n{said.out}\n{said.err}"
    assert "Traceback" not in said.err
    return said


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILO_HOME", "SILO_KEY", "SILO_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(name="silo")
def _silo() -> Command:
    return silo


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home for each party, keys for people, a consortium that all joined, and a signed run."""
    place = tmp_path_factory.mktemp("consortium")
    with pytest.MonkeyPatch.context() as patch:
        # A key file carries its own cost; at the product's, deriving keys would be most of what these tests do.
        patch.setitem(silo_crypto.keys._SCRYPT, "iteration_count", 1 << 10)
        for name in ("SILO_HOME", "SILO_KEY", "SILO_PASSPHRASE"):
            patch.delenv(name, raising=False)
        _make(place)
    return place


def _make(place: Path) -> None:
    file, publics = place / "heart.json", []
    for name in (*SILOS, "aggregator"):
        silo("init", "--name", name, "--organisation-type", "hospital", "--jurisdiction", "DE", "--home", place / name)
        kind = "aggregator" if name == "aggregator" else "member"
        publics.append(place / f"{name}.json")
        publics[-1].write_text(silo("keys", "show", "--as", kind, "--home", place / name).out)
    for name, (role, of) in PEOPLE.items():
        silo("keys", "new", "--role", role, "--name", name, "--silo", of, "--out", place / "keys" / name)
        publics.append(place / "keys" / name / "person.json")
    silo("keys", "new", "--role", "researcher", "--name", "rita", "--out", place / "keys" / "rita")
    publics.append(place / "keys" / "rita" / "person.json")
    silo("consortium", "new", file, "--name", "heart")
    silo("consortium", "add", file, *publics, "--pack", "baseline")
    shutil.copy(file, place / "draft.json")
    for name in SILOS:
        silo("consortium", "sign", file, "--home", place / name)
    for name in (*SILOS, "aggregator"):
        silo("consortium", "join", file, "--home", place / name)
    silo(
        "experiment", "sign", EXPERIMENT, "--consortium", file, "--key", place / "keys" / "rita", "--out", place / "run"
    )
    for name, hospital in SILOS.items():
        Home.open(place / name).add_dataset(
            DataSet(
                name="heart",
                population=f"{name}-patients",
                source=f"uci-heart:{hospital}",
                categories=("health",),
                permitted_purposes=("heart-disease-research",),
                public=True,
                epsilon_cap=10.0,
                delta=1e-3,
            )
        )


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may spoil."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def alpha(place: Path) -> Path:
    """The home of alpha, whose steward approved the code and to whom the run was handed."""
    silo("approve", EXPERIMENT, "--key", place / "keys" / "sven", "--home", place / "alpha")
    hand_over(place)
    return place / "alpha"


def run_of(place: Path) -> RunManifest:
    return parse_signed(RunManifest, (place / "run" / "run.json").read_bytes()).body


def hand_over(place: Path, name: str = "alpha", submission: str = "run") -> None:
    folder = place / submission
    run = parse_signed(RunManifest, (folder / "run.json").read_bytes()).body.run
    Home.open(place / name).add_submission(run, {path.name: path.read_bytes() for path in folder.iterdir()})

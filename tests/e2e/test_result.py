"""What a researcher has after a run: the result in Python, checked, with frame, plot, notebook table and model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from silo_crypto.keys import Identity

import silo
from silo.client import RunResult, load_result
from silo.errors import ConfigError, VerificationFailed
from silo.submission import Submission
from tests.e2e.federation import Federation


@pytest.fixture(scope="module")
def played(federation: Federation) -> Submission:
    submission = federation.submit()
    federation.play(submission)
    return submission


@pytest.fixture
def folder(federation: Federation, played: Submission, tmp_path: Path) -> Path:
    """A copy of the run's folder that the test may spoil."""
    return Path(shutil.copytree(federation.run_directory(played), tmp_path / "run"))


@pytest.fixture
def researcher(federation: Federation) -> Identity:
    return federation.setting.researcher


@pytest.fixture
def result(folder: Path, researcher: Identity) -> RunResult:
    return load_result(folder, researcher)


def change(folder: Path, **changes: Any) -> None:
    facts = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**facts, **changes}))


def test_it_tells_who_took_part_and_what_it_cost(federation: Federation, result: RunResult) -> None:
    run = result.submission.run.body
    assert result.decisions == dict.fromkeys(federation.names, "permit") | {"st-elsewhere": "deny"}
    assert [row["round"] for row in result.history] == [1, 2, 3]
    assert {row["silos"] for row in result.history} == {len(federation.names)}
    assert set(result.epsilon) == set(federation.names)
    assert all(0 < epsilon <= run.privacy.epsilon for epsilon in result.epsilon.values())
    assert "per record, add-remove adjacency, accountant pld" in result.privacy
    assert repr(result) == f"RunResult('{run.run}', 4 of 5 silos, 3 rounds)"


def test_the_model_is_the_one_the_silos_hold(result: RunResult) -> None:
    model = result.model()
    assert result.weights is not None
    assert result.weights.dtype == np.float32
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    assert np.array_equal(flat, result.weights)
    assert model(torch.zeros(2, 31)).shape == (2,)


def test_frames_and_plot(result: RunResult) -> None:
    frame = result.frame()
    assert list(frame.index) == [1, 2, 3]
    assert list(frame.columns) == ["silos", "dropped", "seconds", "upload_bytes"]
    assert set(result.metrics_frame()["metric"]) <= {"auc"}
    figure = result.plot()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[-1] == "seconds a round"
    assert len(titles) == 1 + len({row["metric"] for row in result.metrics})


def test_without_pandas_it_says_what_to_install(result: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"silo-fl\[notebook\]"):
        result.frame()


def test_the_notebook_table_escapes_what_it_shows(folder: Path) -> None:
    facts = json.loads((folder / "result.json").read_text())
    silo_name = next(iter(facts["silos"]))
    evil = {"negatives": 1, "positives": 1, "values": {"<script>alert(1)</script>": 0.5}}
    facts["silos"][silo_name]["metrics"] = evil
    change(folder, silos=facts["silos"])
    shown = load_result(folder)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "deny" in shown


def test_without_the_key_there_is_all_but_the_model(folder: Path) -> None:
    result = silo.load_result(folder)
    assert result.weights is None
    assert result.history
    with pytest.raises(ConfigError, match="give the researcher's key"):
        result.model()


def test_what_was_altered_is_refused(folder: Path, researcher: Identity, federation: Federation) -> None:
    """By whoever keeps the folder: another model, another decision, a silo that was not there."""
    facts = json.loads((folder / "result.json").read_text())
    with pytest.raises(VerificationFailed, match="not sealed to these keys"):
        load_result(folder, Identity.generate("researcher"))
    releaser = facts["releaser"]
    other = next(name for name in facts["silos"] if name != releaser)
    whole = (folder / f"digest.{other}.sealed").read_bytes()
    shutil.copy(folder / f"digest.{releaser}.sealed", folder / f"digest.{other}.sealed")
    with pytest.raises(VerificationFailed, match="not sealed"):
        load_result(folder, researcher)
    (folder / f"digest.{other}.sealed").write_bytes(whole)
    decisions = json.loads(json.dumps(facts["decisions"]))
    decisions["st-elsewhere"]["body"]["decision"] = "permit"
    change(folder, decisions=decisions)
    with pytest.raises(VerificationFailed, match="st-elsewhere"):
        load_result(folder)
    change(folder, decisions=facts["decisions"], releaser="../../keys")
    with pytest.raises(VerificationFailed, match="did not invite"):
        load_result(folder, researcher)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"decisions": {}, "silos": 3, "rounds": []}', "{" * 9000])
def test_what_is_no_result_is_one_error(folder: Path, content: str) -> None:
    (folder / "result.json").write_text(content)
    with pytest.raises(ConfigError):
        load_result(folder)


def test_nothing_there_and_no_model_released(folder: Path, researcher: Identity, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no result"):
        load_result(tmp_path)
    for path in folder.glob("model.*.sealed"):
        path.unlink()
    with pytest.raises(ConfigError, match="no model was released"):
        load_result(folder, researcher)

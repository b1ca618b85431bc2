"""`silo status`, `silo runs`, `silo stop`: what a silo's people see of it, and how they end a run or the agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silo.errors import ConfigError
from silo.home import Home
from silo.home.stops import agent_started, agent_stopped, run_stopped
from tests.cli.conftest import Command, run_of


def test_status_of_a_new_home_names_the_next_steps(silo: Command, tmp_path: Path) -> None:
    silo("init", "--name", "alpha", "--home", tmp_path / "alpha")
    said = silo("status", "--home", tmp_path / "alpha").out
    assert "next: silo consortium join" in said
    assert "next: silo data add" in said


def test_status_tells_what_is_left_of_the_budget(silo: Command, alpha: Path) -> None:
    facts = silo("status", "--home", alpha, "--json").json
    assert facts["consortium"]["members"] == ["alpha", "beta", "gamma"]
    (data,) = facts["data"]
    assert (data["epsilon_cap"], data["epsilon_left"], data["population"]) == (10.0, 10.0, "alpha-patients")
    assert [each["state"] for each in facts["runs"]] == ["waiting"]
    said = silo("status", "--home", alpha).out
    assert "epsilon 10 of 10 left at delta 0.001 per record" in said


def test_runs_lists_and_shows_one(silo: Command, alpha: Path, place: Path) -> None:
    run = run_of(place)
    (listed,) = silo("runs", "--home", alpha, "--json").json
    assert (listed["run"], listed["rounds"], listed["rounds_asked"]) == (run.run, 0, run.rounds)
    assert run.run in silo("runs", "--home", alpha).out
    shown = silo("runs", run.run, "--home", alpha).out
    assert shown.startswith(f"{run.run}: waiting")
    assert silo("runs", run.run, "--home", alpha, "--json").json == listed
    assert "there is no run 'other'" in silo("runs", "other", "--home", alpha, status=3).line
    assert "no run was submitted" in silo("runs", "--home", place / "beta").out


def test_stop_a_run_is_on_record_and_read_back(silo: Command, alpha: Path, place: Path) -> None:
    run, home = run_of(place).run, Home.open(alpha)
    assert run_stopped(home, run) is None
    silo("stop", run, "--note", "the board called", "--home", alpha)
    assert run_stopped(home, run) == "the board called"
    assert silo("runs", run, "--home", alpha, "--json").json["state"] == "stopped"
    with home.log() as log:
        assert [entry.body["what"] for entry in log.entries("refusal", run=run)] == ["stopped: the board called"]


def test_stop_the_agent_until_it_is_started_again(silo: Command, alpha: Path) -> None:
    home = Home.open(alpha)
    assert agent_stopped(home) is None
    assert json.loads(silo("stop", "--agent", "--home", alpha, "--json").out) == {"stopped": "agent", "note": ""}
    assert agent_stopped(home) == ""
    assert "asked to stop" in silo("status", "--home", alpha).out
    agent_started(home)
    assert agent_stopped(home) is None


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ([], 2, "name one run"),
        (["x", "--agent"], 2, "name one run"),
        (["nothing"], 3, "there is no run 'nothing'"),
        (["../alpha"], 3, "cannot be a run's id"),
    ],
)
def test_what_cannot_be_stopped(silo: Command, alpha: Path, words: list[str], status: int, named: str) -> None:
    assert named in silo("stop", *words, "--home", alpha, status=status).line


def test_a_stop_that_cannot_be_read_counts(alpha: Path, place: Path) -> None:
    """A folder in its place: whoever put it there meant something, so the run does not go on."""
    folder = Home.open(alpha).run_path(run_of(place).run)
    (folder / "stop").mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        run_stopped(Home.open(alpha), run_of(place).run)

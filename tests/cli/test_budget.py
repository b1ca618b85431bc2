"""`silo budget show|history|set|export`: what was spent is what runs charged, and terms are written once."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent

from silo.canonical import canonical_bytes
from silo.errors import BudgetExceeded
from silo.home import DataSet, Home
from tests.cli.conftest import Command

CODE, DATA = "sha256:" + "0" * 64, "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("budget") / "home"
    Home.create(path, "riverside", data=[dataset()])
    return path


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "home"))


def dataset(**changes: Any) -> DataSet:
    fields = {
        "name": "heart",
        "population": "patients",
        "source": "uci-heart:cleveland",
        "categories": ("health",),
        "permitted_purposes": ("heart-disease-research",),
        "epsilon_cap": 10.0,
        "delta": 1e-3,
    }
    return DataSet(**{**fields, **changes})


def spend(home: Path, run: str = "run-1", *, settle: bool = True) -> float:
    """Reserve five steps of plain Gaussian noise, charge two of them, and return what the whole run comes to."""
    with Home.open(home).ledger() as ledger:
        held = ledger.reserve("patients", run, GaussianDpEvent(4.0), 5, delta=1e-5, code_digest=CODE, data_digest=DATA)
        ledger.charge(held, 1, 1, 2, upload_digest="sha256:" + "2" * 64)
        if settle:
            ledger.settle(held)
        return held.epsilon


def shown(silo: Command, home: Path, *more: str) -> dict[str, Any]:
    populations = silo("budget", "show", "--home", home, "--json", *more).json["populations"]
    return {each["population"]: each for each in populations}


def test_what_runs_charged_is_shown_with_every_word_an_epsilon_needs(silo: Command, home: Path) -> None:
    epsilon = spend(home)
    spend(home, "run-2", settle=False)
    row = shown(silo, home)["patients"]
    assert row["epsilon_spent"] == pytest.approx(2 * epsilon, abs=2e-6)  # basic: a run that began counts whole
    assert row["epsilon_left"] == pytest.approx(10 - 2 * epsilon, abs=3e-6)
    assert (row["epsilon_cap"], row["delta_cap"], row["delta_spent"]) == (10, 1e-3, 2e-5)
    assert (row["unit"], row["adjacency"], row["accountant"], row["filter"]) == (
        "record", "add/remove", "pld", "basic",
    )  # fmt: skip
    assert (row["runs"], row["open_reservations"], row["data"], row["open"]) == (2, 1, ["heart"], True)
    told = silo("budget", "show", "--home", home).out
    for word in ("patients", f"{row['epsilon_spent']:g}", "10", "0.001", "per record", "add/remove", "pld", "basic"):
        assert word in told


def test_only_asking_opens_nothing(silo: Command, home: Path) -> None:
    row = shown(silo, home)["patients"]
    assert (row["open"], row["epsilon_spent"], row["epsilon_left"]) == (False, 0, 10)
    assert "not opened yet" in " ".join(silo("budget", "show", "--home", home).out.split())
    assert [each["kind"] for each in silo("budget", "history", "--home", home, "--json").json] == ["created"]


def test_the_home_may_come_from_the_environment(silo: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILO_HOME", str(home))
    assert "patients" in silo("budget", "show").out


def test_the_history_tells_every_event(silo: Command, home: Path) -> None:
    spend(home)
    events = silo("budget", "history", "--home", home, "--json", "--population", "patients").json
    assert [each["kind"] for each in events] == ["opened", "reserved", "charged", "settled"]
    told = " ".join(silo("budget", "history", "--home", home).out.split())
    for words in ("cap epsilon 10 at delta 0.001 per record", "5 steps of noise multiplier 4", "2 steps released"):
        assert words in told


def test_a_population_is_opened_once(silo: Command, home: Path) -> None:
    words = ("budget", "set", "others", "--epsilon-cap", "2", "--delta", "1e-6", "--filter", "rdp(16)", "--home", home)
    assert silo(*words, "--json").json == {
        "name": "others",
        "epsilon_cap": 2,
        "delta": 1e-6,
        "filter": "rdp(16)",
        "unit": "record",
        "adjacency": "add/remove",
        "changed": True,
    }
    assert "was already open" in silo(*words).out
    assert shown(silo, home)["others"]["accountant"] == "rdp"
    assert shown(silo, home, "--population", "others").keys() == {"others"}


def test_terms_that_no_run_has_used_yet_are_declared_in_data_toml_too(silo: Command, home: Path) -> None:
    Home.open(home).add_dataset(dataset(name="second"))
    silo("budget", "set", "patients", "--epsilon-cap", "3", "--delta", "1e-5", "--home", home)
    assert {each.terms for each in Home.open(home).data()} == {(3.0, 1e-5, "basic", "record")}
    with Home.open(home).ledger() as ledger:  # would raise if data.toml and ledger differed
        assert ledger.spent("patients").epsilon_cap == 3


@pytest.mark.parametrize(
    "change",
    [("--epsilon-cap", "20"), ("--epsilon-cap", "5"), ("--delta", "1e-5"), ("--filter", "gdp"), ("--unit", "patient")],
)
def test_a_cap_that_is_set_cannot_change_and_the_error_says_why(
    silo: Command, home: Path, change: tuple[str, str]
) -> None:
    spend(home)
    words = {"--epsilon-cap": "10", "--delta": "1e-3", change[0]: change[1]}
    before = (home / "data.toml").read_bytes(), shown(silo, home)
    said = silo("budget", "set", "patients", *(w for pair in words.items() for w in pair), "--home", home, status=3)
    assert "keeps these terms" in said.line
    assert "epsilon 10 at delta 0.001" in said.line
    assert "the promise under which everything since was released" in said.line
    assert ((home / "data.toml").read_bytes(), shown(silo, home)) == before


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--epsilon-cap", "0", "--delta", "1e-5"), 3, "epsilon 0"),
        (("--epsilon-cap", "-1", "--delta", "1e-5"), 3, "epsilon -1"),
        (("--epsilon-cap", "nan", "--delta", "1e-5"), 3, "epsilon nan"),
        (("--epsilon-cap", "inf", "--delta", "1e-5"), 3, "epsilon inf"),
        (("--epsilon-cap", "1", "--delta", "1"), 3, "delta 1"),
        (("--epsilon-cap", "1", "--delta", "0"), 3, "delta 0"),
        (("--epsilon-cap", "1", "--delta", "1e-5", "--filter", "best"), 3, "unknown privacy filter"),
        (("--epsilon-cap", "1", "--delta", "1e-5", "--unit", "visit"), 2, "there is no unit"),
        (("--epsilon-cap", "much", "--delta", "1e-5"), 2, "not a valid float"),
        (("--delta", "1e-5"), 2, "--epsilon-cap"),
    ],
)
def test_terms_that_make_no_sense_change_nothing(
    silo: Command, home: Path, words: tuple[str, ...], status: int, says: str
) -> None:
    before = (home / "data.toml").read_bytes()
    assert says in silo("budget", "set", "patients", *words, "--home", home, status=status).err
    assert (home / "data.toml").read_bytes() == before
    assert not shown(silo, home)["patients"]["open"]


def test_the_export_can_be_checked_by_whoever_has_only_the_file(silo: Command, home: Path, tmp_path: Path) -> None:
    spend(home)
    out = tmp_path / "ledger.json"
    silo("budget", "export", "--home", home, "--out", out)
    told = json.loads(out.read_text())
    assert told == silo("budget", "export", "--home", home).json
    head = bytes(32)
    for event in told["events"]:
        head = hashlib.sha256(told["chain"]["label"].encode() + head + canonical_bytes(event)).digest()
    assert told["head"]["digest"] == "sha256:" + head.hex()
    assert told["head"]["size"] == len(told["events"]) == 5
    assert out.stat().st_mode & 0o777 == 0o600
    assert "already there" in silo("budget", "export", "--home", home, "--out", out, status=2).line


def test_a_later_export_begins_with_the_earlier_one(silo: Command, home: Path) -> None:
    spend(home)
    first = silo("budget", "export", "--home", home).json["events"]
    spend(home, "run-2")
    assert silo("budget", "export", "--home", home).json["events"][: len(first)] == first


def test_an_altered_ledger_is_told_by_every_command(silo: Command, home: Path) -> None:
    spend(home)
    with sqlite3.connect(home / "ledger.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE event SET body = replace(body, '10', '99') WHERE i = 1")
    connection.close()
    for command in ("show", "history", "export"):
        assert silo("budget", command, "--home", home, status=6).line


def test_a_population_or_home_that_is_not_there_is_named(silo: Command, home: Path, tmp_path: Path) -> None:
    for command in ("show", "history"):
        said = silo("budget", command, "--population", "nobody", "--home", home, status=3)
        assert "no population 'nobody'" in said.line
        assert "patients" in said.line
    silo("budget", "show", "--home", tmp_path / "nowhere", status=3)


@pytest.mark.parametrize("cap", [20.0, 5.0])
def test_a_cap_changes_for_a_reason_that_ledger_and_log_keep(silo: Command, home: Path, cap: float) -> None:
    spend(home)
    words = ("budget", "set", "patients", "--epsilon-cap", cap, "--delta", "1e-3", "--home", home)
    silo(*words, status=3)  # without a reason it stays
    assert silo(*words, "--reason", "the board decided on 3 May", "--json").json["changed"] is True
    row = shown(silo, home)["patients"]
    assert row["epsilon_cap"] == cap
    event = silo("budget", "history", "--home", home, "--json").json[-1]
    assert (event["kind"], event["epsilon_cap"], event["reason"]) == ("recapped", cap, "the board decided on 3 May")
    assert "the board decided" in " ".join(silo("budget", "history", "--home", home).out.split())
    with Home.open(home).log() as log:
        (entry,) = log.entries("data")
    assert (entry.body["from"], entry.body["to"], entry.body["reason"]) == (10.0, cap, "the board decided on 3 May")
    assert {each.epsilon_cap for each in Home.open(home).data()} == {cap}
    with Home.open(home).ledger() as ledger:  # would raise if data.toml and ledger differed
        assert ledger.verify().size == 6
        assert entry.body["ledger"]["digest"] == ledger.head().digest


def test_no_cap_below_what_is_spent_or_reserved_and_nothing_else_changes(silo: Command, home: Path) -> None:
    epsilon = spend(home, settle=False)
    before = (home / "data.toml").read_bytes(), shown(silo, home)
    for changes in (
        ("--epsilon-cap", epsilon - 1e-3, "--delta", "1e-3"),
        ("--epsilon-cap", "10", "--delta", "1e-4"),
        ("--epsilon-cap", "20", "--delta", "1e-3", "--unit", "patient"),
    ):
        status = 5 if changes[1] != "10" and "--unit" not in changes else 3
        silo("budget", "set", "patients", *changes, "--reason", "because", "--home", home, status=status)
    assert ((home / "data.toml").read_bytes(), shown(silo, home)) == before
    silo(
        "budget", "set", "patients", "--epsilon-cap", "20", "--delta", "1e-3", "--reason", " ", "--home", home, status=3
    )


def test_a_raised_cap_lets_runs_go_on_and_a_lowered_one_stops_them(silo: Command, home: Path) -> None:
    epsilon = spend(home)
    words = ("budget", "set", "patients", "--delta", "1e-3", "--reason", "because", "--home", home, "--epsilon-cap")
    silo(*words, epsilon + 1e-3)
    with pytest.raises(BudgetExceeded):
        spend(home, "run-2")
    silo(*words, 3 * epsilon)
    spend(home, "run-2")

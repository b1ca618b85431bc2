"""`silo data`: a table is registered whole or not at all, without its contents, and its people keep one budget."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from silo.home import Home
from tests.cli.conftest import Command, Said

CSV = "age,sex\n40,female\n,male\n71,male\n"
SECRET = "Jane-Doe-1962"
TERMS = ("--purpose", "research", "--category", "health", "--epsilon-cap", "5", "--delta", "1e-5")
COLUMNS = ("--column", "age=18..90", "--column", "sex=female|male")


@pytest.fixture
def home(silo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import silo_crypto.keys

    monkeypatch.setitem(silo_crypto.keys._SCRYPT, "iteration_count", 1 << 10)
    silo("init", "--name", "alpha", "--home", tmp_path / "alpha")
    (tmp_path / "t.csv").write_text(CSV)
    return tmp_path / "alpha"


def files_of(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file() and "-wal" not in path.name}


def added(silo: Command, home: Path, name: str, *words: str | Path, status: int = 0) -> Said:
    source = words if words and Path(words[0]).suffix else (home.parent / "t.csv", *words)
    return silo("data", "add", name, *source, *TERMS, *COLUMNS, "--home", home, status=status)


def test_add_list_remove(silo: Command, home: Path) -> None:
    said = added(silo, home, "cohort").out
    assert "3 records, 2 columns" in said
    assert "epsilon 5 at delta 1e-05 per record for life" in said.replace("\n", " ")
    (listed,) = silo("data", "list", "--home", home, "--json").json
    assert (listed["records"], listed["population"], listed["source"]) == (
        3,
        "alpha-cohort",
        str(home.parent / "t.csv"),
    )
    assert "cohort" in silo("data", "list", "--home", home).out
    (dataset,) = Home.open(home).data()
    assert dataset.schema_of is not None
    assert dataset.schema_of.names == ("age", "sex")
    silo("data", "remove", "cohort", "--home", home)
    assert silo("data", "list", "--home", home, "--json").json == []
    with Home.open(home).ledger() as ledger:
        assert [each.name for each in ledger.populations()] == ["alpha-cohort"]
    with Home.open(home).log() as log:
        assert [entry.body["what"] for entry in log.entries("data")] == ["added", "removed"]


def test_nothing_of_the_records_is_kept(silo: Command, home: Path) -> None:
    (home.parent / "t.csv").write_text(f"age,sex,name\n43.25,female,{SECRET}\n")
    added(silo, home, "cohort")
    for path, content in files_of(home).items():
        assert SECRET.encode() not in content, path
        assert b"43.25" not in content, path


def test_a_schema_file_and_a_known_schema(silo: Command, home: Path) -> None:
    schema = home.parent / "schema.toml"
    schema.write_text('name = "own"\n[[columns]]\nname = "age"\nrange = [18, 90]\n')
    words = ("--schema", schema, *TERMS, "--home", home)
    assert "1 column of schema own" in silo("data", "add", "cohort", home.parent / "t.csv", *words).out
    people = ("--different-people", "public records of another hospital")
    said = silo("data", "add", "heart", "uci-heart:hungary", *TERMS, *people, "--home", home)
    assert "of schema uci-heart" in said.out
    assert silo("data", "add", "x", "t.csv", *words, *COLUMNS, status=2).line.endswith("not both")


def test_delta_that_may_give_a_record_away_is_told(silo: Command, home: Path) -> None:
    words = ["0.4" if word == "1e-5" else word for word in TERMS]
    said = silo("data", "add", "cohort", home.parent / "t.csv", *words, *COLUMNS, "--home", home)
    assert "delta 0.4 is not below 1 / 3 records" in said.err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "empty"),
        (f"age,sex\n{SECRET},male\n", "row 2, column 'age': not a number"),
        (f"age,sex\n40,{SECRET}\n", "row 2, column 'sex': not one of the categories"),
        ("age\n40\n", "missing: sex"),
    ],
)
def test_a_bad_file_is_one_line_and_leaves_nothing(silo: Command, home: Path, content: str, named: str) -> None:
    before = files_of(home)
    (home.parent / "t.csv").write_text(content)
    line = added(silo, home, "cohort", status=3).line
    assert named in line
    assert SECRET not in line
    assert files_of(home) == before


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("cohort", "nowhere.csv", *TERMS, *COLUMNS), 3, "cannot be read"),
        (("Cohort", "t.csv", *TERMS, *COLUMNS), 3, "name"),
        (("cohort", "t.csv", *COLUMNS), 2, "--purpose, --category, --epsilon-cap, --delta is for you to say"),
        (("cohort", "t.csv", *TERMS), 3, "columns of the schema 'uci-heart' are missing"),
        (("cohort", "t.csv", *TERMS, "--column", "age"), 3, "describes no column"),
        (("cohort", "t.csv", *TERMS, *COLUMNS, "--consent-expires", "soon"), 2, "no date"),
        (("cohort", "t.csv", *TERMS, *COLUMNS, "--filter", "none"), 3, "filter"),
        (("cohort", "t.csv", *TERMS, *COLUMNS, "--replace"), 2, "no table cohort to replace"),
        (("cohort", "no_such_module:table", *TERMS, *COLUMNS), 3, "failed with ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_added(
    silo: Command, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int, named: str
) -> None:
    monkeypatch.chdir(home.parent)
    before = files_of(home)
    assert named in silo("data", "add", *words, "--home", home, status=status).line
    assert files_of(home) == before


# One budget for the same people --------------------------------------------------------------------------------------


def test_a_changed_table_is_no_new_population(silo: Command, home: Path) -> None:
    added(silo, home, "cohort")
    (home.parent / "changed.csv").write_text(CSV + "55,female\n")
    line = added(silo, home, "again", home.parent / "changed.csv", status=2).line
    assert "further population with a budget of its own" in line
    assert "alpha-cohort" in line
    silo("data", "remove", "cohort", "--home", home)
    assert "further population" in added(silo, home, "again", home.parent / "changed.csv", status=2).line
    added(silo, home, "again", home.parent / "changed.csv", "--population", "alpha-cohort")
    assert [each.population for each in Home.open(home).data()] == ["alpha-cohort"]


def test_the_same_file_is_never_a_second_population(silo: Command, home: Path) -> None:
    added(silo, home, "cohort")
    line = added(silo, home, "again", "--different-people", "trust me", status=3).line
    assert "this table is cohort already" in line


def test_records_that_were_charged_keep_their_population(silo: Command, alpha: Path, tmp_path: Path) -> None:
    """The same bytes under another name: the ledger knows their digest."""
    from dp_accounting import GaussianDpEvent

    from silo.data import load

    digest = load("uci-heart:cleveland").source
    event = GaussianDpEvent(50.0)
    with Home.open(alpha).ledger() as ledger:
        ledger.reserve(
            "alpha-patients", "r", event, 1, delta=1e-6, code_digest="sha256:" + "0" * 64, data_digest=digest
        )
    (tmp_path / "copy.csv").write_bytes((resources.files("silo.data") / "uci_heart" / "cleveland.csv").read_bytes())
    words = (*TERMS, "--different-people", "others, honestly", "--home", alpha)
    line = silo("data", "add", "copy", tmp_path / "copy.csv", *words, status=3).line
    assert "charged for these records to population alpha-patients" in line


def test_different_people_are_a_signed_record(silo: Command, home: Path) -> None:
    added(silo, home, "cohort")
    (home.parent / "second.csv").write_text(CSV)
    added(silo, home, "children", home.parent / "second.csv", "--different-people", "the children's ward, under 18")
    with Home.open(home).log() as log:
        *_, last = log.entries("data")
    assert last.body["different_people"] == "the children's ward, under 18"


def test_other_terms_for_a_population_are_refused(silo: Command, home: Path) -> None:
    added(silo, home, "cohort")
    before = files_of(home)
    (home.parent / "second.csv").write_text(CSV)
    words = ["50" if word == "5" else word for word in TERMS]
    said = silo(
        "data", "add", "b", home.parent / "second.csv", *words, *COLUMNS, "--population", "alpha-cohort",
        "--home", home, status=3,
    )  # fmt: skip
    assert "alpha-cohort" in said.line
    assert Home.open(home).data()[0].epsilon_cap == 5
    assert files_of(home).keys() == before.keys()


def test_a_new_extract_keeps_its_terms(silo: Command, home: Path) -> None:
    added(silo, home, "cohort")
    assert "there is a table cohort already" in added(silo, home, "cohort", status=3).line
    (home.parent / "next.csv").write_text(CSV + "30,male\n")
    silo("data", "add", "cohort", home.parent / "next.csv", "--replace", "--home", home)
    (dataset,) = Home.open(home).data()
    assert (dataset.records, dataset.epsilon_cap, dataset.population) == (4, 5.0, "alpha-cohort")
    assert dataset.schema_of is not None
    words = ("--replace", "--population", "fresh", "--home", home)
    line = silo("data", "add", "cohort", home.parent / "next.csv", *words, status=3).line
    assert "holds the people of alpha-cohort" in line


def test_remove_what_is_not_there(silo: Command, home: Path) -> None:
    assert "there is no table cohort" in silo("data", "remove", "cohort", "--home", home, status=3).line


def test_a_table_that_says_whose_its_rows_are_has_a_budget_per_patient(silo: Command, home: Path) -> None:
    (home.parent / "visits.csv").write_text(f"nhs,age,sex\n{SECRET},43.25,female\n{SECRET},44,male\n,45,male\n")
    said = added(silo, home, "visits", home.parent / "visits.csv", "--patients", "nhs").out
    assert "2 records, 2 columns" in said  # the third says no patient
    assert "per patient for life" in said.replace("\n", " ")
    (dataset,) = Home.open(home).data()
    assert (dataset.unit, dataset.patients) == ("patient", "nhs")
    (row,) = silo("budget", "show", "--home", home, "--json").json["populations"]
    assert row["unit"] == "patient"
    for path, content in files_of(home).items():
        assert SECRET.encode() not in content, path
    silo("budget", "set", dataset.population, "--epsilon-cap", "5", "--delta", "1e-5", "--home", home, status=3)

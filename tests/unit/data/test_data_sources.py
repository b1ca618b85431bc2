"""Parquet, folders and a function give the records that the same table gives as CSV, and fail as it does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from silo.data import load
from silo.data.table import table_from_columns
from silo.errors import ConfigError

SCHEMA = table_from_columns("t", ["age=18..90", "smokes=TRUE|FALSE", "sex=female|male"]).schema_of()
AGES: list[float | None] = [40, None, 71.5]
SMOKES = [True, False, None]
SEXES = ["female", "", "male"]
CSV = "id,age,smokes,sex\n1,40,TRUE,female\n2,,FALSE,\n3,71.5,,male\n"
SECRET = "Jane-Doe-1962"


def parquet(path: Path, **changes: object) -> Path:
    columns = {"id": [1, 2, 3], "age": AGES, "smokes": SMOKES, "sex": SEXES, **changes}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_records.py").write_text(
        f"SECRET = {SECRET!r}\n"
        f"def table():\n    return {{'age': {AGES!r}, 'smokes': {SMOKES!r}, 'sex': {SEXES!r}, 'more': [1, 2, 3]}}\n"
        "def frame():\n    import pandas\n    return pandas.DataFrame(table())\n"
        "def fails():\n    raise RuntimeError(SECRET)\n"
        "def odd():\n    return {'age': [SECRET], 'smokes': [None], 'sex': [None]}\n"
        "def uneven():\n    return {'age': [1, 2], 'smokes': [None], 'sex': [None]}\n"
        "def nothing():\n    return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_records", raising=False)
    return "python:own_records:"


def same(first: object, second: object) -> bool:
    return all(np.array_equal(first[n], second[n], equal_nan=n == "age") for n in SCHEMA.names)  # type: ignore[index]


def test_every_source_gives_the_same_records(tmp_path: Path, function: str) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    expected = load(str(tmp_path / "t.csv"), schema=SCHEMA)
    assert len(expected) == 3
    assert np.isnan(expected.numbers("age")).tolist() == [False, True, False]
    others = [load(str(parquet(tmp_path / "t.parquet")), schema=SCHEMA)]
    others += [load(function + name, schema=SCHEMA) for name in ("table", "frame")]
    for found in others:
        assert same(expected, found)
    assert len({each.source for each in others}) == 2, "a function's rows have one digest, however it returns them"
    assert all(each.source.startswith("sha256:") for each in others)


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    parquet(tmp_path / "b.parquet")
    (tmp_path / ".hidden").write_text("not read")
    found = load(str(tmp_path), schema=SCHEMA)
    assert found["sex"].tolist() == [*SEXES, *SEXES]
    before = found.source
    (tmp_path / "a.csv").write_text(CSV.replace("40", "41"))
    assert load(str(tmp_path), schema=SCHEMA).source != before


@pytest.mark.parametrize("odd", ["notes.txt", "more.csv.gz", "inner/"])
def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path, odd: str) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    if odd.endswith("/"):
        (tmp_path / odd).mkdir()
    else:
        (tmp_path / odd).write_text("")
    with pytest.raises(ConfigError, match=rf"{odd.rstrip('/')} is no table"):
        load(str(tmp_path), schema=SCHEMA)


def test_an_empty_folder_and_mixed_schemas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no table"):
        load(str(tmp_path), schema=SCHEMA)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"age": [SECRET, "1", "2"]}, "row 1, column 'age'", "not a number"),
        ({"age": [1.0, 2.0, float("inf")]}, "row 3, column 'age'", "not a finite number"),
        ({"sex": ["male", SECRET, "male"]}, "row 2, column 'sex'", "not one of the categories"),
        ({"age": [[1], [2], [3]]}, "row 1, column 'age'", "not a number"),
    ],
)
def test_a_bad_parquet_cell_is_named_without_its_content(
    tmp_path: Path, changes: dict[str, object], where: str, what: str
) -> None:
    file = parquet(tmp_path / "bad.parquet", **changes)
    with pytest.raises(ConfigError, match=what) as caught:
        load(str(file), schema=SCHEMA)
    assert caught.value.where == f"{file}, {where}"
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


def test_a_parquet_file_that_is_none_or_cut_off_is_refused(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "t.parquet").read_bytes()
    spoilt = bytearray(whole)
    spoilt[4:404] = bytes(400)
    for content in (b"", b"PAR1", SECRET.encode(), whole[: len(whole) // 2], bytes(spoilt)):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(str(tmp_path / "bad.parquet"), schema=SCHEMA)
        assert SECRET not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path, function: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"age": AGES}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="missing: smokes, sex"):
        load(str(tmp_path / "t.parquet"), schema=SCHEMA)
    with pytest.raises(ConfigError, match="uci-heart"):
        load(function + "table")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'silo-fl\[data\]'"):
        load(str(file), schema=SCHEMA)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fails", "failed with RuntimeError"),
        ("nothing", "failed with AttributeError"),
        ("missing", "failed with AttributeError"),
        ("odd", "row 1, column 'age': not a number"),
        ("uneven", "differ in length"),
    ],
)
def test_a_function_that_fails_is_named_without_its_words(function: str, name: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(function + name, schema=SCHEMA)
    assert what in str(caught.value)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize("source", ["python:os", "python:a b:c", "python::f", "python:a.b:c.d", "python:../x:y"])
def test_what_is_no_entry_point_is_not_imported(source: str) -> None:
    with pytest.raises(ConfigError, match="not an entry point"):
        load(source, schema=SCHEMA)

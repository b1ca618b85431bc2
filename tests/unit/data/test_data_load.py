"""Each hospital's records are its own file, checked and mended; a silo's own table fails with file, row and column."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from silo.api import Records
from silo.data import HEART, HOSPITALS, load
from silo.errors import ConfigError
from silo.training.trainer import to_tensors
from tests.unit.training.training_support import make

HEADER = ",".join(HEART.names)
ROW = "63,Male,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,downsloping,0,fixed defect,0"


@pytest.fixture(scope="module")
def opened() -> Iterator[list[str]]:
    """Every path that Python opens while the list is on; an audit hook cannot be taken away, only silenced."""
    paths: list[str] = []
    listening = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if listening[0] and event == "open":
            paths.append(str(args[0]))

    sys.addaudithook(hook)
    yield paths
    listening[0] = False


@pytest.mark.parametrize("name", HOSPITALS)
def test_loading_a_hospital_opens_no_other_hospitals_file(name: str, opened: list[str]) -> None:
    opened.clear()
    load(f"uci-heart:{name}")
    assert [Path(path).name for path in opened if path.endswith(".csv")] == [f"{name}.csv"]


def test_records_and_disease_per_hospital() -> None:
    found = {}
    for name in HOSPITALS:
        records = load(f"uci-heart:{name}")
        found[name] = len(records), int((records.numbers("num") > 0).sum())
    # UCI: 303, 294, 123, 200 records; one repeat each is left out in Hungary and VA Long Beach.
    assert found == {
        "cleveland": (303, 139),
        "hungary": (293, 106),
        "switzerland": (123, 115),
        "va-long-beach": (199, 148),
    }


def test_values_that_cannot_be_are_missing() -> None:
    assert np.isnan(load("uci-heart:switzerland").numbers("chol")).all()
    va = load("uci-heart:va-long-beach")
    assert np.isnan(va.numbers("chol")).sum() == 56  # 7 empty, 49 zeros
    assert np.isnan(va.numbers("trestbps")).sum() == 57  # 56 empty, one zero
    for name in HOSPITALS:
        records = load(f"uci-heart:{name}")
        assert np.nanmin(records.numbers("trestbps")) >= 80
        outside = name != "cleveland"
        assert (np.isnan(records.numbers("ca")).mean() >= 0.95) == outside


def test_the_row_labelled_cleveland_is_hungarian() -> None:
    # Row 304: a man of 28; Cleveland's youngest published record is 29.
    assert load("uci-heart:hungary").numbers("age")[0] == 28
    assert load("uci-heart:cleveland").numbers("age").min() == 29


def test_no_record_is_left_twice_and_source_is_a_digest() -> None:
    for name, digest in HOSPITALS.items():
        records = load(f"uci-heart:{name}")
        rows = {tuple(str(records[c][i]) for c in HEART.names) for i in range(len(records))}
        assert len(rows) == len(records)
        assert records.source == f"sha256:{digest}"


def test_altered_shipped_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOSPITALS, "hungary", "0" * 64)
    with pytest.raises(ConfigError, match=r"hungary.csv: the shipped data was altered"):
        load("uci-heart:hungary")


@pytest.mark.parametrize("name", ["boston", "", "../uci_heart/hungary"])
def test_an_unknown_hospital_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no hospital.*cleveland, hungary"):
        load(f"uci-heart:{name}")


def test_a_table_of_ones_own_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    second = "40,Female,,,,,,,,,,,,2"
    file.write_text(f"\ufeffid,{HEADER}\n1,{ROW}\n\n2,{second}\n2,{second}\n")
    records = load(str(file))
    assert len(records) == 3  # a silo's own table is not searched for repeats
    assert records.numbers("age").tolist() == [63, 40, 40]
    assert records["sex"].tolist() == ["Male", "Female", "Female"]
    assert np.isnan(records.numbers("chol")).tolist() == [False, True, True]
    assert records.features().shape == (3, load("uci-heart:hungary").features().shape[1])


def test_a_header_alone_is_a_table_of_no_records(tmp_path: Path) -> None:
    file = tmp_path / "none.csv"
    file.write_text(HEADER + "\n")
    assert len(load(str(file))) == 0


SECRET = "Jane-Doe-1962"


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (f"{HEADER}\n{ROW.replace('145', SECRET)}\n", "row 2, column 'trestbps'", "not a number"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('145', '1e999')}\n", "row 3, column 'trestbps'", "not a finite number"),
        (f"{HEADER}\n{ROW.replace('Male', SECRET)}\n", "row 2, column 'sex'", "not one of the categories"),
        (f"{HEADER}\n{ROW},{SECRET}\n", "row 2", "15 cells under 14 columns"),
        (f"{HEADER}\n{ROW[:20]}\n", "row 2", "cells under 14 columns"),
        (f"{HEADER.replace('chol', 'ldl')}\n{ROW}\n", "row 1", "missing: chol"),
        (f"{HEADER},age\n{ROW},1\n", "row 1", "twice"),
        ("", "", "empty"),
        (f'{HEADER}\n"{SECRET}\n', "row 2", "not CSV"),
    ],
)
def test_a_malformed_table_is_refused_where_it_is_wrong_without_its_content(
    tmp_path: Path, content: str, where: str, what: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(ConfigError, match=what) as caught:
        load(str(file))
    assert caught.value.where == (f"{file}, {where}" if where else str(file))
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.__cause__)


def test_files_that_cannot_be_read_or_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(str(tmp_path / "latin.csv"))
    for source in (str(tmp_path / "nothing.csv"), "", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(source)


def test_a_column_of_patients_is_read_and_no_experiment_is_given_it(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text(f"nhs,{HEADER}\n{SECRET},{ROW}\n b ,{ROW}\n{SECRET},{ROW}\n")
    records = load(str(file), patients="nhs")
    assert records.patients is not None
    assert records.patients.tolist() == [SECRET, "b", SECRET]
    assert records.take(np.array([1])).patients.tolist() == ["b"]
    assert load(str(file)).patients is records.without_patients().patients is None
    assert SECRET not in repr(records)
    given: list[Records] = []

    def tensors(handed: Records) -> tuple[torch.Tensor, torch.Tensor]:
        given.append(handed)
        return torch.zeros(len(handed), 1), torch.zeros(len(handed))

    to_tensors(make(tensors=tensors), records)
    assert given[0].patients is None
    assert SECRET not in repr(vars(given[0]))


def test_rows_that_say_no_patient_are_left_out_and_leave_no_trace(tmp_path: Path) -> None:
    """They may be anybody's: as units of their own, somebody with many of them would count many times."""
    whole, without = tmp_path / "whole.csv", tmp_path / "without.csv"
    other = "40,Female,,,,,,,,,,,,2"
    whole.write_text(f"nhs,{HEADER}\na,{ROW}\n,{other}\n  ,{other}\nb,{ROW}\n")
    without.write_text(f"nhs,{HEADER}\na,{ROW}\nb,{ROW}\n")
    found, expected = load(str(whole), patients="nhs"), load(str(without), patients="nhs")
    assert [*found.row_bytes()] == [*expected.row_bytes()]
    assert found.patients.tolist() == expected.patients.tolist() == ["a", "b"]
    none = tmp_path / "none.csv"
    none.write_text(f"nhs,{HEADER}\n,{ROW}\n,{other}\n")
    assert len(load(str(none), patients="nhs")) == 0


@pytest.mark.parametrize("column", ["id", "age"])
def test_a_column_that_cannot_say_whose_a_row_is_is_refused(tmp_path: Path, column: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(f"nhs,{HEADER}\na,{ROW}\n")
    with pytest.raises(ConfigError, match=r"cannot say whose a row is|are missing: id") as caught:
        load(str(file), patients=column)
    assert ROW not in str(caught.value)
    with pytest.raises(ConfigError, match="no column"):
        load("uci-heart:hungary", patients="id")


def test_a_folder_of_tables_says_whose_its_rows_are(tmp_path: Path) -> None:
    for name, key in (("a.csv", "x"), ("b.csv", "y")):
        (tmp_path / name).write_text(f"nhs,{HEADER}\n{key},{ROW}\nz,{ROW}\n,{ROW}\n")
    found = load(str(tmp_path), patients="nhs")
    assert found.patients is not None
    assert found.patients.tolist() == ["x", "z", "y", "z"]
    assert found.schema == HEART

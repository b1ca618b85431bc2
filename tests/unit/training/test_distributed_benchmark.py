"""The privacy benchmark resumes, compares split by split, and trains with every mechanism."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import privacy
from benchmarks.privacy_mechanisms import GRID, Setting, dataset, measure

ROW = {"dataset": "heart", "delta": 1e-4, "h": None, "splits": 3, "auc_mean": 0.8, "auc_sd": 0.1, "seconds": 1.0}


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments: object) -> float:
        calls.append(1)
        return 0.5 + len(calls) / 100

    monkeypatch.setattr("benchmarks.privacy_mechanisms.measure", counted)
    path = tmp_path / "deep" / "cache.jsonl"
    first = privacy.Cache(path)
    found = [first.measure("heart", "central", 0, epsilon, GRID[0], 1) for epsilon in (0.1, 0.5, 0.1)]
    assert found == [0.51, 0.52, 0.51]
    with path.open("a") as file:
        file.write('{"key": "half a li')  # as a killed benchmark leaves it
    again = privacy.Cache(path)
    assert again.measure("heart", "central", 0, 0.5, GRID[0], 1) == 0.52
    assert again.measure("heart", "central", 0, 0.5, replace(GRID[0], rate=0.25), 1) == 0.53
    assert len(calls) == 3


def test_differences_are_paired_and_the_table_holds_them() -> None:
    mean, width = privacy.paired([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])
    assert mean == pytest.approx(0.1)
    assert width == pytest.approx(0, abs=1e-12)
    assert math.isnan(privacy.paired([0.9], [0.8])[1])
    measured = [
        ({**ROW, "mechanism": "central", "epsilon": 1.0}, [0.9, 0.8, 0.7]),
        ({**ROW, "mechanism": "distributed", "epsilon": 1.0, "h": 3}, [0.9, 0.8, 0.6]),
        ({**ROW, "mechanism": "distributed", "epsilon": 1.0, "h": 1}, [0.5, 0.5, 0.5]),
        ({**ROW, "mechanism": "none", "epsilon": None, "delta": None}, [0.9, 0.9, 0.9]),
    ]
    (difference,) = privacy.comparisons(measured)
    assert (difference["minus"], difference["h"]) == ("central", 3)
    assert difference["difference"] == pytest.approx(-0.0333)
    text = privacy.table([row for row, _ in measured], [difference])
    assert "| distributed, h = 3 | 0.800 (0.100) |" in text
    assert "| central | -0.0333 ± " in text


@pytest.mark.parametrize(
    ("mechanism", "honest"), [("central", 0), ("distributed", 3), ("distributed", 1), ("local", 0), ("alone", 0)]
)
def test_every_mechanism_learns_where_privacy_is_cheap(mechanism: str, honest: int) -> None:
    setting = Setting(rounds=10, rate=1.0, norm=1.0, step=1.0)
    assert measure(dataset("heart"), mechanism, honest, 20.0, setting, 0) > 0.7


@pytest.mark.parametrize("name", ["breast-cancer", "digits"])
def test_records_are_dealt_to_eight_silos_alike_for_one_seed(name: str) -> None:
    data = dataset(name)
    one, two, other = data.split(1), data.split(1), data.split(2)
    assert [len(targets) for _, targets in one.train] == [len(targets) for _, targets in two.train]
    assert [len(targets) for _, targets in one.train] != [len(targets) for _, targets in other.train]
    assert sum(len(targets) for _, targets in one.train) + len(one.test[1]) == data.records
    assert len(one.train) == 8


def test_mistyped_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        privacy.main(["--datasets", "hearts"])
    assert "unknown: hearts" in capsys.readouterr().err


def test_the_grid_is_the_same_for_all_and_labelled() -> None:
    text = privacy.grid_text()
    assert "NON-PRIVATE" in text
    assert json.dumps(len(GRID)) in text

"""The split of private rows: each row decides alone."""

import numpy as np

from silo.api import Records
from silo.data import HEART, load, split_each


def test_a_row_more_or_less_moves_no_other() -> None:
    records = load("uci-heart:cleveland")
    train, test = split_each(records, seed=7)
    assert sorted([*train, *test]) == list(range(len(records)))
    rows = list(records.row_bytes())
    for gone in (0, 17, len(records) - 1):
        kept = np.delete(np.arange(len(records)), gone)
        fewer = records.take(kept)
        train_of_fewer, _ = split_each(fewer, seed=7)
        assert {rows[kept[row]] for row in train_of_fewer} == {rows[row] for row in train if row != gone}


def test_about_a_quarter_is_held_back_and_the_seed_decides_which() -> None:
    records = load("uci-heart:hungary")
    sizes = [len(split_each(records, seed)[1]) / len(records) for seed in range(40)]
    assert 0.23 < np.mean(sizes) < 0.27
    assert set(split_each(records, 1)[1]) != set(split_each(records, 2)[1])


def of_patients(records: Records, patients: np.ndarray) -> Records:
    return Records(HEART, {name: records[name] for name in HEART.names}, patients=patients)


def test_a_patients_rows_lie_in_one_part_and_move_nobody_elses() -> None:
    plain = load("uci-heart:cleveland")
    whose = np.array([f"patient {row % 100}" for row in range(len(plain))])
    records = of_patients(plain, whose)
    train, test = split_each(records, seed=7)
    assert not {*whose[train]} & {*whose[test]}
    assert 0.1 < len({*whose[test]}) / 100 < 0.4
    kept = np.flatnonzero(whose != "patient 3")
    fewer, _ = split_each(records.take(kept), seed=7)
    assert {*whose[kept][fewer]} == {*whose[train]} - {"patient 3"}

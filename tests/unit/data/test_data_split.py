"""The split is fixed by its seed, disjoint, complete, and keeps each label's share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silo.data import HOSPITALS, load, split_rows


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 2**32))
def test_parts_are_disjoint_complete_and_stratified(labels: list[int], seed: int) -> None:
    values = np.array(labels, dtype=np.int64)
    train, test = split_rows(values, seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label in set(labels):
        total, chosen = labels.count(label), int((values[test] == label).sum())
        assert abs(chosen - total / 4) <= 0.5 or (total > 1 and chosen == 1)
        assert chosen < total


def test_the_seed_fixes_the_split() -> None:
    labels = load("uci-heart:switzerland").numbers("num") > 0
    first, again, other = (split_rows(labels, seed)[1] for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", HOSPITALS)
def test_every_hospital_tests_on_a_quarter_of_both_classes(name: str) -> None:
    labels = load(f"uci-heart:{name}").numbers("num") > 0
    train, test = split_rows(labels, 0)
    assert len(test) / len(labels) == pytest.approx(0.25, abs=0.01)
    assert 0 < labels[test].sum() < len(test)
    assert 0 < labels[train].sum() < len(train)

"""When an agent looks for its next message: seldom in vain, and never late by much."""

from __future__ import annotations

import pytest

from silo.flower.node import LATEST_LOOK, SOONEST_LOOK, _next_look


@pytest.mark.parametrize("gap", [0.1, 0.5, 0.9])
def test_messages_at_a_steady_pace_are_found_in_few_looks(gap: float) -> None:
    since, looks = 0.0, 0
    while since < gap:
        since += _next_look(since, gap)
        looks += 1
    assert looks <= 5
    assert since - gap <= SOONEST_LOOK


@pytest.mark.parametrize(("waited", "gap"), [(0.0, 10.0), (100.0, 0.2), (0.5, 30.0)])
def test_a_change_of_pace_is_noticed(waited: float, gap: float) -> None:
    since = 0.0
    while since < gap:
        look = _next_look(since, waited)
        assert 0 < look <= LATEST_LOOK
        since += look
    assert since - gap <= max(gap / 20, LATEST_LOOK)

"""``make test-faults``: ``--shard I/N`` plays the I-th of N parts of the faults, ``--repeat K`` each fault K times.

``ARGS="-m riskiest --repeat 5"`` plays the six riskiest five times.
"""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", default="1/1", help="I/N: only the I-th of N parts of the faults")
    parser.addoption("--repeat", type=int, default=1, help="each fault so many times")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "again" in metafunc.fixturenames:
        metafunc.parametrize(
            "again", range(metafunc.config.getoption("--repeat", 1)), ids=lambda each: f"time{each + 1}"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of another shard; without SILO_FAULTS=all, all but those of every day."""
    part, parts = map(int, config.getoption("--shard", "1/1").split("/"))
    faults = [item for item in items if "tests/faults/" in item.nodeid]
    everything = os.environ.get("SILO_FAULTS") == "all"
    for number, item in enumerate(faults):
        if number % parts != part - 1:
            item.add_marker(pytest.mark.skip(reason="of another shard"))
        elif not everything and item.get_closest_marker("everyday") is None:
            item.add_marker(pytest.mark.skip(reason="make test-faults plays it"))

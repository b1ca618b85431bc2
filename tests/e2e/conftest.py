"""One federation of each custody for the whole session: setting one up takes five seconds, a run on it takes one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from silo_crypto.verification import GroupKey

from silo.flower import client_app
from tests.e2e.federation import Federation


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Shared custody."""
    yield _warm(Federation(tmp_path_factory.mktemp("shared")))
    client_app.forget_agents()


@pytest.fixture(scope="session")
def threshold_federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Threshold custody, two of five."""
    yield _warm(Federation(tmp_path_factory.mktemp("threshold"), "threshold"))
    client_app.forget_agents()


def _warm(federation: Federation) -> Federation:
    """Play one run, which opens the agents and imports what training needs: no test's deadline is to wait for that."""
    federation.play(federation.submit(rounds=1))
    return federation


@pytest.fixture
def group_keys(monkeypatch: pytest.MonkeyPatch) -> list[GroupKey]:
    """Every group key made while the test runs: one for each silo of an epoch."""
    made: list[GroupKey] = []
    original = GroupKey.__init__

    def recording(self: GroupKey, key: bytes) -> None:
        original(self, key)
        made.append(self)

    monkeypatch.setattr(GroupKey, "__init__", recording)
    return made

"""Who watches a run is not sent away because its aggregator is being started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silo.client import remote
from silo.client.remote import RemoteRun
from silo.errors import PeerError


class Watched(RemoteRun):
    """A run whose aggregator answers as the test says."""

    answers: list[Any]

    @property
    def run(self) -> str:
        return "r"

    def state(self) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if answer is None:
            raise PeerError("no connection")
        return dict(answer)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> RemoteRun:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Watched, "answers", [], raising=False)
    return Watched(Path(), None, None, "localhost:1", None)  # type: ignore[arg-type]


RUNNING = {"state": "running", "events": [{"event": "inviting"}], "files": []}
FINISHED = {"state": "finished", "events": [{"event": "inviting"}, {"event": "finished"}], "files": []}


def test_a_pause_is_waited_out_and_no_event_comes_twice(watched: Watched) -> None:
    watched.answers.extend([RUNNING, None, None, RUNNING, None, FINISHED])
    assert [event["event"] for event in watched.events()] == ["inviting", "finished"]


def test_an_aggregator_that_never_answered_is_said_at_once(watched: Watched) -> None:
    watched.answers.append(None)
    with pytest.raises(PeerError, match="no connection"):
        list(watched.events())


def test_one_that_stays_away_is_said_after_a_while(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AWAY_SECONDS", 0.01)
    watched.answers.extend([RUNNING, *[None] * 1_000_000])
    with pytest.raises(PeerError, match="no connection"):
        list(watched.events())

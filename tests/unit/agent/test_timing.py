"""How long a silo trained tells how many records were in the batch: answers leave on a beat."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from silo.agent import agent as agent_module
from silo.agent.agent import SiloAgent, pause
from silo.messages import Abort, Head, Packet, RoundRequest


@pytest.mark.parametrize(
    ("elapsed", "waits"), [(0.2, 0.8), (0.999, 0.001), (1.0, 0.0), (1.2, 0.8), (7.5, 0.5), (0.0, 0.0)]
)
def test_the_next_beat_is_waited_for(elapsed: float, waits: float) -> None:
    assert pause(elapsed, 1.0) == pytest.approx(waits)
    assert pause(elapsed, 0.0) == 0.0


def waited(monkeypatch: pytest.MonkeyPatch, *, training: float, public: bool, kind: type[Head], fails: bool) -> float:
    """Return after how long a real agent's ``handle`` would have answered a message, on a clock of the test's own."""
    clock = SimpleNamespace(now=0.0)
    head = kind.model_construct(run="run-1", manifest="m", sender="aggregator")
    agent: Any = SiloAgent.__new__(SiloAgent)
    agent._home = SimpleNamespace(
        consortium=lambda: SimpleNamespace(body=SimpleNamespace(aggregator=SimpleNamespace(name="a", keys=None))),
        settings=SimpleNamespace(answer_seconds=4.0),
    )
    agent._runs, agent._lock = {"run-1": SimpleNamespace(public=public)}, agent_module.threading.Lock()

    def answer(head: Head, packet: Packet, blobs: dict[str, bytes]) -> str:
        clock.now += training
        if fails:
            raise RuntimeError("record 17")
        return "answer"

    monkeypatch.setattr(agent_module, "open_packet", lambda packet, verifier: head)
    monkeypatch.setattr(agent_module, "keyring", lambda name, keys: None)
    monkeypatch.setattr(agent, "_answer", answer, raising=False)
    monkeypatch.setattr(agent, "_fault", lambda error, head, packet: "fault", raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    assert agent.handle(Packet(b"", b"")) == ("fault" if fails else "answer")
    return clock.now


@pytest.mark.parametrize("fails", [False, True])
def test_a_rounds_answer_on_private_records_does_not_tell_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    for training in (0.01, 1.0, 3.9):
        took = waited(monkeypatch, training=training, public=False, kind=RoundRequest, fails=fails)
        assert took == pytest.approx(4.0)
    assert waited(monkeypatch, training=4.1, public=False, kind=RoundRequest, fails=fails) == pytest.approx(8.0)


def test_public_records_and_other_messages_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, training=0.3, public=True, kind=RoundRequest, fails=False) == pytest.approx(0.3)
    assert waited(monkeypatch, training=0.3, public=False, kind=Abort, fails=False) == pytest.approx(0.3)

"""The deadline of an exchange, on a grid that looks as slowly as Flower does for content that never comes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from silo.flower import compat
from silo.flower.engine import LocalGrid
from silo.flower.records import from_records, to_records
from silo.flower.server_app import GridExchange
from silo.messages import Packet

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

REQUEST = Packet(b"{}", bytes(64), {"question": b"?"})


class SlowGrid(LocalGrid):
    """Nodes 1 and 2 in this process; node 2 never answers, and each look for its answer takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        app = ClientApp()

        @app.query("silo")  # type: ignore[untyped-decorator]
        def answer(message: Message, context: Context) -> Message:
            return Message(to_records(from_records(message.content)), reply_to=message)

        super().__init__(app, {1: {}, 2: {}})
        self._seconds = seconds
        self.lifetimes: list[float] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.lifetimes += [each.metadata.ttl for each in messages]
        ids = list(super().push_messages([each for each in messages if each.metadata.dst_node_id == 1]))
        return [ids.pop(0) if each.metadata.dst_node_id == 1 else "lost" for each in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ids = list(message_ids)
        if "lost" in ids:
            time.sleep(self._seconds)
        return super().pull_messages([each for each in ids if each != "lost"])


@pytest.fixture
def slow() -> Iterator[SlowGrid]:
    compat.set_task_identity(1)
    grid = SlowGrid(0.4)
    yield grid
    grid.close()


def test_a_look_that_outlasts_the_deadline_ends_the_exchange(slow: SlowGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once asked again with a time to live below zero, which Flower refuses: the run failed."""
    monkeypatch.setattr("silo.flower.server_app.AGAIN_SECONDS", 0.1)
    answers: dict[str, Any] = GridExchange(slow).exchange({"1": REQUEST, "2": REQUEST}, training=False, seconds=0.6)
    assert answers == {"1": REQUEST, "2": None}
    assert len(slow.lifetimes) == 3  # once each, and node 2 again after the first look
    assert min(slow.lifetimes) > 0


def test_a_large_packet_is_not_sent_again_while_it_may_still_be_under_way(
    slow: SlowGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aggregate of 300 MB was fetched four times in a round: each took longer than the wait for its answer."""
    monkeypatch.setattr("silo.flower.server_app.AGAIN_SECONDS", 0.1)
    large = Packet(b"{}", bytes(64), {"aggregate": bytes(2 << 20)})
    assert GridExchange(slow).exchange({"2": large}, training=False, seconds=0.6) == {"2": None}
    assert len(slow.lifetimes) == 1


class RestartedGrid(LocalGrid):
    """A grid whose SuperLink is killed while it takes the first push."""

    broken = 1

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.broken:
            self.broken -= 1
            raise compat.ObjectPushError("object", 1, "session")
        return super().push_messages(messages)


def test_what_a_superlink_that_was_killed_did_not_take_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once ended the run: Flower says so by an error of its own, not by one of the network."""
    monkeypatch.setattr("silo.flower.server_app.UNSENT_SECONDS", 0.1)
    compat.set_task_identity(1)
    app = ClientApp()

    @app.query("silo")  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        return Message(to_records(from_records(message.content)), reply_to=message)

    grid = RestartedGrid(app, {1: {}})
    try:
        assert GridExchange(grid).exchange({"1": REQUEST}, training=False, seconds=5.0) == {"1": REQUEST}
    finally:
        grid.close()

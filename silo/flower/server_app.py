"""The aggregator as a Flower ``ServerApp``: our own round loop over Flower's grid.

Flower's strategies do one exchange a phase and block for ever on a missing node, so the loop is ours:
:class:`GridExchange` sends packets, polls, sends again what a restarted silo may have lost, and gives up at
a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from silo.flower import compat  # first: it silences Flower's telemetry before flwr is imported

from flwr.app import Context, Message  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

from silo.aggregator import SERVING, Aggregator, Interrupted
from silo.errors import VerificationFailed
from silo.flower.records import from_records, to_records
from silo.home import Home
from silo.messages import Packet
from silo.storage import only_one

# The next look comes after a quarter of the time waited so far, within these: a look costs the SuperLink 7 ms.
SOONEST_LOOK, LATEST_LOOK = 0.01, 0.2
AGAIN_SECONDS = 10.0
UNSENT_SECONDS = 1.0
SLOW_LINE = 2 << 20  # bytes a second; of a node that is gone Flower tells sooner
RETURN_SECONDS = 60.0

app = ServerApp()
compat.bound_replies()


@dataclass
class _Asked:
    """One node, what it is asked, and the Flower messages that carried it so far."""

    node: str
    packet: Packet
    messages: list[str] = field(default_factory=list)
    again: float = 0.0
    missing_since: float | None = None

    def __post_init__(self) -> None:
        """Give a large packet the time that it takes on a slow line, and its answer the same."""
        self.wait = AGAIN_SECONDS + 2 * self.packet.size / SLOW_LINE


class GridExchange:
    """Carries packets over a Flower grid. Nodes are known to the aggregator by their id as text."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> list[str]:
        """Return the ids of the connected nodes."""
        with _interrupted():
            return [str(node) for node in self._grid.get_node_ids()]

    def exchange(self, packets: Mapping[str, Packet], *, training: bool, seconds: float) -> dict[str, Packet | None]:
        """Send one packet to each node and wait for the answers.

        Returns an entry for every node; ``None`` where nothing usable came within ``seconds``, or where the node was
        gone for a minute. A packet is sent again after 10 seconds (and a second for each MiB of it), twice that and so
        on, the same bytes: a silo that was killed after it took the message would never see it otherwise, and one that
        answered gives the identical answer.
        Late and doubled answers are dropped, because nobody asks for them again.
        """
        kind = "train.silo" if training else "query.silo"
        started = time.monotonic()
        end = started + seconds
        with _interrupted():
            waiting = self._push([_Asked(node, packet) for node, packet in packets.items()], kind, started, end)
            answers: dict[str, Packet | None] = dict.fromkeys(packets)
            while waiting and time.monotonic() < end:
                arrived = list(self._grid.pull_messages([each for asked in waiting for each in asked.messages]))
                for reply in arrived:
                    waiting = self._take(reply, waiting, answers)
                now = time.monotonic()
                lost = [each for each in waiting if now - (each.missing_since or now) > RETURN_SECONDS]
                waiting = [each for each in waiting if each not in lost]
                if now >= end:  # a look can take half a minute: it waits for content that was announced
                    break
                self._push([each for each in waiting if now >= each.again], kind, now, end)
                if waiting and not arrived:
                    time.sleep(min(max((now - started) / 4, SOONEST_LOOK), LATEST_LOOK))
        return answers

    def _push(self, asked: list[_Asked], kind: str, now: float, end: float) -> list[_Asked]:
        messages = [
            self._grid.create_message(to_records(each.packet), kind, int(each.node), group_id="silo", ttl=end - now)
            for each in asked
        ]
        if not messages:
            return asked
        try:
            ids = list(self._grid.push_messages(messages))
        except compat.ObjectPushError:  # the SuperLink was started again meanwhile: what it has of them stays in pieces
            ids = [""] * len(messages)
        for each, message_id in zip(asked, ids, strict=True):
            if message_id:
                each.messages.append(message_id)
                each.again, each.wait = now + each.wait, 2 * each.wait
            else:
                each.again = now + UNSENT_SECONDS
        return asked

    @staticmethod
    def _take(reply: Message, waiting: list[_Asked], answers: dict[str, Packet | None]) -> list[_Asked]:
        """Note one reply; return who is still waited for."""
        asked = next((each for each in waiting if reply.metadata.reply_to_message_id in each.messages), None)
        if asked is None:
            return waiting
        if reply.has_error():
            asked.messages.remove(reply.metadata.reply_to_message_id)
            if reply.error.code in _MAY_RETURN:
                asked.missing_since = asked.missing_since or time.monotonic()
                asked.again = min(asked.again, time.monotonic() + AGAIN_SECONDS)
                return waiting
        else:
            try:
                answers[asked.node] = from_records(reply.content)
            except VerificationFailed:
                asked.messages.remove(reply.metadata.reply_to_message_id)
        return [each for each in waiting if each is not asked]


# The node may come back and take the message after all; any other error is the node's last word.
_MAY_RETURN = frozenset(
    {
        compat.ErrorCode.NODE_UNAVAILABLE,
        compat.ErrorCode.MESSAGE_UNAVAILABLE,
        compat.ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    }
)


@contextmanager
def _interrupted() -> Iterator[None]:
    """Turn what Flower's client raises when the SuperLink is gone into :class:`Interrupted`."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise Interrupted(f"the SuperLink does not answer: {type(error).__name__}") from error


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the submission named in the run configuration: ``silo-home`` (the aggregator's) and ``silo-run``."""
    home, run = Path(str(context.run_config["silo-home"])), str(context.run_config["silo-run"])
    with only_one(Home.open(home).run_directory(run) / SERVING):
        Aggregator.open(home, run).run(GridExchange(grid))

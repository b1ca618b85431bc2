"""``silo agent``: connects a home's agent to the aggregator, answers its messages, and connects again when it must.

Invariant: every packet goes through the same :meth:`silo.agent.SiloAgent.handle` as in the local engine; the transport
adds no decision of its own. One process at a time serves a home (``agent.lock``).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable

from silo.flower import compat  # first: it silences Flower's telemetry before flwr is imported

from flwr.app import Message  # isort: skip

from silo.agent import SiloAgent
from silo.allocator import give_back_large_blocks
from silo.canonical import utc_now
from silo.errors import ConfigError, PeerError, VerificationFailed
from silo.flower.fleet import Delivery, FleetConnection
from silo.flower.records import from_records, to_records
from silo.home import Home
from silo.home.stops import agent_started, agent_stopped
from silo.messages import Packet
from silo.storage import only_one, write_atomically

LOCK, STATUS = "agent.lock", "agent.json"
# A look costs the aggregator 7 ms, and most of a short round's are in vain: the first after an answer comes when the
# message before it came, nearly; the next after a twentieth of the time waited so far; each within these.
SOONEST_LOOK, LATEST_LOOK = 0.05, 1.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0

Told = Callable[[str, str], None]
"""``told(state, detail)`` hears each change: ``connected``, ``working``, ``waiting`` or ``stopped``."""


class Node:
    """One home's agent at one aggregator.

    Args:
        home: the silo's home.
        address: ``host:port`` of the aggregator's edge.
        root_certificate: PEM, or None for the system's authorities.
        told: hears what happens, for a status line.
    """

    def __init__(self, home: Home, address: str, root_certificate: bytes | None, told: Told) -> None:
        self._home = home
        self._address = address
        self._root = root_certificate
        self._told = told

    def serve(self, stop: threading.Event) -> None:
        """Answer messages until ``stop`` is set; the message under way is finished first."""
        give_back_large_blocks()
        with only_one(self._home.path / LOCK):
            agent_started(self._home)
            agent = SiloAgent(self._home)
            _warm_up()
            try:
                self._until(stop, agent)
            finally:
                agent.close(keep=True)
                self._tell("stopped", "")

    def _until(self, stop: threading.Event, agent: SiloAgent) -> None:
        wait = FIRST_WAIT
        while not self._ended(stop):
            try:
                with FleetConnection(self._address, self._root, self._home.node_key(), self._last_node()) as connection:
                    wait = FIRST_WAIT
                    self._tell("connected", f"{self._address}, node {connection.node_id}", connection.node_id)
                    self._answer(connection, agent, stop)
            except PeerError as error:
                self._tell("waiting", str(error))
                stop.wait(wait * random.uniform(0.7, 1.3))  # noqa: S311  spreads silos out, protects nothing
                wait = min(2 * wait, LONGEST_WAIT)

    def _answer(self, connection: FleetConnection, agent: SiloAgent, stop: threading.Event) -> None:
        answered = waited = 0.0  # when the last message was, and how long it had been waited for
        while not self._ended(stop):
            now = time.monotonic()
            if self._answer_one(connection, agent):
                waited, answered = now - answered if answered else 0.0, time.monotonic()
            else:
                stop.wait(_next_look(time.monotonic() - answered, waited))

    def _answer_one(self, connection: FleetConnection, agent: SiloAgent) -> bool:
        """Answer the next message, if there is one; nothing of it or its answer is held while the one after comes."""
        delivery = connection.receive()
        if delivery is None:
            return False
        started = time.monotonic()
        self._told("working", f"Flower run {delivery.run_id}")
        reply = self._reply(connection, agent, delivery)
        if reply is not None:
            connection.send(delivery.run_id, reply, time.monotonic() - started)
        self._told("connected", f"{self._address}, node {connection.node_id}")
        return True

    def _ended(self, stop: threading.Event) -> bool:
        """Say whether the agent is to end: by a signal, or by `silo stop --agent`."""
        return stop.is_set() or agent_stopped(self._home) is not None

    @staticmethod
    def _reply(connection: FleetConnection, agent: SiloAgent, delivery: Delivery) -> Message | None:
        """Return the agent's answer as a message, or None to what is no packet: there is nobody to answer to."""
        try:
            answer = to_records(agent.handle(_taken(delivery.message)))
        except (VerificationFailed, ValueError, TypeError):
            return None
        compat.set_task_identity(delivery.run_id, connection.node_id)
        return Message(answer, reply_to=delivery.message)

    def _last_node(self) -> int | None:
        """Return the node id of the last connection, of this process or the one before, if it was to this address."""
        try:
            status = json.loads((self._home.path / STATUS).read_bytes())
            return int(status["node"]) if status["aggregator"] == self._address else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tell(self, state: str, detail: str, node: int | None = None) -> None:
        """Tell whoever listens, and leave the state in the home for `silo status`: talk, not evidence."""
        node = node if node is not None else self._last_node()
        status = {
            "state": state,
            "detail": detail,
            "since": utc_now(),
            "aggregator": self._address,
            "node": None if node is None else str(node),
            "pid": os.getpid(),
        }
        try:
            write_atomically(self._home.path / STATUS, json.dumps(status).encode())
        except ConfigError as error:  # talk, not evidence: a full disk is told, and the agent goes on
            detail = f"{detail}; {error}"
        self._told(state, detail)


def _taken(message: Message) -> Packet:
    """Return the packet in a message, which holds nothing of it any more."""
    packet = from_records(message.content)
    message.content.clear()
    return packet


def _next_look(since: float, waited: float) -> float:
    """Return in how many seconds to look again, ``since`` seconds after an answer; the last wait was ``waited``."""
    first = min(0.8 * waited, LATEST_LOOK) - since
    return max(first, min(max(since / 20, SOONEST_LOOK), LATEST_LOOK))


def _warm_up() -> None:
    """Import what training needs before the first message asks for it: seconds that no round should wait."""
    import silo.data
    import silo.training.check
    import silo.training.evaluate
    import silo.training.mechanism
    import silo.training.trainer  # noqa: F401

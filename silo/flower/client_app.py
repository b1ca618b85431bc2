"""The silo agent as a Flower ``ClientApp``: unpack, hand to the agent of this node's home, pack the answer.

The node's configuration says where the home is (``silo-home``; else ``$SILO_HOME``). It holds no secret, because app
code can read it: keys stay in the home.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from silo.flower import compat  # noqa: F401  first: it silences Flower's telemetry before flwr is imported

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

from silo.agent import SiloAgent
from silo.flower.records import from_records, to_records

_agents: dict[Path, SiloAgent] = {}
_lock = threading.Lock()

app = ClientApp()


def agent_for(home: Path) -> SiloAgent:
    """Return this process's agent for a home; one per home, so that a run's state lives as long as the process."""
    with _lock:
        if home not in _agents:
            _agents[home] = SiloAgent.open(home)
        return _agents[home]


def forget_agents() -> None:
    """Drop every agent with its keys in memory; the engine calls it when its run is over."""
    with _lock:
        for agent in _agents.values():
            agent.close()
        _agents.clear()


def _handle(message: Message, context: Context) -> Message:
    place = context.node_config.get("silo-home") or os.environ.get("SILO_HOME") or "~/.silo"
    agent = agent_for(Path(str(place)).expanduser())
    return Message(to_records(agent.handle(from_records(message.content))), reply_to=message)


# One handler: the kind stands in the signed head, which a message type is not part of.
app.query("silo")(_handle)
app.train("silo")(_handle)

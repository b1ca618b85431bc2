"""The aggregator as a Flower ``ServerApp``: our own round loop over Flower's grid.

Flower's strategies do one exchange a phase and block for ever on a missing node, so the loop is ours:
:class:`GridExchange` sends packets, polls every 20 ms, and gives up at a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from silo.flower import compat  # noqa: F401  first: it silences Flower's telemetry before flwr is imported

from flwr.app import Context  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

from silo.aggregator import Aggregator
from silo.errors import VerificationFailed
from silo.flower.records import from_records, to_records
from silo.messages import Packet

POLL_SECONDS = 0.02

app = ServerApp()


class GridExchange:
    """Carries packets over a Flower grid. Nodes are known to the aggregator by their id as text."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> list[str]:
        """Return the ids of the connected nodes."""
        return [str(node) for node in self._grid.get_node_ids()]

    def exchange(self, packets: Mapping[str, Packet], *, training: bool, seconds: float) -> dict[str, Packet | None]:
        """Send one packet to each node and wait for the answers.

        Returns an entry for every node; ``None`` where nothing usable came within ``seconds``. Late and doubled answers
        are dropped, because nobody asks for them again.
        """
        kind = "train.silo" if training else "query.silo"
        messages = [
            self._grid.create_message(to_records(packet), kind, int(node), group_id="silo", ttl=seconds)
            for node, packet in packets.items()
        ]
        waiting = dict(zip(self._grid.push_messages(messages), packets, strict=True))
        answers: dict[str, Packet | None] = dict.fromkeys(packets)
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            arrived = list(self._grid.pull_messages(list(waiting)))
            for reply in arrived:
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None or reply.has_error():
                    continue
                try:
                    answers[node] = from_records(reply.content)
                except VerificationFailed:
                    continue
            if waiting and not arrived:
                time.sleep(POLL_SECONDS)
        return answers


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the submission named in the run configuration: ``silo-home`` (the aggregator's) and ``silo-run``."""
    config = context.run_config
    Aggregator.open(Path(str(config["silo-home"])), str(config["silo-run"])).run(GridExchange(grid))

"""The same run without encryption, signatures, logs, ledgers and policies, on the same engine: what those cost.

Composed here from the product's own parts, because the product has no such switch: the same confined child computes the
same gradients, the same mechanism samples, clips, noises and encodes, the same transport carries the packets. What is
left out: keys, ciphertexts, MACs, signatures, witness packets, decisions, logs, ledgers, checkpoints, sealed models.

`play` does it on the local engine. ``python -m benchmarks.deployment_plain COMMAND...`` is a silo command in which the
agent and the aggregator's app are those of this file, for a deployment of real processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from silo.agent.facts import choose_dataset
from silo.agent.prepare import Examined, Prepared, confine, examine, prepare
from silo.aggregator import SERVING
from silo.flower.engine import LocalGrid
from silo.flower.records import from_records, to_records
from silo.flower.server_app import GridExchange
from silo.home import Home
from silo.messages import Packet
from silo.storage import only_one
from silo.submission import Submission

Array = np.ndarray[Any, Any]


class PlainSilo:
    """One silo's training and nothing else."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._confined: Any = None
        self._examined: Examined | None = None
        self._prepared: Prepared | None = None
        self._model = np.zeros(0, dtype=np.float32)

    def handle(self, packet: Packet) -> Packet:
        """Do one of: invite, round, finish."""
        head = json.loads(packet.head)
        if head["kind"] == "invite":
            submission = Submission.parse(head["consortium"], head["run"], packet.blobs["bundle"])
            dataset = choose_dataset(self._home, submission.run.body.purpose)
            self._confined = confine(self._home)
            self._examined = examine(submission, dataset, self._home.path, self._confined)
            self._prepared = prepare(submission, dataset, self._examined)
            self._model = self._examined.initial
            return _packet({"kind": "ready"}, {})
        prepared = self._prepared
        assert prepared is not None
        told: dict[str, Any] = {"kind": "answer"}
        if head["round"] == 1:
            told["metrics"] = self._measure(prepared)
        if "sums" in packet.blobs:
            sums = np.frombuffer(packet.blobs["sums"], dtype=np.int64)
            self._model = prepared.mechanism.apply(self._model, sums, head["uploads"])
        if head["kind"] == "finish":
            told["metrics"] = self._measure(prepared)
            self._confined.close()
            return _packet(told, {"model": self._model.tobytes()})
        return _packet(told, {"upload": prepared.mechanism.contribute(self._model).values.tobytes()})

    def _measure(self, prepared: Prepared) -> dict[str, float | None]:
        outputs = self._confined.scores(self._model, len(prepared.labels))
        measured: dict[str, float | None] = self._confined.measure(outputs, prepared.labels)
        return measured

    def close(self, *, keep: bool = False) -> None:
        """End the child, if a run is under way."""
        if self._confined is not None:
            self._confined.close()


def play(homes: dict[str, Home], submission: Submission) -> Array:
    """Play a whole run on the local engine; return the last model, float32 (d,)."""
    silos = {str(home.path): PlainSilo(home) for home in homes.values()}
    client = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        silo = silos[str(context.node_config["home"])]
        return Message(to_records(silo.handle(from_records(message.content))), reply_to=message)

    client.query("silo")(handle)
    client.train("silo")(handle)
    grid = LocalGrid(client, {number: {"home": path} for number, path in enumerate(silos, start=101)})
    try:
        return aggregate(GridExchange(grid), submission)
    finally:
        grid.close()


def aggregate(exchange: GridExchange, submission: Submission) -> Array:
    """Play a whole run with the nodes of ``exchange``; return the last model, float32 (d,)."""
    nodes = exchange.nodes()

    def ask(head: dict[str, Any], blobs: dict[str, bytes]) -> list[Packet]:
        packets = dict.fromkeys(nodes, _packet(head, blobs))
        answers = exchange.exchange(packets, training=head["kind"] == "round", seconds=300.0)
        missing = [node for node, answer in answers.items() if answer is None]
        if missing:
            raise SystemExit(f"node {missing} did not answer")
        return [answer for answer in answers.values() if answer is not None]

    documents = {"consortium": submission.consortium.to_dict(), "run": submission.run.to_dict()}
    ask({"kind": "invite", **documents}, {"bundle": submission.bundle})
    blobs: dict[str, bytes] = {}
    for number in range(1, submission.run.body.rounds + 1):
        answers = ask({"kind": "round", "round": number, "uploads": len(nodes)}, blobs)
        uploads = [np.frombuffer(each.blobs["upload"], dtype=np.uint32) for each in answers]
        blobs = {"sums": np.sum(uploads, axis=0, dtype=np.int64).tobytes()}
    last = ask({"kind": "finish", "round": 0, "uploads": len(nodes)}, blobs)
    return np.frombuffer(last[0].blobs["model"], dtype=np.float32)


def _packet(head: dict[str, Any], blobs: dict[str, bytes]) -> Packet:
    return Packet(json.dumps(head).encode(), b"", blobs)


app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def serve(grid: Grid, context: Context) -> None:
    """Play the run named in the run configuration, as `silo.flower.server_app` does."""
    directory = Home.open(Path(str(context.run_config["silo-home"]))).run_directory(str(context.run_config["silo-run"]))
    with only_one(directory / SERVING):
        aggregate(GridExchange(grid), Submission.load(directory))
        (directory / "result.json").write_text("{}")


def main() -> None:
    """Replace agent and app in this process, from outside, then run the command."""
    from silo.cli import main as command
    from silo.flower import control, node

    node.SiloAgent = PlainSilo  # type: ignore[assignment,attr-defined]
    control.BUNDLE = control.BUNDLE.replace("silo.flower.server_app:app", f"{NAME}:app")
    command()


NAME = "benchmarks.deployment_plain"

if __name__ == "__main__":
    sys.argv[0] = NAME
    main()

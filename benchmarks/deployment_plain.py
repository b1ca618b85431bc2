"""The same run without encryption, signatures, logs, ledgers and policies, on the same engine: what those cost.

Composed here from the product's own parts, because the product has no such switch: the same confined child computes the
same gradients, the same mechanism samples, clips, noises and encodes, the same grid carries the packets. What is left
out: keys, ciphertexts, MACs, signatures, witness packets, decisions, logs, ledgers, checkpoints, sealed models.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from silo.agent.facts import choose_dataset
from silo.agent.prepare import Examined, Prepared, confine, examine, prepare
from silo.flower.engine import LocalGrid
from silo.flower.records import from_records, to_records
from silo.flower.server_app import GridExchange
from silo.home import Home
from silo.messages import Packet
from silo.submission import Submission


class PlainSilo:
    """One silo's training and nothing else."""

    def __init__(self, home: Home, submission: Submission) -> None:
        self._home, self._submission = home, submission
        self._confined: Any = None
        self._examined: Examined | None = None
        self._prepared: Prepared | None = None
        self._model = np.zeros(0, dtype=np.float32)

    def answer(self, packet: Packet) -> Packet:
        """Do one of: invite, round, finish."""
        head = json.loads(packet.head)
        if head["kind"] == "invite":
            dataset = choose_dataset(self._home, self._submission.run.body.purpose)
            self._confined = confine(self._home)
            self._examined = examine(self._submission, dataset, self._home.path, self._confined)
            self._prepared = prepare(self._submission, dataset, self._examined)
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


def play(homes: dict[str, Home], submission: Submission) -> np.ndarray[Any, Any]:
    """Play a whole run; return the last model, float32 (d,)."""
    silos = {home.path: PlainSilo(home, submission) for home in homes.values()}
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        silo = next(each for path, each in silos.items() if str(path) == context.node_config["home"])
        return Message(to_records(silo.answer(from_records(message.content))), reply_to=message)

    app.query("silo")(handle)
    app.train("silo")(handle)
    nodes = {number: {"home": str(home.path)} for number, home in enumerate(homes.values(), start=101)}
    grid = LocalGrid(app, nodes)
    exchange = GridExchange(grid)

    def ask(head: dict[str, Any], blobs: dict[str, bytes]) -> list[Packet]:
        packets = dict.fromkeys(exchange.nodes(), _packet(head, blobs))
        answers = exchange.exchange(packets, training=head["kind"] == "round", seconds=300.0)
        missing = [node for node, answer in answers.items() if answer is None]
        if missing:
            raise SystemExit(f"node {missing} did not answer")
        return [answer for answer in answers.values() if answer is not None]

    try:
        ask({"kind": "invite"}, {})
        blobs: dict[str, bytes] = {}
        for number in range(1, submission.run.body.rounds + 1):
            answers = ask({"kind": "round", "round": number, "uploads": len(homes)}, blobs)
            uploads = [np.frombuffer(each.blobs["upload"], dtype=np.uint32) for each in answers]
            blobs = {"sums": np.sum(uploads, axis=0, dtype=np.int64).tobytes()}
        last = ask({"kind": "finish", "round": 0, "uploads": len(homes)}, blobs)
        return np.frombuffer(last[0].blobs["model"], dtype=np.float32)
    finally:
        grid.close()


def _packet(head: dict[str, Any], blobs: dict[str, bytes]) -> Packet:
    return Packet(json.dumps(head).encode(), b"", blobs)

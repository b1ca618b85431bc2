"""A real federation for tests: homes, agents, signed manifests, and a grid on which a test can listen, alter and lose.

Nothing is faked. The homes are those that the demo sets up, the agents are the ones the Flower client app opens, every
message passes through Flower's serialisation. One federation plays many runs, as in a deployment: agents and ledgers
live on from one run to the next, and each run spends a little of the same budget.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import time
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from silo_crypto.verification import GroupKey
from silo_policies import RunManifest, sign

from silo.aggregator import RESULT, Aggregator
from silo.api import Experiment, load_experiment
from silo.demo.hospitals import REFUSER, cast
from silo.demo.run import shipped_experiment
from silo.demo.setting import Setting, set_the_stage
from silo.flower import client_app
from silo.flower.engine import LocalGrid
from silo.flower.records import from_records, to_records
from silo.flower.server_app import GridExchange
from silo.home import Home
from silo.messages import Head, Packet, RoundRequest, open_packet, seal_packet
from silo.submission import Submission
from tests.e2e.deployment import Deployment

ROUNDS = 3  # a run may ask for fewer, not for more: the noise is for three
EPSILON, DELTA = 0.05, 1e-6  # of a run: two hundred runs fit under the demo's cap

Alter = Callable[[str, Packet], Packet | None]
Tamper = Callable[[str, Head, dict[str, bytes]], tuple[Head, dict[str, bytes]]]


class Federation:
    """Four hospitals that permit, one that refuses, an aggregator and a researcher."""

    def __init__(self, directory: Path, custody: str = "shared") -> None:
        path = shipped_experiment()
        experiment, digest = load_experiment(path)
        self.experiment: Experiment = dataclasses.replace(
            experiment,
            rounds=ROUNDS,
            privacy=dataclasses.replace(experiment.privacy, epsilon=EPSILON, delta=DELTA),
            encryption=dataclasses.replace(experiment.encryption, custody=custody),  # type: ignore[arg-type]
        )
        self.setting: Setting = set_the_stage(
            directory,
            cast(None),
            self.experiment,
            path.read_bytes(),
            code_digest=digest,
            model_size=32,
            seed=0,
        )
        self.homes: dict[str, Home] = self.setting.homes
        self.names = sorted(name for name in self.homes if name != REFUSER)
        self.nodes = {name: number for number, name in enumerate(self.homes, start=101)}
        self._numbers = itertools.count(1)

    @property
    def aggregator(self) -> Home:
        return self.setting.aggregator

    def agent(self, name: str) -> Any:
        """Return the very agent that the Flower client app answers with."""
        return client_app.agent_for(self.homes[name].path)

    def submit(self, *, bundle: bytes | None = None, **changes: Any) -> Submission:
        """Return a new run, signed by the researcher and lying in the aggregator's home."""
        base = self.setting.submission
        body = base.run.body.model_copy(update={"run": f"run-{next(self._numbers)}", **changes})
        body = RunManifest.model_validate_json(body.model_dump_json())
        submission = Submission(
            base.consortium, sign(body, self.setting.researcher), base.bundle if bundle is None else bundle
        )
        self.aggregator.add_submission(body.run, submission.parts())
        return submission

    def play(
        self, submission: Submission, grid: LocalGrid | None = None, *, aggregator: Aggregator | None = None
    ) -> dict[str, Any]:
        """Run a submission to its end over ``grid`` and return ``result.json``; raises what ended it."""
        grid = grid or Tap(self)
        try:
            (aggregator or Aggregator(self.aggregator, submission)).run(GridExchange(grid))
        finally:
            grid.close()
        return self.result(submission)

    def result(self, submission: Submission) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_directory(submission) / RESULT).read_bytes())
        return found

    def run_directory(self, submission: Submission) -> Path:
        return self.aggregator.run_directory(submission.run.body.run)

    def charged(self, name: str, submission: Submission) -> int:
        """Return how many steps a silo's ledger holds against the run; 0 if it reserved nothing."""
        with self.homes[name].ledger() as ledger:
            found = [each for each in ledger.reservations() if each.run == submission.run.body.run]
        return sum(each.charged for each in found)

    def releases(self, name: str, submission: Submission) -> list[Mapping[str, Any]]:
        """Return a silo's log entries on models it released in the run."""
        return [body for body in self.logged(name, submission, "release") if body["what"] == "model"]

    def logged(self, name: str, submission: Submission, kind: str) -> list[Mapping[str, Any]]:
        """Return the bodies of a party's log entries of one kind on the run."""
        home = self.aggregator if name == self.aggregator.name else self.homes[name]
        with home.log() as log:
            return [entry.body for entry in log.entries(run=submission.run.body.run) if str(entry.kind) == kind]


class Tap(LocalGrid):
    """The local engine with somebody on the line.

    ``request`` and ``reply`` are given a silo's name and what is under way to or from it, and return what arrives;
    ``None`` loses it. ``requests`` and ``replies`` keep what was sent, before it was altered.
    """

    def __init__(
        self,
        federation: Federation | Deployment,
        *,
        request: Alter = lambda name, packet: packet,
        reply: Alter = lambda name, packet: packet,
        only: Iterable[str] | None = None,
    ) -> None:
        nodes = {node: name for name, node in federation.nodes.items() if only is None or name in set(only)}
        super().__init__(
            client_app.app, {node: {"silo-home": str(federation.homes[name].path)} for node, name in nodes.items()}
        )
        self._names = nodes
        self._request, self._reply = request, reply
        self._asked: dict[str, str] = {}
        self.requests: list[tuple[str, Packet]] = []
        self.replies: list[tuple[str, Packet]] = []

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        ids = []
        for message in messages:
            name = self._names[message.metadata.dst_node_id]
            packet = from_records(message.content)
            self.requests.append((name, packet))
            arriving = self._request(name, packet)
            if arriving is None:
                ids.append(f"lost-{len(self.requests)}")
                continue
            message.content = to_records(arriving)
            ids += super().push_messages([message])
            self._asked[ids[-1]] = name
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        arrived = []
        for message in super().pull_messages(message_ids):
            name = self._asked[message.metadata.reply_to_message_id]
            packet = from_records(message.content)
            self.replies.append((name, packet))
            arriving = self._reply(name, packet)
            if arriving is not None:
                message.content = to_records(arriving)
                arrived.append(message)
        return arrived

    def heads(self, kind: str) -> dict[str, list[dict[str, Any]]]:
        """Return the heads of one kind that silos sent, by silo."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name, packet in self.replies:
            head = head_of(packet)
            if head["kind"] == kind:
                found.setdefault(name, []).append(head)
        return found

    def uploads(self, name: str) -> int:
        """Return how many different uploads left a silo, whether or not they arrived."""
        return len(
            {packet.blobs["upload"] for sender, packet in self.replies if sender == name and "upload" in packet.blobs}
        )


class Malicious(Aggregator):
    """An aggregator that signs whatever ``tamper`` makes of each request, and never compares the silos' tags."""

    def __init__(self, home: Home, submission: Submission, tamper: Tamper) -> None:
        super().__init__(home, submission)
        self._tamper = tamper

    def _ask(self, exchange: Any, packets: Mapping[str, Packet], *rest: Any, **named: Any) -> Any:
        altered = {}
        for name, packet in packets.items():
            head, blobs = self._tamper(name, open_packet(packet, self._identity.public()), dict(packet.blobs))
            altered[name] = seal_packet(head, self._identity, blobs)
        return super()._ask(exchange, altered, *rest, **named)

    def _agree(self, tags: Mapping[str, tuple[str, str]], number: int) -> None:
        super()._agree(dict(list(tags.items())[:1]), number)


def assert_stopped(federation: Federation, submission: Submission, tap: Tap, keys: list[GroupKey]) -> None:
    """Assert what holds after every attack: keys gone, nothing released, every upload charged, no silo goes on."""
    assert not alive(keys), "a key outlived the run"
    directory = federation.run_directory(submission)
    assert not (directory / RESULT).exists()
    assert not list(directory.glob("*.sealed"))
    assert federation.logged(federation.aggregator.name, submission, "fault")
    identity = federation.aggregator.identity()
    run = submission.run.body
    for name in federation.names:
        assert federation.charged(name, submission) == tap.uploads(name) * run.privacy.steps_per_round
        assert not federation.releases(name, submission)
        head = RoundRequest(
            run=run.run, manifest=run.digest, sender=identity.name, round=1, attempt=1, members=federation.names
        )
        answer = head_of(federation.agent(name).handle(seal_packet(head, identity)))
        assert (answer["kind"], answer["exit_code"]) == ("fault", 6)
        assert "takes no part" in answer["what"]


def alive(keys: list[GroupKey]) -> list[GroupKey]:
    """Return the keys that were neither destroyed nor forgotten by everybody but this list.

    A silo destroys its keys when it hears of the end; the aggregator does not wait until each one has heard.
    """
    end = time.monotonic() + 20
    while _alive_now(keys) and time.monotonic() < end:
        time.sleep(0.2)
    return _alive_now(keys)


def _alive_now(keys: list[GroupKey]) -> list[GroupKey]:
    gc.collect()
    held = [key for key in keys if not key.destroyed]
    return [key for key in held if any(each is not keys and each is not held for each in _holders(key))]


def _holders(thing: object) -> list[object]:
    return [each for each in gc.get_referrers(thing) if not isinstance(each, types.FrameType)]


def head_of(packet: Packet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(packet.head)
    return found

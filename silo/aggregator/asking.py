"""How the aggregator asks silos, and what it takes for an answer.

Invariant: an answer counts only if the silo signed it, to the very request that it was sent; who is silent or reports a
fault is on record, and a fault of verification ends the run. Every request carries the parties' witness packets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from silo.aggregator import checkpoint
from silo.aggregator.checkpoint import State
from silo.aggregator.events import Events
from silo.audit import Trust, Witnessing
from silo.audit.witnessing import BLOB, addressed, merged
from silo.errors import BudgetExceeded, ConfigError, PeerError, PolicyDenied, SiloError, VerificationFailed
from silo.home import Home
from silo.log import Witness
from silo.log.witness import FILE
from silo.messages import (
    Common,
    Fault,
    Head,
    InviteReply,
    Packet,
    Previous,
    head_digest,
    open_packet,
    seal_packet,
    sender_of,
)
from silo.storage import write_atomically
from silo.submission import Submission

R = TypeVar("R", bound=Head)


class Interrupted(PeerError):
    """The transport under a run broke. Nothing is wrong with the run: it goes on when the transport is back."""


class Exchange(Protocol):
    """Carries packets to nodes and back, with a deadline (:class:`silo.flower.server_app.GridExchange`)."""

    def nodes(self) -> list[str]: ...

    def exchange(
        self, packets: Mapping[str, Packet], *, training: bool, seconds: float
    ) -> dict[str, Packet | None]: ...


_ERRORS: Mapping[int, type[SiloError]] = {
    error.exit_code: error for error in (ConfigError, PolicyDenied, BudgetExceeded, VerificationFailed, PeerError)
}


def fault_error(name: str, fault: Fault) -> SiloError:
    """Return a silo's fault as the error it was there, so that the exit code says what kind it is."""
    return _ERRORS.get(fault.exit_code, PeerError)(fault.what, where=name)


class Asking:
    """What a run at the aggregator knows, and how it asks; the steps are in :mod:`silo.aggregator.aggregator`."""

    def __init__(self, home: Home, submission: Submission) -> None:
        self._home = home
        self._identity = home.identity()
        self._log = home.log()
        self._submission = submission
        self._run = submission.run.body
        self._digest = submission.run.body.digest
        self._directory = home.run_directory(self._run.run)
        self._events = Events(self._directory / "events.jsonl")
        self._nodes: dict[str, str] = {}
        self._state = State()
        self._restarted = False
        self._asked: dict[str, dict[str, Packet]] = {}  # since the last checkpoint: to be asked again, byte for byte
        consortium = submission.consortium.body
        self._quorum = consortium.witness_quorum
        self._memory = Witness(home.path / FILE)
        self._witnessing = self._witness_after(0)
        self._packets: dict[str, dict[str, Any]] = {}  # the silos' witness packets of the last exchange, to pass on

    def _witness_after(self, number: int) -> Witnessing:
        trust = Trust.of_manifest(self._submission.consortium.body)
        return Witnessing(self._log, self._identity, self._memory, trust, self._run.run, after=number)

    def _common(self) -> Common:
        return Common(run=self._run.run, manifest=self._digest, sender=self._identity.name, re="")

    def _previous(self) -> Previous | None:
        pending = self._state.pending
        if pending is None:
            return None
        return Previous(round=pending.header.round, attempt=pending.header.attempt, uploaders=pending.uploaders)

    def _aggregate_blob(self) -> dict[str, bytes]:
        return {} if self._state.pending is None else {"aggregate": self._state.pending.aggregate}

    def _carrying(self, head: Head, blobs: Mapping[str, bytes], names: Sequence[str]) -> dict[str, Packet]:
        """Return the request for each silo, with the witness packets of all others and of the aggregator."""
        packets = {**self._packets, self._identity.name: self._witnessing.packet()}
        return {name: seal_packet(head, self._identity, {**blobs, BLOB: addressed(packets, name)}) for name in names}

    def _witness(self, answers: Mapping[str, tuple[Head, Packet]]) -> None:
        """Take the silos' witness packets; a log that did not only grow is named, and ends the run."""
        self._packets = merged((name, answer.blobs.get(BLOB)) for name, (_, answer) in answers.items())
        self._witnessing.receive(self._packets)

    def _ask(
        self,
        exchange: Exchange,
        packets: Mapping[str, Packet],
        wanted: type[R],
        seconds: float,
        *,
        training: bool = False,
        least: int | None = None,
    ) -> dict[str, tuple[R, Packet]]:
        """Send one packet to each named silo; return the verified answers of the wanted kind.

        A silo that is silent or reports that it could not is a fault and is left out. A fault of verification at a silo
        ends the run: a silo that saw a bad aggregate has destroyed the epoch's key.
        """
        packets = self._repeated(packets)
        nodes = {self._nodes[name]: name for name in packets}
        answers = exchange.exchange(
            {node: packets[name] for node, name in nodes.items()}, training=training, seconds=seconds
        )
        found: dict[str, tuple[R, Packet]] = {}
        failed: SiloError | None = None
        for node, answer in answers.items():
            name = nodes[node]
            if answer is None:
                self._fault(name, "did not answer in time")
                failed = failed or PeerError("did not answer in time", where=name, fix="is its agent running?")
                continue
            head = open_packet(answer, self._submission.member(name), run=self._run.run, manifest=self._digest)
            if head.re != head_digest(packets[name]):
                raise VerificationFailed(f"{name} answered another request than the one it was sent")
            if isinstance(head, Fault):
                self._fault(name, head.what)
                failed = failed or fault_error(name, head)
                if head.exit_code == VerificationFailed.exit_code:
                    raise VerificationFailed(head.what, where=name)
                continue
            if not isinstance(head, wanted):
                raise VerificationFailed(f"{name} sent {head.kind!r}, not {wanted.__name__}")
            found[name] = (head, answer)
        needed = self._run.minimum_silos if least is None else least
        if failed is not None and len(found) < min(len(packets), needed):
            raise failed
        return dict(sorted(found.items()))

    def _repeated(self, packets: Mapping[str, Packet]) -> Mapping[str, Packet]:
        """Return what was asked before, if a process that was killed asked it; else write down what is asked now.

        A request carries fresh witness packets, so asking anew would be another request, to which a silo that answered
        the first may give no other answer.
        """
        label = checkpoint.label_of(next(iter(packets.values()))) if packets else None
        if label is None or not self._state.members:
            return packets
        before = self._asked.get(label)
        if self._restarted and before is not None:
            del self._asked[label]
            return {name: before.get(name, packet) for name, packet in packets.items()}
        if checkpoint.exists(self._directory):
            self._asked[label] = dict(packets)
            checkpoint.save_asked(self._directory, self._asked, self._state)
        return packets

    def _hear(self, node: str, answer: Packet, request: Packet) -> SiloError | None:
        """Take one node's decision on record. A silo that cannot decide is no reason for the others not to train: its
        fault is returned. An answer that is not what it claims to be is raised."""
        name = sender_of(answer)
        if name not in self._run.members or name in self._nodes:
            raise VerificationFailed(f"a node answered as {name}, which was not invited or answered before")
        reply = open_packet(answer, self._submission.member(name), run=self._run.run, manifest=self._digest)
        if isinstance(reply, Fault):
            self._fault(name, reply.what)
            return fault_error(name, reply)
        if not isinstance(reply, InviteReply) or reply.re != head_digest(request):
            raise VerificationFailed(f"{name} sent {reply.kind!r}, not an answer to what it was asked")
        decision = self._submission.decision(reply.decision, name)
        self._nodes[name] = node
        self._state.decisions[name] = reply.decision
        write_atomically(self._directory / f"decision-{name}.json", json.dumps(reply.decision, sort_keys=True).encode())
        self._log.append(
            "decision",
            {"run": self._run.run, "silo": name, "decision": decision.decision, "digest": decision.digest},
        )
        self._events.emit(
            "decision",
            silo=name,
            decision=decision.decision,
            reasons=[reason.model_dump(mode="json") for reason in decision.reasons],
        )
        if decision.decision == "permit":
            self._state.members.append(name)
        return None

    def _agree(self, tags: Mapping[str, tuple[str, str]], number: int) -> None:
        """Stop unless every silo holds the same past and the same model; the tags are HMACs, so only equality shows."""
        if len(set(tags.values())) > 1:
            common = max(set(tags.values()), key=list(tags.values()).count)
            odd = sorted(name for name, tag in tags.items() if tag != common)
            raise VerificationFailed(f"{', '.join(odd)} holds another model than the others", where=f"round {number}")
        if tags:
            self._state.chain = bytes.fromhex(next(iter(tags.values()))[0])

    def _note(self, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write steps of a round into the log; after a restart, unless the process before wrote the very same."""
        if self._restarted:
            kinds = {kind for kind, _ in steps}
            there = [(str(entry.kind), entry.body) for entry in self._log.entries(*kinds, run=self._run.run)]
            steps = [step for step in steps if step not in there]
        self._log.extend(steps)

    def _fault(self, name: str, what: str) -> None:
        number = len(self._state.rounds) + 1
        self._state.faults.append({"round": number, "party": name, "what": what})
        self._log.append("fault", {"run": self._run.run, "silo": name, "what": what[:500]})
        self._events.emit("fault", silo=name, what=what)

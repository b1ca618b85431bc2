"""A run as the aggregator sees it: decisions, ciphertexts, sizes and timings, and nothing else.

Invariant: nothing here can decrypt. The aggregator holds its own signing key, the signed manifests, and sums of
ciphertexts; no secret key of the custody, no update, no aggregate in the clear and no model ever reaches it.
`tests/e2e/test_aggregator_is_blind.py` searches everything that does.

A run, step by step (PROTOCOL section 4): invite, key set-up, rounds, finish. Rounds overlap: the aggregate of round r
travels with the request for round r + 1, so under shared custody a round is one exchange.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from silo_crypto.errors import CryptoError
from silo_policies import PolicyError

from silo.aggregator import checkpoint
from silo.aggregator.asking import Asking, Exchange, Interrupted
from silo.aggregator.blind import secrets_held
from silo.aggregator.checkpoint import Pending
from silo.aggregator.custody import Collector, collector_for
from silo.canonical import digest_of
from silo.errors import PeerError, PolicyDenied, SiloError, VerificationFailed
from silo.home import Home
from silo.messages import (
    Abort,
    Acknowledged,
    Cosign,
    Cosigned,
    Finish,
    FinishReply,
    Invite,
    Packet,
    Release,
    RoundReply,
    RoundRequest,
    Signature,
    Step,
    StepReply,
    open_packet,
    seal_packet,
    sender_of,
)
from silo.storage import write_atomically
from silo.submission import Submission

RESULT, FAILURE, SERVING = "result.json", "failure.json", "serving.lock"
GATHER_SECONDS = 20.0
INVITE_SECONDS = 300.0
STEP_SECONDS = 300.0
ROUND_SECONDS = 1800.0
FINISH_SECONDS = 300.0
ABORT_SECONDS = 10.0
WITNESS_SECONDS = 120.0  # how long a run pauses for want of cosignatures before it is given up
PAUSE_SECONDS = 2.0
FIND_SECONDS = 60.0  # how long a run that was cut off waits for silos to connect again


class Aggregator(Asking):
    """Runs one submission to its end and leaves ``result.json`` in the run's directory."""

    @classmethod
    def open(cls, home: Path, run: str) -> Aggregator:
        """Open an aggregator's home and a run submitted to it."""
        opened = Home.open(home)
        return cls(opened, Submission.load(opened.run_directory(run)))

    def run(self, exchange: Exchange) -> None:
        """Run to the end. Raises the error that ended it, after telling every silo and writing it down."""
        try:
            collector = self._begin(exchange)
            for number in range(len(self._state.rounds) + 1, self._run.rounds + 1):
                self._round(exchange, collector, number)
                self._save(collector)
                self._await_witnesses(exchange, number)
            result = self._finish(exchange, collector)
        except Interrupted:
            raise
        except Exception as error:  # of any kind: the silos hold keys and budget until they are told
            self._log.append("fault", {"run": self._run.run, "what": str(error)[:500] or type(error).__name__})
            self._events.emit("failed", what=str(error))
            write_failure(self._directory, error)
            checkpoint.forget(self._directory)
            self._abort(exchange, exchange.nodes(), "the run ended without a model")
            raise
        finally:
            self._events.close()
            self._memory.close()
            self._log.close()
        write_atomically(self._directory / RESULT, json.dumps(result, indent=2, sort_keys=True).encode())
        checkpoint.forget(self._directory)

    def _begin(self, exchange: Exchange) -> Collector:
        """Bring the run to its next round: from the start, or from where a process that was killed left it."""
        self._submission.check(now=datetime.now(UTC), pinned=self._home.consortium().body.digest)
        before = checkpoint.load(self._directory, self._digest)
        if before is not None:
            self._state, exported = before
            self._restarted = True
            self._asked = checkpoint.load_asked(self._directory, self._state)
            self._witnessing = self._witness_after(self._state.witnessed)
            self._find(exchange)
            collector = collector_for(self._submission, self._state.members)
            collector.resume(exported)
            self._events.emit("resumed", round=len(self._state.rounds) + 1, members=self._state.members)
            return collector
        self._log.append("manifest", {"digest": self._digest, "run": self._run.run, "consortium": self._run.consortium})
        self._invite(exchange)
        collector = collector_for(self._submission, self._state.members)
        self._set_up(exchange, collector)
        self._save(collector)
        return collector

    def _save(self, collector: Collector) -> None:
        """Write down where the run is: between two rounds."""
        self._state.witnessed = self._witnessing.last
        self._asked = {}
        checkpoint.save(self._directory, self._digest, self._state, collector.export())

    def _find(self, exchange: Exchange) -> None:
        """Learn behind which node each member is now: repeat the invitation, whose answer they gave before."""
        deadline = time.monotonic() + FIND_SECONDS
        while True:
            packet = self._invitation()
            answers = exchange.exchange(dict.fromkeys(exchange.nodes(), packet), training=False, seconds=STEP_SECONDS)
            for node, answer in answers.items():
                if answer is not None and (name := sender_of(answer)) in self._state.members:
                    open_packet(answer, self._submission.member(name), run=self._run.run, manifest=self._digest)
                    self._nodes[name] = node
            if set(self._state.following) <= self._nodes.keys() or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        self._state.following = [name for name in self._state.following if name in self._nodes]

    # 1. Invite: every silo decides -----------------------------------------------------------------------------------

    def _invite(self, exchange: Exchange) -> None:
        submission, packet = self._submission, self._invitation()
        nodes = self._gather(exchange)
        self._events.emit("inviting", nodes=len(nodes), rounds=self._run.rounds)
        answers = exchange.exchange(dict.fromkeys(nodes, packet), training=False, seconds=INVITE_SECONDS)
        failed: SiloError | None = None
        for node, answer in answers.items():
            if answer is not None:
                failed = self._hear(node, answer, packet) or failed
        self._state.members.sort()
        self._state.following = list(self._state.members)
        permitted = len(self._state.members)
        silent = [name for name in self._run.members if name not in self._state.decisions]
        if permitted < self._run.minimum_silos <= permitted + len(silent):
            raise failed or PeerError(
                f"{', '.join(silent)} did not answer; {permitted} silos permit the run, {self._run.minimum_silos} are "
                "needed",
                where=f"run {self._run.run}",
                fix="are their agents running? Then submit the run again",
            )
        if permitted < self._run.minimum_silos:
            raise PolicyDenied(
                f"{permitted} of {len(self._run.members)} silos permit the run, {self._run.minimum_silos} are needed"
                + _first_reason(submission, self._state.decisions),
                where=f"run {self._run.run}",
                fix="`silo policy explain` shows each silo's rules; change the experiment, not the policy",
            )

    def _gather(self, exchange: Exchange) -> list[str]:
        """Return the connected nodes, once there is one for each member or nobody else came for a while.

        A silo that connects again just now would otherwise be left out of the whole run.
        """
        deadline = time.monotonic() + GATHER_SECONDS
        while len(nodes := exchange.nodes()) < len(self._run.members) and time.monotonic() < deadline:
            time.sleep(0.5)
        return nodes

    def _invitation(self) -> Packet:
        submission = self._submission
        head = Invite(
            **self._common(),
            consortium_document=submission.consortium.to_dict(),
            run_document=submission.run.to_dict(),
        )
        return seal_packet(head, self._identity, {"bundle": submission.bundle})

    # 2. Key set-up ---------------------------------------------------------------------------------------------------

    def _set_up(self, exchange: Exchange, collector: Collector) -> None:
        decisions = [self._state.decisions[name] for name in self._state.members]

        def ask(
            step: str, blobs: Mapping[str, Mapping[str, bytes]]
        ) -> dict[str, tuple[StepReply, Mapping[str, bytes]]]:
            return self._step(exchange, step, 0, 0, blobs, decisions)

        collector.set_up(ask)
        self._log.append("key-epoch", {"run": self._run.run, "epoch": 1, "members": self._state.members})
        self._events.emit("keys", members=self._state.members)

    def _step(
        self,
        exchange: Exchange,
        step: str,
        number: int,
        attempt: int,
        blobs: Mapping[str, Mapping[str, bytes]],
        decisions: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, tuple[StepReply, Mapping[str, bytes]]]:
        """Ask some silos for one step of the custody; who does not answer in time is missing from what returns."""
        head = Step(
            **self._common(),
            step=step,
            round=number,
            attempt=attempt,
            members=self._state.members,
            decisions=[dict(each) for each in decisions],
        )
        following = self._state.following
        packets = {name: seal_packet(head, self._identity, mine) for name, mine in blobs.items() if name in following}
        replies: dict[str, tuple[StepReply, Mapping[str, bytes]]] = {}
        for name, (reply, answer) in self._ask(exchange, packets, StepReply, STEP_SECONDS, least=1).items():
            if reply.step != step:
                raise VerificationFailed(f"{name} answered step {reply.step!r} to {step!r}")
            replies[name] = (reply, answer.blobs)
        return replies

    # 3. Rounds -------------------------------------------------------------------------------------------------------

    def _round(self, exchange: Exchange, collector: Collector, number: int) -> None:
        state, attempt, started = self._state, 1, time.monotonic()
        request = RoundRequest(
            **self._common(),
            round=number,
            attempt=attempt,
            members=state.members,
            previous=self._previous(),
        )
        blobs = {**self._aggregate_blob(), **collector.request(number, attempt)}
        packets = self._carrying(request, blobs, state.following)
        answers = self._ask(exchange, packets, RoundReply, ROUND_SECONDS, training=True)
        self._witness(answers)
        # Who missed a round lacks its sum, or sent an upload that came too late to be in it: it cannot follow any more.
        state.following = sorted(answers)
        self._agree({name: (reply.chain, reply.model) for name, (reply, _) in answers.items()}, number)
        header = collector.header(number, attempt, state.chain)
        replies: dict[str, Mapping[str, bytes]] = {}
        for name, (reply, answer) in answers.items():
            if (reply.round, reply.attempt) != (number, attempt):
                raise VerificationFailed(f"{name} answered another round than {number}")
            replies[name] = answer.blobs
        uploaded = sum("upload" in blobs for blobs in replies.values())
        if uploaded < self._run.minimum_silos:
            raise PeerError(
                f"{uploaded} silos uploaded, {self._run.minimum_silos} are needed",
                where=f"round {number}",
                fix="see the faults in the aggregator's log, then submit the run again",
            )

        def ask(
            step: str, blobs: Mapping[str, Mapping[str, bytes]]
        ) -> dict[str, tuple[StepReply, Mapping[str, bytes]]]:
            return self._step(exchange, step, number, attempt, blobs)

        collected = collector.collect(header, replies, ask)
        uploaders = collected.uploaders
        state.pending = Pending(header, uploaders, collected.aggregate)
        place = {"run": self._run.run, "round": number, "attempt": attempt}
        added = {**place, "digest": digest_of(collected.aggregate), "silos": uploaders}
        taken = [("upload", {**place, "silo": name, "digest": each}) for name, each in collected.digests.items()]
        self._note([*taken, ("aggregate", added)])
        sizes = [len(replies[name]["upload"]) for name in uploaders]
        dropped = [name for name in state.members if name not in uploaders]
        state.rounds.append(
            {
                "round": number,
                "attempt": attempt,
                "participants": uploaders,
                "dropped": dropped,
                "seconds": time.monotonic() - started,
                "upload_bytes": max(sizes),
                "metrics": {
                    name: reply.metrics.model_dump()
                    for name, (reply, _) in answers.items()
                    if reply.metrics is not None
                },
            }
        )
        self._events.emit("round", round=number, silos=uploaders, dropped=dropped, seconds=state.rounds[-1]["seconds"])

    # 4. Finish -------------------------------------------------------------------------------------------------------

    def _finish(self, exchange: Exchange, collector: Collector) -> dict[str, Any]:
        state = self._state
        previous = self._previous()
        if previous is None:
            raise PeerError("the run had no round", where=f"run {self._run.run}")
        releaser = previous.uploaders[0]
        packets = self._carrying(Finish(**self._common(), previous=previous), self._aggregate_blob(), state.following)
        signed = self._ask(exchange, packets, Acknowledged, FINISH_SECONDS)
        self._agree({name: (reply.chain, reply.model) for name, (reply, _) in signed.items()}, self._run.rounds)
        acknowledgements = [
            Signature(head=answer.head.decode(), signature=base64.b64encode(answer.signature).decode())
            for _, answer in signed.values()
        ]
        release = Release(**self._common(), releaser=releaser, acknowledgements=acknowledgements)
        packet = seal_packet(release, self._identity)
        answers = self._ask(exchange, dict.fromkeys(signed, packet), FinishReply, FINISH_SECONDS)
        self._agree({name: (reply.chain, reply.model) for name, (reply, _) in answers.items()}, self._run.rounds)
        if releaser not in answers:
            raise PeerError("the silo that was to release the model did not answer", where=releaser)
        for name, (_, answer) in answers.items():
            for blob in ("model", "digest"):
                if blob in answer.blobs:
                    write_atomically(self._directory / f"{blob}.{name}.sealed", answer.blobs[blob])
        self._log.append("run-finished", {"run": self._run.run, "rounds": self._run.rounds, "silos": sorted(answers)})
        self._witness(answers)
        for last in (False, True):  # everybody cosigns the heads that the run ends with, and everybody gets that back
            packets = self._carrying(Cosign(**self._common(), last=last), {}, sorted(signed))
            self._witness(self._ask(exchange, packets, Cosigned, FINISH_SECONDS, least=0))
        self._events.emit("finished")
        left = [self._nodes[name] for name in state.members if name not in state.following]
        self._abort(exchange, left, "the run went on without this silo")
        return {
            "run": self._run.run,
            "manifest": self._digest,
            "decisions": self._state.decisions,
            "members": state.members,
            "rounds": state.rounds,
            "faults": state.faults,
            "releaser": releaser,
            "silos": {name: reply.model_dump(mode="json", exclude={"blobs"}) for name, (reply, _) in answers.items()},
            "cosigned": self._witnessing.standing,
            "secrets_held": secrets_held(self, collector, exchange),
            "checkpoint": self._log.checkpoint(self._identity),
        }

    # Witnessing ------------------------------------------------------------------------------------------------------

    def _await_witnesses(self, exchange: Exchange, number: int) -> None:
        """Pause while a party's log lacks the consortium's quorum of cosigners: ask again, and in the end give up."""
        end = time.monotonic() + WITNESS_SECONDS
        tries = 0
        while below := self._witnessing.below(self._quorum):
            standing = self._witnessing.standing
            lacking = ", ".join(f"{name} by {standing[name]}" for name in below)
            what = f"logs are cosigned by too few others: {lacking}; the consortium asks for {self._quorum}"
            left = end - time.monotonic()
            if left <= 0:
                raise PeerError(
                    what,
                    where=f"round {number}",
                    fix="are all agents running? Then submit the run again, or amend the consortium's witness quorum",
                )
            if tries == 1:  # who missed the end of an earlier run catches up in one more exchange: no pause to speak of
                self._events.emit("paused", round=number, what=what, seconds=WITNESS_SECONDS)
            if tries:
                time.sleep(min(PAUSE_SECONDS, left))
            tries += 1
            packets = self._carrying(Cosign(**self._common()), {}, self._state.following)
            self._witness(self._ask(exchange, packets, Cosigned, max(left, 1.0), least=0))
        if tries > 1:
            self._events.emit("resumed", round=number)

    def _abort(self, exchange: Exchange, nodes: Sequence[str], reason: str) -> None:
        """Tell nodes that the run is over for them, so that they forget its keys; nobody's answer is needed.

        If the run failed that is every node, for a silo may have permitted it without being heard.
        """
        packet = seal_packet(Abort(**self._common(), reason=reason), self._identity)
        exchange.exchange(dict.fromkeys(nodes, packet), training=False, seconds=ABORT_SECONDS)


def write_failure(directory: Path, error: Exception) -> None:
    """Leave in a run's directory that it ended without a model, and why: nothing starts it again."""
    known = SiloError | PolicyError | CryptoError
    told = error if isinstance(error, known) else SiloError("internal error; see the log")
    failure = {"what": told.what, "where": told.where, "fix": told.fix, "exit_code": getattr(told, "exit_code", 6)}
    write_atomically(directory / FAILURE, json.dumps(failure, indent=2).encode())


def _first_reason(submission: Submission, decisions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first refusal in words, for the one line that a person sees."""
    for name, document in decisions.items():
        decision = submission.decision(document, name)
        for reason in decision.reasons if decision.decision == "deny" else ():
            return f"; {name}: {reason.message} [{reason.pack}/{reason.id}]"
    return ""

"""One run at one silo, from the invitation to the sealed model.

The order is the protection: decide before any code of the experiment sees a record; reserve budget before training;
charge it before anything that depends on a record leaves, an error included; verify an opened sum before anything is
computed from it; release a model only when every silo in its sum has signed for the same one. Every step is recorded
in the silo's log before its answer is given.

Source: PROTOCOL section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from silo_crypto.errors import VerificationError
from silo_crypto.keys import Identity
from silo_crypto.protocol import Header
from silo_crypto.randomness import Csprng
from silo_crypto.verification import chain
from silo_policies import Decision, Facts, Moment, Outcome, ReleaseFacts, sign

from silo.agent.custody import Session, model_tag, session_for
from silo.agent.disclosure import CELLS, DELTA_SHARE, candidates, noise_multiplier, noised_records, rounded
from silo.agent.facts import choose_dataset, gate_of, gather, reserve
from silo.agent.memory import Memory
from silo.agent.prepare import DataError, Examined, Prepared, confine, examine, prepare
from silo.agent.release import require_agreement, seal_release
from silo.audit import Trust, Witnessing
from silo.audit.witnessing import BLOB, decode, encode
from silo.canonical import canonical_bytes, digest_of
from silo.custody import EPOCH, header_facts, header_of, upload_digest
from silo.errors import BudgetExceeded, ConfigError, PolicyDenied, VerificationFailed
from silo.home import Home
from silo.ledger import Head as LedgerHead
from silo.ledger import Reservation
from silo.log import Witness
from silo.log.witness import FILE
from silo.messages import (
    Acknowledged,
    Common,
    Cosigned,
    Finish,
    FinishReply,
    Head,
    Invite,
    InviteReply,
    Metrics,
    Previous,
    Release,
    RoundReply,
    RoundRequest,
    Step,
    StepReply,
)
from silo.storage import write_atomically
from silo.submission import RUN, Submission

Vector = NDArray[np.float32]
T = TypeVar("T")


@dataclass
class _Sent:
    """The last header this silo uploaded under or was asked to; the aggregate of its round is due next."""

    header: Header
    uploaded: bool


class Run:
    """A silo's state in one run. Not for two threads at once."""

    def __init__(self, home: Home, identity: Identity, common: Common) -> None:
        self._home = home
        self._identity = identity
        self._common = common
        self.id = common["run"]
        self._manifest = common["manifest"]
        self.permitted = False
        self._examined: Examined | None = None
        self._prepared: Prepared | None = None
        self._chain = bytes(32)
        self._sent: _Sent | None = None
        self._rounds = 0
        self._finished = False
        self._restarted = False
        self._session: Session | None = None
        self._members: tuple[str, ...] = ()
        self._uploaders: tuple[str, ...] = ()
        self._reservation: Reservation | None = None
        self._records = ExitStack()  # log and witness memory: open until the run's last head is cosigned
        self._opened = ExitStack()  # the rest that is open; each undone in reverse
        self._child = ExitStack()  # the process of the experiment's code, which ends with this one's part in the run
        self._opened.callback(self._child.close)
        self._witnessing: Witnessing | None = None

    # 1. Decide -------------------------------------------------------------------------------------------------------

    def consider(self, head: Invite, blobs: Mapping[str, bytes]) -> InviteReply:
        """Check the submission, gather the facts, let the policy decide, and sign the decision."""
        submission = Submission.parse(head.consortium_document, head.run_document, blobs.get("bundle", b""))
        submission.check(now=datetime.now(UTC), pinned=self._home.consortium().body.digest)
        run = submission.run.body
        if (run.run, run.digest) != (head.run, head.manifest):
            raise VerificationFailed("the message and its run manifest name different runs", where=f"run {head.run}")
        if self._identity.name not in run.members:
            raise VerificationFailed("this silo is not invited", where=f"run {head.run}")
        self._submission = submission
        self._folder = self._home.run_directory(self.id)
        self._keep(submission)
        self._log = self._records.enter_context(self._home.log())
        self._dataset = choose_dataset(self._home, run.purpose)
        self._log.append(
            "manifest", {"digest": run.digest, "run": run.run, "consortium": run.consortium, "code": run.code_digest}
        )
        # Experiment code runs only when a steward approved these bytes, and sees records only after a permit.
        if self._home.approved(run.code_digest):
            self._examined = self._examine()
        outcome, decision = self._decide("accept", round_number=0)
        if outcome.permitted and self._examined is not None:
            examined = self._examined
            self._prepared = self._guarded(lambda: prepare(submission, self._dataset, examined))
            self._model: Vector = examined.initial
            self.permitted = True
            self._log_start()
        else:
            self._log.append("refusal", {"run": run.run, "digest": decision.body.digest, "what": "denied by policy"})
            self.close()
        return InviteReply(**self._common, decision=decision.to_dict())

    def _log_start(self) -> None:
        confinement = list(self._seen.confined.means.in_force)
        self._log.append("run-started", {"run": self.id, "digest": self._manifest, "confinement": confinement})

    def _examine(self) -> Examined:
        confined = self._child.enter_context(confine(self._home))
        return self._guarded(lambda: examine(self._submission, self._dataset, self._home.path, confined))

    def _keep(self, submission: Submission) -> None:
        """Keep the submission; an id stands for one manifest, whose evidence no later one may overwrite."""
        kept = self._folder / RUN
        if kept.exists() and kept.read_bytes() != submission.parts()[RUN]:
            raise VerificationFailed(
                "another run was proposed under this id", where=f"run {self.id}", fix="propose it under a new id"
            )
        for file, content in submission.parts().items():
            write_atomically(self._folder / file, content)

    def _guarded(self, act: Callable[[], T]) -> T:
        """Do what touches records; an error of it is told to this silo's own people and to nobody else.

        Even "row 17", or the name of an exception that foreign code chose, would tell others something about records.
        """
        try:
            return act()
        except (DataError, BudgetExceeded) as error:
            self.record_fault(str(error))
            raise ConfigError(
                "this silo's records cannot be used for the run", fix="its own log says why, to its own people"
            ) from error

    def _decide(self, moment: Moment, round_number: int, release: ReleaseFacts | None = None) -> tuple[Outcome, Any]:
        return self._record(moment, *self._weigh(moment, round_number, release))

    def _weigh(self, moment: Moment, round_number: int, release: ReleaseFacts | None) -> tuple[Facts, Outcome]:
        """Ask the policies; nothing is recorded yet."""
        facts = gather(
            self._home,
            self._submission,
            self._dataset,
            self._examined.measured if self._examined else None,
            round_number=round_number,
            release=release,
        )
        gate, waivers = gate_of(self._home)
        return facts, gate.evaluate(moment, facts, now=datetime.now(UTC), waivers=waivers)

    def _record(self, moment: Moment, facts: Facts, outcome: Outcome) -> tuple[Outcome, Any]:
        """Sign what the policies said and keep it, in the log and in the run's folder."""
        decision = sign(
            Decision.of(outcome, run=self.id, manifest=self._manifest, silo=self._identity.name), self._identity
        )
        entry = self._log.append(
            "decision",
            {
                "run": self.id,
                "silo": self._identity.name,
                "moment": moment,
                "decision": outcome.decision,
                "digest": decision.body.digest,
                "deciding": list(decision.body.deciding)[:64],
                "waivers": [each.waiver for each in decision.body.waivers][:64],
            },
        )
        # For the silo's own people (`silo policy explain`): the facts behind a decision never leave this directory.
        stem = f"{entry.index:06d}-{moment}"
        write_atomically(self._folder / f"decision-{stem}.json", decision.to_json().encode())
        write_atomically(self._folder / f"facts-{stem}.json", canonical_bytes(facts.to_dict()))
        return outcome, decision

    # 2. Keys and budget ----------------------------------------------------------------------------------------------

    def step(self, head: Step, blobs: Mapping[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
        """Take one step of the custody; the first of the set-up also reserves the run's budget."""
        if head.round == 0 and self._session is None:
            self._join(head.members, head.decisions)
        if self._session is None or tuple(head.members) != self._members:
            raise VerificationFailed("the members changed within a key epoch", where=f"step {head.step}")
        if head.round and (self._sent is None or self._sent.header.round != head.round):
            raise VerificationFailed("this step is of another round than the one under way", where=f"step {head.step}")
        answer = self._session.step(head.step, head.round, blobs)
        if "share" in answer.blobs:
            body = {"run": self.id, "round": head.round, "attempt": head.attempt, "silo": self._identity.name}
            self._note("share", {**body, "digest": upload_digest(answer.blobs["share"])})
        reply = StepReply(**common, step=head.step, confirmation=answer.confirmation)
        return reply, dict(answer.blobs)

    def _join(self, members: Sequence[str], decisions: Sequence[Mapping[str, Any]]) -> None:
        """Believe the list of members only with a signed permit of each, then reserve and start the epoch."""
        run = self._submission.run.body
        if list(members) != sorted(set(members)) or self._identity.name not in members:
            raise VerificationFailed(
                "the list of members is not sorted, or leaves this silo out", where=f"run {self.id}"
            )
        if len(members) < run.minimum_silos or len(decisions) != len(members):
            raise VerificationFailed("fewer permits than the agreed minimum", where=f"run {self.id}")
        for name, document in zip(members, decisions, strict=True):
            decision = self._submission.decision(document, name)
            if decision.decision != "permit" or decision.moment != "accept":
                raise VerificationFailed(f"{name} did not permit the run", where=f"run {self.id}")
        self._members = tuple(members)
        self._ledger = self._opened.enter_context(self._home.ledger())
        self._refuse_a_rolled_back_ledger()
        self._reservation = reserve(
            self._ledger,
            self._dataset,
            self._seen.plan,
            run=self.id,
            code=run.code_digest,
            data=self._seen.records.source,
        )
        self._opened.callback(self._give_back)
        self._log_budget("budget-reserved", self._seen.plan.epsilon_after(self._seen.plan.steps))
        self._session = session_for(self._submission, members, self._identity, self._home.shares_path)
        self._opened.callback(self._session.close)
        self._log.append("key-epoch", {"run": self.id, "epoch": EPOCH, "members": list(members)})
        self._begin_witnessing(0)

    # 3. Rounds -------------------------------------------------------------------------------------------------------

    def round(self, head: RoundRequest, blobs: Mapping[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
        """Apply the previous aggregate, ask the policy, train, charge, encrypt."""
        session = self._require_session(head.members)
        self._witness(blobs, enough=True)
        if head.round != self._rounds + 1 or head.attempt != 1:
            raise VerificationFailed(f"round {head.round} is out of turn", where=f"run {self.id}")
        left = sorted(set(head.members) - self._home.consortium().body.names)
        if left:
            raise PolicyDenied(
                f"{', '.join(left)} left the consortium", where=f"round {head.round}", fix="start a new run"
            )
        before = self._metrics() if head.round == 1 else None
        self._apply(head.previous, blobs)
        outcome, _ = self._decide("round", round_number=head.round)
        if not outcome.permitted:
            reasons = "; ".join(result.message for result in outcome.denied)
            raise PolicyDenied(f"the policy stopped the run: {reasons}", where=f"round {head.round}")
        header = session.begin(head.round, head.attempt, self._chain, blobs)
        self._sent = _Sent(header, uploaded=False)
        self._rounds = head.round
        reply = RoundReply(
            **common,
            round=head.round,
            attempt=head.attempt,
            chain=self._chain.hex(),
            model=model_tag(session.group, self._model).hex(),
            metrics=before,
        )
        following = dict(session.next_blobs(head.round + 1))
        if not session.able(header) or self._held().find(head.round, head.attempt) is not None:
            # The second: this silo was killed after it charged the attempt, and what it charged for is lost. It follows
            # the run without an upload; another one would be another release.
            return reply, {**following, **self._packet()}
        upload, steps = self._contribute(session, header)
        # Charged durably before a byte can leave: a crash from here on over-charges, never under-charges.
        digest = upload_digest(upload)
        self._ledger.charge(self._held(), head.round, head.attempt, steps, upload_digest=digest)
        self._note(
            "upload",
            {
                "run": self.id,
                "round": head.round,
                "attempt": head.attempt,
                "silo": self._identity.name,
                "digest": digest,
            },
        )
        self._sent.uploaded = True
        return reply, {**following, "upload": upload, **self._packet()}

    def _contribute(self, session: Session, header: Header) -> tuple[bytes, int]:
        """Train and encrypt. What fails here may have failed because of a record: that is a release, and charged."""
        try:
            contribution = self._ready.mechanism.contribute(self._model)
            return session.upload(header, contribution.values), contribution.steps
        except Exception as error:
            steps = self._seen.plan.steps_per_round
            failed = digest_of(b"failed\0" + header.digest())
            self._ledger.charge(self._held(), header.round, header.attempt, steps, upload_digest=failed)
            self.record_fault(f"training failed: {error}")
            raise ConfigError(
                "training failed on this silo's records", fix="its own log says why, to its own people"
            ) from error

    def _apply(self, previous: Previous | None, blobs: Mapping[str, bytes]) -> None:
        """Open the aggregate that is due, verify it, and take the step that it makes to the next model."""
        if self._sent is None:
            if previous is not None or "aggregate" in blobs:
                raise VerificationFailed("an aggregate came before any upload", where=f"run {self.id}")
            return
        # An attempt can have fewer members than the epoch: those whose nonces came in time.
        header, session = self._sent.header, self._require_session(self._members)
        if previous is None or (previous.round, previous.attempt) != (header.round, header.attempt):
            raise VerificationFailed(f"the aggregate of round {header.round} is missing", where=f"run {self.id}")
        try:
            sums = session.open(header, blobs.get("aggregate", b""), previous.uploaders, own=self._sent.uploaded)
        except VerificationError as error:
            # What was wrong with it came from decrypting: told to the sender, it would be a decryption oracle.
            self.record_fault(str(error))
            raise VerificationFailed(
                "a sum that was opened does not hold; this silo has stopped", where=f"round {header.round}"
            ) from error
        self._model = self._ready.mechanism.apply(self._model, sums, len(previous.uploaders))
        self._chain = chain(session.group, header, sums)
        self._uploaders = tuple(previous.uploaders)
        self._sent = None
        self._note(
            "aggregate",
            {
                "run": self.id,
                "round": header.round,
                "attempt": header.attempt,
                # The sealed chain, never a hash of the aggregate: small models can be guessed.
                "digest": digest_of(self._chain),
                "silos": list(previous.uploaders),
            },
        )

    # 4. Finish -------------------------------------------------------------------------------------------------------

    def finish(self, head: Finish, blobs: Mapping[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
        """Apply the last aggregate and sign for the model it makes."""
        session = self._require_session(self._members)
        self._witness(blobs, enough=True)
        self._apply(head.previous, blobs)
        if head.previous.round != self._submission.run.body.rounds:
            raise VerificationFailed("the run ended before its last round", where=f"run {self.id}")
        self._finished = True
        tag = model_tag(session.group, self._model)
        place = {"run": self.id, "round": self._rounds, "attempt": head.previous.attempt}
        # What it votes for is an HMAC as well: nobody outside the group can tell models by it.
        self._log.append("vote", {**place, "silo": self._identity.name, "digest": digest_of(tag)})
        reply = Acknowledged(
            **common,
            uploaders=list(self._uploaders),
            chain=self._chain.hex(),
            model=tag.hex(),
        )
        return reply, {}

    def release(self, head: Release, common: Common) -> tuple[Head, dict[str, bytes]]:
        """Settle the budget, and release what the policy permits, once enough silos signed for this same model."""
        session = self._require_session(self._members)
        if not self._finished:
            raise VerificationFailed("the last aggregate is still missing", where=f"run {self.id}")
        tag = model_tag(session.group, self._model).hex()
        require_agreement(
            head.acknowledgements, self._submission, self._members, self._uploaders, self._chain.hex(), tag
        )
        self._give_back()
        spent = self._seen.plan.epsilon_after(self._ready.mechanism.steps)
        self._log_budget("budget-settled", spent)
        metrics, counted = self._metrics(), self._may_release("records")
        sealed: dict[str, bytes] = {}
        if self._may_release("model"):
            whole = head.releaser == self._identity.name
            sealed = seal_release(self._submission, self._identity.name, self._model, whole=whole)
        self._log.append("run-finished", {"run": self.id, "rounds": self._rounds})
        reply = FinishReply(
            **common,
            chain=self._chain.hex(),
            model=tag,
            epsilon=spent,
            delta=self._seen.plan.delta,
            records=rounded(self._ready.trained_on, counted.rounding or 1) if counted else None,
            rounding=(counted.rounding if counted else None) or 1,
            metrics=metrics,
            checkpoint=self._log.checkpoint(self._identity),
        )
        return reply, {**sealed, **self._packet()}

    def _metrics(self) -> Metrics | None:
        """Score the model on this silo's test part, if the run asks for it and the policy lets it leave."""
        permitted = self._may_release("metrics")
        if permitted is None:
            return None
        labels, epsilon = self._ready.labels, permitted.epsilon or 0.0
        try:
            multiplier = self._pay_for_metrics(epsilon) if epsilon else 0.0
            outputs = self._seen.confined.scores(self._model, len(labels))
            if multiplier:
                outputs, labels = noised_records(outputs, labels, multiplier, Csprng())
                values = self._measure_elsewhere(outputs, labels)
            else:
                values = self._seen.confined.measure(outputs, labels)
        except Exception as error:  # foreign code on records: its words stay here, and no score leaves
            self.record_fault(f"metrics failed: {error}")
            return None
        positives = int((labels > 0).sum())
        return Metrics(values=values, positives=positives, negatives=len(labels) - positives, epsilon=epsilon)

    def _measure_elsewhere(self, outputs: NDArray[np.float64], labels: NDArray[np.float64]) -> dict[str, float | None]:
        """Have noised scores measured by a child that saw no record: one that did could say the exact metrics."""
        submission = self._submission
        with confine(self._home) as fresh:
            fresh.examine(
                submission.bundle,
                submission.run.body.code_digest,
                self._seen.records.schema,
                seed=submission.run.body.model.seed,
            )
            return fresh.measure(outputs, labels)

    def _pay_for_metrics(self, epsilon: float) -> float:
        """Reserve, charge and settle one noised release of metrics; return the noise multiplier that was paid for.

        Raises :class:`~silo.errors.BudgetExceeded` if the budget does not cover it.
        """
        from silo.training.accounting import effective_multiplier, gaussian_event

        part, delta = f"metrics-{self._rounds}", self._dataset.delta * DELTA_SHARE
        multiplier = noise_multiplier(epsilon, delta)
        held = self._ledger.reserve(
            self._dataset.population,
            self.id,
            gaussian_event(effective_multiplier(multiplier, CELLS), 1.0),
            1,
            delta=delta,
            code_digest=self._submission.run.body.code_digest,
            data_digest=self._seen.records.source,
            unit=self._dataset.unit,
            part=part,
        )
        self._log_budget("budget-reserved", epsilon, delta, part)
        paid = digest_of(f"{self.id} {part}".encode())
        self._ledger.charge(held, self._rounds, 1, 1, upload_digest=paid)
        self._ledger.settle(held)
        self._log_budget("budget-settled", epsilon, delta, part)
        return multiplier

    def _may_release(self, kind: str) -> ReleaseFacts | None:
        """Ask the gate at the moment of release how little changed the release may leave, and record the answer."""
        if kind not in self._submission.run.body.releases:
            return None
        for wanted in candidates(kind, self._dataset):
            facts, outcome = self._weigh("release", self._rounds, wanted)
            if outcome.permitted:
                break
        _, decision = self._record("release", facts, outcome)
        entry = "release" if outcome.permitted else "refusal"
        self._log.append(entry, {"run": self.id, "what": kind, "digest": decision.body.digest})
        return wanted if outcome.permitted else None

    # Witnessing ------------------------------------------------------------------------------------------------------

    def cosign(self, blobs: Mapping[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
        """Take and give witness packets only; also after the release, so that the run's last head is cosigned too."""
        self._witness(blobs, enough=False)
        return Cosigned(**common), self._packet()

    def _begin_witnessing(self, after: int) -> None:
        memory = self._records.enter_context(Witness(self._home.path / FILE))
        trust = Trust.of_manifest(self._submission.consortium.body)
        self._witnessing = Witnessing(self._log, self._identity, memory, trust, self.id, after=after)

    def _witness(self, blobs: Mapping[str, bytes], *, enough: bool) -> None:
        """Cosign the heads that came along; a log that did not only grow is named, and this silo goes no further.

        With ``enough``, too few cosignatures of this silo's own log also stop it, as the consortium agreed.
        """
        if self._witnessing is None:
            raise VerificationFailed("witness packets came before the keys", where=f"run {self.id}")
        if BLOB in blobs:
            self._witnessing.receive(decode(blobs[BLOB], "aggregator"))
        if enough:
            self._witnessing.require(self._submission.consortium.body.witness_quorum)

    def _packet(self) -> dict[str, bytes]:
        return {} if self._witnessing is None else {BLOB: encode(self._witnessing.packet())}

    @property
    def public(self) -> bool:
        """Whether anybody may obtain the records, so that nothing about them needs hiding."""
        return self._dataset.public

    # Housekeeping ----------------------------------------------------------------------------------------------------

    def _note(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write a step of a round into the log; after a restart, unless the process before wrote the very same."""
        if self._restarted and any(entry.body == body for entry in self._log.entries(kind, run=self.id)):
            return
        self._log.append(kind, body)

    def require(self, manifest: str) -> None:
        """Raise unless a message is of this run's manifest."""
        if manifest != self._manifest:
            raise VerificationFailed("the message is of another manifest", where=f"run {self.id}")

    def record_fault(self, what: str) -> None:
        """Write a fault into the silo's log."""
        self._log.append("fault", {"run": self.id, "what": what[:500]})

    def remember(self) -> Memory:
        """Return what :meth:`resumed` needs to go on in another process."""
        sent, session = self._sent, self._session
        facts: dict[str, Any] = {
            "members": list(self._members),
            "uploaders": list(self._uploaders),
            "chain": self._chain.hex(),
            "sent": None if sent is None else {"header": header_facts(sent.header), "uploaded": sent.uploaded},
            "rounds": self._rounds,
            "finished": self._finished,
            "witnessed": 0 if self._witnessing is None else self._witnessing.last,
        }
        blobs = {"model": self._model.tobytes(), "session": b"" if session is None else session.export()}
        blobs |= {f"server/{name}": array.tobytes() for name, array in self._ready.mechanism.state().items()}
        return Memory(self._manifest, facts, blobs)

    @classmethod
    def resumed(cls, home: Home, identity: Identity, common: Common, memory: Memory) -> Run:
        """Return the run that an earlier process of this silo was in; raises if it may not go on.

        Code, approval and records are read and checked anew; the ledger says what was charged.
        """
        run = cls(home, identity, common)
        try:
            run._resume(memory)
        except BaseException:
            run.suspend()
            raise
        return run

    def _resume(self, memory: Memory) -> None:
        self._folder = self._home.run_directory(self.id)
        self._submission = submission = Submission.load(self._folder)
        manifest = submission.run.body
        submission.check(now=datetime.now(UTC), pinned=manifest.consortium)
        if not manifest.digest == self._manifest == memory.manifest or not self._home.approved(manifest.code_digest):
            raise VerificationFailed("the run on file is another one, or approved no more", where=f"run {self.id}")
        self._log = self._records.enter_context(self._home.log())
        self._dataset = choose_dataset(self._home, manifest.purpose)
        self._examined = examined = self._examine()
        self._prepared = self._guarded(lambda: prepare(submission, self._dataset, examined))
        facts, blobs = memory.facts, memory.blobs
        self._model = np.frombuffer(blobs["model"], dtype=np.float32).copy()
        self._members, self._uploaders = tuple(facts["members"]), tuple(facts["uploaders"])
        self._chain, self._rounds, self._finished = bytes.fromhex(facts["chain"]), facts["rounds"], facts["finished"]
        if facts["sent"] is not None:
            self._sent = _Sent(header_of(facts["sent"]["header"]), facts["sent"]["uploaded"])
        self.permitted = self._restarted = True
        if not self._members:
            return
        self._ledger = self._opened.enter_context(self._home.ledger())
        self._refuse_a_rolled_back_ledger()
        reservation = self._ledger.reservation(self._dataset.population, self.id)
        self._reservation = reservation
        self._opened.callback(self._give_back)
        state = {
            name.removeprefix("server/"): np.frombuffer(blob, dtype=np.float64).copy()
            for name, blob in blobs.items()
            if name.startswith("server/")
        }
        self._prepared.mechanism.resume(state, reservation.charged)
        self._session = session_for(submission, self._members, self._identity, self._home.shares_path)
        self._opened.callback(self._session.close)
        self._session.resume(blobs["session"])
        self._begin_witnessing(facts["witnessed"])
        self._log_start()

    def suspend(self) -> None:
        """Close files and settle nothing: the run goes on in another process."""
        self._opened.pop_all()
        self._child.close()
        if self._session is not None:
            self._session.suspend()
        ledger = getattr(self, "_ledger", None)
        if ledger is not None:
            ledger.close()
        self._records.close()
        self.permitted = False
        self._session = self._reservation = None

    def retire(self) -> None:
        """Forget keys, settle the budget and close the ledger, each whether or not the one before succeeded."""
        self.permitted = False
        try:
            self._opened.close()
        finally:
            self._session = self._reservation = None

    def close(self) -> None:
        """Retire, and close the log too: nothing more is answered."""
        try:
            self.retire()
        finally:
            self._records.close()

    def _give_back(self) -> None:
        """Settle: nothing more can be charged, and what was held and never used is free again."""
        self._reservation = self._ledger.settle(self._held())

    def _log_budget(self, kind: str, epsilon: float, delta: float | None = None, part: str | None = None) -> None:
        """Record a change of the budget (of ``part`` of the run, if not its training) with where the ledger stands."""
        head = self._ledger.head()
        self._log.append(
            kind,
            {
                "run": self.id,
                "population": self._dataset.population,
                **({"part": part} if part else {}),
                "epsilon": epsilon,
                "delta": self._seen.plan.delta if delta is None else delta,
                "ledger": {"ledger": head.ledger, "size": head.size, "digest": head.digest},
            },
        )

    def _refuse_a_rolled_back_ledger(self) -> None:
        """Raise unless the ledger continues the one that this silo's log saw last (a restored backup does not)."""
        last = None
        for entry in self._log.entries("budget-reserved", "budget-settled", "data"):
            last = entry.body.get("ledger", last)
        if last is not None:
            self._ledger.require_head(LedgerHead(**last))

    @property
    def _seen(self) -> Examined:
        if self._examined is None:
            raise VerificationFailed("the run was not examined here", where=f"run {self.id}")
        return self._examined

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise VerificationFailed("the run was not permitted here", where=f"run {self.id}")
        return self._prepared

    def _held(self) -> Reservation:
        if self._reservation is None:
            raise VerificationFailed("nothing was reserved for this run", where=f"run {self.id}")
        return self._reservation

    def _require_session(self, members: Sequence[str]) -> Session:
        if self._session is None or tuple(members) != self._members:
            raise VerificationFailed("the members are not those of the key epoch", where=f"run {self.id}")
        return self._session

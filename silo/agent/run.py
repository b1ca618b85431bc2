"""One run at one silo, from the invitation to the sealed model.

The order is the protection: decide before any code of the experiment sees a record; reserve budget before training;
charge it before anything that depends on a record leaves, an error included; verify an opened sum before anything is
computed from it; release a model only when every silo in its sum has signed for the same one. Every step is recorded
in the silo's log before its answer is given.

Source: PROTOCOL section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from silo_crypto.errors import VerificationError
from silo_crypto.keys import Identity
from silo_crypto.protocol import Header, Payload
from silo_crypto.verification import chain

from silo.agent.custody import Session, model_tag, session_for
from silo.agent.facts import choose_dataset, reserve
from silo.agent.memory import Memory
from silo.agent.outgoing import Releases
from silo.agent.prepare import prepare
from silo.agent.state import Sent
from silo.audit import Trust, Witnessing
from silo.audit.witnessing import BLOB, decode
from silo.canonical import digest_of
from silo.custody import EPOCH, header_facts, header_of, upload_digest
from silo.errors import ConfigError, PolicyDenied, VerificationFailed
from silo.home import Home
from silo.log import Witness
from silo.log.witness import FILE
from silo.messages import (
    Acknowledged,
    Common,
    Cosigned,
    Finish,
    Head,
    Invite,
    InviteReply,
    Previous,
    RoundReply,
    RoundRequest,
    Step,
    StepReply,
)
from silo.storage import write_atomically
from silo.submission import RUN, Submission


class Run(Releases):
    """A silo's state in one run. Not for two threads at once."""

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
            self.permitted = True
            self._log_start()
        else:
            self._log.append("refusal", {"run": run.run, "digest": decision.body.digest, "what": "denied by policy"})
            self.close()
        return InviteReply(**self._common, decision=decision.to_dict())

    def _keep(self, submission: Submission) -> None:
        """Keep the submission; an id stands for one manifest, whose evidence no later one may overwrite."""
        kept = self._folder / RUN
        if kept.exists() and kept.read_bytes() != submission.parts()[RUN]:
            raise VerificationFailed(
                "another run was proposed under this id", where=f"run {self.id}", fix="propose it under a new id"
            )
        for file, content in submission.parts().items():
            write_atomically(self._folder / file, content)

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

    def round(self, head: RoundRequest, blobs: dict[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
        """Apply the previous aggregate, which is taken out of ``blobs``, ask the policy, train, charge, encrypt."""
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
        self._sent = Sent(header, uploaded=False)
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

    def _apply(self, previous: Previous | None, blobs: dict[str, bytes]) -> None:
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
            sums = session.open(header, blobs.pop("aggregate", b""), previous.uploaders, own=self._sent.uploaded)
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

    def finish(self, head: Finish, blobs: dict[str, bytes], common: Common) -> tuple[Head, dict[str, bytes]]:
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

    # In another process ----------------------------------------------------------------------------------------------

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
        state = self._ready.mechanism.state()
        blobs: dict[str, Payload] = {"session": b"" if session is None else session.export()}
        blobs |= {f"server/{name}": array.view(np.uint8).data for name, array in state.items()}
        blobs["model"] = self._model.view(np.uint8).data
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
            self._sent = Sent(header_of(facts["sent"]["header"]), facts["sent"]["uploaded"])
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
        self._session.resume(bytes(blobs["session"]))
        self._begin_witnessing(facts["witnessed"])
        self._log_start()

"""What may leave a silo at the end of a run, or before its first round: model, metrics, counts.

Invariant: nothing is released that a policy was not asked about at the moment of release; noised metrics are reserved
and charged before they are computed; the experiment's words about records leave only as numbers that were asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from silo_crypto.randomness import Csprng
from silo_policies import ReleaseFacts

from silo.agent.custody import model_tag
from silo.agent.disclosure import CELLS, DELTA_SHARE, candidates, noise_multiplier, noised_records, rounded
from silo.agent.prepare import confine
from silo.agent.release import require_agreement, seal_release
from silo.agent.state import RunState
from silo.audit.witnessing import BLOB, encode
from silo.canonical import digest_of
from silo.errors import VerificationFailed
from silo.messages import Common, FinishReply, Head, Metrics, Release


class Releases(RunState):
    """A run that can release what its policy lets go."""

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

    def _packet(self) -> dict[str, bytes]:
        return {} if self._witnessing is None else {BLOB: encode(self._witnessing.packet())}

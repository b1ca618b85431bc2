"""What a silo holds of one run, and how it is recorded, paid for and given up again.

Invariant: what was decided, charged or gone wrong stands in the log before anybody is told of it; the budget is settled
and keys are forgotten whichever way a run ends, but for one that another process takes up (:meth:`RunState.suspend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from silo_crypto.keys import Identity
from silo_crypto.protocol import Header
from silo_policies import Decision, Facts, Moment, Outcome, ReleaseFacts, sign

from silo.agent.custody import Session
from silo.agent.facts import gate_of, gather
from silo.agent.prepare import DataError, Examined, Prepared, confine, examine
from silo.audit import Witnessing
from silo.canonical import canonical_bytes
from silo.errors import BudgetExceeded, ConfigError, VerificationFailed
from silo.home import DataSet, Home
from silo.ledger import Head as LedgerHead
from silo.ledger import Ledger, Reservation
from silo.log import Log
from silo.messages import Common
from silo.storage import write_atomically
from silo.submission import Submission

Vector = NDArray[np.float32]


T = TypeVar("T")


@dataclass
class Sent:
    """The last header this silo uploaded under or was asked to; the aggregate of its round is due next."""

    header: Header
    uploaded: bool


class RunState:
    """A silo's state in one run, without the steps that change it (:class:`silo.agent.run.Run`)."""

    # Set when the invitation is considered, or the run taken up again; the ledger when keys are set up.
    _submission: Submission
    _folder: Path
    _log: Log
    _dataset: DataSet
    _model: Vector
    _ledger: Ledger

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
        self._sent: Sent | None = None
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

    @property
    def public(self) -> bool:
        """Whether anybody may obtain the records, so that nothing about them needs hiding."""
        return self._dataset.public

    def _log_start(self) -> None:
        confinement = list(self._seen.confined.means.in_force)
        self._log.append("run-started", {"run": self.id, "digest": self._manifest, "confinement": confinement})

    def _examine(self) -> Examined:
        """Try the experiment; its initial weights are the model from here on, and are kept nowhere else."""
        confined = self._child.enter_context(confine(self._home))
        examined = self._guarded(lambda: examine(self._submission, self._dataset, self._home.path, confined))
        self._model = examined.initial
        return replace(examined, initial=np.empty(0, dtype=np.float32))  # not a view, which would keep them all

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
        with self._books() as ledger:
            facts = gather(
                self._home,
                ledger,
                self._submission,
                self._dataset,
                self._examined.measured if self._examined else None,
                round_number=round_number,
                release=release,
            )
        gate, waivers = gate_of(self._home)
        return facts, gate.evaluate(moment, facts, now=datetime.now(UTC), waivers=waivers)

    @contextmanager
    def _books(self) -> Iterator[Ledger]:
        """Give the run's ledger; before the run has one, and after it gave it back, one that is opened for a look."""
        if self._reservation is not None:
            yield self._ledger
        else:
            with self._home.ledger() as ledger:
                yield ledger

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

    def _give_back(self) -> None:
        """Settle: nothing more can be charged, and what was held and never used is free again."""
        self._reservation = self._ledger.settle(self._held())

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

"""One silo's answer to every message: check, decide, act, record.

Invariant: nothing that depends on a record leaves except through a permitted run, its ledger and its policy; and
:meth:`SiloAgent.handle` never raises: what goes wrong is a signed fault whose words do not depend on records.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from silo_crypto.errors import CryptoError
from silo_policies import PolicyError

from silo.agent.run import Run
from silo.errors import SiloError, VerificationFailed
from silo.home import Home
from silo.messages import (
    Abort,
    Common,
    Done,
    Fault,
    Finish,
    Head,
    Invite,
    Packet,
    RoundRequest,
    Step,
    head_digest,
    open_packet,
    seal_packet,
)
from silo.submission import keyring

_log = logging.getLogger("silo.agent")

# The exit code a fault carries, by the error's family; the aggregator stops a run on the code of verification.
_FOREIGN: tuple[tuple[type[Exception], int], ...] = ((CryptoError, 6), (PolicyError, 6))


class SiloAgent:
    """The agent of one home. Handles one message at a time; runs live in memory as long as it does."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._identity = home.identity()
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, home: Path) -> SiloAgent:
        """Open the agent of a home directory."""
        return cls(Home.open(home))

    def handle(self, packet: Packet) -> Packet:
        """Answer one packet from the aggregator this silo's consortium names."""
        head: Head | None = None
        try:
            aggregator = self._home.consortium().body.aggregator
            head = open_packet(packet, keyring(aggregator.name, aggregator.keys))
            with self._lock:
                answer, blobs = self._dispatch(head, packet)
        except Exception as error:  # every failure becomes a fault: the aggregator gets an answer, never a traceback
            return self._fault(error, head, packet)
        return seal_packet(answer, self._identity, blobs)

    def close(self) -> None:
        """Forget every run with its keys."""
        with self._lock:
            for run in self._runs.values():
                run.close()
            self._runs.clear()

    def _dispatch(self, head: Head, packet: Packet) -> tuple[Head, dict[str, bytes]]:
        common = Common(run=head.run, manifest=head.manifest, sender=self._identity.name, re=head_digest(packet))
        match head:
            case Invite():
                if head.run in self._runs:
                    raise VerificationFailed("this silo was invited to the run before", where=f"run {head.run}")
                run = Run(self._home, self._identity, common)
                answer = run.consider(head, packet.blobs)
                if run.permitted:
                    self._runs[head.run] = run
                return answer, {}
            case Step():
                return self._run(head).step(head, packet.blobs, common)
            case RoundRequest():
                return self._run(head).round(head, packet.blobs, common)
            case Finish():
                answered = self._run(head).finish(head, packet.blobs, common)
                self._runs.pop(head.run).close()
                return answered
            case Abort():
                if head.run in self._runs:
                    self._runs.pop(head.run).abort(head.reason)
                return Done(**common), {}
        raise VerificationFailed(f"a silo does not answer {head.kind!r}")

    def _run(self, head: Head) -> Run:
        run = self._runs.get(head.run)
        if run is None:
            raise VerificationFailed(
                "this silo takes no part in the run", where=f"run {head.run}", fix="it denied it, or it was restarted"
            )
        run.require(head.manifest)
        return run

    def _fault(self, error: Exception, head: Head | None, packet: Packet) -> Packet:
        what, code = "internal error; the silo's own log has the details", 1
        if isinstance(error, SiloError):
            what, code = str(error), error.exit_code
        for kind, foreign_code in _FOREIGN:
            if isinstance(error, kind):
                what, code = str(error), foreign_code
        if code == 1:
            _log.error("internal error at %s", self._identity.name, exc_info=error)
        run = self._runs.get(head.run) if head is not None else None
        if run is not None:
            run.record_fault(what)
            if code == VerificationFailed.exit_code:
                self._runs.pop(run.id).close()
        return seal_packet(
            Fault(
                run=head.run if head else "",
                manifest=head.manifest if head else "",
                sender=self._identity.name,
                re=head_digest(packet),
                what=what[:500],
                exit_code=code,
            ),
            self._identity,
        )

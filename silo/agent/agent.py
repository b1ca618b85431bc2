"""One silo's answer to every message: check, decide, act, record.

Invariant: nothing that depends on a record leaves except through a permitted run, its ledger and its policy; and
:meth:`SiloAgent.handle` never raises: what goes wrong is a signed fault whose words do not depend on records.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from silo_crypto.errors import CryptoError
from silo_policies import PolicyError

from silo.agent import memory
from silo.agent.run import Run
from silo.errors import BudgetExceeded, PeerError, PolicyDenied, SiloError, VerificationFailed
from silo.home import Home
from silo.home.stops import run_stopped
from silo.messages import (
    Abort,
    Common,
    Cosign,
    Done,
    Fault,
    Finish,
    Head,
    Invite,
    Packet,
    Release,
    RoundRequest,
    Step,
    head_digest,
    open_packet,
    seal_packet,
)
from silo.sandbox import means, warm
from silo.submission import keyring

_log = logging.getLogger("silo.agent")


class SiloAgent:
    """The agent of one home. Handles one message at a time; runs live in memory as long as it does."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._identity = home.identity()
        self._runs: dict[str, Run] = {}
        self._answered: dict[str, dict[str, Packet | None]] = {}
        self._lock = threading.Lock()
        found = means()
        _log.log(logging.WARNING if found.missing else logging.INFO, "experiments are %s", found)
        warm()

    @classmethod
    def open(cls, home: Path) -> SiloAgent:
        """Open the agent of a home directory."""
        return cls(Home.open(home))

    def handle(self, packet: Packet) -> Packet:
        """Answer one packet from the aggregator this silo's consortium names."""
        try:
            aggregator = self._home.consortium().body.aggregator
            head = open_packet(packet, keyring(aggregator.name, aggregator.keys))
        except Exception as error:  # every failure becomes a fault: the aggregator gets an answer, never a traceback
            return self._fault(error, None, packet)
        started, beat = time.monotonic(), self._beat(head)
        # Blobs of hundreds of megabytes are let go as soon as they were used, if the caller holds them no longer.
        packet, blobs = replace(packet, blobs={}), dict(packet.blobs)
        with self._lock:
            try:
                answer = self._answer(head, packet, blobs)
            except Exception as error:
                answer = self._fault(error, head, packet)
        time.sleep(pause(time.monotonic() - started, beat))
        return answer

    def _beat(self, head: Head) -> float:
        """Return the beat, seconds, on which an answer leaves: how long a round took tells how large a batch was."""
        run = self._runs.get(head.run)
        if run is None or run.public or not isinstance(head, RoundRequest):
            return 0.0
        return self._home.settings.answer_seconds

    def close(self, *, keep: bool = False) -> None:
        """Forget every run with its keys; or, with ``keep``, leave each where the next process takes it up."""
        with self._lock:
            for run in self._runs.values():
                if keep:
                    run.suspend()
                else:
                    memory.forget(self._home.run_path(run.id))
                    run.close()
            self._runs.clear()
            self._answered.clear()

    def _answer(self, head: Head, packet: Packet, given: dict[str, bytes]) -> Packet:
        """Answer a new request. A repeated one changes nothing: the last gets its identical bytes again, an older one
        is told so. Transports deliver twice, and whoever recorded a message can send it again."""
        asked = head_digest(packet)
        self._recall(head)
        before = self._answered.get(head.run, {})
        if asked in before:
            again = before[asked]
            if again is None:
                raise PeerError("this request was answered before", where=f"run {head.run}")
            return again
        reply, blobs = self._dispatch(head, asked, given)
        answer = seal_packet(reply, self._identity, blobs)
        # Only the last answer is kept whole; of the others, that they were given (nothing, once the run was ended).
        # A round's own stay until it is over: an aggregator that was restarted asks for all of them again.
        kept = self._answered.get(head.run, {})
        if not isinstance(head, Step | Release | Cosign):
            kept = dict.fromkeys(kept)
        self._answered[head.run] = {**kept, asked: answer}
        self._remember(head.run, head.manifest)
        return answer

    def _remember(self, run: str, manifest: str) -> None:
        """Write down, before an answer leaves, what was answered and where the run is."""
        if run in self._runs:
            noted = self._runs[run].remember()
        elif any(packet is not None for packet in self._answered.get(run, {}).values()) and self._ended_well(run):
            noted = memory.Memory(manifest)  # the last answer: the aggregator may ask for it once more
        else:
            return
        noted.answered = self._answered[run]
        memory.save(self._home.run_directory(run), run, self._identity, noted)

    def _ended_well(self, run: str) -> bool:
        return (self._home.run_path(run) / memory.FILE).exists()

    def _recall(self, head: Head) -> None:
        """Take up a run that an earlier process of this silo was in, at its first message to this one."""
        if head.run in self._runs or head.run in self._answered:
            return
        noted = memory.load(self._home.run_path(head.run), head.run, head.manifest, self._identity)
        if noted is None:
            return
        self._answered[head.run] = noted.answered
        if not noted.facts or run_stopped(self._home, head.run) is not None:
            return
        common = Common(run=head.run, manifest=head.manifest, sender=self._identity.name, re="")
        try:
            self._runs[head.run] = Run.resumed(self._home, self._identity, common, noted)
        except Exception:
            memory.forget(self._home.run_path(head.run))
            raise

    def _dispatch(self, head: Head, asked: str, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        common = Common(run=head.run, manifest=head.manifest, sender=self._identity.name, re=asked)
        self._require_wanted(head)
        match head:
            case Invite():
                if head.run in self._runs:
                    raise VerificationFailed("this silo was invited to the run before", where=f"run {head.run}")
                return self._consider(Run(self._home, self._identity, common), head, blobs), {}
            case Step():
                return self._run(head).step(head, blobs, common)
            case RoundRequest():
                return self._run(head).round(head, blobs, common)
            case Finish():
                return self._run(head).finish(head, blobs, common)
            case Release():
                released = self._run(head).release(head, common)
                self._runs[head.run].retire()
                return released
            case Cosign():
                cosigned = self._run(head).cosign(blobs, common)
                if head.last:
                    self._runs.pop(head.run).close()
                return cosigned
            case Abort():
                if head.run in self._runs:
                    self._runs[head.run].record_fault(f"aborted: {head.reason}")
                    self._forget(self._runs[head.run])
                return Done(**common), {}
        raise VerificationFailed(f"a silo does not answer {head.kind!r}")

    def _consider(self, run: Run, head: Invite, blobs: Mapping[str, bytes]) -> Head:
        try:
            answer = run.consider(head, blobs)
        except BaseException:
            run.close()
            raise
        if run.permitted:
            self._runs[head.run] = run
        return answer

    def _require_wanted(self, head: Head) -> None:
        """Raise if this silo's people stopped the run (`silo stop`), and end it; their reason stays here."""
        note = run_stopped(self._home, head.run)
        if note is None or isinstance(head, Abort):
            return
        if head.run in self._runs:
            self._runs[head.run].record_fault(f"stopped by this silo's people: {note}")
            self._forget(self._runs[head.run])
        raise PolicyDenied("this silo's people stopped the run here", where=f"run {head.run}")

    def _run(self, head: Head) -> Run:
        run = self._runs.get(head.run)
        if run is None:
            raise VerificationFailed(
                "this silo takes no part in the run", where=f"run {head.run}", fix="it denied it, or it was restarted"
            )
        run.require(head.manifest)
        return run

    def _forget(self, run: Run) -> None:
        """End a run without a model: its keys and its answers are gone, what was charged stays charged."""
        del self._runs[run.id]
        self._answered.pop(run.id, None)
        memory.forget(self._home.run_path(run.id))
        run.close()

    def _fault(self, error: Exception, head: Head | None, packet: Packet) -> Packet:
        what, code = _told(error)
        what = what.replace(f"{self._home.path}/", "")  # where a home lies is nobody else's business
        if code == 1:
            _log.error("internal error at %s", self._identity.name, exc_info=error)
        run = self._runs.get(head.run) if head is not None else None
        if run is not None:
            try:
                run.record_fault(str(error) if code != 1 else what)
            except SiloError as unwritten:  # a full disk, say: the aggregator is answered nevertheless
                _log.error("%s cannot record %r: %s", self._identity.name, what, unwritten)
            if code == VerificationFailed.exit_code:
                self._forget(run)
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


def pause(elapsed: float, beat: float) -> float:
    """Return how long to wait until the next multiple of ``beat`` seconds; not at all if it is 0."""
    return math.ceil(elapsed / beat) * beat - elapsed if beat > 0 else 0.0


def _told(error: Exception) -> tuple[str, int]:
    """Return what the aggregator is told of an error and its exit code; the silo's own log has the whole text.

    What a budget has left is between a silo and its people, and an internal error could quote anything.
    """
    if isinstance(error, BudgetExceeded):
        return "this silo's privacy budget does not cover the run", error.exit_code
    if isinstance(error, SiloError):
        return str(error), error.exit_code
    if isinstance(error, CryptoError | PolicyError):
        return str(error), VerificationFailed.exit_code
    return "internal error; the silo's own log has the details", 1

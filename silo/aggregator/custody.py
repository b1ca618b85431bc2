"""The aggregator's half of each custody: which steps the silos are asked for, and how uploads become one aggregate.

Invariant: a :class:`Collector` holds public parameters, headers and ciphertexts; it has no key to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from silo_crypto import labels, wire
from silo_crypto.protocol import Header
from silo_crypto.verification import field_count

from silo.custody import shared_parameters
from silo.errors import PeerError, VerificationFailed
from silo.messages import StepReply
from silo.submission import Submission

Answers = dict[str, tuple[StepReply, Mapping[str, bytes]]]
Ask = Callable[[str, Mapping[str, Mapping[str, bytes]]], Answers]
"""``ask(step, {silo: blobs})`` sends one step to the named silos and returns the answers that came in time."""


class Collector(Protocol):
    """One custody, as the aggregator takes part in it."""

    def set_up(self, ask: Ask) -> None:
        """Carry the key set-up from silo to silo. Raises if a member does not complete it."""
        ...

    def collect(
        self, header: Header, uploads: Mapping[str, bytes], ask: Ask
    ) -> tuple[list[str], bytes, dict[str, str]]:
        """Check and add uploads; return (whose they are, the aggregate, ``sha256:`` digest of each upload)."""
        ...


def collector_for(submission: Submission, members: Sequence[str]) -> Collector:
    """Return the collector of the custody the run agreed on."""
    return SharedCollector(submission, members)


class SharedCollector:
    """Shared custody: one silo deals the key to the others through us, sealed; a round needs no step of its own."""

    def __init__(self, submission: Submission, members: Sequence[str]) -> None:
        self._submission = submission
        self._members = list(members)
        self._parameters = shared_parameters(submission)
        run = submission.run.body
        self._length = field_count(run.model.parameters, len(members), run.encryption.value_bits)
        self._minimum = run.minimum_silos

    def set_up(self, ask: Ask) -> None:
        """Ask the first member to deal, the others to accept; all must confirm the same key."""
        dealer, *others = self._members
        dealt = ask("deal", {dealer: {}})
        if dealer not in dealt:
            raise PeerError("the silo that deals the key did not answer", where=dealer, fix="submit the run again")
        confirmation, boxes = dealt[dealer][0].confirmation, dealt[dealer][1]
        missing = [name for name in others if f"box-{name}" not in boxes]
        if missing:
            raise VerificationFailed(f"it dealt no key to {', '.join(missing)}", where=dealer)
        accepted = ask("accept", {name: {"box": boxes[f"box-{name}"]} for name in others})
        absent = [name for name in others if name not in accepted]
        if absent:
            raise PeerError(f"no key reached {', '.join(absent)}", where="key set-up", fix="submit the run again")
        odd = [name for name, (reply, _) in accepted.items() if reply.confirmation != confirmation]
        if odd:
            raise VerificationFailed(f"{', '.join(odd)} holds another key than {dealer}", where="key set-up")

    def collect(
        self, header: Header, uploads: Mapping[str, bytes], ask: Ask
    ) -> tuple[list[str], bytes, dict[str, str]]:
        """Check each envelope, then its payload, then add it."""
        from silo_crypto.shared import SharedAdder, upload_bytes

        adder = SharedAdder(self._parameters, header, length=self._length, minimum=self._minimum)
        digests: dict[str, str] = {}
        for name, envelope in uploads.items():
            payload = wire.unpack(
                envelope,
                kind=labels.UPLOAD,
                parameters_digest=self._parameters.digest(),
                header=header,
                verifier=self._submission.member(name),
                length=upload_bytes(self._parameters, self._length),
            )
            adder.add(name, payload)
            digests[name] = "sha256:" + wire.digest(envelope).hex()
        return sorted(adder.senders), adder.aggregate(), digests

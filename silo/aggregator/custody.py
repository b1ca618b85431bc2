"""The aggregator's half of each custody: which steps the silos are asked for, and how uploads become one aggregate.

Invariant: a :class:`Collector` holds public parameters, headers and ciphertexts; it has no key to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from silo_crypto import labels, wire
from silo_crypto.protocol import Header
from silo_crypto.threshold import adder as threshold_adder
from silo_crypto.threshold import relay
from silo_crypto.verification import field_count

from silo.custody import EPOCH, set_up_header, shared_parameters, start_header, threshold_epoch, upload_digest
from silo.errors import PeerError, VerificationFailed
from silo.messages import StepReply
from silo.submission import Submission

Blobs = Mapping[str, bytes]
Answers = dict[str, tuple[StepReply, Blobs]]
Ask = Callable[[str, Mapping[str, Blobs]], Answers]
"""``ask(step, {silo: blobs})`` sends one step to the named silos and returns the answers that came in time."""

MAX_SHARER_SETS = 8


@dataclass(frozen=True)
class Collected:
    """What a round's uploads became: whose they are, the aggregate, and the ``sha256:`` digest of each envelope."""

    uploaders: list[str]
    aggregate: bytes
    digests: dict[str, str]


class Collector(Protocol):
    """One custody, as the aggregator takes part in it."""

    def set_up(self, ask: Ask) -> None:
        """Carry the key set-up from silo to silo. Raises if a member does not complete it."""
        ...

    def request(self, number: int, attempt: int) -> dict[str, bytes]:
        """Return what the silos need to begin an attempt, besides the round's own fields."""
        ...

    def header(self, number: int, attempt: int, chain: bytes) -> Header:
        """Return the attempt's header, once the silos have told the HMAC of the last aggregate."""
        ...

    def collect(self, header: Header, replies: Mapping[str, Blobs], ask: Ask) -> Collected:
        """Check and add the uploads among ``replies``, and open nothing. Who only follows replies without one."""
        ...

    def export(self) -> dict[str, str]:
        """Return, between two rounds, what :meth:`resume` needs in another process: public values by name."""
        ...

    def resume(self, exported: Mapping[str, str]) -> None:
        """Go on from what :meth:`export` gave."""
        ...


def collector_for(submission: Submission, members: Sequence[str]) -> Collector:
    """Return the collector of the custody the run agreed on."""
    if submission.run.body.encryption.custody == "threshold":
        return ThresholdCollector(submission, members)
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
        accepted = _all(ask("accept", {name: {"box": boxes[f"box-{name}"]} for name in others}), others)
        odd = [name for name, (reply, _) in accepted.items() if reply.confirmation != confirmation]
        if odd:
            raise VerificationFailed(f"{', '.join(odd)} holds another key than {dealer}", where="key set-up")

    def request(self, number: int, attempt: int) -> dict[str, bytes]:
        """Nothing: the silos know the header's parts."""
        return {}

    def header(self, number: int, attempt: int, chain: bytes) -> Header:
        """Return the header over all members."""
        first = set_up_header(self._submission, self._members)
        return Header(first.manifest, first.run, EPOCH, number, attempt, first.members, chain)

    def collect(self, header: Header, replies: Mapping[str, Blobs], ask: Ask) -> Collected:
        """Check each envelope, then its payload, then add it."""
        from silo_crypto.shared import SharedAdder, upload_bytes

        adder = SharedAdder(self._parameters, header, length=self._length, minimum=self._minimum)
        digests: dict[str, str] = {}
        for name, blobs in _with_upload(replies):
            payload = wire.unpack(
                blobs["upload"],
                kind=labels.UPLOAD,
                parameters_digest=self._parameters.digest(),
                header=header,
                verifier=self._submission.member(name),
                length=upload_bytes(self._parameters, self._length),
            )
            adder.add(name, payload)
            digests[name] = upload_digest(blobs["upload"])
        return Collected(sorted(adder.senders), adder.aggregate(), digests)

    def export(self) -> dict[str, str]:
        """Nothing: the manifest says it all."""
        return {}

    def resume(self, exported: Mapping[str, str]) -> None:
        """There is nothing to go on from."""


class ThresholdCollector:
    """Threshold custody: a ceremony of three exchanges, then upload, confirm and share in every round."""

    def __init__(self, submission: Submission, members: Sequence[str]) -> None:
        self._submission = submission
        self._epoch = threshold_epoch(submission, members)
        self._verifiers = {name: submission.member(name) for name in members}
        run = submission.run.body
        self._length = field_count(run.model.parameters, len(members), run.encryption.value_bits)
        self._nonces: dict[str, bytes] = {}
        self._start = b""

    def set_up(self, ask: Ask) -> None:
        """Route the dealings and the joint test; a dealing that is not of degree T - 1 ends the run with its dealer."""
        members = self._epoch.members
        dealt = _all(ask("deal", {name: {} for name in members}), members)
        routed = relay.route(self._epoch, {name: _blob(dealt, name, "deal") for name in members}, self._verifiers)
        tested = _all(ask("test", {name: {"dealt": blob} for name, blob in routed.items()}), members)
        sums = relay.add_tests(self._epoch, relay.JOINT, {name: _blob(tested, name, "test") for name in members})
        checked = _all(ask("check", {name: {"tested": sums} for name in members}), members)
        if any("test" in blobs for _, blobs in checked.values()):
            self._blame(ask, checked)
        confirmations = {reply.confirmation for reply, _ in checked.values()}
        if len(confirmations) != 1:
            raise VerificationFailed("the silos do not hold the same group key", where="key ceremony")
        self._nonces = {name: _blob(checked, name, "nonce") for name in members}

    def _blame(self, ask: Ask, checked: Answers) -> None:
        """Repeat the test per dealer; every silo then refuses with the dealers' names, which ends the run."""
        members = self._epoch.members
        tests = {name: _blob(checked, name, "test") for name in members}
        sums = relay.add_tests(self._epoch, relay.PER_DEALER, tests)
        ask("blame", {name: {"tested": sums} for name in members})
        raise VerificationFailed("the key ceremony failed", where="key ceremony", fix="see the silos' logs")

    def request(self, number: int, attempt: int) -> dict[str, bytes]:
        """Return the ``start`` with every nonce that came. Its chain is zeros: each silo puts in the HMAC it holds of
        the aggregate that travels with the same message, which we cannot know yet."""
        run = self._submission.run.body.run
        self._start = threshold_adder.start(self._epoch, run, number, attempt, bytes(32), self._nonces)
        self._nonces = {}
        return {"start": self._start}

    def header(self, number: int, attempt: int, chain: bytes) -> Header:
        """Return the header over the members whose nonces came."""
        return start_header(self._start, chain)

    def collect(self, header: Header, replies: Mapping[str, Blobs], ask: Ask) -> Collected:
        """Add the uploads, have their set confirmed by a quorum, and subtract the shares of T silos."""
        self._nonces = {name: blobs["nonce"] for name, blobs in replies.items() if "nonce" in blobs}
        adder = threshold_adder.ThresholdAdder(self._epoch, header, self._length, self._verifiers)
        digests: dict[str, str] = {}
        for name, blobs in _with_upload(replies):
            adder.add(name, self._payload(blobs["upload"], labels.UPLOAD, header, name, adder.layout.payload_bytes))
            digests[name] = upload_digest(blobs["upload"])
        proposal = adder.proposal()
        for name, (_, blobs) in ask("confirm", {name: {"proposal": proposal} for name in header.members}).items():
            if "confirm" in blobs:
                adder.confirm(name, blobs["confirm"])
        if len(adder.confirmers) < self._epoch.quorum:
            raise PeerError(
                f"{len(adder.confirmers)} silos confirmed, {self._epoch.quorum} are needed",
                where=f"round {header.round}",
                fix="the round's budget is spent; submit the run again when the silos are back",
            )
        self._share(adder, header, ask)
        return Collected(list(adder.uploaders), adder.aggregate(), digests)

    def export(self) -> dict[str, str]:
        """Return the nonces for the next attempt."""
        return {name: nonce.hex() for name, nonce in self._nonces.items()}

    def resume(self, exported: Mapping[str, str]) -> None:
        """Take the nonces for the next attempt."""
        self._nonces = {name: bytes.fromhex(nonce) for name, nonce in exported.items()}

    def _share(self, adder: threshold_adder.ThresholdAdder, header: Header, ask: Ask) -> None:
        """Ask sets of T silos for shares until one set is complete; who did not answer is not asked again."""
        able = list(adder.confirmers)
        for _ in range(MAX_SHARER_SETS):
            chosen = able[: self._epoch.threshold]
            if len(chosen) < self._epoch.threshold:
                break
            request = adder.request(chosen)
            answers = ask("share", {name: {"request": request} for name in chosen})
            silent = [name for name in chosen if name not in answers or "share" not in answers[name][1]]
            if not silent:
                for name in chosen:
                    share = _blob(answers, name, "share")
                    adder.add_share(name, self._payload(share, labels.SHARE, header, name, adder.layout.payload_bytes))
                return
            able = [name for name in able if name not in silent]
        raise PeerError(
            f"fewer than {self._epoch.threshold} silos gave a share",
            where=f"round {header.round}",
            fix="the round's budget is spent; submit the run again when the silos are back",
        )

    def _payload(self, envelope: bytes, kind: bytes, header: Header, name: str, length: int) -> memoryview:
        return wire.unpack(
            envelope,
            kind=kind,
            parameters_digest=self._epoch.parameters.digest(),
            header=header,
            verifier=self._verifiers[name],
            length=length,
        )


def _with_upload(replies: Mapping[str, Blobs]) -> list[tuple[str, Blobs]]:
    return [(name, blobs) for name, blobs in replies.items() if "upload" in blobs]


def _all(answers: Answers, names: Sequence[str]) -> Answers:
    absent = [name for name in names if name not in answers]
    if absent:
        raise PeerError(f"no answer from {', '.join(absent)}", where="key set-up", fix="submit the run again")
    return answers


def _blob(answers: Answers, name: str, blob: str) -> bytes:
    if blob not in answers[name][1]:
        raise VerificationFailed(f"{name} sent no {blob!r}", where="key set-up or share")
    return answers[name][1][blob]

"""An aggregator, a transport or a silo that cheats: who notices, what it is called, and that nothing is lost by it.

Each attack is played in a real run on shared custody. Whatever it is, the run stops with exit code 6, every silo has
destroyed the run's key and answers nothing more under it, nothing is released, and the ledgers hold every upload that
left (:func:`tests.e2e.federation.assert_stopped`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from silo_crypto import labels, wire
from silo_crypto.errors import CryptoError
from silo_crypto.keys import Identity
from silo_crypto.parameters import PRIMES
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey, residues, upload_bytes
from silo_crypto.verification import GroupKey, field_count, protect

from silo.aggregator import RESULT
from silo.aggregator.custody import Collected, SharedCollector
from silo.cli.fail import exit_code
from silo.custody import set_up_header, shared_parameters
from silo.demo.hospitals import REFUSER
from silo.errors import SiloError, VerificationFailed
from silo.messages import (
    Acknowledged,
    Finish,
    FinishReply,
    Head,
    Packet,
    Release,
    RoundReply,
    RoundRequest,
    Step,
    StepReply,
    open_packet,
    seal_packet,
)
from silo.submission import Submission
from tests.e2e.federation import Federation, Malicious, Tamper, Tap, alive, assert_stopped, head_of

VICTIM = "hungary"


def play_attacked(
    federation: Federation,
    submission: Submission,
    tap: Tap,
    keys: list[GroupKey],
    aggregator: Malicious | None = None,
) -> SiloError | CryptoError:
    """Play the run, see it fail with code 6 and leave nothing behind; return the error that ended it."""
    with pytest.raises((SiloError, CryptoError)) as caught:
        federation.play(submission, tap, aggregator=aggregator)
    assert exit_code(caught.value) == 6
    assert_stopped(federation, submission, tap, keys)
    return caught.value


def faults(tap: Tap) -> dict[str, str]:
    """Return what each silo said when it stopped; all of it under exit code 6."""
    found = {}
    for name, heads in tap.heads("fault").items():
        assert {head["exit_code"] for head in heads} == {6}, (
            name,
            [(head["exit_code"], head["what"]) for head in heads],
        )
        found[name] = " | ".join(head["what"] for head in heads)
    return found


# An aggregator that makes up what it adds ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What a cheating aggregator has in hand when it adds: payloads of this round and of the one before, by silo."""

    submission: Submission
    header: Header
    uploads: Mapping[str, bytes]
    earlier: Mapping[str, bytes]
    honest: Collected

    def sum_of(self, payloads: list[bytes], claimed: list[str]) -> bytes:
        """Add any payloads at all and say that they are the uploads of ``claimed``."""
        names = list(self.header.members)
        length = field_count(self.submission.run.body.model.parameters, len(names), 16)
        adder = SharedAdder(shared_parameters(self.submission), self.header, length=length, minimum=2)
        for index, payload in enumerate(payloads):
            adder._seeds.clear()  # its own checks are in its way
            adder._senders = ["somebody"] if index else []
            adder.add(names[0], payload)
        adder._senders = claimed if len(claimed) > 1 else names
        return adder.aggregate()


Forge = Callable[[Round], tuple[list[str], bytes]]


def _without(forged: Round) -> list[bytes]:
    return [payload for name, payload in forged.uploads.items() if name != VICTIM]


def _others(forged: Round) -> list[str]:
    return [name for name in forged.uploads if name != VICTIM]


def omitted(forged: Round) -> tuple[list[str], bytes]:
    return _others(forged), forged.sum_of(_without(forged), _others(forged))


def omitted_and_denied(forged: Round) -> tuple[list[str], bytes]:
    return list(forged.uploads), forged.sum_of(_without(forged), list(forged.uploads))


def doubled(forged: Round) -> tuple[list[str], bytes]:
    payloads = [*forged.uploads.values(), forged.uploads[VICTIM]]
    return list(forged.uploads), forged.sum_of(payloads, list(forged.uploads))


def exchanged_for_another(forged: Round) -> tuple[list[str], bytes]:
    payloads = [*_without(forged), forged.uploads[_others(forged)[0]]]
    return list(forged.uploads), forged.sum_of(payloads, list(forged.uploads))


def replayed(forged: Round) -> tuple[list[str], bytes]:
    return list(forged.uploads), forged.sum_of([*_without(forged), forged.earlier[VICTIM]], list(forged.uploads))


def invented(forged: Round) -> tuple[list[str], bytes]:
    size = len(forged.uploads[VICTIM])
    coefficients = [int.from_bytes(os.urandom(4)) for _ in range((size - 64) // 9)]
    first = b"".join((number % PRIMES[0]).to_bytes(5, "little") for number in coefficients)
    second = b"".join((number % PRIMES[1]).to_bytes(4, "little") for number in coefficients)
    payloads = [*_without(forged), os.urandom(64) + first + second]
    return list(forged.uploads), forged.sum_of(payloads, list(forged.uploads))


def altered(forged: Round) -> tuple[list[str], bytes]:
    # One unit in one residue of c0: for SEAL a valid ciphertext, of a plaintext that is off by one or noisier.
    aggregate = bytearray(forged.honest.aggregate)
    aggregate[1] ^= 1
    return forged.honest.uploaders, bytes(aggregate)


def nearly_nobody(forged: Round) -> tuple[list[str], bytes]:
    return [VICTIM], forged.sum_of([forged.uploads[VICTIM]], [VICTIM])


def one_twice(forged: Round) -> tuple[list[str], bytes]:
    return [VICTIM] * 4, forged.sum_of([forged.uploads[VICTIM]] * 2, [VICTIM])


def truncated(forged: Round) -> tuple[list[str], bytes]:
    return forged.honest.uploaders, forged.honest.aggregate[:-1]


def extended(forged: Round) -> tuple[list[str], bytes]:
    return forged.honest.uploaders, forged.honest.aggregate + b"\0"


def empty(forged: Round) -> tuple[list[str], bytes]:
    return forged.honest.uploaders, b""


OPENED = "a sum that was opened does not hold"
FORGERIES: dict[Forge, str] = {
    omitted: "leaves out this silo's own upload",
    omitted_and_denied: OPENED,
    doubled: OPENED,
    exchanged_for_another: OPENED,
    replayed: OPENED,
    invented: OPENED,
    altered: OPENED,
    nearly_nobody: "the agreed minimum",
    one_twice: "not distinct members",
    truncated: "bytes",
    extended: "bytes",
    empty: "bytes",
}
"""What the silo tells the aggregator. Of what it decrypted it tells nothing, so that a forger learns nothing."""


def forging(forge: Forge, at: int) -> Callable[..., SharedCollector]:
    """Return a collector that adds honestly but in round ``at``."""

    class Forging(SharedCollector):
        earlier: Mapping[str, bytes] = {}

        def collect(self, header: Header, replies: Mapping[str, Mapping[str, bytes]], ask: Any) -> Collected:
            honest = super().collect(header, replies, ask)
            size = upload_bytes(self._parameters, self._length)
            uploads = {name: blobs["upload"][-64 - size : -64] for name, blobs in replies.items()}
            earlier, self.earlier = self.earlier, uploads
            if header.round != at:
                return honest
            return replace(
                honest, **dict(zip(("uploaders", "aggregate"), forge(
                    Round(self._submission, header, uploads, earlier, honest)
                ), strict=True))
            )  # fmt: skip

    return Forging


@pytest.mark.parametrize(
    ("forge", "at"),
    [*((forge, 2) for forge in FORGERIES), (doubled, 3), (altered, 3)],
    ids=lambda value: value if isinstance(value, int) else value.__name__,
)
def test_forged_aggregate(
    federation: Federation, group_keys: list[GroupKey], monkeypatch: pytest.MonkeyPatch, forge: Forge, at: int
) -> None:
    """Every silo that can notice does, and stops before it computes anything from the sum. Round 3 is the last."""
    monkeypatch.setattr("silo.aggregator.aggregator.collector_for", forging(forge, at))
    tap, submission = Tap(federation), federation.submit()
    play_attacked(federation, submission, tap, group_keys)
    said = faults(tap)
    assert FORGERIES[forge] in said[VICTIM]
    # A sum that leaves one silo out is right for the others: it is the one left out that stops the run.
    assert set(said) == ({VICTIM} if forge is omitted else set(federation.names))
    assert len(tap.heads("round-reply")[VICTIM]) == at
    assert not tap.heads("finish-reply")


@pytest.mark.parametrize("what", ["its upload left out", "another aggregate for it alone"])
def test_one_silo_cheated_at_the_end(federation: Federation, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The others' sum is right; the silo that was cheated does not sign for it, the run ends, and nobody releases."""
    submission, tap = federation.submit(), Tap(federation)
    aggregator = None
    if what == "its upload left out":
        monkeypatch.setattr("silo.aggregator.aggregator.collector_for", forging(omitted, 3))
    else:
        aggregator = Malicious(federation.aggregator, submission, tampering(Finish, altered_aggregate))
    with pytest.raises(VerificationFailed) as caught:
        federation.play(submission, tap, aggregator=aggregator)
    assert caught.value.where == VICTIM
    assert not tap.heads("finish-reply")
    assert not any(federation.releases(name, submission) for name in federation.names)
    assert not (federation.run_directory(submission) / RESULT).exists()
    assert not list(federation.run_directory(submission).glob("*.sealed"))


def test_what_was_decrypted_is_told_to_no_one_but_the_silos_own_log(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL section 3, "abort oracle": whatever the forger tried, it hears the same words."""
    heard, logged = set(), set()
    for forge in (doubled, invented, altered):
        monkeypatch.setattr("silo.aggregator.aggregator.collector_for", forging(forge, 2))
        tap, submission = Tap(federation), federation.submit()
        with pytest.raises(VerificationFailed):
            federation.play(submission, tap)
        heard |= set(faults(tap).values())
        logged |= {body["what"] for body in federation.logged(VICTIM, submission, "fault")}
    assert len(heard) == 1
    assert any(VICTIM in what for what in logged)


# An aggregator that asks for what it may not ------------------------------------------------------------------------


def tampering(kind: type[Head], change: Tamper, *, number: int | None = None, to: str = VICTIM) -> Tamper:
    """Return a tamper that applies ``change`` to requests of one kind (of one round) to one silo."""

    def tamper(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        if name != to or not isinstance(head, kind) or (number is not None and head.round != number):
            return head, blobs
        return change(name, head, blobs)

    return tamper


def put(**fields: Any) -> Tamper:
    return lambda name, head, blobs: (head.model_copy(update=fields), blobs)


def put_members(change: Callable[[list[str]], list[str]]) -> Tamper:
    return lambda name, head, blobs: (head.model_copy(update={"members": change(head.members)}), blobs)


def without_a_permit(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
    return head.model_copy(update={"decisions": head.decisions[:-1]}), blobs


def with_permits_exchanged(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
    rest = head.decisions[1:]
    return head.model_copy(update={"decisions": [rest[0], *rest]}), blobs


def become(kind: type[Head], **fields: Any) -> Tamper:
    """Return a change into a head of another kind, keeping the common fields."""

    def change(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        common = {field: getattr(head, field) for field in ("run", "manifest", "sender", "re")}
        return kind(**common, **fields, **({"previous": head.previous} if kind is Finish else {})), blobs

    return change


def altered_aggregate(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
    aggregate = bytearray(blobs["aggregate"])
    aggregate[1] ^= 1
    return head, {**blobs, "aggregate": bytes(aggregate)}


def with_uploader(stranger: str) -> Tamper:
    def change(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        previous = head.previous.model_copy(update={"uploaders": [*head.previous.uploaders, stranger]})
        return head.model_copy(update={"previous": previous}), blobs

    return change


def change_acknowledgement(field: str, value: str) -> Tamper:
    """Change one field in the last of the silos' signed words."""

    def change(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        *kept, last = head.acknowledgements
        words = {**json.loads(last.head), field: value}
        forged = last.model_copy(update={"head": json.dumps(words, separators=(",", ":"), sort_keys=True)})
        return head.model_copy(update={"acknowledgements": [*kept, forged]}), blobs

    return change


def unsigned(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
    *kept, last = head.acknowledgements
    forged = last.model_copy(update={"signature": "no base64"})
    return head.model_copy(update={"acknowledgements": [*kept, forged]}), blobs


ZERO = "0" * 64
REQUESTS: dict[str, tuple[Tamper, str]] = {
    "a different aggregate for one silo": (tampering(RoundRequest, altered_aggregate, number=2), OPENED),
    "an uploader who is no member": (tampering(RoundRequest, with_uploader(REFUSER), number=2), "distinct members"),
    "no aggregate": (tampering(RoundRequest, put(previous=None), number=2), "is missing"),
    "an aggregate before any upload": (
        tampering(RoundRequest, lambda name, head, blobs: (head, {"aggregate": b"x"}), number=1),
        "before any upload",
    ),
    "a round left out": (tampering(RoundRequest, put(round=3), number=2), "out of turn"),
    "a round again, for a second upload": (
        tampering(RoundRequest, lambda name, head, blobs: (
            head.model_copy(update={"round": 1, "previous": None, "re": "again"}), {}),
                  number=2),
        "out of turn",
    ),
    "a second attempt at a round": (tampering(RoundRequest, put(attempt=2), number=2), "out of turn"),
    "other members in a round": (
        tampering(RoundRequest, put_members(lambda names: names[:-1]), number=1), "not those of the key epoch",
    ),
    "a member who was not invited": (
        tampering(Step, put_members(lambda names: sorted([*names, "mallory"]))), "fewer permits"
    ),
    "a member without a permit": (tampering(Step, without_a_permit), "fewer permits"),
    "a permit of another member": (tampering(Step, with_permits_exchanged), "cleveland"),
    "members below the minimum": (
        tampering(Step, lambda name, head, blobs: (
            head.model_copy(update={"members": head.members[:2], "decisions": head.decisions[:2]}), blobs)),
        "fewer permits",
    ),
    "members twice": (tampering(Step, put_members(lambda names: [names[0], *names[:-1]])), "not sorted"),
    "members without the silo": (
        tampering(Step, put_members(lambda names: [name for name in names if name != VICTIM])), "leaves this silo out",
    ),
    "keys set up a second time": (
        tampering(RoundRequest, lambda name, head, blobs: (
            Step(run=head.run, manifest=head.manifest, sender=head.sender, step="accept", round=0, attempt=0,
                 members=head.members), {"box": b"x"}), number=2),
        "set up already",
    ),
    "a step nobody knows": (tampering(Step, put(step="reveal")), "not this silo's to take"),
    "the dealer's step": (tampering(Step, put(step="deal")), "not this silo's to take"),
    "the end before the last round": (tampering(RoundRequest, become(Finish), number=2), "last round"),
    "the release before the end": (
        tampering(RoundRequest, become(Release, releaser=VICTIM, acknowledgements=[]), number=2), "is still missing",
    ),
    "a release that nobody signed for": (tampering(Release, put(acknowledgements=[])), "0 silos signed"),
    "a release that half of the silos signed for": (
        tampering(Release, lambda name, head, blobs: (
            head.model_copy(update={"acknowledgements": head.acknowledgements[:2]}), blobs)),
        "2 silos signed for the model, 3 are needed",
    ),
    "a release that one silo signed for often": (
        tampering(Release, lambda name, head, blobs: (
            head.model_copy(update={"acknowledgements": head.acknowledgements[:1] * 4}), blobs)),
        "1 silos signed",
    ),
    "a release signed for with other words": (tampering(Release, change_acknowledgement("model", ZERO)), "not hold"),
    "a release that a stranger signed for": (
        tampering(Release, change_acknowledgement("sender", REFUSER)), "is no member",
    ),
    "a release with a signature that is none": (tampering(Release, unsigned), "signature"),
    "a manifest of another run": (tampering(RoundRequest, put(manifest="sha256:" + ZERO)), "another manifest"),
    "another run": (tampering(RoundRequest, put(run="run-of-somebody-else")), "takes no part"),
    "a kind that only silos send": (
        tampering(RoundRequest, become(RoundReply, round=1, attempt=1, chain=ZERO, model=ZERO)), "does not answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_request_that_no_silo_obeys(federation: Federation, group_keys: list[GroupKey], what: str) -> None:
    tamper, words = REQUESTS[what]
    tap, submission = Tap(federation), federation.submit()
    aggregator = Malicious(federation.aggregator, submission, tamper)
    if "release" in what and "before" not in what:  # the others were asked rightly, and may release
        with pytest.raises(VerificationFailed):
            federation.play(submission, tap, aggregator=aggregator)
        assert VICTIM not in tap.heads("finish-reply")
        assert not federation.releases(VICTIM, submission)
        assert not alive(group_keys)
    else:
        play_attacked(federation, submission, tap, group_keys, aggregator)
    assert words in faults(tap)[VICTIM]
    assert set(faults(tap)) == {VICTIM}


def test_member_who_refused(federation: Federation, group_keys: list[GroupKey]) -> None:
    """Its signed refusal comes along in the place of a permit."""

    def enlist(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        refusal = aggregator._state.decisions[REFUSER]
        decisions = dict(zip(head.members, head.decisions, strict=True)) | {REFUSER: refusal}
        members = sorted(decisions)
        return head.model_copy(update={"members": members, "decisions": [decisions[each] for each in members]}), blobs

    tap, submission = Tap(federation), federation.submit()
    aggregator = Malicious(federation.aggregator, submission, tampering(Step, enlist))
    play_attacked(federation, submission, tap, group_keys, aggregator)
    assert f"{REFUSER} did not permit the run" in faults(tap)[VICTIM]


def test_key_box_of_the_aggregators_own(federation: Federation, group_keys: list[GroupKey]) -> None:
    """It deals a key that it knows: under its own name, in the dealer's name, or another silo's box."""
    boxes: dict[str, bytes] = {}

    def own(name: str, head: Head, blobs: dict[str, bytes]) -> bytes:
        header = set_up_header(submission, head.members)
        key = SharedKey.generate(shared_parameters(submission), header)
        return key.deal(header, federation.aggregator.identity(), submission.member(name))

    def in_the_dealers_name(name: str, head: Head, blobs: dict[str, bytes]) -> bytes:
        header = set_up_header(submission, head.members)
        key = SharedKey.generate(shared_parameters(submission), header)
        return key.deal(header, Identity.generate(head.members[0]), submission.member(name))

    def anothers(name: str, head: Head, blobs: dict[str, bytes]) -> bytes:
        return boxes["switzerland"]

    def keep_boxes(name: str, packet: Packet) -> Packet:
        boxes.update({each.removeprefix("box-"): blob for each, blob in packet.blobs.items() if "box-" in each})
        return packet

    for deal, words in ((own, "another sender"), (in_the_dealers_name, "does not hold"), (anothers, "does not open")):
        tap, submission = Tap(federation, reply=keep_boxes), federation.submit()
        tamper = tampering(Step, lambda name, head, blobs, deal=deal: (head, {"box": deal(name, head, blobs)}))
        with pytest.raises(VerificationFailed):
            federation.play(submission, tap, aggregator=Malicious(federation.aggregator, submission, tamper))
        assert words in faults(tap)[VICTIM]
        assert not tap.uploads(VICTIM)


def test_two_different_sums_that_both_hold(
    federation: Federation, group_keys: list[GroupKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each silo is given a right sum with its own upload in it, but not all the same one: their pasts differ, and with
    them the headers, so that no later sum holds for anybody."""
    splits: dict[str, tuple[list[str], bytes]] = {}

    class Splitting(SharedCollector):
        def collect(self, header: Header, replies: Mapping[str, Mapping[str, bytes]], ask: Any) -> Collected:
            size = upload_bytes(self._parameters, self._length)
            uploads = {name: blobs["upload"][-64 - size : -64] for name, blobs in replies.items()}
            forged = Round(submission, header, uploads, {}, Collected([], b"", {}))
            if header.round == 1:
                for out in (VICTIM, "switzerland"):
                    names = [name for name in uploads if name != out]
                    splits[out] = (names, forged.sum_of([uploads[name] for name in names], names))
            everybody = list(uploads)
            return Collected(everybody, forged.sum_of(list(uploads.values()), everybody), {})

    def split(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        if not isinstance(head, RoundRequest) or head.round != 2:
            return head, blobs
        uploaders, aggregate = splits["switzerland" if name == VICTIM else VICTIM]
        if name == "switzerland":
            uploaders, aggregate = splits[VICTIM]
        previous = head.previous.model_copy(update={"uploaders": uploaders})
        return head.model_copy(update={"previous": previous}), {**blobs, "aggregate": aggregate}

    monkeypatch.setattr("silo.aggregator.aggregator.collector_for", Splitting)
    tap, submission = Tap(federation), federation.submit()
    play_attacked(federation, submission, tap, group_keys, Malicious(federation.aggregator, submission, split))
    second = [head for heads in tap.heads("round-reply").values() for head in heads if head["round"] == 2]
    assert len({head["chain"] for head in second}) == 2
    assert set(faults(tap).values()) == {faults(tap)[VICTIM]}
    assert OPENED in faults(tap)[VICTIM]


def test_two_different_sums_at_the_end(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later sum can fail, so the silos compare what they signed before anybody releases: two models that differ by
    one upload, given to a researcher who helps the aggregator, would be that silo's update."""
    given: dict[str, tuple[list[str], bytes]] = {}

    class Splitting(SharedCollector):
        def collect(self, header: Header, replies: Mapping[str, Mapping[str, bytes]], ask: Any) -> Collected:
            collected = super().collect(header, replies, ask)
            size = upload_bytes(self._parameters, self._length)
            uploads = {name: blobs["upload"][-64 - size : -64] for name, blobs in replies.items()}
            forged = Round(submission, header, uploads, {}, collected)
            names = [name for name in uploads if name != "switzerland"]
            given[VICTIM] = (names, forged.sum_of([uploads[name] for name in names], names))
            return collected

    def split(name: str, head: Head, blobs: dict[str, bytes]) -> tuple[Head, dict[str, bytes]]:
        previous = head.previous.model_copy(update={"uploaders": given[VICTIM][0]})
        return head.model_copy(update={"previous": previous}), {"aggregate": given[VICTIM][1]}

    monkeypatch.setattr("silo.aggregator.aggregator.collector_for", Splitting)
    tap, submission = Tap(federation), federation.submit()
    with pytest.raises(VerificationFailed, match="signed for another model"):
        federation.play(
            submission, tap, aggregator=Malicious(federation.aggregator, submission, tampering(Finish, split))
        )
    assert not tap.heads("finish-reply")
    assert not any(federation.releases(name, submission) for name in federation.names)


# A transport that alters, mixes up and repeats ----------------------------------------------------------------------


def flip(packet: Packet, blob: str) -> Packet:
    content = bytearray(packet.blobs[blob])
    content[len(content) // 2] ^= 1
    return replace(packet, blobs={**packet.blobs, blob: bytes(content)})


def test_transport_alters_the_experiment(federation: Federation, group_keys: list[GroupKey]) -> None:
    def alter(name: str, packet: Packet) -> Packet:
        return flip(packet, "bundle") if name == VICTIM and "bundle" in packet.blobs else packet

    tap, submission = Tap(federation, request=alter), federation.submit()
    play_attacked(federation, submission, tap, group_keys)
    assert "truncated or altered" in faults(tap)[VICTIM]


@pytest.mark.parametrize("blob", ["upload", "box-hungary"])
def test_transport_alters_an_answer(federation: Federation, group_keys: list[GroupKey], blob: str) -> None:
    tap = Tap(federation, reply=lambda name, packet: flip(packet, blob) if blob in packet.blobs else packet)
    error = play_attacked(federation, federation.submit(), tap, group_keys)
    assert "truncated or altered" in str(error)
    assert not faults(tap)


def test_transport_delivers_an_earlier_answer(federation: Federation, group_keys: list[GroupKey]) -> None:
    earlier: dict[str, Packet] = {}

    def replay(name: str, packet: Packet) -> Packet:
        if name != VICTIM or head_of(packet)["kind"] != "round-reply":
            return packet
        return earlier.setdefault(name, packet)

    tap = Tap(federation, reply=replay)
    error = play_attacked(federation, federation.submit(), tap, group_keys)
    assert "answered another request" in str(error)


def test_transport_delivers_anothers_answer(federation: Federation, group_keys: list[GroupKey]) -> None:
    last: dict[str, Packet] = {}

    def mix_up(name: str, packet: Packet) -> Packet:
        if head_of(packet)["kind"] != "round-reply":
            return packet
        return last.setdefault("first", packet)

    tap = Tap(federation, reply=mix_up)
    error = play_attacked(federation, federation.submit(), tap, group_keys)
    assert "sent in the name of" in str(error)


def test_transport_repeats_an_earlier_request(federation: Federation, group_keys: list[GroupKey]) -> None:
    """The silo answers a repeated request with the very same bytes, and encrypts nothing again."""
    earlier: dict[str, Packet] = {}

    def replay(name: str, packet: Packet) -> Packet:
        if name != VICTIM or head_of(packet)["kind"] != "round":
            return packet
        return earlier.setdefault(name, packet)

    tap, submission = Tap(federation, request=replay), federation.submit()
    with pytest.raises(VerificationFailed, match="answered another request"):
        federation.play(submission, tap)
    first, second = [packet for name, packet in tap.replies if name == VICTIM and "upload" in packet.blobs]
    assert first == second
    assert federation.charged(VICTIM, submission) == 1


def test_transport_repeats_every_answer(federation: Federation) -> None:
    """A late or doubled answer is one that nobody asked for: it changes nothing."""

    class Doubling(Tap):
        def pull_messages(self, message_ids: Any) -> list[Any]:
            return [each for message in super().pull_messages(message_ids) for each in (message, message)]

    submission = federation.submit()
    result = federation.play(submission, Doubling(federation))
    assert all(each["participants"] == federation.names for each in result["rounds"])


# A silo that cheats -------------------------------------------------------------------------------------------------


def resigned(
    federation: Federation, name: str, packet: Packet, blobs: Mapping[str, bytes] | None = None, **put: Any
) -> Packet:
    """Return a silo's answer with fields and blobs of its own choice, properly signed by it."""
    head = open_packet(packet, federation.homes[name].public()).model_copy(update=put)
    return seal_packet(head, federation.homes[name].identity(), packet.blobs if blobs is None else blobs)


@dataclass(frozen=True)
class Cheat:
    """A silo in round 2: its own keys, the header, and its honest envelope and payload."""

    identity: Identity
    submission: Submission
    header: Header
    envelope: bytes
    earlier: bytes

    @property
    def payload(self) -> bytes:
        names = len(self.header.members)
        length = field_count(self.submission.run.body.model.parameters, names, 16)
        return self.envelope[-64 - upload_bytes(shared_parameters(self.submission), length) : -64]

    def wrap(self, payload: bytes) -> bytes:
        digest = shared_parameters(self.submission).digest()
        return wire.pack(labels.UPLOAD, digest, self.header, self.identity, payload)


def under_a_foreign_key(cheat: Cheat) -> bytes:
    key = SharedKey.generate(shared_parameters(cheat.submission), replace(cheat.header, round=0, chain=bytes(32)))
    values = np.zeros(cheat.submission.run.body.model.parameters, dtype=np.uint32)
    fields = protect(key.group, cheat.header, cheat.identity.name, values, 16)
    payload = SharedEncryptor(key).encrypt(cheat.header, fields)
    key.destroy()
    return cheat.wrap(payload)


def not_encrypted(cheat: Cheat) -> bytes:
    """The plaintext's coefficients in the place of a ciphertext's."""
    count = (len(cheat.payload) - 64) // 9
    plain = np.tile(np.arange(1, count + 1, dtype=np.uint64), (len(PRIMES), 1))
    return cheat.wrap(os.urandom(64) + residues.pack(plain))


UPLOADS: dict[str, tuple[Callable[[Cheat], bytes], str]] = {
    "truncated, and signed again": (lambda cheat: cheat.wrap(cheat.payload[:-1]), "bytes"),
    "extended, and signed again": (lambda cheat: cheat.wrap(cheat.payload + b"\0"), "bytes"),
    "cut off": (lambda cheat: cheat.envelope[:-1], "do not add up"),
    "empty": (lambda cheat: b"", "too few"),
    "a payload without its envelope": (lambda cheat: cheat.payload, "not a Silo message"),
    "zeros": (lambda cheat: cheat.wrap(bytes(len(cheat.payload))), "transparent"),
    "residues beyond the prime": (
        lambda cheat: cheat.wrap(cheat.payload[:64] + b"\xff" * (len(cheat.payload) - 64)), "not below its prime",
    ),
    "its upload of the round before": (lambda cheat: cheat.earlier, "another round"),
    "under another header": (
        lambda cheat: replace(cheat, header=replace(cheat.header, chain=bytes(32))).wrap(cheat.payload),
        "another header",
    ),
    "under other parameters": (
        lambda cheat: wire.pack(labels.UPLOAD, bytes(32), cheat.header, cheat.identity, cheat.payload),
        "other parameters",
    ),
    "of another kind": (
        lambda cheat: wire.pack(
            labels.SHARE, shared_parameters(cheat.submission).digest(), cheat.header, cheat.identity, cheat.payload),
        "another kind",
    ),
    "signed by somebody else": (
        lambda cheat: replace(cheat, identity=Identity.generate(VICTIM)).wrap(cheat.payload), "does not hold",
    ),
    # Nobody without the key can tell these from the real thing: the silos do, when the sum is opened.
    "under a foreign key": (under_a_foreign_key, OPENED),
    "not encrypted": (not_encrypted, OPENED),
}  # fmt: skip


@pytest.mark.parametrize("what", UPLOADS)
def test_upload_that_is_none(federation: Federation, group_keys: list[GroupKey], what: str) -> None:
    forge, words = UPLOADS[what]
    envelopes: list[bytes] = []

    def cheat(name: str, packet: Packet) -> Packet:
        if name != VICTIM or "upload" not in packet.blobs:
            return packet
        head = open_packet(packet, federation.homes[name].public())
        envelopes.append(packet.blobs["upload"])
        if head.round != 2:
            return packet
        header = set_up_header(submission, federation.names)
        header = replace(header, round=2, attempt=1, chain=bytes.fromhex(head.chain))
        cheating = Cheat(federation.homes[name].identity(), submission, header, envelopes[-1], envelopes[0])
        return resigned(federation, name, packet, {"upload": forge(cheating)})

    tap, submission = Tap(federation, reply=cheat), federation.submit()
    error = play_attacked(federation, submission, tap, group_keys)
    assert words in str(error)
    assert bool(faults(tap)) == (words == OPENED)


def test_copy_of_anothers_upload(federation: Federation, group_keys: list[GroupKey]) -> None:
    """Encrypted by another, signed by the thief: its seed came before, so it is not added a second time."""
    seen: list[bytes] = []

    def steal(name: str, packet: Packet) -> Packet:
        if "upload" not in packet.blobs:
            return packet
        seen.append(packet.blobs["upload"])
        if len(seen) < len(federation.names):
            return packet
        cheat = Cheat(federation.homes[name].identity(), submission, header, seen[0], b"")
        return resigned(federation, name, packet, {"upload": cheat.wrap(cheat.payload)})

    tap, submission = Tap(federation, reply=steal), federation.submit()
    header = replace(set_up_header(submission, federation.names), round=1, attempt=1)
    error = play_attacked(federation, submission, tap, group_keys)
    assert "duplicate" in str(error)


ANSWERS: dict[str, tuple[type[Head], dict[str, Any], str]] = {
    "in another's name": (RoundReply, {"sender": "cleveland"}, "sent in the name of"),
    "another past": (RoundReply, {"chain": ZERO[:-1] + "1"}, "another model"),
    "another model": (RoundReply, {"model": ZERO}, "another model"),
    "another round": (RoundReply, {"round": 2}, "another round"),
    "another attempt": (RoundReply, {"attempt": 2}, "another round"),
    "another run": (RoundReply, {"run": "another"}, "another run"),
    "another manifest": (RoundReply, {"manifest": "sha256:" + ZERO}, "another run"),
    "to another request": (RoundReply, {"re": ZERO}, "another request"),
    "another key": (StepReply, {"confirmation": ZERO}, "another key"),
    "another step": (StepReply, {"step": "deal"}, "answered step"),
    "another model at the end": (Acknowledged, {"model": ZERO}, "another model"),
    "another past at the end": (Acknowledged, {"chain": ZERO}, "another model"),
    "another model when it is released": (FinishReply, {"model": ZERO}, "another model"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_answer_that_does_not_fit(federation: Federation, group_keys: list[GroupKey], what: str) -> None:
    kind, fields, words = ANSWERS[what]
    name_of_kind = kind.model_fields["kind"].default

    def cheat(name: str, packet: Packet) -> Packet:
        if name != VICTIM or head_of(packet)["kind"] != name_of_kind:
            return packet
        return resigned(federation, name, packet, **fields)

    tap, submission = Tap(federation, reply=cheat), federation.submit()
    if kind is FinishReply:
        with pytest.raises(VerificationFailed, match=words):
            federation.play(submission, tap)
        assert not list(federation.run_directory(submission).glob("*.sealed"))
    else:
        assert words in str(play_attacked(federation, submission, tap, group_keys))


# At the invitation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_permit(federation: Federation) -> dict[str, Any]:
    """The victim's permit for an earlier run."""
    submission = federation.submit(rounds=1)
    found: dict[str, Any] = federation.play(submission)["decisions"][VICTIM]
    return found


@pytest.mark.parametrize("what", ["of another run", "of another silo", "altered", "unsigned", "no decision"])
def test_permit_that_is_none(
    federation: Federation, group_keys: list[GroupKey], old_permit: dict[str, Any], what: str
) -> None:
    permits: dict[str, dict[str, Any]] = {}

    def cheat(name: str, packet: Packet) -> Packet | None:
        head = head_of(packet)
        if head["kind"] != "invite-reply":
            return packet
        permits[name] = head["decision"]
        if name != VICTIM:
            return packet
        decision = head["decision"]
        forged: dict[str, Any] = {
            "of another run": old_permit,
            "of another silo": permits.get("cleveland", {}),
            "altered": {**decision, "body": {**decision["body"], "silo": "cleveland"}},
            "unsigned": {**decision, "signatures": {}},
            "no decision": {"permit": True},
        }[what]
        return resigned(federation, name, packet, decision=forged)

    tap, submission = Tap(federation, reply=cheat), federation.submit()
    play_attacked(federation, submission, tap, group_keys)
    assert not group_keys


def test_two_nodes_in_one_name(federation: Federation, group_keys: list[GroupKey]) -> None:
    """A second node that answers as a silo, even with that silo's own signed words, ends the run."""
    first: dict[str, Packet] = {}

    def echo(name: str, packet: Packet) -> Packet:
        return first.setdefault("invite", packet) if head_of(packet)["kind"] == "invite-reply" else packet

    error = play_attacked(federation, federation.submit(), Tap(federation, reply=echo), group_keys)
    assert "answered before" in str(error)


def test_node_that_is_not_invited(federation: Federation, group_keys: list[GroupKey]) -> None:
    """A run that leaves a member out hears nothing from it; if it answers all the same, the run ends."""
    submission = federation.submit(members=tuple(federation.names))
    tap = Tap(federation)
    play_attacked(federation, submission, tap, group_keys)
    assert "not invited" in faults(tap)[REFUSER]

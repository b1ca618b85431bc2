"""An aggregator, a transport or a silo that cheats: who notices, what it is called, and that nothing is lost by it.

Each attack is played in a real run on shared custody. Whatever it is, the run stops with exit code 6, every silo has
destroyed the run's key and answers nothing more under it, nothing is released, and the ledgers hold every upload that
left (:func:`tests.e2e.federation.assert_stopped`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from silo_crypto.errors import CryptoError
from silo_crypto.parameters import PRIMES
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, upload_bytes
from silo_crypto.verification import GroupKey, field_count

from silo.aggregator import RESULT
from silo.aggregator.custody import Collected, SharedCollector
from silo.cli.fail import exit_code
from silo.custody import shared_parameters
from silo.errors import SiloError, VerificationFailed
from silo.submission import Submission
from tests.e2e.federation import Federation, Malicious, Tap, assert_stopped

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
        assert {head["exit_code"] for head in heads} == {6}
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


def test_an_upload_omitted_at_the_end(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' sum is right and they finish; the silo that was left out releases nothing, and there is no result."""
    monkeypatch.setattr("silo.aggregator.aggregator.collector_for", forging(omitted, 3))
    tap, submission = Tap(federation), federation.submit()
    with pytest.raises(VerificationFailed) as caught:
        federation.play(submission, tap)
    assert caught.value.where == VICTIM
    assert not federation.releases(VICTIM, submission)
    assert set(tap.heads("finish-reply")) == set(federation.names) - {VICTIM}
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

"""What both custodies promise: the contract of :mod:`silo_crypto.protocol`, run on ``shared`` and on ``threshold``.

Each ``...Custody`` below plays the exchanges of its custody in one process, with the product's own parameter sets.
"""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from silo_crypto.errors import CryptoError, KeyUseError, ProtocolError, VerificationError
from silo_crypto.keys import Identity, seal
from silo_crypto.parameters import shared_for
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey, SharedOpener, uploaders
from silo_crypto.threshold import adder as threshold_adder
from silo_crypto.threshold import relay
from silo_crypto.threshold.attempt import ThresholdSilo
from silo_crypto.threshold.ceremony import Ceremony, load_keys
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.keys import Party
from silo_crypto.threshold.messages import Start
from silo_crypto.threshold.parameters import for_silos
from silo_crypto.threshold.state import State
from silo_crypto.verification import field_count, open_sum, protect

NAMES = ("alice", "bob", "carol", "dave")
IDENTITIES = {name: Identity.generate(name) for name in NAMES}
PUBLIC = {name: identity.public() for name, identity in IDENTITIES.items()}
D = 50
LENGTH = field_count(D, len(NAMES), 16)
MINIMUM = 3


class SharedCustody:
    """One silo deals the key; one exchange a round."""

    def __init__(self, folder):
        self.parameters = shared_for(value_bits=16, silos=len(NAMES))
        self.epoch = Header(bytes(32), "run", 1, 0, 0, NAMES)
        first = SharedKey.generate(self.parameters, self.epoch)
        self.keys = {"alice": first}
        for name in NAMES[1:]:
            envelope = first.deal(self.epoch, IDENTITIES["alice"], PUBLIC[name])
            self.keys[name] = SharedKey.receive(
                envelope, self.epoch, self.parameters, IDENTITIES[name], PUBLIC["alice"]
            )
        self.encryptors = {name: SharedEncryptor(key) for name, key in self.keys.items()}
        self.openers = {name: SharedOpener(key) for name, key in self.keys.items()}

    def begin(self, number):
        return replace(self.epoch, round=number)

    def group(self, name):
        return self.keys[name].group

    def adder(self, header):
        return SharedAdder(self.parameters, header, length=LENGTH, minimum=MINIMUM)

    def finish(self, adder):
        return adder.aggregate()

    def uploaders(self, name, header, payload):
        return uploaders(header, payload)

    def secrets(self):
        return [self.keys["alice"], self.keys["alice"].group]

    def close(self):
        pass


class ThresholdCustody:
    """A ceremony among all; three exchanges a round."""

    def __init__(self, folder):
        self.epoch = Epoch(bytes(32), 1, NAMES, 2, MINIMUM, for_silos(len(NAMES)))
        self.states = {name: State(folder / f"{name}.db") for name in NAMES}
        parties = {
            name: Party(
                IDENTITIES[name],
                lambda recipient, info, plaintext: seal(PUBLIC[recipient], info, plaintext),
                IDENTITIES[name].open,
                PUBLIC,
            )
            for name in NAMES
        }
        ceremonies = {name: Ceremony(self.epoch, parties[name], self.states[name]) for name in NAMES}
        dealt = relay.route(self.epoch, {name: c.deal() for name, c in ceremonies.items()}, PUBLIC)
        tested = relay.add_tests(
            self.epoch, relay.JOINT, {name: c.receive(dealt[name]) for name, c in ceremonies.items()}
        )
        assert all(ceremony.check(tested) is None for ceremony in ceremonies.values())
        self.keys = {name: load_keys(self.epoch, parties[name], self.states[name]) for name in NAMES}
        self.encryptors = self.openers = {
            name: ThresholdSilo(self.keys[name], parties[name], self.states[name], LENGTH) for name in NAMES
        }

    def begin(self, number):
        nonces = {name: silo.nonce("run", number, 0) for name, silo in self.encryptors.items()}
        start = threshold_adder.start(self.epoch, "run", number, 0, bytes(32), nonces)
        headers = {silo.begin(start, bytes(32)) for silo in self.encryptors.values()}
        assert headers == {Start.decode(start).header}
        return headers.pop()

    def group(self, name):
        return self.keys[name].group

    def adder(self, header):
        return threshold_adder.ThresholdAdder(self.epoch, header, LENGTH, PUBLIC)

    def finish(self, adder):
        proposal = adder.proposal()
        for name in NAMES:
            adder.confirm(name, self.encryptors[name].confirm(proposal))
        request = adder.request()
        for name in adder.sharers:
            adder.add_share(name, self.encryptors[name].share(request))
        return adder.aggregate()

    def uploaders(self, name, header, payload):
        return self.openers[name].uploaders(header, payload)

    def secrets(self):
        return [self.encryptors["alice"], self.keys["alice"], self.keys["alice"].group]

    def close(self):
        for state in self.states.values():
            state.close()


@pytest.fixture(params=[SharedCustody, ThresholdCustody], ids=["shared", "threshold"])
def custody(request, tmp_path):
    made = request.param(tmp_path)
    yield made
    made.close()


def values_of(name, number=1):
    return np.random.default_rng(NAMES.index(name) + 10 * number).integers(0, 1 << 16, D, dtype=np.uint32)


def upload(custody, header, name):
    fields = protect(custody.group(name), header, name, values_of(name, header.round), 16)
    return custody.encryptors[name].encrypt(header, fields)


def opened(custody, name, header, payload, *, own=None):
    claimed = custody.uploaders(name, header, payload)
    return open_sum(
        custody.openers[name],
        custody.group(name),
        header,
        claimed,
        payload,
        values=D,
        value_bits=16,
        minimum=MINIMUM,
        own=own,
    )


class TestCustody:
    @pytest.mark.parametrize("silos", [NAMES, NAMES[:3]], ids=["all", "one vanished before its upload"])
    def test_every_silo_opens_the_exact_sum(self, custody, silos):
        header = custody.begin(1)
        adder = custody.adder(header)
        for name in silos:
            adder.add(name, upload(custody, header, name))
        aggregate = custody.finish(adder)
        due = sum(values_of(name).astype(np.int64) for name in silos)
        for name in NAMES:
            assert custody.uploaders(name, header, aggregate) == silos
            sums = opened(custody, name, header, aggregate)
            assert sums.dtype == np.int64
            assert (sums == due).all()

    def test_rounds_follow_each_other_under_one_key(self, custody):
        for number in (1, 2, 3):
            header = custody.begin(number)
            adder = custody.adder(header)
            for name in NAMES:
                adder.add(name, upload(custody, header, name))
            sums = opened(custody, "bob", header, custody.finish(adder), own="bob")
            assert (sums == sum(values_of(name, number).astype(np.int64) for name in NAMES)).all()

    def test_a_silo_encrypts_once_under_a_header(self, custody):
        header = custody.begin(1)
        upload(custody, header, "alice")
        with pytest.raises(ProtocolError, match="encrypted under"):
            upload(custody, header, "alice")

    def test_the_adder_refuses_what_is_not_one_upload_of_one_member(self, custody):
        header = custody.begin(1)
        adder = custody.adder(header)
        mine = upload(custody, header, "alice")
        adder.add("alice", mine)
        for sender, payload in (
            ("alice", mine),
            ("mallory", mine),
            ("bob", mine[:-1]),
            ("bob", mine + b"\0"),
            ("bob", b""),
            ("bob", b"\xff" * len(mine)),
            ("bob", values_of("bob").astype(np.float32).tobytes()),
        ):
            with pytest.raises(CryptoError):
                adder.add(sender, payload)
        for name in NAMES[1:]:
            adder.add(name, upload(custody, header, name))
        sums = opened(custody, "carol", header, custody.finish(adder))
        assert (sums == sum(values_of(name).astype(np.int64) for name in NAMES)).all()

    def test_too_few_uploads_are_not_opened(self, custody):
        header = custody.begin(1)
        adder = custody.adder(header)
        for name in NAMES[: MINIMUM - 1]:
            adder.add(name, upload(custody, header, name))
        with pytest.raises(CryptoError):
            custody.finish(adder)

    def test_an_upload_copied_from_another_silo_does_not_count_as_one(self, custody):
        """Refused by the adder, or by every silo: never a wrong sum."""
        header = custody.begin(1)
        adder = custody.adder(header)
        uploads = {name: upload(custody, header, name) for name in NAMES}
        try:
            for name in NAMES[:3]:
                adder.add(name, uploads[name])
            adder.add("dave", uploads["alice"])
            aggregate = custody.finish(adder)
        except CryptoError:
            return
        with pytest.raises(VerificationError):
            opened(custody, "alice", header, aggregate)

    def test_an_upload_of_an_earlier_round_spoils_the_sum_and_ends_the_epoch(self, custody):
        """An adder that skips its envelope checks: every silo notices, and refuses everything afterwards."""
        before = custody.begin(1)
        stale = upload(custody, before, "dave")
        header = custody.begin(2)
        adder = custody.adder(header)
        fresh = {name: upload(custody, header, name) for name in NAMES}
        for name in NAMES:
            adder.add(name, stale if name == "dave" else fresh[name])
        try:
            aggregate = custody.finish(adder)
        except CryptoError:
            return  # under threshold custody, dave finds that the agreement holds another upload than its own
        for name in NAMES[:3]:
            with pytest.raises(VerificationError):
                opened(custody, name, header, aggregate)
            assert custody.group(name).destroyed
            with pytest.raises(KeyUseError):
                opened(custody, name, header, aggregate)

    def test_an_altered_aggregate_is_refused_and_ends_the_epoch(self, custody):
        header = custody.begin(1)
        adder = custody.adder(header)
        for name in NAMES:
            adder.add(name, upload(custody, header, name))
        aggregate = bytearray(custody.finish(adder))
        aggregate[-10] ^= 1  # a residue: of c1 (shared), of the last coefficient (threshold)
        with pytest.raises(VerificationError):
            opened(custody, "bob", header, bytes(aggregate))
        assert custody.group("bob").destroyed
        assert not custody.group("carol").destroyed

    def test_malformed_aggregates_are_refused_before_anything_is_opened(self, custody):
        header = custody.begin(1)
        adder = custody.adder(header)
        for name in NAMES:
            adder.add(name, upload(custody, header, name))
        aggregate = custody.finish(adder)
        for wrong in (b"", aggregate[:-1], aggregate + b"\0", bytes(len(aggregate)), b"\xff" * len(aggregate)):
            with pytest.raises(CryptoError):
                opened(custody, "bob", header, wrong)
        assert not custody.group("bob").destroyed
        assert len(opened(custody, "bob", header, aggregate)) == D

    def test_secrets_are_not_shown_stored_or_copied(self, custody):
        for secret in custody.secrets():
            assert "<secret>" in repr(secret)
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="never pickled"):
                    attempt(secret)

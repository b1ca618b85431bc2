"""Shared custody: exact sums, refusals, and every attack of an aggregator without a key failing."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from silo_crypto import labels, verification, wire
from silo_crypto.codec import FixedPoint
from silo_crypto.errors import (
    EncodingError,
    KeyUseError,
    ParameterError,
    ProtocolError,
    SignatureError,
    VerificationError,
    WireError,
)
from silo_crypto.keys import Identity, seal
from silo_crypto.parameters import DEGREE, PLAIN_MODULUS, PRIMES, shared_for
from silo_crypto.protocol import Header
from silo_crypto.randomness import Csprng
from silo_crypto.shared import (
    SharedAdder,
    SharedEncryptor,
    SharedKey,
    SharedOpener,
    aggregate_bytes,
    native,
    residues,
    upload_bytes,
    uploaders,
)
from silo_crypto.verification import field_count, open_sum, protect

NAMES = ("alice", "bob", "carol", "dave")
PARAMETERS = shared_for(value_bits=16, silos=4)
EPOCH = Header(bytes(32), "run", 0, 0, 0, NAMES)
HEADER = replace(EPOCH, round=1)
D = 3 * DEGREE + 500  # values and presence lie in different ciphertexts
LENGTH = field_count(D, len(NAMES), 16)
FIRST_CIPHERTEXT = native.SEED_BYTES + residues.packed_bytes(DEGREE)


def new_key():
    return SharedKey.generate(PARAMETERS, EPOCH)


def values_of(name, d=D):
    return np.random.default_rng(NAMES.index(name)).integers(0, 1 << 16, d, dtype=np.uint32)


def upload(key, name, header=HEADER, d=D):
    return SharedEncryptor(key).encrypt(header, protect(key.group, header, name, values_of(name, d), 16))


def aggregate(uploads, header=HEADER, length=LENGTH):
    adder = SharedAdder(PARAMETERS, header, length=length, minimum=2)
    for name, payload in uploads.items():
        adder.add(name, payload)
    return adder.aggregate()


def opened(key, payload, header=HEADER, d=D, **options):
    claimed = uploaders(header, payload)
    return open_sum(
        SharedOpener(key), key.group, header, claimed, payload, values=d, value_bits=16, minimum=2, **options
    )


@pytest.fixture(scope="module")
def round_one():
    """One key, and every silo's upload under it."""
    key = new_key()
    return key, {name: upload(key, name) for name in NAMES}


@pytest.fixture
def key(round_one):
    """A copy that a failing test may destroy."""
    return SharedKey.restore(PARAMETERS, EPOCH, round_one[0].export())


@pytest.fixture
def uploads(round_one):
    return round_one[1]


class TestExactness:
    @pytest.mark.parametrize("silos", [NAMES, NAMES[::-1], NAMES[1:3]])
    def test_the_opened_sum_is_the_sum_of_the_values(self, key, uploads, silos):
        sums = opened(key, aggregate({name: uploads[name] for name in silos}))
        assert sums.dtype == np.int64
        assert (sums == sum(values_of(name).astype(np.int64) for name in silos)).all()
        assert not key.destroyed

    @pytest.mark.parametrize("d", [1, 2, 3, 4, 3 * DEGREE - 8, 3 * DEGREE - 7])
    def test_any_length(self, key, d):
        length = field_count(d, 4, 16)
        payload = aggregate({name: upload(key, name, d=d) for name in NAMES}, length=length)
        assert len(payload) == aggregate_bytes(PARAMETERS, length, 4)
        assert (opened(key, payload, d=d) == sum(values_of(name, d).astype(np.int64) for name in NAMES)).all()

    @pytest.mark.parametrize(("bits", "silos"), [(8, 16), (11, 16), (14, 64), (16, 16), (16, 64), (24, 64)])
    def test_the_largest_sums_of_every_set(self, bits, silos):
        """max_additions uploads with every field at its largest: nothing carries, and decryption holds."""
        parameters = shared_for(value_bits=bits, silos=silos)
        header = Header(bytes(32), "run", 0, 0, 0, tuple(f"silo-{i}" for i in range(silos)))
        key = SharedKey.generate(parameters, header)
        fields = np.full(50, (1 << bits) - 1, dtype=np.uint32)
        adder = SharedAdder(parameters, header, length=50, minimum=silos)
        for name in header.members:
            adder.add(name, SharedEncryptor(key).encrypt(header, fields))
        sums = SharedOpener(key).open(header, adder.aggregate(), 50)
        assert sums.tolist() == [silos * ((1 << bits) - 1)] * 50

    def test_two_aggregators_arrive_at_the_same_bytes(self, uploads):
        """The uploads are the adder's whole state: another machine takes over, in any order."""
        assert aggregate(uploads) == aggregate(dict(reversed(uploads.items())))

    def test_no_two_uploads_of_the_same_values_are_alike(self, key, uploads):
        assert upload(key, "alice") != uploads["alice"]


class TestSize:
    def test_a_million_values_take_less_than_the_plain_floats(self):
        """PROTOCOL section 6 asks for at most 1.05 x float32 up to 16 silos; the whole envelope takes 0.76."""
        d, names = 1_000_000, tuple(f"silo-{i}" for i in range(16))
        parameters = shared_for(value_bits=16, silos=16)
        header = Header(bytes(32), "run", 0, 1, 0, names)
        key = SharedKey.generate(parameters, header)
        update = np.random.default_rng(0).normal(0, 0.1, d).astype(np.float32)
        fields = protect(key.group, header, names[0], FixedPoint(1.0, 16).encode(update, Csprng()), 16)
        payload = SharedEncryptor(key).encrypt(header, fields)
        assert len(payload) == upload_bytes(parameters, len(fields))
        envelope = wire.pack(labels.UPLOAD, parameters.digest(), header, Identity.generate(names[0]), payload)
        assert len(envelope) <= 1.05 * update.nbytes
        assert len(envelope) <= 0.76 * update.nbytes

    def test_a_small_model_sends_only_what_it_uses(self):
        assert upload_bytes(PARAMETERS, 18) == 64 + 6 * 9
        assert upload_bytes(PARAMETERS, 3 * DEGREE) == 64 + DEGREE * 9
        assert upload_bytes(PARAMETERS, 3 * DEGREE + 1) == 64 + DEGREE * 9 + 64 + 9


class TestEncryptor:
    def test_a_header_is_encrypted_under_once(self, key):
        encryptor, fields = SharedEncryptor(key), np.zeros(LENGTH, dtype=np.uint32)
        encryptor.encrypt(HEADER, fields)
        with pytest.raises(ProtocolError, match="encrypted under before"):
            encryptor.encrypt(HEADER, fields)
        encryptor.encrypt(replace(HEADER, attempt=1), fields)

    def test_key_epochs_only_go_forward(self):
        old, new = new_key(), SharedKey.generate(PARAMETERS, replace(EPOCH, epoch=1))
        other_run = SharedKey.generate(PARAMETERS, replace(EPOCH, epoch=2, manifest=b"\1" * 32))
        for wrong in (old, new_key(), other_run):
            with pytest.raises(ProtocolError, match="a later epoch of the same run"):
                old.succeeded_by(wrong)
        with pytest.raises(ProtocolError, match="nobody goes back"):
            new.succeeded_by(old)
        assert not old.destroyed
        old.succeeded_by(new)
        with pytest.raises(KeyUseError):
            upload(old, "alice")
        with pytest.raises(KeyUseError):
            old.export()
        upload(new, "alice", header=replace(HEADER, epoch=1))
        spent = SharedKey.generate(PARAMETERS, replace(EPOCH, epoch=3))
        spent.destroy()
        with pytest.raises(ProtocolError, match="a usable one"):
            new.succeeded_by(spent)

    @pytest.mark.parametrize("change", [{"epoch": 1}, {"manifest": b"\1" * 32}])
    def test_a_key_serves_its_own_run_and_epoch_only(self, key, uploads, change):
        header, payload = replace(HEADER, **change), aggregate(uploads)
        with pytest.raises(ProtocolError, match="another run or epoch"):
            SharedEncryptor(key).encrypt(header, np.zeros(4, dtype=np.uint32))
        with pytest.raises(ProtocolError, match="another run or epoch"):
            SharedOpener(key).open(header, payload, LENGTH)

    @pytest.mark.parametrize(
        "fields",
        [
            np.array([1 << 16], dtype=np.uint32),
            np.array([-1]),
            np.zeros((2, 2), dtype=np.uint32),
            np.zeros(0, dtype=np.uint32),
        ],
    )
    def test_fields_that_do_not_fit_are_refused(self, key, fields):
        with pytest.raises(EncodingError, match="below 2"):
            SharedEncryptor(key).encrypt(HEADER, fields)

    def test_more_members_than_the_parameters_hold_are_refused(self, key):
        crowd = replace(HEADER, members=tuple(f"silo-{i}" for i in range(5)))
        with pytest.raises(ParameterError, match="5 members, but the parameters hold 4"):
            SharedEncryptor(key).encrypt(crowd, np.zeros(4, dtype=np.uint32))
        with pytest.raises(ParameterError, match="5 members"):
            SharedAdder(PARAMETERS, crowd, length=4, minimum=2)


def broken(payload, how):
    """Return an upload that a faulty or hostile member might sign."""
    body = bytearray(payload)
    start = native.SEED_BYTES
    if how == "too short":
        return bytes(body[:-1])
    if how == "too long":
        return bytes(body) + b"\0"
    if how == "plain floats":
        return values_of("bob").astype(np.float32).tobytes()
    if how == "first residue":
        body[start : start + 5] = PRIMES[0].to_bytes(5, "little")
    elif how == "last residue":
        body[-4:] = b"\xff" * 4
    elif how == "zero polynomial":
        body[start:FIRST_CIPHERTEXT] = bytes(FIRST_CIPHERTEXT - start)
    elif how == "one seed twice":
        body[FIRST_CIPHERTEXT : FIRST_CIPHERTEXT + 64] = body[:64]
    return bytes(body)


class TestAdder:
    @pytest.mark.parametrize(
        ("how", "error", "says"),
        [
            ("too short", WireError, "bytes"),
            ("too long", WireError, "bytes"),
            ("plain floats", WireError, "bytes"),
            ("first residue", WireError, "not below its prime"),
            ("last residue", WireError, "not below its prime"),
            ("zero polynomial", WireError, "transparent"),
            ("one seed twice", ProtocolError, "duplicate"),
        ],
    )
    def test_a_broken_upload_is_refused_and_leaves_no_trace(self, key, uploads, how, error, says):
        adder = SharedAdder(PARAMETERS, HEADER, length=LENGTH, minimum=2)
        adder.add("alice", uploads["alice"])
        with pytest.raises(error, match=f"upload of bob.*{says}"):
            adder.add("bob", broken(uploads["bob"], how))
        assert adder.senders == ("alice",)
        for name in NAMES[1:]:
            adder.add(name, uploads[name])
        assert adder.aggregate() == aggregate(uploads)

    def test_seal_sees_no_byte_of_a_refused_upload(self, uploads, monkeypatch):
        adder = SharedAdder(PARAMETERS, HEADER, length=LENGTH, minimum=2)
        monkeypatch.setattr(native, "seal", lambda: pytest.fail("SEAL was called"))
        for how in ("too short", "plain floats", "first residue", "last residue", "zero polynomial", "one seed twice"):
            with pytest.raises((WireError, ProtocolError)):
                adder.add("bob", broken(uploads["bob"], how))

    def test_duplicates_strangers_and_latecomers_are_refused(self, uploads):
        adder = SharedAdder(PARAMETERS, HEADER, length=LENGTH, minimum=2)
        adder.add("alice", uploads["alice"])
        with pytest.raises(ProtocolError, match="added before"):
            adder.add("alice", uploads["alice"])
        with pytest.raises(ProtocolError, match="duplicate"):
            adder.add("bob", uploads["alice"])
        with pytest.raises(SignatureError, match="not a member"):
            adder.add("mallory", uploads["bob"])
        with pytest.raises(ProtocolError, match="only 1 uploads; the agreed minimum is 2"):
            adder.aggregate()
        adder.add("bob", uploads["bob"])
        first = adder.aggregate()
        with pytest.raises(ProtocolError, match="is made"):
            adder.add("carol", uploads["carol"])
        assert adder.aggregate() == first

    @pytest.mark.parametrize(("length", "minimum"), [(0, 2), (1, 1), (1, 0), (1, 5)])
    def test_a_sum_of_one_is_nobody_s_business(self, length, minimum):
        with pytest.raises(ParameterError, match="between 2 and"):
            SharedAdder(PARAMETERS, HEADER, length=length, minimum=minimum)

    def test_it_holds_no_key(self, key, uploads):
        """Not in itself, and not in what it imports: the adder is made of parameters and uploads."""
        adder = SharedAdder(PARAMETERS, HEADER, length=LENGTH, minimum=2)
        adder.add("alice", uploads["alice"])
        held = [type(value).__name__ for value in vars(adder).values()]
        assert not {"SharedKey", "GroupKey", "SecretKey"} & set(held)
        assert {type(total).__name__ for total in adder._totals} == {"Ciphertext"}

    def test_members_are_distinct(self):
        with pytest.raises(ProtocolError, match="distinct"):
            SharedAdder(PARAMETERS, replace(HEADER, members=("a", "a")), length=4, minimum=2)


class TestOpener:
    def test_malformed_aggregates_are_refused_and_spare_the_key(self, key, uploads):
        payload = aggregate(uploads)
        body = bytearray(payload)
        body[1:6] = PRIMES[0].to_bytes(5, "little")
        high = bytearray(payload)
        high[0] |= 0x10
        alone = bytearray(payload)
        alone[0] = 1
        transparent = bytearray(payload)
        end = 1 + 2 * residues.packed_bytes(DEGREE)
        transparent[1 + residues.packed_bytes(DEGREE) : end] = bytes(residues.packed_bytes(DEGREE))
        for wrong, error, says in (
            (payload[:-1], WireError, "bytes"),
            (payload + b"\0", WireError, "bytes"),
            (uploads["alice"], WireError, "bytes"),
            (bytes(body), WireError, "not below its prime"),
            (bytes(high), WireError, "list of uploaders"),
            (bytes(alone), ProtocolError, "two uploads at least"),
            (bytes(transparent), WireError, "transparent"),
        ):
            with pytest.raises(error, match=says):
                SharedOpener(key).open(HEADER, wrong, LENGTH)
        assert not key.destroyed
        assert len(opened(key, payload)) == D

    def test_an_empty_payload_names_nobody(self):
        with pytest.raises(WireError, match="list of uploaders"):
            uploaders(HEADER, b"")


def forge(plan, claimed=NAMES, header=HEADER):
    """Return what an aggregator without a key can make: any multiple of any ciphertext of any upload.

    ``plan`` maps the index of a ciphertext to [(upload, factor)]. It knows SEAL, the parameters and every upload.
    """
    seal_, offset, parts = native.seal(), 0, []
    bits = sum(1 << index for index, name in enumerate(NAMES) if name in claimed)
    with native.Scratch() as scratch:
        for index, used in enumerate((DEGREE, -(-LENGTH // 3) - DEGREE)):
            end = offset + native.SEED_BYTES + residues.packed_bytes(used)
            total = None
            for payload, factor in plan(index):
                seed, packed = payload[offset : offset + 64], payload[offset + 64 : end]
                c0 = residues.unpack(packed, used, pad=DEGREE, where="")
                both = seal_.residues(seal_.from_seed(seed, c0, scratch), scratch).astype(object) * factor
                total = both if total is None else total + both
            moduli = np.array(PRIMES, dtype=object)[None, :, None]
            c0, c1 = (total % moduli).astype(np.uint64)
            parts += [residues.pack(c0[:, :used]), residues.pack(c1)]
            offset = end
    return bytes([bits]) + b"".join(parts)


def same(uploads):
    return lambda index: [(payload, 1) for payload in uploads.values()]


class TestAttacks:
    """The aggregator has no key, but may alter, leave out, double, replay or invent. Every silo notices each."""

    def refused(self, key, payload, header=HEADER, **options):
        with pytest.raises(VerificationError) as caught:
            opened(key, payload, header, **options)
        assert key.destroyed
        with pytest.raises(KeyUseError, match="destroyed"):
            SharedOpener(key).open(HEADER, payload, LENGTH)
        with pytest.raises(KeyUseError, match="destroyed"):
            SharedEncryptor(key).encrypt(replace(HEADER, round=2), np.zeros(4, dtype=np.uint32))
        with pytest.raises(KeyUseError, match="destroyed"):
            key.export()
        return caught.value

    def test_the_forger_is_able(self, key, uploads):
        """Used honestly, ``forge`` makes the adder's own aggregate: the attacks below fail for no lesser reason."""
        assert forge(same(uploads)) == aggregate(uploads)

    def test_it_leaves_an_upload_out_and_denies_it(self, key, uploads):
        error = self.refused(key, forge(same({n: uploads[n] for n in NAMES[:3]})))
        assert error.silos == ("dave",)

    def test_it_leaves_an_upload_out_and_says_so(self, key, uploads):
        """That is what a vanished silo looks like to the others; the silo itself knows better."""
        payload = forge(same({n: uploads[n] for n in NAMES[:3]}), claimed=NAMES[:3])
        with pytest.raises(ProtocolError, match="dave: the aggregate leaves out this silo's own upload"):
            opened(key, payload, own="dave")
        assert len(opened(key, payload, own="alice")) == D

    def test_it_leaves_out_only_the_values(self, key, uploads):
        """Presence and tag sit in the second ciphertext, so only the MAC can tell."""
        error = self.refused(
            key, forge(lambda index: [(p, 1) for n, p in uploads.items() if index or n != "dave"], NAMES)
        )
        assert error.silos == ()

    def test_it_doubles_an_upload(self, key, uploads):
        error = self.refused(key, forge(lambda index: [(p, 2 if n == "bob" else 1) for n, p in uploads.items()]))
        assert error.silos == ("bob",)

    def test_it_doubles_only_the_values(self, key, uploads):
        half = {name: uploads[name] for name in NAMES[:2]}
        self.refused(key, forge(lambda i: [(p, 2 if i == 0 and n == "bob" else 1) for n, p in half.items()], NAMES[:2]))

    @pytest.mark.parametrize("negative", [-1])
    def test_it_subtracts_an_upload(self, key, uploads, negative):
        self.refused(key, forge(lambda i: [(p, negative if n == "bob" else 1) for n, p in uploads.items()]))

    def test_it_replays_an_upload_of_another_round(self, round_one, key, uploads):
        stale = upload(round_one[0], "bob", replace(HEADER, round=0))
        error = self.refused(key, aggregate(uploads | {"bob": stale}))
        assert "bob" in error.silos

    def test_it_replays_a_whole_aggregate(self, key, uploads):
        self.refused(key, aggregate(uploads), replace(HEADER, round=2))

    def test_it_shows_silos_different_pasts(self, round_one, key, uploads):
        other = upload(round_one[0], "bob", replace(HEADER, chain=b"\1" * 32))
        self.refused(key, aggregate(uploads | {"bob": other}))

    def test_it_invents_an_upload(self, key, uploads):
        invented = upload(new_key(), "dave")
        self.refused(key, aggregate(uploads | {"dave": invented}))

    def altered(self, payload):
        """Add exactly 1 to the first value: round(q/t) more in the constant coefficient of the first c0."""
        step = round(PRIMES[0] * PRIMES[1] / PLAIN_MODULUS)
        body = bytearray(payload)
        for start, size, prime in ((1, 5, PRIMES[0]), (1 + 5 * DEGREE, 4, PRIMES[1])):
            word = (int.from_bytes(body[start : start + size], "little") + step) % prime
            body[start : start + size] = word.to_bytes(size, "little")
        return bytes(body)

    def test_it_adds_one_to_a_value(self, key, uploads):
        assert self.refused(key, self.altered(aggregate(uploads))).silos == ()

    def test_without_the_mac_that_would_have_worked(self, key, uploads, monkeypatch):
        """BFV is malleable: the alteration decrypts to exactly one more. So the test above can fail."""
        monkeypatch.setattr(verification, "_inner", lambda *_: 0)
        honest = sum(values_of(name).astype(np.int64) for name in NAMES)
        fields = {name: protect(key.group, HEADER, name, values_of(name), 16) for name in NAMES}
        plain = aggregate({name: SharedEncryptor(key).encrypt(HEADER, fields[name]) for name in NAMES})
        sums = opened(key, self.altered(plain))
        assert sums[0] == honest[0] + 1
        assert (sums[1:] == honest[1:]).all()

    def test_with_one_silo_s_key_it_opens_any_upload(self, key, uploads):
        """What shared custody does not withstand: the help of any one silo. SECURITY.md says so."""
        alone = forge(lambda index: [(uploads["alice"], 1)], claimed=("alice", "bob"))
        assert np.array_equal(SharedOpener(key).open(HEADER, alone, LENGTH)[:D], values_of("alice"))

    def test_it_opens_nothing_with_a_key_of_its_own(self, key, uploads):
        """The parameters are public; a key that is not the epoch's opens noise."""
        got = SharedOpener(new_key()).open(HEADER, aggregate(uploads), LENGTH)
        honest = sum(values_of(name).astype(np.int64) for name in NAMES)
        assert (got[:D] == honest).mean() < 0.01


class TestKey:
    def test_it_is_dealt_to_one_member_by_a_signed_sealed_envelope(self, key):
        dealer, member, other = (Identity.generate(name) for name in ("alice", "bob", "carol"))
        envelope = key.deal(EPOCH, dealer, member.public())
        received = SharedKey.receive(envelope, EPOCH, PARAMETERS, member, dealer.public())
        assert received.export() == key.export()
        with pytest.raises(KeyUseError, match="does not open for carol"):
            SharedKey.receive(envelope, EPOCH, PARAMETERS, other, dealer.public())
        with pytest.raises(SignatureError):
            SharedKey.receive(envelope, EPOCH, PARAMETERS, member, Identity.generate("alice").public())
        with pytest.raises(ProtocolError, match="another epoch"):
            SharedKey.receive(envelope, replace(EPOCH, epoch=1), PARAMETERS, member, dealer.public())
        with pytest.raises(WireError, match="other parameters"):
            SharedKey.receive(envelope, EPOCH, shared_for(value_bits=8, silos=4), member, dealer.public())
        with pytest.raises(KeyUseError, match="not a member"):
            SharedKey.receive(envelope, EPOCH, PARAMETERS, member, Identity.generate("mallory").public())

    def test_a_box_for_another_epoch_or_dealer_does_not_open(self, key):
        """Even re-signed by another member: the box's info binds manifest, epoch, dealer and recipient."""
        dealer, member, thief = (Identity.generate(name) for name in ("alice", "bob", "carol"))
        envelope = key.deal(EPOCH, dealer, member.public())
        box = wire.unpack(
            envelope,
            kind=labels.KEYBOX,
            parameters_digest=PARAMETERS.digest(),
            header=EPOCH,
            verifier=dealer.public(),
            max_length=1 << 20,
        )
        stolen = wire.pack(labels.KEYBOX, PARAMETERS.digest(), EPOCH, thief, box)
        with pytest.raises(KeyUseError, match="does not open"):
            SharedKey.receive(stolen, EPOCH, PARAMETERS, member, thief.public())
        later = replace(EPOCH, epoch=1)
        moved = wire.pack(labels.KEYBOX, PARAMETERS.digest(), later, dealer, box)
        with pytest.raises(KeyUseError, match="does not open"):
            SharedKey.receive(moved, later, PARAMETERS, member, dealer.public())

    @pytest.mark.parametrize("how", ["short", "parameters", "residue", "zero"])
    def test_malformed_keys_are_refused(self, key, how):
        body = bytearray(key.export())
        if how == "short":
            body = body[:-1]
        elif how == "parameters":
            body[0] ^= 1
        elif how == "residue":
            body[64:69] = b"\xff" * 5
        else:
            body[64 : 64 + 5 * DEGREE] = bytes(5 * DEGREE)
        with pytest.raises(WireError):
            SharedKey.restore(PARAMETERS, EPOCH, bytes(body))

    def test_it_shows_and_stores_nothing(self, key):
        assert repr(key) == "SharedKey(<secret>)"
        assert not hasattr(key, "__dict__")
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="never pickled"):
                attempt(key)

    def test_errors_carry_no_key_bytes(self, key):
        dealer, member = Identity.generate("alice"), Identity.generate("bob")
        with pytest.raises(KeyUseError) as caught:
            member.open(b"wrong", seal(member.public(), b"right", key.export()))
        with pytest.raises(WireError) as malformed:
            SharedKey.restore(PARAMETERS, EPOCH, key.export() + b"\0")
        for error in (caught.value, malformed.value):
            assert key.group.export().hex() not in repr(error) + str(error)
            assert error.__cause__ is None
        assert dealer

    def test_destroying_it_ends_everything(self, key, uploads):
        key.destroy()
        assert key.destroyed
        for attempt in (
            lambda: upload(key, "alice"),
            lambda: SharedOpener(key).open(HEADER, aggregate(uploads), LENGTH),
            lambda: key.deal(EPOCH, Identity.generate("alice"), Identity.generate("bob").public()),
            key.export,
        ):
            with pytest.raises(KeyUseError, match="destroyed"):
                attempt()

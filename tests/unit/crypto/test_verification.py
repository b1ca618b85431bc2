"""Presence, the linear MAC, the chain, and the rule that a failure ends the epoch."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from silo_crypto import verification
from silo_crypto.errors import CryptoError, EncodingError, KeyUseError, ProtocolError, VerificationError, WireError
from silo_crypto.protocol import Header
from silo_crypto.verification import GroupKey, P, chain, check, field_count, limb_count, open_sum, protect

NAMES = ("alice", "bob", "carol", "dave")
HEADER = Header(bytes(32), "run", 0, 1, 0, NAMES)
BITS = 16
D = 1000


@pytest.fixture
def key():
    return GroupKey.generate()


def uploads(key, header=HEADER, bits=BITS, d=D, silos=NAMES):
    rng = np.random.default_rng(5)
    values = {name: rng.integers(0, 1 << bits, d, dtype=np.uint32) for name in silos}
    fields = {name: protect(key, header, name, values[name], bits).astype(np.int64) for name in silos}
    return values, fields


@pytest.mark.parametrize("bits", [8, 11, 16, 20])
@pytest.mark.parametrize("silos", [NAMES, NAMES[1:3], NAMES[:1]])
def test_an_honest_sum_passes_whoever_is_missing(key, bits, silos):
    values, fields = uploads(key, bits=bits, silos=silos)
    sums = check(key, HEADER, silos, sum(fields.values()), bits)
    assert (sums == sum(v.astype(np.int64) for v in values.values())).all()
    assert not key.destroyed


def test_the_field_vector_is_values_presence_and_tag(key):
    values, fields = uploads(key)
    for index, name in enumerate(NAMES):
        vector = fields[name]
        assert len(vector) == field_count(D, 4, BITS) == D + 4 + 4
        assert (vector[:D] == values[name]).all()
        assert np.flatnonzero(vector[D : D + 4]).tolist() == [index]
        assert vector.max() < 1 << BITS


def test_the_tag_is_the_inner_product_of_big_integers(key):
    _, fields = uploads(key, d=300)
    vector = fields["bob"]
    stream = verification._multipliers(key.derive(verification.labels.MAC, HEADER.digest()), 304)
    r = [int(x) for part in stream for x in part]
    assert all(x < P for x in r)
    tag = sum(a * int(b) for a, b in zip(r, vector, strict=False)) % P
    assert sum(int(limb) << (BITS * index) for index, limb in enumerate(vector[304:])) == tag


@pytest.mark.parametrize("bits", [1, 16, 23, 31, 32])
@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_the_inner_product_cannot_overflow(bits, count):
    """Every r near its largest and every field at its largest, against Python's integers."""
    fields = np.full(count, (1 << bits) - 1, dtype=np.uint64)
    r = [int(x) for part in verification._multipliers(bytes(32), count) for x in part]
    assert verification._inner(bytes(32), fields, bits) == sum(r) * ((1 << bits) - 1) % P


def test_the_inner_product_holds_at_the_largest_multipliers(monkeypatch):
    for bits in (16, 22, 32):
        fields = np.full(70_000, (1 << bits) - 1, dtype=np.uint64)
        chunks = [np.full(65536, P - 1, dtype=np.uint64), np.full(70_000 - 65536, P - 1, dtype=np.uint64)]
        monkeypatch.setattr(verification, "_multipliers", lambda key, count, chunks=chunks: iter(chunks))
        assert verification._inner(b"", fields, bits) == 70_000 * (P - 1) * ((1 << bits) - 1) % P


def test_multipliers_of_p_itself_are_drawn_again(monkeypatch):
    """The keystream is made to hold P (all ones) in places; r must skip it and keep its order."""
    words = np.arange(100_000, dtype=np.uint64)
    words[[0, 7, 65536]] = np.uint64((1 << 64) - 1)

    stream = io.BytesIO(words.tobytes())
    monkeypatch.setattr(verification, "keystream", lambda *_: stream.read)
    got = np.concatenate(list(verification._multipliers(bytes(32), 70_000)))
    assert (got == words[words < P][:70_000]).all()


TAMPERING = {
    "a value": (lambda s: _plus(s, 3, 1), ()),
    "two values that cancel": (lambda s: _plus(_plus(s, 3, 1), 4, -1), ()),
    "a tag limb": (lambda s: _plus(s, -1, 1), ()),
    "a presence": (lambda s: _plus(s, D + 1, 1), ("bob",)),
    "a negative field": (lambda s: _plus(s, 0, -(1 << 30)), ()),
    "a field too large": (lambda s: _plus(s, 0, 1 << 30), ()),
    "everything doubled": (lambda s: s * 2, None),
    "everything zero": (lambda s: s * 0, NAMES),
    "two values swapped": (lambda s: np.concatenate((s[1::-1], s[2:])), ()),
    "too short": (lambda s: s[:3], ()),
}


def _plus(sums, index, amount):
    altered = sums.copy()
    altered[index] += amount
    return altered


@pytest.mark.parametrize("what", TAMPERING)
def test_a_tampered_sum_is_refused_and_ends_the_epoch(key, what):
    tamper, silos = TAMPERING[what]
    _, fields = uploads(key)
    honest = sum(fields.values())
    with pytest.raises(VerificationError) as caught:
        check(key, HEADER, NAMES, tamper(honest), BITS)
    if silos is not None:
        assert caught.value.silos == silos
    assert key.destroyed
    with pytest.raises(KeyUseError, match="destroyed"):
        check(key, HEADER, NAMES, honest, BITS)
    with pytest.raises(KeyUseError, match="destroyed"):
        protect(key, HEADER, "alice", np.zeros(1, dtype=np.uint32), BITS)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda f: f["alice"] + f["bob"] + f["carol"], ("dave",)),
        (lambda f: sum(f.values()) + f["bob"], ("bob",)),
        (lambda f: sum(f.values()) - f["alice"] + f["bob"], ("alice", "bob")),
    ],
    ids=["omits", "doubles", "replaces"],
)
def test_whole_uploads_left_out_or_doubled_name_the_silo(key, attack, named):
    """The MAC is linear, so these keep it; presence catches them, and says who."""
    _, fields = uploads(key)
    with pytest.raises(VerificationError) as caught:
        check(key, HEADER, NAMES, attack(fields), BITS)
    assert caught.value.silos == named


def test_an_upload_of_someone_not_claimed_is_invented(key):
    _, fields = uploads(key)
    with pytest.raises(VerificationError) as caught:
        check(key, HEADER, NAMES[:3], sum(fields.values()), BITS)
    assert caught.value.silos == ("dave",)


@pytest.mark.parametrize(
    "other",
    [
        replace(HEADER, round=0),
        replace(HEADER, attempt=1),
        replace(HEADER, epoch=1),
        replace(HEADER, run="other"),
        replace(HEADER, manifest=b"\1" * 32),
        replace(HEADER, chain=b"\1" * 32),
    ],
    ids=["round", "attempt", "epoch", "run", "manifest", "chain"],
)
def test_one_upload_under_another_header_spoils_the_sum(key, other):
    """A replay, and a silo that was shown another past."""
    _, fields = uploads(key)
    stale = protect(key, other, "bob", np.zeros(D, dtype=np.uint32), BITS)
    with pytest.raises(VerificationError):
        check(key, HEADER, NAMES, sum(fields.values()) - fields["bob"] + stale, BITS)


def test_without_the_mac_an_altered_value_would_pass(monkeypatch, key):
    """The test above can fail: with r = 0 the same alteration goes through."""
    monkeypatch.setattr(verification, "_inner", lambda *_: 0)
    _, fields = uploads(key)
    sums = check(key, HEADER, NAMES, _plus(sum(fields.values()), 3, 1), BITS)
    assert sums[3] == sum(fields.values())[3] + 1


def test_the_chain_depends_on_sums_header_and_key(key):
    sums = np.arange(200_000, dtype=np.int64)
    first = chain(key, HEADER, sums)
    assert len(first) == 32
    assert first == chain(key, HEADER, sums.copy())
    others = [
        chain(key, HEADER, _plus(sums, 199_999, 1)),
        chain(key, replace(HEADER, round=2), sums),
        chain(GroupKey.generate(), HEADER, sums),
    ]
    assert len({first, *others}) == 4


class PlainOpener:
    """An opener without encryption: ``open_sum`` must not care."""

    def __init__(self, sums):
        self.sums = sums
        self.opened = 0

    def open(self, header, payload, length):
        assert length == len(self.sums)
        self.opened += 1
        return self.sums


def test_public_checks_come_before_opening_and_spare_the_key(key):
    _, fields = uploads(key)
    opener = PlainOpener(sum(fields.values()))
    due = {"values": D, "value_bits": BITS, "minimum": 3}
    for claimed, extra, says in (
        (NAMES[:2], {}, "minimum is 3"),
        (("alice", "alice", "bob"), {}, "not distinct members"),
        (("alice", "bob", "mallory"), {}, "not distinct members"),
        (NAMES[:3], {"own": "dave"}, "own upload"),
    ):
        with pytest.raises(ProtocolError, match=says):
            open_sum(opener, key, HEADER, claimed, b"", **due, **extra)
    assert opener.opened == 0
    assert not key.destroyed
    assert len(open_sum(opener, key, HEADER, NAMES, b"", **due, own="dave")) == D
    key.destroy()
    with pytest.raises(KeyUseError):
        open_sum(opener, key, HEADER, NAMES, b"", **due)
    assert opener.opened == 1


def test_only_members_and_small_values_are_protected(key):
    with pytest.raises(ProtocolError, match="not a member"):
        protect(key, HEADER, "mallory", np.zeros(1, dtype=np.uint32), BITS)
    for values in (np.array([1 << BITS], dtype=np.uint32), np.zeros((2, 2), dtype=np.uint32)):
        with pytest.raises(EncodingError, match="below 2"):
            protect(key, HEADER, "alice", values, BITS)


def test_limbs_hold_61_bits():
    assert [limb_count(bits) for bits in (8, 11, 16, 20, 24)] == [8, 6, 4, 4, 3]


def test_group_keys_are_secret():
    raw = bytes(range(32))
    key = GroupKey(raw)
    assert key.export() == raw
    assert repr(key) == "GroupKey(<secret>)"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            attempt(key)
    with pytest.raises(KeyUseError, match="32 bytes"):
        GroupKey(b"short")
    derived = {key.derive(label, context) for label in (b"a", b"ab") for context in (b"", b"b", b"c")}
    assert len(derived) == 6


@pytest.mark.parametrize(
    ("error", "ends"),
    [(RuntimeError("native"), True), (MemoryError(), True), (CryptoError("layout"), True), (WireError("size"), False)],
)
def test_whatever_fails_after_decryption_ends_the_epoch(error, ends):
    """An aggregate that makes the decryptor itself fail would else be a question that is free to ask again."""
    key = GroupKey.generate()

    class Failing:
        def open(self, header, payload, length):
            raise error

    with pytest.raises(type(error)):
        open_sum(Failing(), key, HEADER, NAMES, b"", values=3, value_bits=16, minimum=2)
    assert key.destroyed is ends

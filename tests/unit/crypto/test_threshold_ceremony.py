"""Dealing and testing keys: what honest silos get, and which dealer is named for what."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from silo_crypto import labels
from silo_crypto.errors import ParameterError, ProtocolError, SignatureError, VerificationError, WireError
from silo_crypto.keys import seal
from silo_crypto.randomness import Csprng
from silo_crypto.threshold import ceremony, keys, relay
from silo_crypto.threshold.attempt import ThresholdSilo
from silo_crypto.threshold.ceremony import Ceremony, load_keys
from silo_crypto.threshold.keys import Share, box_info
from silo_crypto.threshold.messages import Deal, Dealing, Dealt, Trial, framed, unframed
from silo_crypto.threshold.sampling import uniform
from silo_crypto.threshold.state import State
from silo_crypto.verification import open_sum

from tests.unit.crypto.threshold_support import (
    IDENTITIES,
    PUBLIC,
    Consortium,
    crt,
    make_epoch,
    party,
    random_values,
    total,
)


@pytest.fixture
def consortium(tmp_path):
    made = Consortium(make_epoch(5, 3), tmp_path, 100)
    yield made
    made.close()


def interpolate(consortium, names):
    """Return the value at 0 of the shares that ``names`` hold of the sum of all keys, in slots."""
    epoch = consortium.epoch
    ring = epoch.parameters.ring
    value = np.zeros((ring.count, ring.degree), dtype=np.uint64)
    for name in names:
        held = load_keys(epoch, party(name), consortium.states[name]).share_of(epoch.members)
        value += ring.multiply(held, epoch.lagrange(name, names))
    return ring.reduce(value)


def test_any_t_shares_make_the_sum_of_ternary_keys_and_fewer_do_not(consortium):
    consortium.make_keys()
    epoch = consortium.epoch
    ring = epoch.parameters.ring
    secrets = [load_keys(epoch, party(name), consortium.states[name]).secret for name in epoch.members]
    for secret in secrets:
        assert set(crt(epoch.parameters, ring.inverse(secret))) == {-1, 0, 1}
    expected = ring.reduce(sum(secrets))
    for names in (("s0", "s1", "s2"), ("s0", "s2", "s4"), ("s2", "s3", "s4"), epoch.members):
        assert np.array_equal(interpolate(consortium, names), expected)
    assert not np.array_equal(interpolate(consortium, ("s1", "s3")), expected)


def test_pairs_share_a_mask_key_and_all_share_the_group_key(consortium):
    consortium.make_keys()
    held = {n: load_keys(consortium.epoch, party(n), consortium.states[n]) for n in consortium.epoch.members}
    assert len({k.group.export() for k in held.values()}) == 1
    pair_keys = {k.pairs[other] for name, k in held.items() for other in consortium.epoch.members if other != name}
    assert len(pair_keys) == 10
    for name, k in held.items():
        for other in k.pairs:
            assert held[other].pairs[name] == k.pairs[other]


def test_keys_outlive_the_process_only_as_boxes(consortium, tmp_path):
    consortium.make_keys()
    values = random_values(consortium.epoch.members, 100)
    consortium.silos = {name: consortium.silo(name) for name in consortium.epoch.members}  # as after a restart
    aggregate = (opened := consortium.begin().upload(values).agree()).share()
    assert np.array_equal(opened.open(aggregate), total(values))
    held = load_keys(consortium.epoch, party("s0"), consortium.states["s0"])
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("s0.db*"))
    for secret in (held.group.export(), held.pairs["s1"], held._shares["s1"].tobytes()[:64]):
        assert secret not in stored
    assert (tmp_path / "s0.db").stat().st_mode & 0o077 == 0
    consortium.states["s0"].forget(consortium.epoch.manifest, 0)
    with pytest.raises(ProtocolError, match="no tested keys"):
        load_keys(consortium.epoch, party("s0"), consortium.states["s0"])


def test_secrets_are_not_shown_or_pickled(consortium):
    consortium.make_keys()
    held = load_keys(consortium.epoch, party("s0"), consortium.states["s0"])
    for thing in (held, consortium.silos["s0"], Share(held.secret, bytes(32), bytes(32))):
        assert "secret" in repr(thing)
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(thing)


def test_a_silo_deals_once_per_epoch_even_after_a_crash(consortium):
    first = consortium.ceremonies["s0"].deal()
    assert consortium.ceremonies["s0"].deal() == first
    again = Ceremony(consortium.epoch, party("s0"), consortium.states["s0"])
    with pytest.raises(ProtocolError, match="already dealt"):
        again.deal()
    Ceremony(replace(consortium.epoch, number=1), party("s0"), consortium.states["s0"]).deal()


def test_untested_keys_cannot_be_used(consortium):
    dealt = relay.route(consortium.epoch, consortium.deals(), PUBLIC)
    consortium.ceremonies["s0"].receive(dealt["s0"])
    with pytest.raises(ProtocolError, match="no tested keys"):
        load_keys(consortium.epoch, party("s0"), consortium.states["s0"])


def deal_of_degree(extra):
    """Return a dealer's ``deal`` whose polynomial has ``extra`` coefficients more than agreed."""

    def dealing(epoch):
        secret, shares = keys.deal(epoch)
        ring = epoch.parameters.ring
        higher = uniform(Csprng().bytes, ring, ring.degree).astype(np.uint64)
        for member, share in shares.items():
            power = ring.constant(epoch.point(member) ** (epoch.threshold + extra - 1))
            share.slots = ring.reduce(share.slots + ring.multiply(higher, power)).astype(np.uint32)
        return secret, shares

    return dealing


def deal_with_one_wrong_slot(epoch):
    secret, shares = keys.deal(epoch)
    slots = shares["s3"].slots.astype(np.uint64)
    slots[7, 11] = (int(slots[7, 11]) + 1) % epoch.parameters.primes[7]
    shares["s3"].slots = slots.astype(np.uint32)
    return secret, shares


@pytest.mark.parametrize(
    "cheat", [deal_of_degree(1), deal_of_degree(2), deal_with_one_wrong_slot], ids=["degree T", "degree T+1", "slot"]
)
def test_a_dealing_of_wrong_degree_is_found_and_its_dealer_named(consortium, monkeypatch, cheat):
    deals = {}
    for name, part in consortium.ceremonies.items():
        monkeypatch.setattr(ceremony, "deal", cheat if name == "s1" else keys.deal)
        deals[name] = part.deal()
    second = consortium.joint(deals)
    assert all(second.values())  # the joint test failed for everybody
    tested = relay.add_tests(consortium.epoch, relay.PER_DEALER, second)
    for name, part in consortium.ceremonies.items():
        with pytest.raises(VerificationError, match="agreed degree: s1") as caught:
            part.check(tested)
        assert caught.value.silos == ("s1",)
        with pytest.raises(ProtocolError, match="no tested keys"):
            load_keys(consortium.epoch, party(name), consortium.states[name])


def test_without_the_excluded_dealer_the_next_epoch_works(consortium, tmp_path):
    rest = consortium.epoch.following(("s0", "s2", "s3", "s4"), threshold=2)
    folder = tmp_path / "again"
    folder.mkdir()
    again = Consortium(rest, folder, 10).make_keys()
    values = random_values(rest.members, 10)
    attempt = again.begin().upload(values).agree()
    assert np.array_equal(attempt.open(attempt.share()), total(values))
    again.close()


def test_key_epochs_rotate_and_the_old_keys_are_gone(tmp_path):
    """The same files, a new ceremony: what was under way in the old epoch ends, and nobody can ask for it again."""
    first = Consortium(make_epoch(5, 3), tmp_path, 10).make_keys()
    values = random_values(first.epoch.members, 10)
    left_over = first.begin().upload(values).agree()
    request = left_over.adder.request()
    first.close()
    second = Consortium(first.epoch.following(), tmp_path, 10).make_keys()
    assert second.epoch.number == first.epoch.number + 1
    attempt = second.begin().upload(values).agree()
    assert np.array_equal(attempt.open(attempt.share()), total(values))
    with pytest.raises(ProtocolError, match="no tested keys of epoch 0"):
        load_keys(first.epoch, party("s0"), second.states["s0"])
    # A process that still holds the old keys in memory gives no share of them either, and takes no old deal again.
    stale = ThresholdSilo(first.silos["s0"]._keys, party("s0"), second.states["s0"], 10)
    with pytest.raises(ProtocolError, match="epoch 0 ended when epoch 1 began"):
        stale.share(request)
    with pytest.raises(ProtocolError, match="already dealt in epoch 1"):
        Ceremony(first.epoch, party("s0"), second.states["s0"]).deal()
    for wrong in (("s0", "s1", "s2", "stranger"), ("s1", "s0", "s2", "s3"), ("s0", "s1", "s2")):
        with pytest.raises(ParameterError):
            second.epoch.following(wrong)
    second.close()


@pytest.mark.parametrize("failure", ["noise", "tag"])
def test_keys_destroyed_by_a_bad_aggregate_stay_destroyed_after_a_restart(tmp_path, failure):
    """The abort oracle by crashes: bad aggregate, restart, the same keys from the file, the next bad aggregate."""
    made = Consortium(make_epoch(3, 2), tmp_path, 60).make_keys()
    values = random_values(made.epoch.members, 10)
    fields = {name: np.zeros(60, dtype=np.uint32) for name in values}
    attempt = made.begin().upload(fields).agree()
    aggregate = bytearray(attempt.share())
    silo = made.silos["s0"]
    if failure == "noise":
        aggregate[-3] ^= 0xFF
        with pytest.raises(VerificationError):
            attempt.open(bytes(aggregate))
    else:  # a sum that opens, of vectors without presence and tag
        with pytest.raises(VerificationError):
            open_sum(
                silo,
                silo._keys.group,
                attempt.header,
                made.epoch.members,
                bytes(aggregate),
                values=53,
                value_bits=16,
                minimum=3,
            )
    assert silo._keys.group.destroyed
    with pytest.raises(ProtocolError, match="no tested keys"):
        made.silo("s0")
    made.silo("s1")  # each silo decides by what it saw itself
    made.close()


def exchange_box(consortium, dealer, recipient, change):
    """Let ``dealer`` sign another box for ``recipient``: ``change(plaintext) -> (info, plaintext)``."""
    epoch = consortium.epoch
    deals = consortium.deals()
    deal = Deal.decode(deals[dealer], len(epoch.members))
    dealing = Dealing.decode(deal.dealing, len(epoch.members))
    place = epoch.point(recipient) - 1
    info = box_info(epoch, dealer, recipient)
    plaintext = IDENTITIES[recipient].open(info, deal.boxes[place])
    info, plaintext = change(info, plaintext)
    boxes = list(deal.boxes)
    boxes[place] = seal(PUBLIC[recipient], info, plaintext)
    digests = tuple(ceremony.hashlib.sha256(box).digest() for box in boxes)
    dealing = replace(dealing, digests=digests)
    dealing = replace(dealing, signature=IDENTITIES[dealer].sign(dealing.signed(epoch.digest())))
    deals[dealer] = Deal(dealing.encode(), tuple(boxes)).encode()
    return relay.route(epoch, deals, PUBLIC)[recipient]


@pytest.mark.parametrize(
    "change",
    [
        lambda info, plain: (info + b"x", plain),
        lambda info, plain: (info, plain[:-1]),
        lambda info, plain: (info, plain[:-1] + bytes([plain[-1] ^ 1])),
        lambda info, plain: (info, b"\xff" * (len(plain) - 64) + plain[-64:]),
    ],
    ids=["another purpose", "truncated", "another contribution", "residues out of range"],
)
def test_a_box_that_does_not_hold_names_its_dealer(consortium, change):
    dealt = exchange_box(consortium, "s2", "s0", change)
    with pytest.raises(VerificationError, match="s2") as caught:
        consortium.ceremonies["s0"].receive(dealt)
    assert caught.value.silos == ("s2",)


def test_the_aggregator_cannot_exchange_boxes_or_statements(consortium):
    epoch, deals = consortium.epoch, consortium.deals()
    size = len(epoch.members)
    dealt = Dealt.decode(relay.route(epoch, deals, PUBLIC)["s0"], size)
    other = Dealt.decode(relay.route(epoch, deals, PUBLIC)["s1"], size)
    swapped = replace(dealt, boxes=other.boxes)
    with pytest.raises(WireError, match="not the one s0 signed"):
        consortium.ceremonies["s0"].receive(swapped.encode())
    turned = replace(dealt, dealings=(dealt.dealings[1], dealt.dealings[0], *dealt.dealings[2:]))
    with pytest.raises(WireError, match="statement of s0"):
        consortium.ceremonies["s0"].receive(turned.encode())
    forged = replace(Dealing.decode(dealt.dealings[1], size), nonce=bytes(32))
    with pytest.raises(SignatureError):
        consortium.ceremonies["s0"].receive(
            replace(dealt, dealings=(dealt.dealings[0], forged.encode(), *dealt.dealings[2:])).encode()
        )


def test_statements_are_bound_to_the_epoch(consortium, tmp_path):
    """A dealing signed for other members, another threshold or another number does not hold."""
    deals = consortium.deals()
    for change in ({"number": 1}, {"threshold": 2}, {"minimum": 3}, {"manifest": bytes(32)}):
        with pytest.raises(SignatureError):
            relay.route(replace(consortium.epoch, **change), deals, PUBLIC)


def test_the_relay_needs_everybody_and_each_ones_own_part(consortium):
    epoch, deals = consortium.epoch, consortium.deals()
    with pytest.raises(ProtocolError, match="s4"):
        relay.route(epoch, {n: d for n, d in deals.items() if n != "s4"}, PUBLIC)
    with pytest.raises(ProtocolError, match="s0 sent the deal of s1"):
        relay.route(epoch, deals | {"s0": deals["s1"]}, PUBLIC)
    dealt = relay.route(epoch, deals, PUBLIC)
    tests = {name: part.receive(dealt[name]) for name, part in consortium.ceremonies.items()}
    with pytest.raises(ProtocolError, match="missing"):
        relay.add_tests(epoch, relay.JOINT, {n: t for n, t in tests.items() if n != "s2"})
    part = Trial.decode(tests["s0"], 3)
    with pytest.raises(ProtocolError, match="left out"):
        relay.add_tests(epoch, relay.JOINT, tests | {"s0": replace(part, uploads=(b"", *part.uploads[1:])).encode()})
    with pytest.raises(ProtocolError, match="another stage"):
        relay.add_tests(epoch, relay.JOINT, tests | {"s0": replace(part, stage=1).encode()})
    tested = relay.add_tests(epoch, relay.JOINT, tests)
    assert all(part.check(tested) is None for part in consortium.ceremonies.values())


def test_a_silos_steps_come_once_and_in_order(consortium):
    part = consortium.ceremonies["s0"]
    with pytest.raises(ProtocolError):
        part.check(b"")
    with pytest.raises(ProtocolError):
        part.receive(b"")
    dealt = relay.route(consortium.epoch, consortium.deals(), PUBLIC)
    part.receive(dealt["s0"])
    with pytest.raises(ProtocolError, match="once"):
        part.receive(dealt["s0"])
    with pytest.raises(ProtocolError, match="no member"):
        Ceremony(consortium.epoch, party("s9"), State(consortium.folder / "s9.db"))


def test_tests_of_another_ceremony_do_not_pass(consortium):
    """The transcript holds every dealer's nonce: a sum from elsewhere is noise, not zeros."""
    dealt = relay.route(consortium.epoch, consortium.deals(), PUBLIC)
    tests = {name: part.receive(dealt[name]) for name, part in consortium.ceremonies.items()}
    tested = relay.add_tests(consortium.epoch, relay.JOINT, tests)
    stage, *sums = [bytes(part) for part in unframed(tested, "")][1:]
    rotated = framed(labels.TESTED, stage, *sums[1:], sums[0])
    assert consortium.ceremonies["s0"].check(rotated) is not None


def test_tests_count_towards_the_epochs_coefficients(consortium):
    consortium.make_keys()
    spent = {name: state.spent(consortium.epoch.manifest, 0) for name, state in consortium.states.items()}
    assert spent == {"s0": 64, "s1": 128, "s2": 192, "s3": 128, "s4": 64}


def test_a_ceremony_under_the_products_own_set(tmp_path):
    made = Consortium(make_epoch(3, 2, small=False), tmp_path, 40).make_keys()
    values = random_values(made.epoch.members, 40)
    attempt = made.begin().upload(values).agree()
    assert np.array_equal(attempt.open(attempt.share()), total(values))
    made.close()

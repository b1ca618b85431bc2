"""Attacks on threshold custody, each written as the attack; where a defence is taken away, the attack must succeed."""

import inspect
from dataclasses import replace
from fractions import Fraction
from math import gcd

import numpy as np
import pytest
from silo_crypto import labels
from silo_crypto.errors import VerificationError
from silo_crypto.ring_packing import pack, unpack
from silo_crypto.threshold import adder, attempt, cipher
from silo_crypto.threshold.encoding import codec
from silo_crypto.threshold.messages import Aggregate, Request, encode_names
from silo_crypto.threshold.parameters import ETA
from silo_crypto.threshold.sampling import derive, keyed_stream, uniform
from silo_crypto.verification import GroupKey, check, field_count, protect

from tests.unit.crypto.threshold_support import Consortium, crt, make_epoch, random_values, total

LENGTH = 1024  # one polynomial of the small ring
S, COALITION = ("s0", "s1", "s2"), ("s3", "s4")


class View:
    """What the attack tests see of one attempt, everything included; each test says what its attacker may use."""

    def __init__(self, tmp_path):
        self.consortium = Consortium.ready(make_epoch(5, 3), tmp_path, LENGTH)
        epoch = self.consortium.epoch
        self.parameters, self.ring, self.epoch = epoch.parameters, epoch.parameters.ring, epoch
        self.keys = {name: silo._keys for name, silo in self.consortium.silos.items()}
        self.values = random_values(epoch.members, LENGTH)
        self.round = self.consortium.begin().upload(self.values).agree()
        self.layout = self.consortium.silos["s0"].layout
        self.header = self.round.header
        self.a = cipher.public_polynomial(self.layout, labels.PUBLIC_A, self.header.digest(), 0)
        self.request = Request.decode(self.round.adder.request(S))
        self.shares = {
            name: unpack(self.consortium.silos[name].share(self.request.encode()), self.ring, 64) for name in S
        }
        self.uploads = {name: unpack(payload, self.ring, 64) for name, payload in self.round.uploads.items()}
        self.transcript = self.request.agreement.digest(epoch.digest())
        self.names = encode_names(S)
        coder = codec(self.parameters)
        self.encoded = {n: self.ring.reduce(coder.encode(v, 64)) for n, v in self.values.items()}

    def pad(self, sharer):
        """Any silo can compute it."""
        return uniform(
            keyed_stream(cipher._pad_key(self.keys["s3"], self.transcript, self.names, sharer), 0), self.ring, 64
        )

    def mask(self, name, other):
        """The mask between two sharers; only these two can compute it."""
        key = derive(self.keys[name].pairs[other], labels.MASK, self.transcript, self.names)
        mask = uniform(keyed_stream(key, 0), self.ring, 64)
        return mask if self.epoch.point(name) < self.epoch.point(other) else self.ring.column - mask

    def unmasked(self, name):
        """The share as the usual threshold BFV sends it: flooded, nothing else."""
        d = self.shares[name] + (self.ring.column - self.pad(name))
        for other in S:
            if other != name:
                d += self.ring.column - self.mask(name, other)
        return self.ring.reduce(d)

    def errors(self):
        """The true sum of the uploads' errors: e = sum of b - a s - encode(m)."""
        x = sum(self.uploads.values())
        for name, keys in self.keys.items():
            x = x + self.ring.column - self.ring.inverse(self.ring.multiply(self.a, keys.secret))
            x = x + self.ring.column - self.encoded[name]
        return crt(self.parameters, self.ring.reduce(x))


@pytest.fixture
def view(tmp_path):
    made = View(tmp_path)
    yield made
    made.consortium.close()


def lagrange_at(x, node, nodes):
    """The weight of ``node`` in the interpolation through ``nodes`` at x, a fraction."""
    value = Fraction(1)
    for other in nodes:
        if other != node:
            value *= Fraction(x - other, node - other)
    return value


def modular(ring, fraction):
    column = [fraction.numerator * pow(fraction.denominator, -1, p) % p for p in ring.primes]
    return np.array(column, dtype=np.uint64)[:, None]


def lagrange_denominator_attack(view, target, share):
    """T-1 curious silos outside S, the aggregator, and the opened sum, against one ``share`` of ``target``.

    Through (0, s), (x_3, share_3), (x_4, share_4) the coalition writes the target's share of the key as L0 s + known:
    d = r a s + known + f with r = lambda L0 a fraction N / D. With a s = sum b - m - e, D d - N (sum b - m) is the
    small integer D f - N e, which modulo D says e, whatever the flood f.
    """
    ring, epoch = view.ring, view.epoch
    x, corners = epoch.point(target), [epoch.point(name) for name in COALITION]
    weight = lagrange_at(0, x, [epoch.point(name) for name in S])
    known = np.zeros_like(view.a)
    for name in COALITION:
        node = epoch.point(name)
        part = view.keys[name].share_of(epoch.members)
        known += ring.multiply(part, modular(ring, weight * lagrange_at(x, node, [0, *corners])))
    ratio = weight * lagrange_at(x, 0, [0, *corners])
    opened = sum(view.uploads.values()) + sum(ring.column - encoded for encoded in view.encoded.values())
    g = share + ring.column - ring.inverse(ring.multiply(view.a, ring.reduce(known)))
    g = ring.multiply(ring.reduce(g), ring.constant(ratio.denominator))
    g = g + ring.column - ring.multiply(ring.reduce(opened), ring.constant(ratio.numerator))
    inverse = pow(-ratio.numerator, -1, ratio.denominator)
    return [v * inverse % ratio.denominator for v in crt(view.parameters, ring.reduce(g))], ratio.denominator


@pytest.mark.parametrize("target", S)
def test_unmasked_shares_leak_errors_modulo_the_lagrange_denominators(view, target):
    """The control: with masks removed the attack reads e modulo 5 or 10 in every coefficient, in one round."""
    guess, modulus = lagrange_denominator_attack(view, target, view.unmasked(target))
    assert modulus in (5, 10)
    assert guess == [e % modulus for e in view.errors()]


@pytest.mark.parametrize("target", S)
def test_masked_shares_do_not(view, target):
    """The same attack on what a silo really sends, pad removed (every silo knows it): no better than guessing."""
    share = view.ring.reduce(view.shares[target] + (view.ring.column - view.pad(target)))
    guess, modulus = lagrange_denominator_attack(view, target, share)
    hits = sum(g == e % modulus for g, e in zip(guess, view.errors(), strict=True))
    # 64 coefficients, each right with probability 1/5 or 1/10 on average: 40 or more happen once in 2^30.
    assert gcd(modulus, 10) > 1
    assert hits < 40


def test_a_single_share_looks_uniform(view):
    """With every group secret but the sharers' pair keys: bins of one share's residues are flat."""
    for name in S:
        share = view.ring.reduce(view.shares[name] + (view.ring.column - view.pad(name)))
        bins = (share * np.uint64(8) // view.ring.column).astype(int).reshape(-1)
        expected = bins.size / 8
        assert sum((c - expected) ** 2 / expected for c in np.bincount(bins, minlength=8)) < 50


def test_fewer_shares_than_s_open_nothing(view):
    """T-1 sharers that pool all they have, the uploads and the aggregate's missing share included: noise."""
    for missing in S:
        x = sum(view.uploads.values())
        for name in S:
            if name != missing:
                x = x + view.ring.column - view.shares[name] + view.pad(name)
        out = np.empty(LENGTH, dtype=np.int64)
        distance = codec(view.parameters).decode(view.ring.reduce(x), out)
        assert distance > 0.35  # an honest sum is below 0.2
        assert (out == total(view.values)).mean() < 0.01
    x = sum(view.uploads.values())
    for name in S:
        x = x + view.ring.column - view.shares[name] + view.pad(name)
    assert codec(view.parameters).decode(view.ring.reduce(x), out) < 0.2
    assert np.array_equal(out, total(view.values))


def test_the_aggregator_without_the_group_key_sees_noise(view):
    x = sum(view.uploads.values())
    for name in S:
        x = x + view.ring.column - view.shares[name]
    out = np.empty(LENGTH, dtype=np.int64)
    assert codec(view.parameters).decode(view.ring.reduce(x), out) > 0.35
    assert (out == total(view.values)).mean() < 0.01


def test_t_minus_one_shares_of_a_key_say_nothing_about_it(view):
    """For any candidate key there is a polynomial of degree T-1 through the coalition's shares: both keys fit."""
    ring, epoch = view.ring, view.epoch
    corners = [epoch.point(name) for name in COALITION]
    held = {name: view.keys[name].share_of(("s0",)) for name in COALITION}
    for candidate in (view.keys["s0"].secret, view.keys["s1"].secret):
        third = ring.multiply(candidate, modular(ring, lagrange_at(1, 0, [0, *corners])))
        for name in COALITION:
            third += ring.multiply(held[name], modular(ring, lagrange_at(1, epoch.point(name), [0, *corners])))
        value = ring.multiply(ring.reduce(third), modular(ring, lagrange_at(0, 1, [1, *corners])))
        for name in COALITION:
            value += ring.multiply(held[name], modular(ring, lagrange_at(0, epoch.point(name), [1, *corners])))
        assert np.array_equal(ring.reduce(value), candidate)


@pytest.mark.parametrize("coalition", [("s1", "s3", "s4"), ("s3", "s4")])
def test_t_silos_together_open_any_upload_and_one_fewer_do_not(view, coalition):
    """What the threshold means: T silos that leave the protocol hold a silo's key between them. SECURITY.md says so."""
    ring, epoch = view.ring, view.epoch
    key = np.zeros_like(view.a)
    for name in coalition:
        key += ring.multiply(view.keys[name].share_of(("s0",)), epoch.lagrange(name, coalition))
    opened = view.uploads["s0"] + ring.column - ring.inverse(ring.multiply(view.a, ring.reduce(key)))
    out = np.empty(LENGTH, dtype=np.int64)
    distance = codec(view.parameters).decode(ring.reduce(opened), out)
    if len(coalition) == 3:
        assert distance < 0.2
        assert np.array_equal(out, view.values["s0"])
    else:
        assert distance > 0.35
        assert (out == view.values["s0"]).mean() < 0.01


def test_what_leaves_is_masked_padded_and_flooded(view):
    """A share less a lambda share_j is exactly the masks with every other sharer, the pad, and a flood in [-W, W)."""
    ring, epoch = view.ring, view.epoch
    total_of_masks = np.zeros_like(view.a)
    for name in S:
        own = ring.multiply(view.keys[name].share_of(epoch.members), epoch.lagrange(name, S))
        masks = sum(view.mask(name, other) for other in S if other != name)
        rest = (
            view.shares[name]
            + (ring.column - ring.inverse(ring.multiply(view.a, own)))
            + (ring.column - view.pad(name))
        )
        bare = crt(view.parameters, ring.reduce(rest.copy()))
        assert sum(abs(v) > view.parameters.flood for v in bare) == 64  # without the masks: anywhere
        flood = crt(view.parameters, ring.reduce(rest + 2 * ring.column - masks))
        assert all(-view.parameters.flood <= v < view.parameters.flood for v in flood)
        assert max(abs(v) for v in flood) > view.parameters.flood // 2
        total_of_masks += masks
    assert not ring.reduce(total_of_masks).any()


def test_a_is_never_taken_from_a_peer(view):
    """A share is a function of the header and the silo's keys: no message to a silo has room for a polynomial."""
    for method in (attempt.ThresholdSilo.begin, attempt.ThresholdSilo.confirm, attempt.ThresholdSilo.share):
        assert list(inspect.signature(method).parameters) == ["self", "message"] + ["chain"] * (
            method.__name__ == "begin"
        )
    assert len(view.request.encode()) < 3000 < view.layout.payload_bytes
    other = replace(view.header, nonces=(bytes(32), *view.header.nonces[1:]))
    changed = cipher.public_polynomial(view.layout, labels.PUBLIC_A, other.digest(), 0)
    assert not np.array_equal(changed, view.a)


def test_shares_of_the_same_sum_are_fresh_each_time(view):
    """Another S: other masks and another flood, so two shares of one silo differ in every residue but by chance."""
    second = unpack(view.consortium.silos["s0"].share(view.round.adder.request(("s0", "s3", "s4"))), view.ring, 64)
    assert (second == view.shares["s0"]).mean() < 0.01


# An uploader, or the aggregator, that shifts a sum


def shifted(view, shift):
    """Return the aggregate in which ``shift`` was added to the first coefficient of an upload."""
    summed = adder.Accumulator(view.layout)
    delta = np.zeros((view.ring.count, 64), dtype=np.uint64)
    delta[:, :1] = view.ring.constant(shift)
    for payload in (*view.round.uploads.values(), pack(delta)):
        summed.add(payload)
    for share in view.shares.values():
        summed.subtract(pack(share))
    return Aggregate(view.request, summed.payload()).encode()


def test_a_shift_of_an_upload_shifts_the_sum_and_nothing_else(view):
    """Adding 2^55, which broke the public-key design, changes nothing; adding q/t is one more in one field."""
    silo, expected = view.consortium.silos["s4"], total(view.values)
    for shift in (1 << 55, -(1 << 55), 1):
        assert np.array_equal(silo.open(view.header, shifted(view, shift), LENGTH), expected)
    step = view.parameters.modulus >> view.parameters.plaintext_bits
    expected[0] += 1
    assert np.array_equal(silo.open(view.header, shifted(view, step), LENGTH), expected)
    with pytest.raises(VerificationError):
        silo.open(view.header, shifted(view, step // 2), LENGTH)


def test_a_shift_that_opens_is_caught_by_the_mac(tmp_path):
    made = Consortium.ready(make_epoch(5, 3), tmp_path, LENGTH)
    group = GroupKey(made.silos["s0"]._keys.group.export())
    current = made.begin()
    values = random_values(made.epoch.members, 900)
    fields = {n: protect(group, current.header, n, values[n], 16) for n in made.epoch.members}
    current.upload(fields).agree()
    parsed = Aggregate.decode(current.share())
    parameters, ring = made.epoch.parameters, made.epoch.parameters.ring
    residues = unpack(parsed.residues, ring, 64)
    residues[:, 5] += ring.constant(parameters.modulus >> parameters.plaintext_bits)[:, 0]
    bad = replace(parsed, residues=pack(ring.reduce(residues))).encode()
    sums = made.silos["s1"].open(current.header, bad, field_count(900, 5, 16))
    with pytest.raises(VerificationError):
        check(group, current.header, made.epoch.members, sums, 16)
    made.close()


def test_floods_hide_the_errors(view):
    """What the coalition learns at best is f - e: e is a 2^-74th part of it, and the flood covers its whole range."""
    x = sum(view.uploads.values())
    for name in S:
        x = x + view.ring.column - view.shares[name] + view.pad(name)
    x = x + sum(view.ring.column - encoded for encoded in view.encoded.values())
    noise = crt(view.parameters, view.ring.reduce(x))
    worst = 3 * view.parameters.flood
    assert max(abs(v) for v in noise) <= worst + ETA * 5
    assert max(abs(v) for v in noise) > worst // 8
    assert all(abs(e) <= ETA * 5 for e in view.errors())

"""One attempt between honest silos and an aggregator that tries everything it can."""

import itertools
import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from silo_crypto import labels
from silo_crypto.errors import CryptoError, EncodingError, ProtocolError, SignatureError, VerificationError, WireError
from silo_crypto.ring_packing import unpack
from silo_crypto.threshold import adder, cipher
from silo_crypto.threshold.messages import (
    Aggregate,
    Agreement,
    Confirm,
    Nonce,
    Request,
    Start,
    encode_names,
    upload_digest,
)
from silo_crypto.threshold.parameters import MAX_OPENINGS
from silo_crypto.threshold.sampling import keyed_stream, uniform
from silo_crypto.verification import GroupKey, check, field_count, protect

from tests.unit.crypto.threshold_support import (
    CHAIN,
    IDENTITIES,
    PUBLIC,
    Consortium,
    crt,
    make_epoch,
    negacyclic,
    random_values,
    reference_decode,
    total,
)

LENGTH = 1500  # two polynomials of the small ring, the second one partly used


@pytest.fixture
def consortium(tmp_path):
    made = Consortium.ready(make_epoch(5, 3), tmp_path, LENGTH)
    yield made
    made.close()


@pytest.fixture
def values(consortium):
    return random_values(consortium.epoch.members, LENGTH)


@pytest.fixture
def agreed(consortium, values):
    return consortium.begin().upload(values).agree()


def ints(vector):
    return [int(v) for v in vector]


def test_every_silo_opens_the_exact_sum(consortium, values, agreed):
    aggregate = agreed.share(("s0", "s2", "s4"))
    for name in consortium.epoch.members:
        assert np.array_equal(agreed.open(aggregate, name), total(values))
        assert consortium.silos[name].uploaders(agreed.header, aggregate) == consortium.epoch.members
    assert np.array_equal(consortium.silos["s1"].open(agreed.header, aggregate, 7), total(values)[:7])
    assert [consortium.silos[name].released(agreed.header) for name in consortium.epoch.members] == [
        True, False, True, False, True,
    ]  # fmt: skip


def test_the_whole_attempt_agrees_with_big_integers(consortium, values, agreed):
    """b - a s is the encoding plus small errors; the shares add up to a s plus floods; their difference decodes."""
    epoch = consortium.epoch
    parameters, ring = epoch.parameters, epoch.parameters.ring
    keys = {name: silo._keys for name, silo in consortium.silos.items()}
    layout, q, t = consortium.silos["s0"].layout, parameters.modulus, 1 << parameters.plaintext_bits
    a = crt(parameters, ring.inverse(cipher.public_polynomial(layout, labels.PUBLIC_A, agreed.header.digest(), 0)))
    secrets = {name: crt(parameters, ring.inverse(k.secret)) for name, k in keys.items()}
    aggregate = Aggregate.decode(agreed.share())
    scale = [round(Fraction(q << (parameters.field_bits * j), t)) for j in range(16)]
    for name, vector in values.items():
        b = crt(parameters, unpack(agreed.uploads[name][: 13 * 240], ring, 64))
        mask = negacyclic(a, secrets[name], q)
        block = vector[:1024].reshape(16, 64)
        for i in range(64):
            message = sum(int(block[j, i]) * scale[j] for j in range(16))
            assert abs((b[i] - mask[i] - message + q // 2) % q - q // 2) <= 21
    # The opened coefficients, pads taken off with the group key, are within the bound and decode to the sums.
    transcript = aggregate.request.agreement.digest(epoch.digest())
    x = unpack(aggregate.residues[: 13 * 240], ring, 64)
    for sharer in aggregate.request.sharers:
        pad = cipher._pad_key(keys["s0"], transcript, encode_names(aggregate.request.sharers), sharer)
        x = x + uniform(keyed_stream(pad, 0), ring, 64)
    sums = total(values)[:1024].reshape(16, 64)
    for i, value in enumerate(crt(parameters, ring.reduce(x))):
        message = sum(int(sums[j, i]) * scale[j] for j in range(16))
        assert abs((value - message + q // 2) % q - q // 2) < 3 * parameters.flood + 21 * 5
        assert reference_decode(parameters, value) == ints(sums[:, i])


def test_silos_that_vanish_before_or_after_their_upload_do_not_stop_the_rest(consortium, values):
    epoch = consortium.epoch
    rest = ("s0", "s1", "s2", "s4")  # Q = 4
    attempt = consortium.begin(members=rest).upload({n: values[n] for n in rest})
    attempt.agree(rest)
    assert np.array_equal(attempt.open(attempt.share()), total({n: values[n] for n in rest}))
    late = consortium.begin(1).upload(values)
    late.agree(rest)  # s3 vanished after its upload: it stays in the sum
    assert np.array_equal(late.open(late.share(("s1", "s2", "s4"))), total(values))
    assert epoch.quorum == 4


def test_a_sharer_that_drops_is_replaced_on_the_same_uploads(consortium, values, agreed):
    request = agreed.adder.request(("s0", "s1", "s2"))
    agreed.adder.add_share("s0", consortium.silos["s0"].share(request))
    with pytest.raises(ProtocolError, match="missing: s1, s2"):
        agreed.adder.aggregate()
    assert np.array_equal(agreed.open(agreed.share(("s0", "s2", "s3"))), total(values))
    with pytest.raises(ProtocolError, match="this S has left"):
        consortium.silos["s0"].share(request)


def test_more_sharers_than_t_open_too(consortium, values, agreed):
    assert np.array_equal(agreed.open(agreed.share(consortium.epoch.members)), total(values))


def test_shorter_field_vectors_end_in_zeros(consortium):
    values = random_values(consortium.epoch.members, 40)
    attempt = consortium.begin().upload(values).agree()
    opened = attempt.open(attempt.share())
    assert np.array_equal(opened[:40], total(values))
    assert not opened[40:].any()


def test_a_silo_outside_the_uploaders_confirms_shares_and_opens(consortium, values):
    some = {name: values[name] for name in ("s1", "s2", "s3", "s4")}
    attempt = consortium.begin().upload(some).agree()
    aggregate = attempt.share(("s0", "s1", "s2"))
    assert np.array_equal(attempt.open(aggregate, "s0"), total(some))


# Encrypting


def test_encryption_happens_once_per_header_and_is_resent_identically(consortium, values):
    attempt = consortium.begin()
    silo = consortium.silos["s0"]
    payload = silo.encrypt(attempt.header, values["s0"])
    with pytest.raises(ProtocolError, match="encrypted under"):
        silo.encrypt(attempt.header, values["s1"])
    assert silo.resend(attempt.header) is payload
    start = Start(attempt.header, tuple(sign_nonce(name, attempt.header) for name in attempt.header.members))
    with pytest.raises(ProtocolError, match="nonce this process made"):  # erased
        silo.begin(start.encode(), CHAIN)
    with pytest.raises(ProtocolError):
        silo.resend(replace(attempt.header, round=1))


def sign_nonce(name, header):
    nonce = header.nonces[header.members.index(name)]
    signed = Nonce.signed(header.manifest, header.run, header.epoch, header.round, header.attempt, name, nonce)
    return IDENTITIES[name].sign(signed)


def test_a_second_header_for_the_same_attempt_is_refused(consortium, values):
    """Even one with a fresh nonce: the attempt is bound to the first header, durably."""
    consortium.begin().upload(values)
    second = consortium.begin()
    for name in consortium.epoch.members:
        with pytest.raises(ProtocolError, match="another header"):
            consortium.silos[name].encrypt(second.header, values[name])


def test_a_nonce_lives_in_one_process_only(consortium):
    """After a restart, or in a fork, the header's nonce is a stranger's."""
    message = consortium.start()
    restarted = consortium.silo("s0")
    with pytest.raises(ProtocolError, match="nonce this process made"):
        restarted.begin(message, CHAIN)
    silo = consortium.silos["s1"]
    silo._process += 1  # what a fork sees
    with pytest.raises(ProtocolError, match="nonce this process made"):
        silo.begin(message, CHAIN)
    assert os.getpid() == silo._process


def test_headers_are_checked_before_anything_is_encrypted(consortium, values):
    message = consortium.start()
    start = Start.decode(message)
    silo = consortium.silos["s0"]

    def refused(header, signatures=start.signatures, chain=CHAIN, error=ProtocolError, match="."):
        with pytest.raises(error, match=match):
            silo.begin(Start(header, signatures).encode(), chain)

    header = start.header
    refused(header, chain=b"\1" * 32, match="another aggregate")
    refused(replace(header, manifest=bytes(32)), match="another run")
    refused(replace(header, epoch=1), match="another run")
    refused(replace(header, round=1), error=SignatureError)
    refused(replace(header, attempt=1), error=SignatureError)
    refused(replace(header, run="other"), error=SignatureError)
    refused(replace(header, members=header.members[::-1]), match="out of order")
    refused(replace(header, nonces=()), match="nonce")
    refused(replace(header, nonces=(header.nonces[0],) * 5), match="same nonce")
    refused(replace(header, nonces=(*header.nonces[:4], bytes(32))), error=SignatureError)
    short = replace(header, members=header.members[:3], nonces=header.nonces[:3])
    refused(short, start.signatures[:3], match="cannot make 4 uploads")
    rest = replace(header, members=header.members[1:], nonces=header.nonces[1:])
    refused(rest, start.signatures[1:], match="not in the header")
    with pytest.raises(ProtocolError, match="not begun"):
        silo.encrypt(header, values["s0"])
    assert silo.begin(message, CHAIN) == header


@pytest.mark.parametrize(
    "fields",
    [
        np.zeros(LENGTH + 1, dtype=np.uint32),
        np.zeros(0, dtype=np.uint32),
        np.zeros(LENGTH, dtype=np.int64),
        np.zeros((2, 2), dtype=np.uint32),
        np.full(LENGTH, 1 << 16, dtype=np.uint32),
    ],
    ids=["long", "empty", "dtype", "shape", "large"],
)
def test_fields_that_do_not_fit_are_refused_and_leave_the_header_usable(consortium, values, fields):
    attempt = consortium.begin()
    with pytest.raises(EncodingError):
        consortium.silos["s0"].encrypt(attempt.header, fields)
    assert consortium.silos["s0"].encrypt(attempt.header, values["s0"])


def test_the_same_values_twice_make_unrelated_uploads(consortium, values):
    same = dict.fromkeys(values, values["s0"])
    first, second = consortium.begin(0).upload(same), consortium.begin(1).upload(same)
    assert len(set(first.uploads.values()) | set(second.uploads.values())) == 10


# Agreeing


def test_one_agreement_per_attempt_is_confirmed(consortium, values):
    attempt = consortium.begin().upload(values)
    first = Agreement.decode(attempt.adder.proposal())
    silo = consortium.silos["s0"]
    confirm = silo.confirm(first.encode())
    assert silo.confirm(first.encode()) == confirm
    fewer = replace(first, uploaders=first.uploaders[:4], digests=first.digests[:4])
    other = replace(first, digests=(*first.digests[:4], bytes(32)))
    for second in (fewer, other):
        with pytest.raises(ProtocolError, match="another set of uploads"):
            silo.confirm(second.encode())
        with pytest.raises(ProtocolError, match="another set of uploads"):
            consortium.silo("s0").confirm(second.encode())  # nor after a restart


def test_an_agreement_with_a_wrong_own_digest_is_refused(consortium, values):
    attempt = consortium.begin().upload(values)
    agreement = Agreement.decode(attempt.adder.proposal())
    wrong = replace(agreement, digests=(bytes(32), *agreement.digests[1:]))
    with pytest.raises(ProtocolError, match="own upload is wrong"):
        consortium.silos["s0"].confirm(wrong.encode())
    # A silo that uploaded nothing is not in U either.
    silent = consortium.begin(1).encrypt({n: values[n] for n in consortium.epoch.members[1:]})
    digests = tuple(upload_digest(silent.header, n, silent.uploads.get(n, b"")) for n in silent.header.members)
    with pytest.raises(ProtocolError, match="own upload is wrong"):
        consortium.silos["s0"].confirm(Agreement(silent.header, silent.header.members, digests).encode())


def test_the_size_of_the_sum_is_bounded(consortium, values):
    attempt = consortium.begin().upload(values)
    agreement = Agreement.decode(attempt.adder.proposal())

    def refused(uploaders, digests, match):
        with pytest.raises(ProtocolError, match=match):
            consortium.silos["s0"].confirm(replace(agreement, uploaders=uploaders, digests=digests).encode())

    members, digests = agreement.uploaders, agreement.digests
    refused(members[:3], digests[:3], "3 uploads; a sum has 4")  # T + 1 = 4
    refused((), (), "0 uploads")
    refused(members[::-1], digests[::-1], "not members")
    refused((*members[:4], "stranger"), digests, "not members")
    refused(members, (digests[0], digests[1], digests[2], digests[3], digests[3]), "same digest")
    consortium.silos["s0"].confirm(agreement.encode())


def test_a_run_with_a_higher_minimum_opens_nothing_smaller(tmp_path):
    made = Consortium.ready(make_epoch(5, 2, minimum=5), tmp_path, 20)
    values = random_values(made.epoch.members, 20)
    with pytest.raises(ProtocolError, match="4 members cannot make 5"):
        made.start(members=made.epoch.members[:4])
    attempt = made.begin().upload({n: values[n] for n in made.epoch.members[:4]})
    with pytest.raises(ProtocolError, match="4 uploads; a sum has 5"):
        attempt.adder.proposal()
    made.close()


# Sharing


def test_a_share_needs_a_certificate(consortium, agreed):
    request = Request.decode(agreed.adder.request(("s0", "s1", "s2")))
    silo = consortium.silos["s0"]

    def refused(bad, match, error=ProtocolError):
        with pytest.raises(error, match=match):
            silo.share(bad.encode())

    names, signatures = request.confirmers, request.signatures
    refused(replace(request, confirmers=names[:3], signatures=signatures[:3]), "3 confirms, 4 are needed")
    refused(replace(request, signatures=signatures[::-1]), "does not hold", SignatureError)
    refused(replace(request, confirmers=names[::-1]), "not members")
    refused(replace(request, confirmers=(*names[:4], "s9")), "not members")
    for sharers in (("s0", "s1"), ("s1", "s0", "s2"), ("s0", "s1", "s9")):
        refused(replace(request, sharers=sharers), "sharers")
    refused(replace(request, sharers=("s1", "s2", "s3")), "not among the sharers")
    # Confirms of something else: another U, or an earlier header.
    fewer = replace(request.agreement, uploaders=names[:4], digests=request.agreement.digests[:4])
    refused(replace(request, agreement=fewer), "does not hold", SignatureError)
    assert silo.share(request.encode())


def test_t_minus_one_corrupt_silos_cannot_get_two_sets_opened(consortium, values):
    """They confirm everything, the aggregator shows each honest silo the U it likes: at most one gets a certificate."""
    honest, corrupt = ("s0", "s1", "s2"), ("s3", "s4")
    for round_number, shown in enumerate(itertools.product((0, 1), repeat=3)):
        attempt = consortium.begin(round_number).upload(values)
        both = Agreement.decode(attempt.adder.proposal())
        sets = (both, replace(both, uploaders=both.uploaders[:4], digests=both.digests[:4]))
        for name, choice in zip(honest, shown, strict=True):
            consortium.silos[name].confirm(sets[choice].encode())
        certified = []
        for agreement in sets:
            transcript = agreement.digest(consortium.epoch.digest())
            signatures = {n: IDENTITIES[n].sign(Confirm.signed(transcript, n)) for n in corrupt}
            for name in honest:  # every honest silo is asked again for this one
                try:
                    signatures[name] = Confirm.decode(consortium.silos[name].confirm(agreement.encode())).signature
                except ProtocolError:
                    continue
            names = tuple(sorted(signatures))
            request = Request(agreement, names, tuple(signatures[n] for n in names), ("s2", "s3", "s4"))
            if shown[2] == sets.index(agreement) and len(names) >= consortium.epoch.quorum:
                assert consortium.silos["s2"].share(request.encode())
                certified.append(agreement)
            else:
                with pytest.raises(ProtocolError, match=r"confirms|another set"):
                    consortium.silos["s2"].share(request.encode())
        assert len(certified) <= 1


def test_a_certificate_for_another_set_than_the_confirmed_one_is_refused(consortium, values):
    """Should one ever exist, with Q corrupt silos, an honest silo still keeps to what it confirmed."""
    attempt = consortium.begin().upload(values)
    agreement = Agreement.decode(attempt.adder.proposal())
    fewer = replace(agreement, uploaders=agreement.uploaders[:4], digests=agreement.digests[:4])
    consortium.silos["s0"].confirm(fewer.encode())
    transcript = agreement.digest(consortium.epoch.digest())
    names = ("s1", "s2", "s3", "s4")
    signatures = tuple(IDENTITIES[name].sign(Confirm.signed(transcript, name)) for name in names)
    request = Request(agreement, names, signatures, ("s0", "s1", "s2"))
    with pytest.raises(ProtocolError, match="another set of uploads"):
        consortium.silos["s0"].share(request.encode())
    assert consortium.silos["s3"].confirm(agreement.encode())


def test_at_most_eight_sets_share_and_each_once(consortium, agreed):
    silo, members = consortium.silos["s0"], consortium.epoch.members
    sets = [("s0", a, b) for i, a in enumerate(members[1:]) for b in members[i + 2 :]]
    sets += [(*s, c) for s in sets for c in members if c > s[2]]
    for sharers in sets[:MAX_OPENINGS]:
        assert silo.share(agreed.adder.request(sharers))
    assert len(sets) > MAX_OPENINGS
    with pytest.raises(ProtocolError, match="8 shares"):
        silo.share(agreed.adder.request(sets[MAX_OPENINGS]))


def test_an_abandoned_attempt_is_never_shared(consortium, agreed):
    silo = consortium.silos["s0"]
    assert not silo.released(agreed.header)
    silo.abandon(agreed.header)
    request = agreed.adder.request(("s0", "s1", "s2"))
    for process in (silo, consortium.silo("s0")):
        with pytest.raises(ProtocolError, match="abandoned"):
            process.share(request)
    assert not silo.released(agreed.header)


def test_an_epoch_stops_before_its_coefficients_are_spent(consortium, values):
    """The limit is the product's; the state is told that all but one opening's worth is spent."""
    epoch, state = consortium.epoch, consortium.states["s0"]
    limit = epoch.parameters.coefficients_per_silo(5, 3)
    assert limit == epoch.parameters.coefficients_per_epoch(5) // 3
    spent = state.spent(epoch.manifest, epoch.number)
    coefficients = consortium.silos["s0"].layout.coefficients
    state._db.execute("UPDATE openings SET coefficients = ?", (limit - coefficients,))
    assert spent == 64
    first = consortium.begin(0).upload(values).agree()
    assert consortium.silos["s0"].share(first.adder.request(("s0", "s1", "s2")))
    second = consortium.begin(1).upload(values).agree()
    with pytest.raises(ProtocolError, match="statistical distance"):
        consortium.silos["s0"].share(second.adder.request(("s0", "s1", "s2")))
    assert not consortium.silos["s0"].released(second.header)


# The aggregator's sums


def altered(agreed, consortium, change):
    """Return an aggregate whose sum an aggregator made otherwise, with honest agreement and shares."""
    request = agreed.adder.request(("s0", "s1", "s2"))
    shares = {name: consortium.silos[name].share(request) for name in agreed.adder.sharers}
    plus, minus = change(dict(agreed.uploads), shares)
    summed = adder.Accumulator(agreed.adder.layout)
    for payload in plus:
        summed.add(payload)
    for payload in minus:
        summed.subtract(payload)
    return Aggregate(Request.decode(request), summed.payload()).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda b, d: (list(b.values())[1:], d.values()),
        lambda b, d: ([*b.values(), b["s3"]], d.values()),
        lambda b, d: (b.values(), list(d.values())[1:]),
        lambda b, d: (b.values(), [*d.values(), d["s0"]]),
        lambda b, d: (b.values(), []),
        lambda b, d: ([b["s0"]], d.values()),
    ],
    ids=["dropped", "doubled", "share dropped", "share doubled", "no shares", "one upload alone"],
)
def test_any_other_sum_is_noise_and_ends_the_epoch(consortium, agreed, change):
    aggregate = altered(agreed, consortium, change)
    with pytest.raises(VerificationError, match="noise"):
        agreed.open(aggregate, "s4")
    assert consortium.silos["s4"]._keys.group.destroyed


def test_an_upload_of_an_earlier_round_is_noise(consortium, values):
    old = consortium.begin(0).upload(values)
    new = consortium.begin(1).upload(values).agree()
    aggregate = altered(new, consortium, lambda b, d: ((b | {"s3": old.uploads["s3"]}).values(), d.values()))
    with pytest.raises(VerificationError, match="noise"):
        new.open(aggregate)


def test_without_the_noise_check_the_mac_still_catches_it(consortium, monkeypatch):
    """The noise check is in front of the MAC, not instead of it."""
    monkeypatch.setattr("silo_crypto.threshold.cipher.tolerance", lambda *_: 1.0)
    epoch, group = consortium.epoch, consortium.silos["s0"]._keys.group
    attempt = consortium.begin()
    length = field_count(1000, 5, 16)
    values = random_values(epoch.members, 1000)
    fields = {n: protect(group, attempt.header, n, values[n], 16) for n in epoch.members}
    attempt.upload(fields).agree()
    silo = consortium.silos["s0"]

    def opened(aggregate):
        fresh = GroupKey(group.export())  # a failed check destroys the key it is given
        sums = silo.open(attempt.header, aggregate, length)
        return check(fresh, attempt.header, silo.uploaders(attempt.header, aggregate), sums, 16)

    good = attempt.share(("s0", "s2", "s3"))
    assert np.array_equal(opened(good), total(values))
    bad = altered(attempt, consortium, lambda b, d: ([*b.values(), b["s3"]], d.values()))
    with pytest.raises(VerificationError):
        opened(bad)


def test_an_aggregate_is_bound_to_its_header_and_certificate(consortium, values, agreed):
    aggregate = agreed.share()
    parsed = Aggregate.decode(aggregate)
    silo = consortium.silos["s0"]
    with pytest.raises(ProtocolError, match="another header"):
        silo.open(replace(agreed.header, round=9), aggregate, LENGTH)
    bad = replace(parsed, request=replace(parsed.request, confirmers=(), signatures=()))
    with pytest.raises(ProtocolError, match="confirms"):
        silo.open(agreed.header, bad.encode(), LENGTH)
    with pytest.raises(WireError, match="bytes"):
        silo.open(agreed.header, replace(parsed, residues=b"").encode(), LENGTH)
    with pytest.raises(EncodingError):
        silo.open(agreed.header, aggregate, LENGTH + 1)
    # With another S the pads are others: noise.
    other = replace(parsed, request=replace(parsed.request, sharers=("s1", "s2", "s3")))
    with pytest.raises(VerificationError):
        silo.open(agreed.header, other.encode(), LENGTH)


# The adder


def test_the_adder_refuses_strangers_seconds_copies_and_late_uploads(consortium, values):
    attempt = consortium.begin().encrypt(values)
    add = attempt.adder.add
    for name in ("s0", "s1", "s2", "s3"):
        add(name, attempt.uploads[name])
    with pytest.raises(ProtocolError, match="already uploaded"):
        add("s0", attempt.uploads["s0"])
    with pytest.raises(SignatureError, match="no member"):
        add("s9", attempt.uploads["s4"])
    with pytest.raises(WireError):
        add("s4", attempt.uploads["s4"][:-1])
    attempt.adder.proposal()
    with pytest.raises(ProtocolError, match="after the proposal"):
        add("s4", attempt.uploads["s4"])


def test_a_refused_upload_leaves_the_sum_as_it_was(consortium, values):
    attempt = consortium.begin().encrypt(values)
    for name in ("s0", "s1", "s2", "s3"):
        attempt.adder.add(name, attempt.uploads[name])
    bad = bytearray(attempt.uploads["s4"])
    bad[-4:] = b"\xff" * 4  # a residue out of range in the last polynomial: the first has been read by then
    with pytest.raises(WireError, match="not below its prime"):
        attempt.adder.add("s4", bytes(bad))
    attempt.agree()
    assert np.array_equal(attempt.open(attempt.share()), total({n: v for n, v in values.items() if n != "s4"}))


def test_the_adder_takes_confirms_and_shares_only_where_due(consortium, values, agreed):
    confirm = consortium.silos["s0"].confirm(agreed.adder.proposal())
    with pytest.raises(SignatureError, match="not of 's1'"):
        agreed.adder.confirm("s1", confirm)
    forged = replace(Confirm.decode(confirm), signature=bytes(64)).encode()
    with pytest.raises(SignatureError):
        agreed.adder.confirm("s0", forged)
    with pytest.raises(ProtocolError, match="another agreement"):
        agreed.adder.confirm("s0", replace(Confirm.decode(confirm), agreement=bytes(32)).encode())
    with pytest.raises(ProtocolError, match="none was asked for"):
        agreed.adder.aggregate()
    request = agreed.adder.request(("s0", "s1", "s2"))
    share = consortium.silos["s0"].share(request)
    agreed.adder.add_share("s0", share)
    for name in ("s0", "s3"):
        with pytest.raises(ProtocolError, match="no share"):
            agreed.adder.add_share(name, share)
    with pytest.raises(WireError):
        agreed.adder.add_share("s1", share[1:])


def test_the_adder_waits_for_a_quorum(consortium, values):
    attempt = consortium.begin().upload(values)
    with pytest.raises(ProtocolError, match="nothing was proposed"):
        attempt.adder.request()
    attempt.agree(("s0", "s1", "s2"))
    with pytest.raises(ProtocolError, match="3 confirms, 4 are needed"):
        attempt.adder.request()


def test_another_machine_takes_over_from_the_messages(consortium, values):
    attempt = consortium.begin().upload(values)
    confirms = {n: s.confirm(attempt.adder.proposal()) for n, s in consortium.silos.items()}
    heir = adder.ThresholdAdder(consortium.epoch, attempt.header, LENGTH, PUBLIC)
    for name in reversed(attempt.header.members):
        heir.add(name, attempt.uploads[name])
    assert heir.proposal() == attempt.adder.proposal()
    for name, confirm in confirms.items():
        heir.confirm(name, confirm)
    attempt.adder = heir
    assert np.array_equal(attempt.open(attempt.share()), total(values))


def test_errors_say_what_where_and_what_next(consortium, agreed):
    request = agreed.adder.request(("s0", "s1", "s2"))
    consortium.silos["s0"].share(request)
    with pytest.raises(CryptoError) as caught:
        consortium.silos["s0"].share(request)
    assert caught.value.where == "share"
    assert "choose another S" in str(caught.value)

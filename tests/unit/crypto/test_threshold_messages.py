"""Every parser of threshold custody: what it accepts, and that anything else is a CryptoError and changes nothing."""

import random
import subprocess
import sys
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from silo_crypto import labels
from silo_crypto.errors import CryptoError, WireError
from silo_crypto.protocol import Header
from silo_crypto.threshold import adder, messages, relay
from silo_crypto.threshold.messages import (
    Aggregate,
    Agreement,
    Confirm,
    Deal,
    Dealing,
    Dealt,
    Nonce,
    Request,
    Start,
    Trial,
    TrialSums,
    decode_header,
    framed,
)

from tests.unit.crypto.threshold_support import CHAIN, PUBLIC, Consortium, make_epoch, random_values, total

NAMES = ("ada", "bob-2", "c")
HEADER = Header(bytes(32), "run 7", 1, 2, 3, NAMES, b"c" * 32, tuple(bytes([i]) * 32 for i in range(3)))
SIG = bytes(64)
AGREEMENT = Agreement(HEADER, NAMES[:2], (b"d" * 32, b"e" * 32))
REQUEST = Request(AGREEMENT, NAMES, (SIG,) * 3, NAMES[1:])
DEALING = Dealing("ada", b"n" * 32, b"k" * 32, (b"1" * 32, b"2" * 32, b"3" * 32), SIG)
SAMPLES = [
    (Nonce("ada", b"n" * 32, SIG), Nonce.decode),
    (Start(HEADER, (SIG,) * 3), Start.decode),
    (AGREEMENT, Agreement.decode),
    (Confirm("c", b"t" * 32, SIG), Confirm.decode),
    (REQUEST, Request.decode),
    (Aggregate(REQUEST, b"residues"), Aggregate.decode),
    (DEALING, lambda data: Dealing.decode(data, 3)),
    (Deal(DEALING.encode(), (b"x", b"yy", b"zzz")), lambda data: Deal.decode(data, 3)),
    (Dealt((b"a", b"b", b"c"), (b"x", b"yy", b"zzz")), lambda data: Dealt.decode(data, 3)),
    (Trial(1, (b"u", b"", b"v"), (b"", b"w", b"")), lambda data: Trial.decode(data, 3)),
    (TrialSums(0, (b"u", b"v")), lambda data: TrialSums.decode(data, 2)),
]
IDS = [type(message).__name__ for message, _ in SAMPLES]


@pytest.mark.parametrize(("message", "decode"), SAMPLES, ids=IDS)
def test_messages_come_back_as_they_were(message, decode):
    data = message.encode()
    assert decode(data) == message
    assert decode(memoryview(data)) == message
    assert decode(data).encode() == data


def test_headers_come_back_as_they_were():
    for header in (HEADER, Header(bytes(32), "r", 0, 0, 0, ()), Header(bytes(32), "é", 0, 0, 0, ("a",))):
        assert decode_header(header.encode()) == header


def mutations(data, others, rng, count):
    """Yield changed copies: bits flipped, cut, lengthened, spliced with other messages, lengths made absurd."""
    for _ in range(count):
        kind, copy = rng.randrange(7), bytearray(data)
        place = rng.randrange(len(copy))
        if kind == 0:
            copy[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del copy[place:]
        elif kind == 2:
            copy[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del copy[place : place + rng.randrange(1, 40)]
        elif kind == 4:
            copy[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"])
        elif kind == 5:
            other = rng.choice(others)
            copy = bytearray(data[:place] + other[rng.randrange(len(other)) :])
        else:
            copy = bytearray(rng.choice(others)) if rng.random() < 0.2 else bytearray(rng.randbytes(place))
        if bytes(copy) != data:
            yield bytes(copy)


@pytest.mark.parametrize(("message", "decode"), SAMPLES, ids=IDS)
def test_parsers_raise_nothing_but_wire_errors_and_accept_only_canonical_bytes(message, decode):
    rng, others = random.Random(7), [sample.encode() for sample, _ in SAMPLES]
    refused = 0
    for mutant in mutations(message.encode(), others, rng, 20_000):
        try:
            parsed = decode(mutant)
        except WireError:
            refused += 1
            continue
        assert type(parsed) is type(message)
        assert parsed.encode() == mutant
        assert is_dataclass(parsed)
        assert fields(parsed)
    assert refused > 10_000


@pytest.mark.parametrize(
    "part",
    [b"", b"A", b"a" * 33, b"a b", b"../x", "é".encode(), b"a\n", b"a\0"],
)
def test_names_are_strict(part):
    with pytest.raises(WireError, match="a name"):
        Nonce.decode(framed(labels.NONCE, part, bytes(32), SIG))


@pytest.mark.parametrize("number", [b"", b"01", b"-1", b"+1", b"1_0", b"1 ", "١".encode(), b"1" * 17])
def test_numbers_are_canonical(number):
    data = framed(bytes(32), b"run", bytes(32), number, b"0", b"0", b"0")
    with pytest.raises(WireError, match="canonical"):
        decode_header(data)


def test_a_header_is_refused_for_each_of_its_parts():
    good = [bytes(32), b"run", bytes(32), b"0", b"0", b"0", b"1", b"ada", bytes(32)]
    decode_header(framed(*good))
    for place, part in (
        (0, bytes(31)), (1, b""), (1, b"\xff"), (1, b"a\n"), (1, b"x" * 257), (2, bytes(33)), (6, b"2"), (8, bytes(31)),
    ):  # fmt: skip
        with pytest.raises(WireError):
            decode_header(framed(*good[:place], part, *good[place + 1 :]))
    with pytest.raises(WireError):
        decode_header(framed(*good[:6]))
    with pytest.raises(WireError):
        decode_header(framed(*good[:6], b"2", b"ada", b"ada"))


def test_too_many_parts_are_refused_without_being_kept():
    with pytest.raises(WireError, match="too many parts"):
        TrialSums.decode(bytes(4) * (messages.MAX_PARTS + 1), 1)


def test_every_step_of_a_ceremony_survives_foreign_bytes(tmp_path):
    """Mutants of each real message go to each real receiver first; then the honest run still works."""
    made, rng = Consortium(make_epoch(3, 2), tmp_path, 20), random.Random(11)
    epoch = made.epoch

    def fuzz(receiver, data, count=150):
        caught = 0
        for mutant in mutations(data, others, rng, count):
            try:
                receiver(mutant)
            except CryptoError:
                caught += 1
        return caught

    deals = made.deals()
    others = list(deals.values())
    assert fuzz(lambda m: relay.route(epoch, deals | {"s1": m}, PUBLIC), deals["s1"]) > 20
    dealt = relay.route(epoch, deals, PUBLIC)
    others += list(dealt.values())
    # Only what is refused is sent here: what is accepted takes the place of the honest message.
    part = made.ceremonies["s0"]
    for mutant in mutations(dealt["s0"], others, rng, 60):
        with pytest.raises(CryptoError):
            part.receive(mutant)
    tests = {name: ceremony.receive(dealt[name]) for name, ceremony in made.ceremonies.items()}
    others += list(tests.values())
    assert fuzz(lambda m: relay.add_tests(epoch, relay.JOINT, tests | {"s2": m}), tests["s2"]) > 20
    tested = relay.add_tests(epoch, relay.JOINT, tests)
    cut = [mutant for mutant in mutations(tested, others, rng, 200) if len(mutant) != len(tested)]
    for mutant in cut:
        with pytest.raises(CryptoError):
            part.check(mutant)
    assert all(ceremony.check(tested) is None for ceremony in made.ceremonies.values())
    made.close()


def test_every_step_of_an_attempt_survives_foreign_bytes(tmp_path):
    """Silos refuse mutants with a CryptoError; whatever a mutant got agreed stays the only agreement."""
    made, rng = Consortium(make_epoch(3, 2), tmp_path, 20).make_keys(), random.Random(13)
    values = random_values(made.epoch.members, 20)
    others: list[bytes] = []

    def fuzz(receiver, data, count=200):
        others.append(data)
        caught = 0
        for mutant in mutations(data, others, rng, count):
            try:
                receiver(mutant)
            except CryptoError:
                caught += 1
        assert caught > count // 4

    silo = made.silos["s0"]
    nonce = silo.nonce("run", 0, 0)
    collected = {name: made.silos[name].nonce("run", 0, 0) for name in made.epoch.members}
    fuzz(lambda m: adder.start(made.epoch, "run", 0, 0, CHAIN, collected | {"s0": m}), nonce)
    start = adder.start(made.epoch, "run", 0, 0, CHAIN, collected)
    fuzz(lambda m: silo.begin(m, CHAIN), start)
    current = made.begin().upload(values)
    before = current.adder.proposal()
    victim = made.begin(5).upload(values)  # mutants may get agreed: their own attempt
    fuzz(silo.confirm, victim.adder.proposal())
    confirms = {name: made.silos[name].confirm(before) for name in made.epoch.members}
    fuzz(lambda m: current.adder.confirm("s0", m), confirms["s0"])
    for name, confirm in confirms.items():
        current.adder.confirm(name, confirm)
    request = current.adder.request(("s0", "s1"))
    fuzz(silo.share, request)
    spent = made.states["s0"].spent(made.epoch.manifest, 0)
    share = silo.share(request)
    fuzz(lambda m: adder.Accumulator(silo.layout).add(m), share)
    current.adder.add_share("s0", share)
    current.adder.add_share("s1", made.silos["s1"].share(request))
    aggregate = current.adder.aggregate()
    watcher = made.silos["s2"]
    residues = len(Aggregate.decode(aggregate).residues)
    for mutant in mutations(aggregate[:-residues], others, rng, 200):  # noise would end the epoch
        with pytest.raises(CryptoError):
            watcher.open(current.header, mutant + aggregate[-residues:], 20)
    assert np.array_equal(watcher.open(current.header, aggregate, 20), total(values))
    assert made.states["s0"].spent(made.epoch.manifest, 0) == spent + silo.layout.coefficients
    made.close()


def test_the_aggregators_side_loads_no_crypto_library():
    code = (
        "import sys; import silo_crypto.threshold.adder, silo_crypto.threshold.relay; "
        "print([m for m in sys.modules if m.split('.')[0] in ('Crypto', 'cryptography', 'tenseal', 'torch', 'silo')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

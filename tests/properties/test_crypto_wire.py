"""The parser under mutation: it refuses with an error of its own, never otherwise, and keeps no state."""

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from silo_crypto import labels, wire
from silo_crypto.errors import CryptoError
from silo_crypto.keys import Identity
from silo_crypto.protocol import Header

HEADER = Header(bytes(32), "run", 1, 2, 3, ("alice", "bob"))
ALICE = Identity.generate("alice")
ENVELOPE = wire.pack(labels.UPLOAD, bytes(32), HEADER, ALICE, b"payload")
MUTATIONS = 1_000_000
SECONDS = 2.0


class Refuser:
    """A verifier that holds for nothing: a mutation that gets here has passed everything but the signature."""

    name = "alice"

    def verify(self, message, signature):
        raise CryptoError("refused")


def parse(envelope, verifier=None):
    return wire.unpack(
        envelope,
        kind=labels.UPLOAD,
        parameters_digest=bytes(32),
        header=HEADER,
        verifier=verifier or ALICE.public(),
        max_length=64,
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data):
    try:
        parse(data, Refuser())
    except CryptoError:
        return
    raise AssertionError("random bytes were accepted")


@settings(max_examples=200, deadline=None)
@given(
    payload=st.binary(max_size=64),
    run=st.text(max_size=40).filter(lambda s: len(s.encode()) < 256),
    numbers=st.tuples(*[st.integers(0, 2**32 - 1)] * 3),
    chain=st.binary(min_size=32, max_size=32),
)
def test_any_message_survives_the_trip(payload, run, numbers, chain):
    header = Header(bytes(32), run, *numbers, ("alice",), chain)
    envelope = wire.pack(labels.SHARE, bytes(32), header, ALICE, payload)
    assert len(envelope) == wire.envelope_bytes(labels.SHARE, header, "alice", len(payload))
    back = wire.unpack(
        envelope,
        kind=labels.SHARE,
        parameters_digest=bytes(32),
        header=header,
        verifier=ALICE.public(),
        length=len(payload),
    )
    assert back == payload


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_is_refused_under_the_real_key(index, change):
    altered = bytearray(ENVELOPE)
    altered[index] ^= change
    try:
        parse(bytes(altered))
    except CryptoError:
        assert parse(ENVELOPE) == b"payload"
        return
    raise AssertionError("a changed byte was accepted")


def mutate(rng):
    data = bytearray(ENVELOPE)
    for _ in range(rng.randint(1, 4)):
        kind, place = rng.randrange(4), rng.randrange(len(data) or 1)
        if kind == 0 and data:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 9))
        else:
            data[place : place + 8] = b"\xff" * 8
    return bytes(data)


def test_up_to_a_million_mutations_in_bounded_time():
    rng, stop, done = random.Random(0), time.monotonic() + SECONDS, 0
    while done < MUTATIONS and time.monotonic() < stop:
        data = mutate(rng)
        if data == ENVELOPE:
            continue
        try:
            parse(data, Refuser())
        except CryptoError:
            done += 1
            continue
        raise AssertionError(f"accepted: {data.hex()}")
    assert done > 10_000

"""For any lengths, values and sets of uploaders: what is opened is exactly the sum of what was encoded."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from silo_crypto.errors import CryptoError
from silo_crypto.parameters import shared_for
from silo_crypto.protocol import Header
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey, SharedOpener, uploaders
from silo_crypto.verification import field_count, open_sum, protect

NAMES = tuple(f"silo-{i}" for i in range(64))


@functools.cache
def key_for(bits, silos):
    parameters = shared_for(value_bits=bits, silos=silos)
    return SharedKey.generate(parameters, Header(bytes(32), "run", 0, 0, 0, NAMES[:silos]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bits=st.sampled_from([2, 8, 11, 14, 16, 24]), silos=st.sampled_from([2, 3, 5, 16, 17, 64]))
def test_opened_is_encoded(data, bits, silos):
    key = key_for(bits, silos)
    present = data.draw(st.sets(st.sampled_from(NAMES[:silos]), min_size=2, max_size=min(silos, 6)))
    d = data.draw(st.one_of(st.integers(1, 40), st.sampled_from([8192 - 1, 12288, 12289])))
    high = data.draw(st.sampled_from([1, (1 << bits) - 1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    header = Header(bytes(32), "run", 0, data.draw(st.integers(1, 9)), 0, NAMES[:silos])
    length = field_count(d, silos, bits)
    adder = SharedAdder(key.parameters, header, length=length, minimum=2)
    due = np.zeros(d, dtype=np.int64)
    for name in present:
        values = rng.integers(0, high + 1, d, dtype=np.uint32)
        due += values
        adder.add(name, SharedEncryptor(key).encrypt(header, protect(key.group, header, name, values, bits)))
    aggregate = adder.aggregate()
    claimed = uploaders(header, aggregate)
    assert set(claimed) == present
    sums = open_sum(SharedOpener(key), key.group, header, claimed, aggregate, values=d, value_bits=bits, minimum=2)
    assert (sums == due).all()


HEADER = Header(bytes(32), "run", 0, 1, 0, NAMES[:3])


@functools.cache
def honest():
    key = key_for(16, 3)
    fields = np.arange(20, dtype=np.uint32)
    return [SharedEncryptor(key).encrypt(HEADER, fields) for _ in range(2)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_upload_is_refused_or_is_some_ciphertext_but_never_a_crash(data):
    """Past the signature: a member's own malformed upload. The adder refuses it whole or can still finish."""
    first, second = honest()
    body = bytearray(second)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + 1] = data.draw(st.sampled_from([b"", b"\xff", b"\0", b"ab"]))
        if not body:
            break
    adder = SharedAdder(key_for(16, 3).parameters, HEADER, length=20, minimum=2)
    adder.add(NAMES[0], first)
    try:
        adder.add(NAMES[1], bytes(body))
    except CryptoError:
        assert adder.senders == (NAMES[0],)
        adder.add(NAMES[1], second)
    opened = SharedOpener(key_for(16, 3)).open(HEADER, adder.aggregate(), 20)
    assert opened.shape == (20,)

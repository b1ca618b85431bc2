"""A client's memory: encoding, encrypting, opening and decoding stay within a few times the update."""

import tracemalloc

import numpy as np
import pytest
from silo_crypto import labels, wire
from silo_crypto.codec import FixedPoint
from silo_crypto.keys import Identity
from silo_crypto.parameters import shared_for
from silo_crypto.protocol import Header
from silo_crypto.randomness import Csprng
from silo_crypto.shared import SharedAdder, SharedEncryptor, SharedKey, SharedOpener, uploaders
from silo_crypto.verification import field_count, open_sum, protect

D = 2_000_000
NAMES = ("alice", "bob")
HEADER = Header(bytes(32), "run", 0, 1, 0, NAMES)
GRID = FixedPoint(1.0, 16)


def make_upload(key, signer, update):
    """As a silo does it: every step's input is dropped when the next is made."""
    fields = protect(key.group, HEADER, signer.name, GRID.encode(update, Csprng()), 16)
    payload = SharedEncryptor(key).encrypt(HEADER, fields)
    del fields
    return wire.pack(labels.UPLOAD, key.parameters.digest(), HEADER, signer, payload)


def peak_over(work):
    """Return (result, peak of Python's and NumPy's memory above what was there before, in bytes)."""
    tracemalloc.start()
    try:
        result = work()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(60)
def test_a_client_needs_at_most_six_times_the_update():
    """SEAL's own objects are not counted here; they are a few ciphertexts. The benchmark counts the whole process."""
    key = SharedKey.generate(shared_for(value_bits=16, silos=2), HEADER)
    update = np.random.default_rng(0).standard_normal(D, dtype=np.float32)
    envelope, peak = peak_over(lambda: make_upload(key, Identity.generate("alice"), update))
    assert len(envelope) < update.nbytes
    assert update.nbytes + peak <= 6 * update.nbytes
    adder = SharedAdder(key.parameters, HEADER, length=field_count(D, 2, 16), minimum=2)
    for name in NAMES:
        fields = protect(key.group, HEADER, name, GRID.encode(update, Csprng()), 16)
        adder.add(name, SharedEncryptor(key).encrypt(HEADER, fields))
    aggregate = adder.aggregate()

    def finish():
        sums = open_sum(
            SharedOpener(key),
            key.group,
            HEADER,
            uploaders(HEADER, aggregate),
            aggregate,
            values=D,
            value_bits=16,
            minimum=2,
        )
        return GRID.decode_mean(sums, 2)

    mean, peak = peak_over(finish)
    assert np.abs(mean - np.clip(update, -1, 1)).max() <= GRID.step * 1.01
    assert len(aggregate) + peak <= 6 * update.nbytes

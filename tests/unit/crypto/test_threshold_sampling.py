"""Public and masking streams against plain references; secret samplers against their distributions."""

import hashlib
import hmac
import inspect
import os
from math import comb

import numpy as np
import pytest
from Crypto.Cipher import AES
from silo_crypto import labels
from silo_crypto.randomness import Csprng
from silo_crypto.threshold import cipher, keys, sampling
from silo_crypto.threshold.encoding import Layout
from silo_crypto.threshold.parameters import named

from tests.unit.crypto.threshold_support import crt, unsafe

SMALL = unsafe(named("threshold-8"))
RING = SMALL.ring


def reference_uniform(stream: bytes, primes, count):
    """The rejection rule, word by word: rejected places are drawn again together, in order."""
    words = [int.from_bytes(stream[i : i + 4], "little") & (2**30 - 1) for i in range(0, len(stream), 4)]
    values, used = words[: len(primes) * count], len(primes) * count
    again = [i for i, v in enumerate(values) if v >= primes[i // count]]
    while again:
        for i in again:
            values[i] = words[used]
            used += 1
        again = [i for i in again if values[i] >= primes[i // count]]
    return [values[i * count : (i + 1) * count] for i in range(len(primes))]


def frame(*parts):
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def test_public_polynomials_are_shake128_of_label_seed_and_index():
    parameters = named("threshold-8")
    layout = Layout(parameters, 10)
    a = cipher.public_polynomial(layout, labels.PUBLIC_A, b"seed", 7)
    stream = hashlib.shake_128(frame(b"silo/v1/a", b"seed", (7).to_bytes(4, "little"))).digest(5 * 13 * 16384)
    assert a.tolist() == reference_uniform(stream, parameters.primes, 16384)
    rejected = sum(
        int.from_bytes(stream[4 * i : 4 * i + 4], "little") & (2**30 - 1) >= parameters.primes[i // 16384]
        for i in range(13 * 16384)
    )
    assert rejected > 0  # the rule was exercised


def test_masks_are_aes_256_ctr_under_a_derived_key():
    key = sampling.derive(bytes(32), labels.MASK, b"transcript", b"S")
    assert key == hmac.new(bytes(32), frame(b"silo/v1/mask", b"transcript", b"S"), hashlib.sha256).digest()
    stream = AES.new(key, AES.MODE_CTR, nonce=(3).to_bytes(8, "little")).encrypt(bytes(13 * 64 * 8))
    got = sampling.uniform(sampling.keyed_stream(key, 3), RING, 64)
    assert got.tolist() == reference_uniform(stream, RING.primes, 64)
    assert not np.array_equal(got, sampling.uniform(sampling.keyed_stream(key, 4), RING, 64))


def test_framing_is_injective():
    assert len({frame(b"ab", b"c"), frame(b"a", b"bc"), frame(b"abc"), frame(b"abc", b"")}) == 4


def chi_square(counts, expected):
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))


def test_ternary_is_uniform():
    draws = sampling.ternary(Csprng(), 300_000)
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert chi_square(counts, [100_000] * 3) < 34  # 2 degrees of freedom: exceeded once in 2^24


def test_errors_are_centred_binomial():
    draws = sampling.centred_binomial(Csprng(), 1 << 19)
    kept = range(-13, 14)
    expected = [comb(42, 21 + k) / 2**42 * len(draws) for k in kept]
    counts = [int((draws == k).sum()) for k in kept]
    counts.append(len(draws) - sum(counts))
    expected.append(len(draws) - sum(expected))
    assert chi_square(counts, expected) < 80  # 27 degrees of freedom: exceeded once in 2^20
    assert np.abs(draws).max() <= 21
    assert abs(draws.var() - 10.5) < 0.2


@pytest.mark.parametrize("bits", [4, 28, 75, 81, 84, 111])
def test_floods_are_uniform_in_their_interval(bits):
    count = 4096
    values = np.array(crt(SMALL, sampling.flood(Csprng(), RING, count, bits)), dtype=object)
    assert all(-(1 << bits) <= v < 1 << bits for v in values)
    bins = [int((int(v) + (1 << bits)) * 16 >> (bits + 1)) for v in values]
    assert chi_square(np.bincount(bins, minlength=16), [count / 16] * 16) < 65  # 15 degrees: once in 2^24
    low = [int(v) & 15 for v in values]
    assert chi_square(np.bincount(low, minlength=16), [count / 16] * 16) < 65


def test_uniform_residues_are_uniform():
    words = sampling.uniform(Csprng().bytes, RING, 1 << 14)
    for row, prime in zip(words, RING.primes, strict=True):
        assert int(row.max()) < prime
        bins = row.astype(np.uint64) * np.uint64(16) // np.uint64(prime)
        assert chi_square(np.bincount(bins.astype(int), minlength=16), [1024] * 16) < 65


def test_every_secret_sampler_takes_the_systems_generator(monkeypatch):
    """A seed for NumPy or random changes nothing, and no secret code path mentions either."""
    for module in (cipher, keys, sampling):
        source = inspect.getsource(module)
        assert "np.random" not in source
        assert "import random" not in source
    drawn = []
    real = os.urandom
    monkeypatch.setattr("silo_crypto.randomness.os.urandom", lambda n: drawn.append(n) or real(n))
    np.random.seed(1)
    first = sampling.ternary(Csprng(), 64)
    np.random.seed(1)
    assert not np.array_equal(first, sampling.ternary(Csprng(), 64))
    assert drawn == [32, 32]

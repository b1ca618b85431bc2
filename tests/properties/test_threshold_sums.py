"""Sum of what was opened = sum of what was encoded, for any sizes, silos, values, U and S."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from silo_crypto import labels
from silo_crypto.errors import CryptoError, VerificationError
from silo_crypto.ring import Ring
from silo_crypto.ring_packing import pack, unpack
from silo_crypto.threshold import cipher
from silo_crypto.threshold.adder import Accumulator
from silo_crypto.threshold.encoding import Layout, codec
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.keys import EpochKeys, deal
from silo_crypto.threshold.parameters import NAMED, PRIMES, for_silos

from tests.unit.crypto.threshold_support import unsafe


@functools.cache
def keys(silos: int, threshold: int) -> dict[str, EpochKeys]:
    """Return each silo's keys of one dealing, without boxes: these properties are about the arithmetic."""
    names = tuple(f"s{i}" for i in range(silos))
    epoch = Epoch(bytes(32), 0, names, threshold, 1, unsafe(for_silos(silos), degree=16))
    dealt = {name: deal(epoch) for name in names}
    return {
        name: EpochKeys(
            epoch,
            name,
            dealt[name][0],
            [dealt[dealer][1][name] for dealer in names],
            b"".join(dealt[name][1][member].seed for member in names),
        )
        for name in names
    }


@st.composite
def attempts(draw):
    silos = draw(st.one_of(st.integers(3, 9), st.sampled_from([16, 17])))
    threshold = draw(st.integers(2, silos - 1))
    names = [f"s{i}" for i in range(silos)]
    uploaders = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    sharers = draw(st.lists(st.sampled_from(names), min_size=threshold, unique=True))
    length = draw(st.integers(1, 700))
    fill = draw(st.sampled_from(["random", "largest", "zero", "one large"]))
    return silos, threshold, sorted(uploaders, key=names.index), sorted(sharers, key=names.index), length, fill


def vector(fill: str, length: int, seed: int) -> np.ndarray:
    if fill == "random":
        return np.random.default_rng(seed).integers(0, 1 << 16, length).astype(np.uint32)
    values = np.full(length, 0xFFFF if fill == "largest" else 0, dtype=np.uint32)
    values[seed % length] = 0 if fill == "largest" else 0xFFFF * (fill == "one large")
    return values


def play(attempt, drop=None):
    silos, threshold, uploaders, sharers, length, fill = attempt
    held = keys(silos, threshold)
    layout = Layout(held["s0"].epoch.parameters, length)
    values = {name: vector(fill, length, i) for i, name in enumerate(uploaders)}
    summed = Accumulator(layout)
    for name in uploaders:
        if name != drop:
            summed.add(cipher.encrypt(held[name], layout, labels.PUBLIC_A, b"seed", values[name]))
    for name in sharers:
        if name != drop:
            summed.subtract(
                cipher.share(held[name], layout, labels.PUBLIC_A, b"seed", b"transcript", uploaders, sharers)
            )
    opened = cipher.open_sum(held["s1"], layout, b"transcript", uploaders, sharers, summed.payload(), length)
    return opened, sum(v.astype(np.int64) for v in values.values())


@settings(max_examples=60, deadline=None)
@given(attempts())
def test_any_sum_opens_exactly(attempt):
    opened, expected = play(attempt)
    assert np.array_equal(opened, expected)


@settings(max_examples=25, deadline=None)
@given(attempts(), st.data())
def test_one_part_less_never_opens(attempt, data):
    drop = data.draw(st.sampled_from([*attempt[2], *attempt[3]]))
    with pytest.raises(VerificationError):
        play(attempt, drop)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(NAMED)), st.data())
def test_decoding_undoes_encoding_under_any_noise_within_the_bound(name, data):
    parameters = unsafe(NAMED[name], degree=16)
    ring, coder, silos = parameters.ring, codec(parameters), parameters.max_silos
    bound = parameters.max_sharers(silos) * parameters.flood + 21 * silos
    noise = [data.draw(st.integers(-bound, bound)) for _ in range(16)]
    values = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=parameters.fields * 16))
    x = coder.encode(np.array(values, dtype=np.uint32), 16)
    x = ring.reduce(x + np.array([[v % p for v in noise] for p in ring.primes], dtype=np.uint64))
    out = np.empty(parameters.fields * 16, dtype=np.int64)
    coder.decode(x, out)
    assert out[: len(values)].tolist() == values
    assert not out[len(values) :].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 9), st.data())
def test_the_ring_is_a_ring(log_degree, data):
    ring = Ring(1 << log_degree, PRIMES[:2])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, y, z = (np.stack([rng.integers(0, p, ring.degree, dtype=np.uint64) for p in ring.primes]) for _ in range(3))

    def times(u, v):
        return ring.inverse(ring.multiply(ring.forward(u), ring.forward(v)))

    assert np.array_equal(times(x, y), times(y, x))
    assert np.array_equal(times(times(x, y), z), times(x, times(y, z)))
    assert np.array_equal(times(ring.reduce(x + y), z), ring.reduce(times(x, z) + times(y, z)))


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=120, max_size=120))
def test_every_accepted_packing_is_canonical(data):
    ring = Ring(16, PRIMES[:2])
    try:
        residues = unpack(data, ring, 16)
    except CryptoError:
        return
    assert pack(residues) == data

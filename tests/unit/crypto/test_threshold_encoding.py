"""Encoding and decoding against fractions of big integers, up to the very edge of the bound."""

import numpy as np
import pytest
from silo_crypto.errors import EncodingError
from silo_crypto.threshold.encoding import Layout, codec, tolerance
from silo_crypto.threshold.parameters import NAMED

from tests.unit.crypto.threshold_support import crt, reference_decode, unsafe

SETS = list(NAMED.values())


def residues(parameters, integers):
    return np.array([[v % p for v in integers] for p in parameters.primes], dtype=np.uint64)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_the_largest_sums_survive_the_largest_noise(parameters):
    coder, ring = codec(parameters), parameters.ring
    silos = parameters.max_silos
    most = parameters.max_sharers(silos)
    rng = np.random.default_rng(1)
    count = 32
    values = [rng.integers(0, 1 << 16, parameters.fields * count).astype(np.uint32) for _ in range(silos)]
    values[0][:] = 0xFFFF
    for vector in values:  # one coefficient of all ones, one of zeros
        vector.reshape(parameters.fields, count)[:, 0] = 0xFFFF
        vector.reshape(parameters.fields, count)[:, 1] = 0
    total = sum(coder.encode(vector, count) for vector in values)
    noise = [sign * (most * parameters.flood + 21 * silos) for sign in (1, -1)] * (count // 2)
    x = ring.reduce(total + residues(parameters, noise))
    out = np.empty(parameters.fields * count, dtype=np.int64)
    distance = coder.decode(x, out)
    assert np.array_equal(out, sum(vector.astype(np.int64) for vector in values))
    assert distance <= tolerance(parameters, silos, most)
    for i, value in enumerate(crt(parameters, x)):
        assert reference_decode(parameters, value) == out.reshape(parameters.fields, count)[:, i].tolist()


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_decoding_rounds_at_the_half(parameters):
    """Just inside half a step the value stands, just outside it moves by one; q - 1 is next to 0."""
    coder, q, t = codec(parameters), parameters.modulus, 1 << parameters.plaintext_bits
    half, slack = q // (2 * t), q // (t << 14)
    integers = [half - slack, half + slack, -half + slack, -half - slack, 5 * q // t, q - 1, 0, q // 2]
    x = residues(parameters, integers * 2)
    out = np.empty(parameters.fields * 16, dtype=np.int64)
    distance = coder.decode(x, out)
    columns = out.reshape(parameters.fields, 16).T.tolist()
    for i, value in enumerate(crt(parameters, x)):
        assert reference_decode(parameters, value) == columns[i]
    assert columns[0] == columns[2] == [0] * parameters.fields
    assert columns[1] == [1] + [0] * (parameters.fields - 1)
    assert 0.4999 < distance <= 0.5


def test_distance_is_that_of_the_worst_coefficient():
    parameters = NAMED["threshold-8"]
    q, t = parameters.modulus, 1 << parameters.plaintext_bits
    for share in (0.0, 0.125, 0.3):
        x = residues(parameters, [0] * 15 + [-int(share * 2**20) * q // (t << 20)])
        assert codec(parameters).decode(x, np.empty(256, dtype=np.int64)) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 255, 256, 257, 1023, 1024, 1025, 5000])
def test_layouts_cover_every_value_once(length):
    parameters = unsafe(NAMED["threshold-8"])
    layout = Layout(parameters, length)
    spans = [layout.values(i) for i in range(layout.polynomials)]
    assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert sum(layout.count(i) for i in range(layout.polynomials)) == layout.coefficients
    assert layout.bytes(layout.polynomials - 1).stop == layout.payload_bytes == layout.coefficients * 390 // 8
    assert all(span.stop - span.start <= 16 * layout.count(i) for i, span in enumerate(spans))


def test_uploads_of_a_million_values_meet_the_target():
    for name, most in (("threshold-8", 3.06e6), ("threshold-16", 3.26e6), ("threshold-64", 3.5e6)):
        assert Layout(NAMED[name], 10**6).payload_bytes <= most < 4e6


def test_values_that_do_not_fit_are_refused():
    parameters = NAMED["threshold-8"]
    with pytest.raises(EncodingError, match="below 2"):
        codec(parameters).encode(np.array([1 << 16], dtype=np.uint32), 16)
    with pytest.raises(EncodingError, match="nothing"):
        Layout(parameters, 0)

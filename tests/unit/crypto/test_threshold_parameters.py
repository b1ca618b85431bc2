"""The named sets: their bounds computed again by hand, and nothing else accepted."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from silo_crypto.errors import ParameterError
from silo_crypto.threshold.epoch import Epoch
from silo_crypto.threshold.parameters import (
    NAMED,
    PRIMES,
    ThresholdParameters,
    default_threshold,
    for_silos,
    named,
)

from tests.unit.crypto.threshold_support import IDENTITIES, make_epoch, unsafe

Q = math.prod(PRIMES)


@pytest.mark.parametrize("silos", range(3, 129))
def test_decoding_cannot_fail_for_any_number_of_silos_at_the_default_threshold(silos):
    parameters, threshold = for_silos(silos), default_threshold(silos)
    parameters.check(silos, threshold)
    n, w, fields = silos, 1 << parameters.flood_bits, parameters.fields
    worst = threshold * w + 21 * n + fields * n * 2**15
    assert worst * 2**14 * 2 * 2 ** (parameters.fields * parameters.field_bits) < Q * (2**14 - 2)
    assert n * (2**16 - 1) < 2**parameters.field_bits


def test_log_q_is_within_the_published_limits():
    assert 389.9 < math.log2(Q) < 390 < 411 < 430
    assert all(parameters.security_bits == 128 and "2024/463" in parameters.source for parameters in NAMED.values())


@pytest.mark.parametrize(
    ("name", "fields", "bits", "flood", "budget", "bytes_per_million"),
    [
        ("threshold-8", 16, 19, 81, 34.6, 3.05e6),
        ("threshold-16", 15, 20, 84, 36.6, 3.25e6),
        ("threshold-64", 14, 22, 75, 25.6, 3.48e6),  # PROTOCOL: 2^76 and 26.6, which T = 32 cannot decode
        ("threshold-128", 13, 23, 83, 32.6, 3.75e6),  # PROTOCOL: 2^85 and 34.6, which T = 64 cannot decode
    ],
)
def test_the_table(name, fields, bits, flood, budget, bytes_per_million):
    parameters = named(name)
    assert (parameters.fields, parameters.field_bits, parameters.flood) == (fields, bits, 1 << flood)
    silos = parameters.max_silos
    assert parameters.distance(silos) == Fraction(21 * silos, 2 * 2**flood)
    assert abs(math.log2(parameters.coefficients_per_epoch(silos)) - budget) < 0.05
    assert parameters.coefficients_per_epoch(silos) * parameters.distance(silos) <= Fraction(1, 2**40)
    assert 10**6 / fields * 13 * 30 / 8 == pytest.approx(bytes_per_million, rel=0.01)


@pytest.mark.parametrize(("name", "flood_bits", "most"), [("threshold-64", 76, 31), ("threshold-128", 85, 31)])
def test_the_protocols_floods_for_the_larger_sets_fail_the_protocols_own_bound(name, flood_bits, most):
    parameters = unsafe(named(name))
    object.__setattr__(parameters, "flood_bits", flood_bits)
    silos = parameters.max_silos
    assert parameters.max_sharers(silos) == most < default_threshold(silos)
    with pytest.raises(ParameterError, match="T <= 31"):
        parameters.check(silos, default_threshold(silos))


def test_one_sharer_more_than_allowed_could_fail():
    for parameters in NAMED.values():
        silos = parameters.max_silos
        most = parameters.max_sharers(silos)
        assert parameters.noise(silos, most) < parameters.limit()
        assert most == silos or parameters.noise(silos, most + 1) >= parameters.limit()


def test_a_silo_counts_for_the_openings_it_cannot_see():
    parameters = named("threshold-8")
    assert parameters.coefficients_per_silo(8, 4) == parameters.coefficients_per_epoch(8) // 5


def test_nothing_but_a_named_set_can_be_made():
    good = named("threshold-8")
    assert replace(good) == good
    for change in (
        {"name": "threshold-9"},
        {"name": "Unsafe-threshold-8"},
        {"flood_bits": 40},
        {"fields": 15},
        {"max_silos": 9},
        {"degree": 64},
        {"primes": PRIMES[:12]},
        {"value_bits": 17},
        {"security_bits": 256},
        {"source": "trust me"},
    ):
        with pytest.raises(ParameterError, match="no such set"):
            replace(good, **change)
    for name in ("", "threshold-7", "Unsafe-threshold-8", "bfv-4096-3x20"):
        with pytest.raises(ParameterError, match="no such set"):
            named(name)
    with pytest.raises(ParameterError):
        ThresholdParameters("mine", 16, 19, 81, 8)
    with pytest.raises(ParameterError, match="129"):
        for_silos(129)


def test_long_runs_of_many_silos_get_a_set_with_a_larger_flood():
    assert for_silos(64).name == for_silos(64, values=10**6, openings=20).name == "threshold-64"
    assert for_silos(64, values=10**6, openings=1000).name == "threshold-128"
    assert for_silos(8, values=10**8, openings=100).name == "threshold-8"
    with pytest.raises(ParameterError, match="several key epochs"):
        for_silos(64, values=10**8, openings=1000)


def test_a_tests_set_is_in_no_registry():
    assert unsafe(named("threshold-8")).name not in NAMED


def test_digests_name_every_field():
    digests = {parameters.digest() for parameters in NAMED.values()}
    assert len(digests) == len(NAMED)
    assert unsafe(named("threshold-8")).digest() not in digests


@pytest.mark.parametrize(("silos", "threshold", "quorum"), [(3, 2, 3), (5, 3, 4), (8, 4, 6), (8, 5, 7), (16, 8, 12)])
def test_quorums(silos, threshold, quorum):
    epoch = make_epoch(silos, threshold)
    assert epoch.quorum == quorum
    assert 2 * quorum - silos >= threshold  # two quorums share an honest silo


@pytest.mark.parametrize(("silos", "threshold"), [(2, 2), (3, 1), (3, 3), (8, 8), (8, 0)])
def test_thresholds_out_of_range_are_refused(silos, threshold):
    with pytest.raises(ParameterError):
        make_epoch(silos, threshold)


def test_an_epoch_takes_no_more_silos_than_its_set():
    with pytest.raises(ParameterError, match="3 to 8 silos"):
        Epoch(bytes(32), 0, tuple(IDENTITIES)[:9], 4, 2, named("threshold-8"))
    for bad in (
        {"manifest": b"short"},
        {"number": -1},
        {"minimum": 0},
        {"minimum": 9},
        {"members": ("s0",) * 8},
    ):
        with pytest.raises(ParameterError):
            replace(make_epoch(8, 4), **bad)
    assert make_epoch(8, 4).least == 5
    assert make_epoch(8, 4, minimum=7).least == 7

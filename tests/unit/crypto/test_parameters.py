"""The bounds of the named sets, recomputed here as integers and fractions."""

import math
from fractions import Fraction

import pytest
from silo_crypto.errors import ParameterError
from silo_crypto.parameters import (
    DEGREE,
    KEY_PRIME,
    PLAIN_MODULUS,
    PRIMES,
    SECURITY_BITS,
    SHARED_SETS,
    noise_limit,
    shared,
    shared_for,
)

PRACTICAL = [(8, 16), (11, 16), (12, 64), (14, 64), (16, 2), (16, 8), (16, 16), (16, 17), (16, 64), (24, 64)]


def is_prime(n):
    """Miller-Rabin with the bases that decide every n below 3.3e24."""
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41):
        x = pow(a, d, n)
        if a % n and x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(r - 1)):
            return False
    return True


def test_the_moduli_are_what_they_claim():
    for prime in (*PRIMES, KEY_PRIME):
        assert is_prime(prime)
        assert prime % (2 * DEGREE) == 1
    assert PRIMES[0].bit_length() == 40
    assert PRIMES[1].bit_length() == 32
    assert PLAIN_MODULUS == 2**60 - 16383
    assert math.gcd(PLAIN_MODULUS, PRIMES[0] * PRIMES[1]) == 1


def test_the_modulus_is_within_the_published_tables_for_128_bits():
    """Uniform ternary secret, N = 4096: 106 (IACR 2024/463), 109 classical and 101 quantum (the 2018 standard)."""
    total = math.log2(math.prod((*PRIMES, KEY_PRIME)))
    assert SECURITY_BITS == 128
    assert total < 91.1 < 101 < 106


@pytest.mark.parametrize(("bits", "silos"), PRACTICAL)
def test_fields_never_carry_and_decryption_never_fails(bits, silos):
    """Failure probability zero: every bound below is worst case, and the error is a bounded binomial."""
    parameters = shared_for(value_bits=bits, silos=silos)
    fields, width = SHARED_SETS[parameters.name]
    largest = silos * (2**bits - 1)
    assert largest < 2**width
    assert sum(largest * 2 ** (j * width) for j in range(fields)) < PLAIN_MODULUS
    q = PRIMES[0] * PRIMES[1]
    k_over_gamma = Fraction(2, 2**60)
    limit = Fraction(q, PLAIN_MODULUS) * (Fraction(1, 2) - k_over_gamma)
    assert noise_limit() == limit
    assert Fraction(43, 2) * silos < limit
    # The margin that remains even at 64 silos.
    assert limit / (Fraction(43, 2) * silos) > Fraction(14, 10)


def test_the_smallest_upload_that_fits_is_chosen():
    chosen = {(bits, silos): shared_for(value_bits=bits, silos=silos).fields for bits, silos in PRACTICAL}
    assert chosen == {
        (8, 16): 5,
        (11, 16): 4,
        (12, 64): 3,
        (14, 64): 3,
        (16, 2): 3,
        (16, 8): 3,
        (16, 16): 3,
        (16, 17): 2,
        (16, 64): 2,
        (24, 64): 2,
    }


@pytest.mark.parametrize(
    ("name", "bits", "silos", "says"),
    [
        ("bfv-4096", 16, 8, "no parameter set is called"),
        ("", 16, 8, "no parameter set is called"),
        ("bfv-4096-3x20", 16, 17, "overflow fields of 20 bits"),
        ("bfv-4096-3x20", 20, 2, "overflow fields of 20 bits"),
        ("bfv-4096-2x30", 24, 65, "overflow fields of 30 bits"),
        ("bfv-4096-2x30", 16, 96, "noise of 96 uploads"),
        ("bfv-4096-3x20", 1, 8, "starts at 2"),
        ("bfv-4096-3x20", 16, 0, "starts at"),
    ],
)
def test_unknown_or_unsafe_sets_raise(name, bits, silos, says):
    with pytest.raises(ParameterError, match=says):
        shared(name, value_bits=bits, max_additions=silos)


def test_95_silos_are_the_last_that_the_noise_allows():
    assert shared("bfv-4096-2x30", value_bits=16, max_additions=95).noise_bound < noise_limit()
    with pytest.raises(ParameterError):
        shared_for(value_bits=16, silos=96)
    with pytest.raises(ParameterError, match="no parameter set holds"):
        shared_for(value_bits=24, silos=65)


def test_digests_tell_parameters_apart():
    made = [
        shared("bfv-4096-3x20", value_bits=16, max_additions=16),
        shared("bfv-4096-3x20", value_bits=16, max_additions=15),
        shared("bfv-4096-3x20", value_bits=15, max_additions=16),
        shared("bfv-4096-2x30", value_bits=16, max_additions=16),
    ]
    assert len({parameters.digest() for parameters in made}) == 4
    assert made[0].digest() == shared("bfv-4096-3x20", value_bits=16, max_additions=16).digest()

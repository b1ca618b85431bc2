"""The ring against big integers and against SEAL, and the packing of its residues."""

import os

import numpy as np
import pytest
import zstandard
from silo_crypto.errors import ParameterError, WireError
from silo_crypto.ring import Ring, is_prime, ntt_primes, primitive_root, ring
from silo_crypto.ring_packing import pack, packed_bytes, unpack
from silo_crypto.threshold.parameters import DEGREE, PRIMES

from tests.unit.crypto.threshold_support import negacyclic


def random_element(of: Ring, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, p, of.degree, dtype=np.uint64) for p in of.primes])


def product(of: Ring, x, y):
    return of.inverse(of.multiply(of.forward(x), of.forward(y)))


@pytest.mark.parametrize("degree", [16, 32, 64, 128, 256])
def test_products_are_the_schoolbooks(degree):
    of = Ring(degree, ntt_primes(degree, 2))
    x, y = random_element(of, 1), random_element(of, 2)
    got = product(of, x, y)
    for row, p in enumerate(of.primes):
        expected = [0] * degree
        for i, a in enumerate(x[row].tolist()):
            for j, b in enumerate(y[row].tolist()):
                sign = -1 if i + j >= degree else 1
                expected[(i + j) % degree] += sign * a * b
        assert [v % p for v in expected] == got[row].tolist()


@pytest.mark.parametrize("extreme", [False, True])
def test_products_at_full_degree_are_those_of_big_integers(extreme):
    of = ring(DEGREE, PRIMES)
    x, y = random_element(of, 3), random_element(of, 4)
    if extreme:  # the largest values there are: where lazy reduction would overflow first
        x[:] = y[:] = of.column - np.uint64(1)
    got = product(of, x, y)
    for row in (0, 12):
        assert negacyclic(x[row].tolist(), y[row].tolist(), PRIMES[row]) == got[row].tolist()


@pytest.mark.parametrize("degree", [16, 512, DEGREE])
def test_slots_are_evaluations_at_odd_powers_of_the_root(degree):
    of = Ring(degree, ntt_primes(DEGREE, 1))
    prime = of.primes[0]
    x = random_element(of, 5)
    slots, psi, bits = of.forward(x), primitive_root(prime, degree), degree.bit_length() - 1
    assert pow(psi, degree, prime) == prime - 1
    for slot in (0, 1, degree // 2, degree - 1):
        exponent = 2 * int(format(slot, f"0{bits}b")[::-1], 2) + 1
        point, value = pow(psi, exponent, prime), 0
        for coefficient in reversed(x[0].tolist()):
            value = (value * point + coefficient) % prime
        assert int(slots[0, slot]) == value
    assert np.array_equal(of.inverse(slots), x)


def test_addition_and_lifting_keep_the_integers():
    of = Ring(16, ntt_primes(16, 3))
    small = np.array([-21, -1, 0, 1, 21, -(1 << 28)] + [0] * 10, dtype=np.int64)
    assert of.lift(small).tolist() == [[int(v) % p for v in small] for p in of.primes]
    assert of.constant(-(1 << 81)).tolist() == [[-(1 << 81) % p] for p in of.primes]


def test_the_constants_are_the_largest_primes_of_their_kind():
    assert ntt_primes(DEGREE, 13) == PRIMES
    assert [n for n in range(60) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]
    assert not is_prime(3215031751)  # a strong pseudoprime to the bases 2, 3, 5 and 7


@pytest.mark.parametrize(
    ("degree", "primes"),
    [(24, PRIMES), (32768, PRIMES), (8, PRIMES), (16, ()), (16, (97,)), (16, PRIMES[:1] * 2), (16, (1 << 29 | 1,))],
)
def test_other_rings_are_refused(degree, primes):
    with pytest.raises(ParameterError):
        Ring(degree, primes)


def test_seal_multiplies_to_the_same_residues():
    """SEAL's multiply_plain on our primes: both polynomials of a ciphertext times a plaintext."""
    from tenseal import sealapi as seal

    plain_modulus = 786433
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in PRIMES])
    parameters.set_plain_modulus(plain_modulus)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set()
    encryptor = seal.Encryptor(context, seal.KeyGenerator(context).secret_key())
    encoder, evaluator = seal.BatchEncoder(context), seal.Evaluator(context)
    rng = np.random.default_rng(7)
    plain, factor, held, after = seal.Plaintext(), seal.Plaintext(), seal.Ciphertext(), seal.Ciphertext()
    encoder.encode(rng.integers(0, plain_modulus, DEGREE).tolist(), plain)
    encoder.encode(rng.integers(0, plain_modulus, DEGREE).tolist(), factor)
    levels = len(PRIMES) - 1  # SEAL keeps the last prime for key switching
    files = [os.memfd_create("seal") for _ in range(3)]
    try:
        paths = [f"/proc/self/fd/{file}" for file in files]
        encryptor.encrypt_symmetric(plain).save(paths[0])
        held.load(context, paths[0])  # loading expands the seed
        evaluator.multiply_plain(held, factor, after)
        held.save(paths[1])
        after.save(paths[2])
        before, product = (residues_in_file(file, 2, levels) for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    of = Ring(DEGREE, PRIMES[:levels])
    coefficients = np.array([factor.data(i) for i in range(factor.coeff_count())], dtype=np.int64)
    centred = np.where(coefficients > plain_modulus // 2, coefficients - plain_modulus, coefficients)
    slots = of.forward(of.lift(np.pad(centred, (0, DEGREE - len(centred)))))
    for x, y in zip(before, product, strict=True):
        assert np.array_equal(of.inverse(of.multiply(of.forward(x), slots)), y)


def residues_in_file(descriptor: int, polynomials: int, levels: int) -> np.ndarray:
    """Return what a saved SEAL ciphertext ends with: its residues, shape (polynomials, levels, N)."""
    data = os.pread(descriptor, 1 << 24, 0)
    assert data[5] == 2  # zstd
    body = zstandard.ZstdDecompressor().decompressobj().decompress(data[16:])
    tail = body[-8 * polynomials * levels * DEGREE :]
    return np.frombuffer(tail, dtype="<u8").reshape(polynomials, levels, DEGREE)


@pytest.mark.parametrize("count", [16, 64, 4096])
def test_packing_is_exact_and_dense(count):
    of = Ring(16, ntt_primes(16, 13))
    rng = np.random.default_rng(count)
    residues = np.stack([rng.integers(0, p, count, dtype=np.uint64) for p in of.primes])
    residues[:, 0], residues[:, -1] = 0, of.column[:, 0] - np.uint64(1)
    data = pack(residues)
    assert len(data) == packed_bytes(13, count) == 13 * count * 30 // 8
    assert np.array_equal(unpack(data, of, count), residues)
    assert np.array_equal(unpack(memoryview(data), of, count), residues)
    # Independently: word k of a column holds bits of runs k and k + 1, little-endian.
    run = count // 16
    column = sum(int(residues[3, k * run]) << (30 * k) for k in range(16))
    words = np.frombuffer(data, dtype="<u4").reshape(13, 15, run)[3, :, 0]
    assert sum(int(word) << (32 * k) for k, word in enumerate(words)) == column


def test_a_residue_not_below_its_prime_is_refused():
    of = Ring(16, ntt_primes(16, 2))
    for bad in (of.primes[1], (1 << 30) - 1):
        residues = np.zeros((2, 16), dtype=np.uint64)
        residues[1, 9] = bad
        with pytest.raises(WireError, match="not below its prime"):
            unpack(pack(residues), of, 16)
    for size in (0, 119, 121):
        with pytest.raises(WireError, match="bytes of residues"):
            unpack(bytes(size), of, 16)

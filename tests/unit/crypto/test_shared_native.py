"""The fence around SEAL: its stream layout, and the noise it really adds.

The reference is Python integers: a number-theoretic transform of this file's own, and the Chinese remainder theorem.
"""

import ast
import os
from pathlib import Path

import numpy as np
import pytest
import silo_crypto
from silo_crypto.errors import CryptoError, WireError
from silo_crypto.parameters import DEGREE, FRESH_NOISE, KEY_PRIME, PLAIN_MODULUS, PRIMES, noise_limit
from silo_crypto.shared import native, residues

Q = PRIMES[0] * PRIMES[1]


@pytest.fixture(scope="module")
def seal():
    return native.seal()


@pytest.fixture(scope="module")
def secret(seal):
    return seal.new_secret()


def reference_roots(p):
    """Powers of the smallest primitive 2N-th root of unity in bit-reversed order, as SEAL's transform uses them."""
    generator = next(g for g in range(2, p) if pow(g, (p - 1) // 2, p) != 1)
    some = pow(generator, (p - 1) // (2 * DEGREE), p)
    root = min(pow(some, odd, p) for odd in range(1, 2 * DEGREE, 2))
    bits = DEGREE.bit_length() - 1
    return [pow(root, int(format(i, f"0{bits}b")[::-1], 2), p) for i in range(DEGREE)]


def forward(values, p, roots):
    values, size, groups = list(values), DEGREE, 1
    while groups < DEGREE:
        size //= 2
        for group in range(groups):
            w = roots[groups + group]
            for j in range(2 * group * size, (2 * group + 1) * size):
                u, v = values[j], values[j + size] * w % p
                values[j], values[j + size] = (u + v) % p, (u - v) % p
        groups *= 2
    return values


def inverse(values, p, roots):
    values, size, groups = list(values), 1, DEGREE
    while groups > 1:
        groups //= 2
        for group in range(groups):
            w = pow(roots[groups + group], -1, p)
            for j in range(2 * group * size, (2 * group + 1) * size):
                u, v = values[j], values[j + size]
                values[j], values[j + size] = (u + v) % p, (u - v) * w % p
        size *= 2
    scale = pow(DEGREE, -1, p)
    return [value * scale % p for value in values]


@pytest.fixture(scope="module")
def roots():
    return {p: reference_roots(p) for p in (*PRIMES, KEY_PRIME)}


def noise_of(seal, secret, roots, native_ciphertext, message):
    """Return c0 + c1 s - (q/t) m, centred modulo q, for m as Python integers; a list of fractions times t."""
    keys = seal.secret_residues(secret)
    with native.Scratch() as scratch:
        c0, c1 = seal.residues(native_ciphertext, scratch)
    phases = []
    for row, p in enumerate(PRIMES):
        products = [a * int(b) % p for a, b in zip(forward(map(int, c1[row]), p, roots[p]), keys[row], strict=True)]
        phases.append([(int(a) + b) % p for a, b in zip(c0[row], inverse(products, p, roots[p]), strict=True)])
    lift = pow(PRIMES[0], -1, PRIMES[1])
    noises = []
    for a, b, m in zip(*phases, message, strict=True):
        x = a + PRIMES[0] * ((b - a) * lift % PRIMES[1])
        noise = (x * PLAIN_MODULUS - Q * m) % (Q * PLAIN_MODULUS)  # t times the noise, exactly
        noises.append(noise - Q * PLAIN_MODULUS if noise > Q * PLAIN_MODULUS // 2 else noise)
    return noises


def encrypt(seal, secret, coefficients, scratch):
    seed, c0 = seal.seeded(seal.encrypt(seal.encryptor(secret), np.asarray(coefficients, dtype=np.uint64), scratch))
    return seal.from_seed(seed, c0, scratch)


def test_the_secret_is_one_ternary_polynomial(seal, secret, roots):
    keys = seal.secret_residues(secret)
    lifted = set()
    for row, p in enumerate((*PRIMES, KEY_PRIME)):
        coefficients = inverse(map(int, keys[row]), p, roots[p])
        lifted.add(tuple(c - p if c > p // 2 else c for c in coefficients))
    (polynomial,) = lifted
    counts = {value: polynomial.count(value) for value in (-1, 0, 1)}
    assert sum(counts.values()) == DEGREE
    # Uniform over three values: each count within 6 standard deviations of N/3.
    assert all(abs(count - DEGREE / 3) < 6 * (DEGREE * 2 / 9) ** 0.5 for count in counts.values())


def test_the_noise_is_within_its_bound_and_binomial(seal, secret, roots):
    """The bound that parameters.py rests on, measured exactly: fresh ciphertexts and a sum of 16."""
    rng = np.random.default_rng(0)
    with native.Scratch() as scratch:
        total, summed = None, [0] * DEGREE
        for _ in range(16):
            message = rng.integers(0, PLAIN_MODULUS // 16, DEGREE, dtype=np.uint64)
            ciphertext = encrypt(seal, secret, message, scratch)
            summed = [a + int(b) for a, b in zip(summed, message, strict=True)]
            if total is None:
                fresh = noise_of(seal, secret, roots, ciphertext, message.tolist())
                total = ciphertext
            else:
                seal.add(total, ciphertext)
    assert max(map(abs, fresh)) <= FRESH_NOISE * PLAIN_MODULUS
    deviation = np.std([n / PLAIN_MODULUS for n in fresh])
    assert 0.9 * (10.5 + 1 / 12) ** 0.5 < deviation < 1.1 * (10.5 + 1 / 12) ** 0.5
    noise = noise_of(seal, secret, roots, total, summed)
    assert max(map(abs, noise)) <= 16 * FRESH_NOISE * PLAIN_MODULUS
    assert max(map(abs, noise)) < noise_limit() * PLAIN_MODULUS


@pytest.mark.parametrize("sign", [1, -1])
def test_decryption_is_exact_up_to_the_computed_limit_and_fails_beyond(seal, secret, sign):
    """Noise is pushed onto a fresh ciphertext: to the limit less a fresh error it decrypts; past both it does not."""
    message = np.random.default_rng(1).integers(0, PLAIN_MODULUS, DEGREE, dtype=np.uint64)
    with native.Scratch() as scratch:
        c0, c1 = seal.residues(encrypt(seal, secret, message, scratch), scratch)
        for extra, exact in ((int(noise_limit() - FRESH_NOISE), True), (int(noise_limit() + FRESH_NOISE) + 1, False)):
            shifted = np.stack([(c0[row].astype(object) + sign * extra) % p for row, p in enumerate(PRIMES)])
            pushed = seal.from_residues(np.stack([shifted.astype(np.uint64), c1]), scratch)
            got = seal.coefficients(seal.decrypt(seal.decryptor(secret), pushed, scratch))
            assert (got == message).all() == exact
            assert exact or not (got == message).any()


def test_rebuilt_streams_decrypt_to_the_same(seal, secret):
    message = np.random.default_rng(2).integers(0, PLAIN_MODULUS, DEGREE, dtype=np.uint64)
    decryptor = seal.decryptor(secret)
    with native.Scratch() as scratch:
        seed, c0 = seal.seeded(seal.encrypt(seal.encryptor(secret), message, scratch))
        rebuilt = seal.from_seed(seed, c0, scratch)
        assert (seal.coefficients(seal.decrypt(decryptor, rebuilt, scratch)) == message).all()
        both = seal.residues(rebuilt, scratch)
        assert (both[0] == c0).all()
        again = seal.from_residues(both, scratch)
        assert (seal.residues(again, scratch) == both).all()
        assert (seal.coefficients(seal.decrypt(decryptor, again, scratch)) == message).all()


@pytest.mark.parametrize("message", [[0] * DEGREE, [1] + [0] * (DEGREE - 1), [0] * (DEGREE - 1) + [PLAIN_MODULUS - 1]])
def test_plaintexts_with_leading_zeros_survive(seal, secret, message):
    """SEAL drops leading zeros when it saves a plaintext."""
    with native.Scratch() as scratch:
        ciphertext = encrypt(seal, secret, message, scratch)
        assert seal.coefficients(seal.decrypt(seal.decryptor(secret), ciphertext, scratch)).tolist() == message


def test_a_restored_secret_is_the_same(seal, secret):
    restored = seal.secret_from(seal.secret_residues(secret))
    assert (seal.secret_residues(restored) == seal.secret_residues(secret)).all()


def test_seeds_and_ciphertexts_are_fresh(seal, secret):
    with native.Scratch() as scratch:
        made = [
            seal.seeded(seal.encrypt(seal.encryptor(secret), np.zeros(DEGREE, dtype=np.uint64), scratch))
            for _ in range(5)
        ]
    assert len({seed for seed, _ in made}) == 5
    assert len({c0.tobytes() for _, c0 in made}) == 5


def test_a_forked_child_encrypts_under_other_seeds(seal, secret):
    zeros = np.zeros(DEGREE, dtype=np.uint64)
    encryptor = seal.encryptor(secret)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        with native.Scratch() as scratch:
            os.write(writer, seal.seeded(seal.encrypt(encryptor, zeros, scratch))[0])
        os._exit(0)
    os.waitpid(child, 0)
    with native.Scratch() as scratch:
        assert os.read(reader, 64) != seal.seeded(seal.encrypt(encryptor, zeros, scratch))[0]
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("constant", "value"), [("_VERSION", (4, 4)), ("_MAGIC", 0xA15F)])
def test_a_foreign_stream_format_is_noticed(seal, secret, monkeypatch, constant, value):
    """If a TenSEAL with another SEAL were installed, nothing would be sent or opened."""
    monkeypatch.setattr(native, constant, value)
    with pytest.raises(CryptoError, match="another stream format"):
        seal.secret_residues(secret)


@pytest.mark.parametrize("constant", ["_seeded_prefix", "_seeded_infix"])
def test_a_foreign_ciphertext_layout_is_noticed(seal, secret, monkeypatch, constant):
    monkeypatch.setattr(seal, constant, bytes(len(getattr(seal, constant))))
    encryptor, zeros = seal.encryptor(secret), np.zeros(DEGREE, dtype=np.uint64)
    with native.Scratch() as scratch, pytest.raises(CryptoError, match="another layout"):
        seal.seeded(seal.encrypt(encryptor, zeros, scratch))


def test_scratch_files_work_without_memfd(monkeypatch, tmp_path):
    monkeypatch.delattr(native.os, "memfd_create")
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    with native.Scratch() as scratch:
        for path in (Path(scratch.inbox), Path(scratch.outbox)):
            assert path.parent == tmp_path
            assert path.stat().st_mode & 0o777 == 0o600
        scratch.write(b"longer ", b"than before")
        scratch.write(b"shor", memoryview(b"t"))
        assert Path(scratch.inbox).read_bytes() == b"short"
        Path(scratch.outbox).write_bytes(b"SEAL's")
        assert scratch.read() == b"SEAL's"
    assert not list(tmp_path.iterdir())


def test_residues_are_packed_to_whole_bytes_and_checked():
    assert residues.packed_bytes(1) == 9
    assert residues.packed_bytes(DEGREE, (*PRIMES, KEY_PRIME)) == 12 * DEGREE
    rng = np.random.default_rng(3)
    words = np.stack([rng.integers(0, p, 100, dtype=np.uint64) for p in PRIMES])
    words[:, 0] = [p - 1 for p in PRIMES]
    packed = residues.pack(words)
    assert len(packed) == 900
    back = residues.unpack(packed, 100, pad=128, where="here")
    assert (back[:, :100] == words).all()
    assert not back[:, 100:].any()
    # The bytes are the little-endian integers, one prime after the other: pinned without NumPy.
    assert packed[:5] == (PRIMES[0] - 1).to_bytes(5, "little")
    assert packed[500:504] == (PRIMES[1] - 1).to_bytes(4, "little")


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("place", [0, 99])
def test_a_residue_of_its_prime_or_more_is_refused(row, place):
    words = np.ones((2, 100), dtype=np.uint64)
    words[row, place] = PRIMES[row]
    with pytest.raises(WireError, match="here: a residue is not below its prime"):
        residues.unpack(residues.pack(words), 100, pad=100, where="here")


def test_zero_polynomials_and_wrong_sizes_are_refused():
    with pytest.raises(WireError, match="transparent"):
        residues.unpack(bytes(900), 100, pad=100, where="here")
    for size in (0, 899, 901):
        with pytest.raises(WireError, match="wrong size"):
            residues.unpack(bytes(size), 100, pad=100, where="here")


def test_only_the_fence_imports_tenseal_and_nothing_asks_for_the_noise_budget():
    package = Path(silo_crypto.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "invariant_noise_budget" not in text, path
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "tenseal" for name in names):
                assert path.relative_to(package).as_posix() == "shared/native.py"

"""The generator: fresh in every process, uniform, never copied."""

import copy
import os
import pickle

import numpy as np
import pytest
from Crypto.Cipher import AES
from silo_crypto.ahead import ahead
from silo_crypto.randomness import Csprng, keystream


def test_two_generators_differ_and_one_never_repeats():
    one, two = Csprng(), Csprng()
    draws = {one.bytes(32), one.bytes(32), two.bytes(32)}
    assert len(draws) == 3


def test_a_forked_child_does_not_repeat_its_parent():
    rng = Csprng()
    rng.bytes(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.write(writer, rng.bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 32) != rng.bytes(32)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 255, 257])
def test_below_is_uniform(bound):
    """Chi-square with a limit that a uniform source exceeds with probability below 1e-9."""
    n = 200_000
    counts = np.bincount(Csprng().below(bound, n).astype(np.int64), minlength=bound)
    assert len(counts) == bound
    degrees = bound - 1
    statistic = float(((counts - n / bound) ** 2 / (n / bound)).sum())
    assert statistic <= degrees + 6 * (2 * degrees) ** 0.5 + 40


def test_below_covers_64_bits_and_refuses_nonsense():
    assert int(Csprng().below(1 << 64, 1000).max()) > 1 << 62
    assert Csprng().below(5, 0).shape == (0,)
    for bound in (0, -1, (1 << 64) + 1):
        with pytest.raises(ValueError):
            Csprng().below(bound, 1)


def test_a_generator_is_not_copied_shown_or_stored():
    rng = Csprng()
    assert repr(rng) == "Csprng(<secret>)"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never copied"):
            attempt(rng)


def test_the_keystream_is_aes_256_ctr_as_another_library_has_it():
    """The key of NIST SP 800-38A, F.5.5; the first block is checked block by block, the rest by pycryptodome."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    nonce = bytes.fromhex("f0f1f2f3f4f5f6f7")
    read = keystream(key, nonce)
    ours = read(5) + read(100_003)
    assert ours == AES.new(key, AES.MODE_CTR, nonce=nonce).encrypt(bytes(100_008))
    assert ours[:16] == AES.new(key, AES.MODE_ECB).encrypt(nonce + bytes(8))
    for wrong in ((key[:16], nonce), (key, nonce + b"\0")):
        with pytest.raises(ValueError, match="a key of 32 bytes"):
            keystream(*wrong)


def test_made_ahead_items_keep_their_order_and_their_exceptions():
    made = []

    def items(fail_at):
        for number in range(20):
            if number == fail_at:
                raise RuntimeError("the eleventh")
            made.append(number)
            yield number

    assert list(ahead(items(None))) == list(range(20))
    made.clear()
    with pytest.raises(RuntimeError, match="the eleventh"):
        list(ahead(items(11)))
    assert made == list(range(11))
    made.clear()
    assert next(ahead(items(None))) == 0
    assert len(made) <= 6  # who leaves early leaves no thread behind that makes the rest

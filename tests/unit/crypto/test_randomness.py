"""The generator: fresh in every process, uniform, never copied."""

import copy
import os
import pickle

import numpy as np
import pytest
from silo_crypto.randomness import Csprng


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

"""Fixed point with stochastic rounding."""

import numpy as np
import pytest
from silo_crypto.codec import FixedPoint
from silo_crypto.errors import EncodingError
from silo_crypto.randomness import Csprng


@pytest.mark.parametrize("bits", [2, 8, 11, 16, 24])
def test_a_value_comes_back_within_one_step(bits):
    grid = FixedPoint(0.5, bits)
    update = np.linspace(-0.5, 0.5, 10_001).astype(np.float32)
    fields = grid.encode(update, Csprng())
    assert fields.dtype == np.uint32
    assert fields.max() <= grid.largest
    back = grid.decode_mean(fields.astype(np.int64), 1)
    assert back.dtype == np.float32
    assert np.abs(back - update).max() <= grid.step * (1 + 1e-6) + 6e-8


def test_the_ends_of_the_range_are_exact_and_beyond_is_clipped():
    grid = FixedPoint(1.0, 16)
    fields = grid.encode(np.array([-9, -1, 1, 9, np.finfo(np.float32).max], dtype=np.float32), Csprng())
    assert fields.tolist() == [0, 0, 65535, 65535, 65535]


def test_rounding_is_unbiased():
    """The mean of n roundings deviates by at most 6 standard errors, probability about 1e-9."""
    grid, n = FixedPoint(1.0, 4), 400_000
    for value in (-0.937, -0.1, 0.0, 0.031, 0.77):
        fields = grid.encode(np.full(n, value, dtype=np.float32), Csprng())
        assert set(np.unique(fields)) <= {int((value + 1) / grid.step), int((value + 1) / grid.step) + 1}
        error = grid.decode_mean(np.array([fields.sum()], dtype=np.int64), n)[0] - np.float32(value)
        assert abs(error) <= 6 * grid.step / 2 / np.sqrt(n) + 1e-6


def test_two_encodings_of_one_update_differ():
    grid, update = FixedPoint(1.0, 8), np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    rng = Csprng()
    assert (grid.encode(update, rng) != grid.encode(update, rng)).any()


def test_the_mean_of_sums_is_the_mean_of_updates():
    grid, rng = FixedPoint(2.0, 16), np.random.default_rng(1)
    updates = rng.uniform(-2, 2, (7, 5000)).astype(np.float32)
    sums = sum(grid.encode(update, Csprng()).astype(np.int64) for update in updates)
    assert np.abs(grid.decode_mean(sums, 7) - updates.mean(axis=0)).max() <= grid.step + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(bad):
    update = np.zeros(200_000, dtype=np.float32)
    update[-1] = bad
    with pytest.raises(EncodingError, match="NaN or infinite"):
        FixedPoint(1.0, 16).encode(update, Csprng())


@pytest.mark.parametrize(("bound", "bits"), [(0, 16), (-1, 16), (np.inf, 16), (np.nan, 16), (1, 1), (1, 25), (1, 0)])
def test_an_unusable_grid_is_refused(bound, bits):
    with pytest.raises(EncodingError, match="value_b"):
        FixedPoint(bound, bits)


def test_matrices_and_impossible_sums_are_refused():
    grid = FixedPoint(1.0, 8)
    with pytest.raises(EncodingError, match="2-dimensional"):
        grid.encode(np.zeros((2, 2), dtype=np.float32), Csprng())
    for sums, count in (([511], 2), ([-1], 2)):
        with pytest.raises(EncodingError, match="outside what 2 uploads"):
            grid.decode_mean(np.array(sums), count)
    with pytest.raises(EncodingError, match="mean over 0"):
        grid.decode_mean(np.array([0]), 0)


def test_an_empty_update_is_empty():
    grid = FixedPoint(1.0, 8)
    assert grid.encode(np.empty(0, dtype=np.float32), Csprng()).shape == (0,)
    assert grid.decode_mean(np.empty(0, dtype=np.int64), 1).shape == (0,)


@pytest.mark.parametrize("bound", [5e-324, 1e-310, 1e-39, 1e38, 1e308, 1.7e308])
def test_a_bound_at_the_edge_of_floating_point_is_refused(bound):
    """The bound comes from a researcher's manifest; there the step vanishes or overflows, and integers mean nothing."""
    with pytest.raises(EncodingError, match="value_bound"):
        FixedPoint(bound, 16)

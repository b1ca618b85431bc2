"""Encoding keeps its bounds and its mean for any update."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from silo_crypto.codec import FixedPoint
from silo_crypto.randomness import Csprng

UPDATES = hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@settings(deadline=None)
@given(UPDATES, st.floats(1e-6, 1e6), st.integers(2, 24))
def test_every_value_comes_back_within_a_step_of_its_clipped_self(update, bound, bits):
    grid = FixedPoint(bound, bits)
    fields = grid.encode(update, Csprng())
    assert not fields.size or int(fields.max()) <= grid.largest
    clipped = np.clip(update.astype(np.float64), -bound, bound)
    back = grid.decode_mean(fields.astype(np.int64), 1)
    assert (np.abs(back - clipped) <= grid.step * (1 + 1e-6) + bound * 2.0**-23).all()


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 40), st.floats(0.01, 100), st.integers(0, 2**32))
def test_the_mean_of_the_sum_is_the_mean_of_the_decoded(silos, d, bound, seed):
    grid = FixedPoint(bound, 16)
    updates = np.random.default_rng(seed).uniform(-bound, bound, (silos, d)).astype(np.float32)
    fields = np.stack([grid.encode(update, Csprng()).astype(np.int64) for update in updates])
    each = np.stack([grid.decode_mean(row, 1) for row in fields]).astype(np.float64)
    together = grid.decode_mean(fields.sum(axis=0), silos)
    assert np.allclose(together, each.mean(axis=0), atol=bound * 2.0**-22)

"""Events and digests that the ledger's tests share."""

import os
import tempfile
from pathlib import Path

import pytest
from dp_accounting import dp_event

from silo.ledger import Ledger

DIGEST = "sha256:" + "ab" * 32


def gaussian(noise_multiplier=10.0):
    return dp_event.GaussianDpEvent(noise_multiplier)


def sampled(noise_multiplier=2.0, rate=0.1):
    return dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise_multiplier))


@pytest.fixture
def in_memory(tmp_path):
    """A folder whose files are in memory, where there is one: what SIGKILL leaves is the same, and flushing is free."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        yield ledger


@pytest.fixture
def reserve(ledger):
    """Reserve with what a test does not care about filled in."""

    def call(population="cleveland", run="7", event=None, steps=10, **more):
        terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST} | more
        return ledger.reserve(population, run, event or sampled(), steps, **terms)

    return call

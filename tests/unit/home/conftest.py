"""Homes that are quick to make: the passphrase's scrypt is turned down, nothing else is."""

import pytest
from silo_crypto import keys

from silo.home import DataSet, Home


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(keys._SCRYPT, "iteration_count", 16)
    monkeypatch.delenv("SILO_PASSPHRASE", raising=False)
    monkeypatch.delenv("SILO_HOME", raising=False)


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "cleveland", "cleveland", organisation_type="hospital", jurisdiction="US-OH")


@pytest.fixture
def dataset():
    return DataSet(
        name="heart",
        population="cleveland-cardiology",
        source="uci-heart:cleveland",
        categories=("health",),
        permitted_purposes=("research",),
        epsilon_cap=10.0,
        delta=1e-4,
    )

"""Homes with a history, made from the log and ledger themselves: no run is played here."""

from __future__ import annotations

from pathlib import Path

import pytest
from silo_crypto import keys

from silo.home import DataSet, Home

RUN = "heart-1"
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keys._SCRYPT, "iteration_count", 16)
    for name in ("SILO_PASSPHRASE", "SILO_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A silo that was asked about one run, and trains."""
    data = DataSet(
        name="heart",
        population="cleveland-cardiology",
        source="uci-heart:cleveland",
        categories=("health",),
        permitted_purposes=("research",),
        epsilon_cap=10.0,
        delta=1e-4,
    )
    made = Home.create(tmp_path / "cleveland", "cleveland", display_name="Cleveland Clinic", data=[data])
    made.ledger().close()
    with made.log() as log:
        log.append("manifest", {"digest": DIGEST, "run": RUN})
        log.append(
            "decision",
            {"run": RUN, "silo": "cleveland", "digest": DIGEST, "decision": "permit", "moment": "accept"},
        )
        log.append("run-started", {"run": RUN, "digest": DIGEST})
        log.append("aggregate", {"run": RUN, "round": 1, "attempt": 1, "digest": DIGEST, "silos": ["cleveland", "ulm"]})
    return made

"""Real Ed25519 identities, and documents of a consortium of three hospitals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from silo_crypto.keys import Identity, PublicIdentity
from silo_policies import (
    AggregationSpec,
    Aggregator,
    ConsortiumManifest,
    DatasetFacts,
    EncryptionSpec,
    Facts,
    Keys,
    Member,
    ModelSpec,
    Person,
    PrivacySpec,
    RunManifest,
    SiloFacts,
    Verifier,
)

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
PEOPLE = ("aggregator", "hospital-a", "hospital-b", "hospital-c", "hospital-d", "rita", "otto", "sven")


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def identities() -> dict[str, Identity]:
    return {name: Identity.generate(name) for name in PEOPLE}


def keys_of(identity: Identity) -> Keys:
    return Keys(**identity.public().to_json()["keys"])


def keyring(name: str, keys: Keys) -> Verifier:
    return PublicIdentity.from_json({"name": name, "keys": keys.model_dump()})


@pytest.fixture(scope="session")
def make_consortium(identities: dict[str, Identity]) -> Callable[..., ConsortiumManifest]:
    def make(*, names: tuple[str, ...] = ("hospital-a", "hospital-b", "hospital-c"), **changes: Any) -> Any:
        values: dict[str, Any] = {
            "name": "heart",
            "members": tuple(
                Member(name=name, organisation_type="hospital", jurisdiction="DE", keys=keys_of(identities[name]))
                for name in names
            ),
            "aggregator": Aggregator(name="aggregator", keys=keys_of(identities["aggregator"])),
            "people": (
                Person(name="rita", role="researcher", keys=keys_of(identities["rita"])),
                Person(name="otto", role="officer", silo="hospital-a", keys=keys_of(identities["otto"])),
                Person(name="sven", role="steward", silo="hospital-a", keys=keys_of(identities["sven"])),
            ),
            "custody": "shared",
            "minimum_silos": 3,
            "packs": {"baseline": "sha256:" + "0" * 64},
            "amendment_quorum": len(names) // 2 + 1,
            "created": "2026-01-01T00:00:00Z",
            "expires": "2027-01-01T00:00:00Z",
        }
        return ConsortiumManifest.model_validate({**values, **changes})

    return make


@pytest.fixture
def consortium(make_consortium: Callable[..., ConsortiumManifest]) -> ConsortiumManifest:
    return make_consortium()


@pytest.fixture
def make_run(consortium: ConsortiumManifest) -> Callable[..., RunManifest]:
    def make(**changes: Any) -> Any:
        values: dict[str, Any] = {
            "run": "run-1",
            "consortium": consortium.digest,
            "name": "heart disease",
            "purpose": "heart-disease-research",
            "code_digest": "sha256:" + "1" * 64,
            "researcher": "rita",
            "rounds": 10,
            "privacy": PrivacySpec(
                mechanism="local-dp",
                epsilon=3.0,
                delta=1e-5,
                unit="record",
                adjacency="add-remove",
                accountant="pld",
                clipping_norm=1.0,
                noise_multiplier=1.1,
                sample_rate=0.1,
                steps_per_round=10,
                expected_batch=20.0,
                learning_rate=0.5,
            ),
            "encryption": EncryptionSpec(
                custody="shared",
                scheme="bfv",
                parameters="shared-16",
                security_bits=128,
                value_bits=16,
                value_bound=1.0,
                max_additions=16,
            ),
            "aggregation": AggregationSpec(rule="fed-avg", weighting="uniform"),
            "model": ModelSpec(parameters=100, seed=0),
            "releases": ("metrics", "model"),
            "members": ("hospital-a", "hospital-b", "hospital-c"),
            "minimum_silos": 3,
            "created": "2026-05-01T00:00:00Z",
            "expires": "2026-07-01T00:00:00Z",
        }
        return RunManifest.model_validate({**values, **changes})

    return make


@pytest.fixture
def facts(consortium: ConsortiumManifest, make_run: Callable[..., RunManifest]) -> Facts:
    """Facts that the baseline permits at the moment ``accept``."""
    run = make_run().facts(
        consortium,
        epsilon=3.0,
        model_size=100,
        security_bits=128,
        code_digest="sha256:" + "1" * 64,
        code_approved=True,
        code_signers=("rita",),
    )
    return Facts(
        run=run,
        dataset=DatasetFacts.model_validate(
            {
                "name": "heart",
                "permitted_purposes": ["heart-disease-research"],
                "consent_expires": "9999-12-31T23:59:59Z",
                "records": 300,
                "public": True,
                "epsilon_left": 3.0,
                "delta": 1e-5,
            }
        ),
        silo=SiloFacts(name="hospital-a", member=True, isolation="process", encrypted_at_rest=True),
        consortium=consortium.facts(),
    )

"""The run manifest fits the consortium, the clock and itself; facts are measured, not claimed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from silo_crypto.keys import Identity, PublicIdentity
from silo_policies import (
    ConsortiumManifest,
    DocumentError,
    EncryptionSpec,
    Keys,
    RunManifest,
    SignatureRefused,
    Verifier,
    sign,
    verify_run,
)

MakeRun = Callable[..., RunManifest]


def keyring(name: str, keys: Keys) -> Verifier:
    return PublicIdentity.from_json({"name": name, "keys": keys.model_dump()})


def test_a_good_run_is_accepted(
    make_run: MakeRun, consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    run = make_run()
    assert verify_run(sign(run, identities["rita"]), consortium, keyring, now=now) == run


def test_only_its_researcher_signs(
    make_run: MakeRun, consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    with pytest.raises(SignatureRefused, match="signed by otto"):
        verify_run(sign(make_run(), identities["otto"]), consortium, keyring, now=now)
    with pytest.raises(SignatureRefused, match="signed by otto"):
        verify_run(sign(make_run(), identities["rita"], identities["otto"]), consortium, keyring, now=now)
    with pytest.raises(DocumentError, match="otto is no researcher"):
        verify_run(sign(make_run(researcher="otto"), identities["otto"]), consortium, keyring, now=now)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"consortium": "sha256:" + "0" * 64}, "was written for the consortium"),
        ({"members": ("hospital-a", "hospital-b", "stranger")}, "invites stranger"),
        ({"minimum_silos": 2}, "at least 2 silos"),
        ({"created": "2026-06-01T12:05:01Z"}, "future"),
        ({"expires": "2026-06-01T12:00:00Z"}, "expired"),
    ],
)
def test_what_does_not_fit_is_refused(
    make_run: MakeRun,
    consortium: ConsortiumManifest,
    identities: dict[str, Identity],
    now: datetime,
    changes: dict[str, Any],
    what: str,
) -> None:
    with pytest.raises(DocumentError, match=what):
        verify_run(sign(make_run(**changes), identities["rita"]), consortium, keyring, now=now)


def test_a_run_ends_with_its_consortium(
    make_run: MakeRun, consortium: ConsortiumManifest, identities: dict[str, Identity]
) -> None:
    run = make_run(expires="2030-01-01T00:00:00Z")
    signed = sign(run, identities["rita"])
    verify_run(signed, consortium, keyring, now=consortium.expires - timedelta(seconds=1))
    with pytest.raises(DocumentError, match="expired at 2027-01-01"):
        verify_run(signed, consortium, keyring, now=consortium.expires)


def test_custody_is_the_consortiums(
    make_run: MakeRun, consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    encryption = make_run().encryption.model_copy(update={"custody": "threshold", "threshold": 2})
    with pytest.raises(DocumentError, match="custody threshold"):
        verify_run(sign(make_run(encryption=encryption), identities["rita"]), consortium, keyring, now=now)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"members": ("hospital-b", "hospital-a")}, "members must be sorted"),
        ({"members": ("hospital-a", "hospital-a")}, "members must be sorted"),
        ({"releases": ("model", "metrics")}, "releases must be sorted"),
        ({"releases": ("gradients",)}, "releases"),
        ({"minimum_silos": 4}, "minimum_silos"),
        ({"expires": "2026-05-01T00:00:00Z"}, "expires must lie after"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"run": "../up"}, "run"),
        ({"purpose": "Heart"}, "purpose"),
        ({"code_digest": "sha256:xyz"}, "code_digest"),
    ],
)
def test_inconsistent_runs_cannot_be_made(make_run: MakeRun, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_run(**changes)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"threshold": 2}, "shared custody has none"),
        ({"custody": "threshold"}, "threshold custody has a threshold"),
        ({"value_bits": 33}, "value_bits"),
        ({"value_bound": 0.0}, "value_bound"),
        ({"value_bound": float("nan")}, "value_bound"),
    ],
)
def test_inconsistent_encryption_cannot_be_asked_for(make_run: MakeRun, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        EncryptionSpec.model_validate({**make_run().encryption.model_dump(), **changes})


def test_a_run_that_more_are_invited_to_than_can_be_added_cannot_be_made(make_run: MakeRun) -> None:
    encryption = make_run().encryption.model_copy(update={"max_additions": 2})
    with pytest.raises(ValueError, match="max_additions"):
        make_run(encryption=encryption)


def test_facts_hold_what_was_measured_and_who_is_a_member_now(
    make_run: MakeRun, consortium: ConsortiumManifest, identities: dict[str, Identity]
) -> None:
    measured = {
        "epsilon": 3.3,
        "model_size": 7,
        "security_bits": 130,
        "code_digest": "sha256:" + "2" * 64,
        "code_approved": False,
    }
    run = make_run()
    facts = run.facts(consortium, **measured, round_number=4)  # type: ignore[arg-type]
    assert {name: getattr(facts, name) for name in measured} == measured
    assert (facts.threshold, facts.round) == (1, 4)
    assert facts.members is not None
    assert [each.name for each in facts.members] == ["hospital-a", "hospital-b", "hospital-c"]
    smaller = consortium.model_copy(update={"members": consortium.members[:2]})
    after = run.facts(smaller, **measured)  # type: ignore[arg-type]
    assert after.members is not None
    assert [each.name for each in after.members] == ["hospital-a", "hospital-b"]


def test_rules_see_how_many_silos_noise_is_not_counted_on(make_run: MakeRun, consortium: ConsortiumManifest) -> None:
    run = make_run()
    measured: dict[str, Any] = {
        "epsilon": 3.0,
        "model_size": 100,
        "security_bits": 128,
        "code_digest": run.code_digest,
        "code_approved": True,
    }
    assert run.facts(consortium, **measured).colluders == 0
    shares = {"mechanism": "distributed-dp", "minimum_silos": 3, "colluders": 2, "share_sigma": 32.0, "scale": 10.0}
    distributed = run.model_copy(update={"privacy": run.privacy.model_copy(update=shares)})
    assert distributed.facts(consortium, **measured).colluders == 2

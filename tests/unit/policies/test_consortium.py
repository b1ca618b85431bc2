"""The consortium manifest: signed by all, amended by a quorum, and each refusal clear."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from silo_crypto.keys import Identity, PublicIdentity
from silo_policies import (
    ConsortiumManifest,
    DocumentError,
    Keys,
    Member,
    Person,
    SignatureRefused,
    Signed,
    Verifier,
    sign,
    verify_chain,
    verify_consortium,
)
from silo_policies.signing import parse_body, parse_signed

Make = Callable[..., ConsortiumManifest]
ABC = ("hospital-a", "hospital-b", "hospital-c")
ABCD = (*ABC, "hospital-d")


def keyring(name: str, keys: Keys) -> Verifier:
    return PublicIdentity.from_json({"name": name, "keys": keys.model_dump()})


def keys_of(identity: Identity) -> Keys:
    return Keys(**identity.public().to_json()["keys"])


def member(identities: dict[str, Identity], name: str) -> Member:
    return Member(name=name, organisation_type="hospital", jurisdiction="DE", keys=keys_of(identities[name]))


def by(manifest: ConsortiumManifest, identities: dict[str, Identity], *names: str) -> Signed[ConsortiumManifest]:
    return sign(manifest, *(identities[name] for name in names))


def test_the_first_manifest_needs_every_member(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    assert verify_consortium(by(consortium, identities, *ABC), keyring, now=now) == consortium
    assert verify_consortium(by(consortium, identities, *ABC), keyring, now=now, pinned=consortium.digest)
    with pytest.raises(SignatureRefused, match="missing: hospital-c"):
        verify_consortium(by(consortium, identities, *ABC[:2]), keyring, now=now)
    with pytest.raises(SignatureRefused, match="signed by aggregator"):
        verify_consortium(by(consortium, identities, *ABC, "aggregator"), keyring, now=now)
    with pytest.raises(DocumentError, match="not the pinned"):
        verify_consortium(by(consortium, identities, *ABC), keyring, now=now, pinned="sha256:" + "0" * 64)


def test_a_member_signing_with_another_key_is_refused(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    impostor = Identity.generate("hospital-c")
    with pytest.raises(SignatureRefused, match="hospital-c's signature does not hold"):
        verify_consortium(by(consortium, identities, *ABC[:2]).sign(impostor), keyring, now=now)


def test_expiry_and_clock_skew(make_consortium: Make, identities: dict[str, Identity], now: datetime) -> None:
    signed = by(make_consortium(created=now, expires=now + timedelta(days=1)), identities, *ABC)
    with pytest.raises(DocumentError, match="expired"):
        verify_consortium(signed, keyring, now=now + timedelta(days=1))
    verify_consortium(signed, keyring, now=now + timedelta(days=1, seconds=-1))
    verify_consortium(signed, keyring, now=now - timedelta(minutes=5))
    with pytest.raises(DocumentError, match="future"):
        verify_consortium(signed, keyring, now=now - timedelta(minutes=5, seconds=1))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"minimum_silos": 4}, "minimum_silos"),
        ({"minimum_silos": 1}, "minimum_silos"),
        ({"amendment_quorum": 1}, "more than half"),
        ({"amendment_quorum": 4}, "more than half"),
        ({"threshold": 2}, "shared custody has no threshold"),
        ({"custody": "threshold"}, "needs three members"),
        ({"custody": "threshold", "threshold": 4}, "needs three members"),
        ({"custody": "escrow"}, "custody"),
        ({"packs": {}}, "packs"),
        ({"packs": {"baseline": "md5:0"}}, "packs"),
        ({"expires": "2026-01-01T00:00:00Z"}, "expires must lie after"),
        ({"version": 2}, "version"),
        ({"members": ()}, "members"),
    ],
)
def test_inconsistent_manifests_cannot_be_made(make_consortium: Make, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_consortium(**changes)


def test_names_and_keys_belong_to_one_party(make_consortium: Make, identities: dict[str, Identity]) -> None:
    a, b, c = (member(identities, name) for name in ABC)
    for members, what in (
        ((a, b, a), "name hospital-a"),
        ((a, b, c.model_copy(update={"name": "aggregator"})), "name aggregator"),
        ((a, b, c.model_copy(update={"keys": a.keys})), "signing key"),
        ((a, b, c.model_copy(update={"keys": Keys(ed25519=c.keys.ed25519, x25519=b.keys.x25519)})), "sealing key"),
    ):
        with pytest.raises(ValueError, match=what):
            make_consortium(members=members)


@pytest.mark.parametrize(
    ("role", "silo", "what"),
    [("officer", None, "no member"), ("steward", "x", "no member"), ("researcher", "x", "acts for")],
)
def test_people_act_for_a_member_or_ask(
    make_consortium: Make, identities: dict[str, Identity], role: Any, silo: str | None, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        make_consortium(people=(Person(name="otto", role=role, silo=silo, keys=keys_of(identities["otto"])),))


@pytest.mark.parametrize("key", ["", "AAAA", "A" * 44, "!" * 44])
def test_keys_are_32_bytes_of_base64(key: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        Keys(ed25519=key, x25519=key)


def test_lookups(consortium: ConsortiumManifest) -> None:
    assert [each.name for each in consortium.active(["hospital-c", "gone", "hospital-a"])] == [
        "hospital-a",
        "hospital-c",
    ]
    assert consortium.member("hospital-b").jurisdiction == "DE"
    assert consortium.person("otto", role="officer", silo="hospital-a").name == "otto"
    assert set(consortium.people_of("hospital-a", keyring, "officer")) == {"otto"}
    assert set(consortium.people_of("hospital-a", keyring, "officer", "steward")) == {"otto", "sven"}
    for lookup in (
        lambda: consortium.member("gone"),
        lambda: consortium.person("otto", role="researcher"),
        lambda: consortium.person("otto", role="officer", silo="hospital-b"),
    ):
        with pytest.raises(DocumentError):
            lookup()


# -- amendments -----------------------------------------------------------------------------------------------------


@pytest.fixture
def four(consortium: ConsortiumManifest, identities: dict[str, Identity]) -> ConsortiumManifest:
    """An amendment that adds a fourth hospital."""
    members = tuple(member(identities, name) for name in ABCD)
    return consortium.amended(created="2026-05-01T00:00:00Z", members=members, amendment_quorum=3)  # type: ignore[arg-type]


def test_an_amendment_needs_the_quorum_and_whom_it_adds(
    consortium: ConsortiumManifest, four: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    def check(*names: str) -> ConsortiumManifest:
        return verify_consortium(by(four, identities, *names), keyring, now=now, previous=consortium)

    assert check("hospital-a", "hospital-b", "hospital-d") == four
    assert check(*ABCD) == four
    with pytest.raises(SignatureRefused, match="1 of 2"):
        check("hospital-a", "hospital-d")
    with pytest.raises(SignatureRefused, match="missing: hospital-d"):
        check(*ABC)
    with pytest.raises(SignatureRefused, match="signed by rita"):
        check(*ABCD, "rita")


def test_a_member_is_revoked_by_the_others(
    four: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    rest = tuple(each for each in four.members if each.name != "hospital-d")
    without = four.amended(created="2026-05-02T00:00:00Z", members=rest, amendment_quorum=2)  # type: ignore[arg-type]
    amended = verify_consortium(by(without, identities, *ABC), keyring, now=now, previous=four)
    assert [each.name for each in amended.active(ABCD)] == list(ABC)
    with pytest.raises(SignatureRefused, match="of 3"):  # the quorum is the old manifest's
        verify_consortium(by(without, identities, *ABC[:2]), keyring, now=now, previous=four)


def test_an_amendment_must_follow_from_what_it_amends(
    consortium: ConsortiumManifest, four: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    stranger = four.model_copy(update={"previous": "sha256:" + "0" * 64})
    renamed = consortium.amended(created=now, name="lungs")
    older = consortium.amended(created="2025-12-31T00:00:00Z")  # type: ignore[arg-type]
    for manifest, what in ((stranger, "it amends"), (renamed, "renames"), (older, "older")):
        with pytest.raises(DocumentError, match=what):
            verify_consortium(by(manifest, identities, *ABC), keyring, now=now, previous=consortium)
    with pytest.raises(DocumentError, match="not here"):
        verify_consortium(by(four, identities, *ABCD), keyring, now=now)
    with pytest.raises(DocumentError, match="amendment_quorum"):
        consortium.amended(created=now, amendment_quorum=1)


def test_a_history_is_checked_step_by_step(
    consortium: ConsortiumManifest, four: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    third = four.amended(created=now, expires=now + timedelta(days=900))
    chain = [by(consortium, identities, *ABC), by(four, identities, *ABCD), by(third, identities, *ABCD[1:])]
    assert verify_chain(chain, keyring, now=now, pinned=consortium.digest) == third
    late = now + timedelta(days=800)  # the first two have expired by then; they need not be in force
    assert verify_chain(chain, keyring, now=late, pinned=consortium.digest) == third
    with pytest.raises(DocumentError, match="it amends"):
        verify_chain([chain[0], chain[2]], keyring, now=now)
    with pytest.raises(DocumentError, match="not the pinned"):
        verify_chain(chain, keyring, now=now, pinned=four.digest)
    with pytest.raises(DocumentError, match="not here"):
        verify_chain(chain[1:], keyring, now=now)
    with pytest.raises(DocumentError, match="no manifest"):
        verify_chain([], keyring, now=now)
    with pytest.raises(SignatureRefused):
        verify_chain([chain[0], by(four, identities, "hospital-d"), chain[2]], keyring, now=now)


def test_a_manifest_that_was_signed_before_there_were_witnesses_keeps_its_bytes(
    make_consortium: Make, identities: dict[str, Identity], now: datetime
) -> None:
    old = make_consortium()
    document = old.to_dict()
    assert "witness_quorum" not in document
    assert b"witness_quorum" not in old.message()
    signed = by(old, identities, "hospital-a", "hospital-b", "hospital-c")
    again = parse_signed(ConsortiumManifest, signed.to_json())
    assert verify_consortium(again, keyring, now=now).witness_quorum == 0
    # Zero written out says the same, so it is the same document; any other number is not.
    assert parse_body(ConsortiumManifest, {**document, "witness_quorum": 0}).digest == old.digest
    changed = parse_body(ConsortiumManifest, {**document, "witness_quorum": 2})
    assert changed.to_dict()["witness_quorum"] == 2
    assert changed.digest != old.digest
    with pytest.raises(SignatureRefused, match="does not hold"):
        verify_consortium(Signed(changed, signed.signatures), keyring, now=now)
    with pytest.raises(DocumentError, match="witness_quorum is 4, but each party has only 3 others"):
        parse_body(ConsortiumManifest, {**document, "witness_quorum": 4})

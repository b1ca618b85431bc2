"""A consortium's file as it passes between members: draft, first manifest, amendments, and every misuse refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from silo_crypto.keys import Identity, PublicIdentity
from silo_policies import (
    Aggregator,
    Agreement,
    DocumentError,
    Draft,
    Keys,
    Member,
    Person,
    SignatureRefused,
    Signed,
    Verifier,
    parse_agreement,
    parse_public,
    public_of,
    verify_consortium,
)
from silo_policies.agreement import majority, remaining

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ABC = ("hospital-a", "hospital-b", "hospital-c")
IDENTITIES = {name: Identity.generate(name) for name in (*ABC, "hospital-d", "aggregator", "rita", "otto")}


def keyring(name: str, keys: Keys) -> Verifier:
    return PublicIdentity.from_json({"name": name, "keys": keys.model_dump()})


def keys_of(name: str) -> Keys:
    return Keys(**IDENTITIES[name].public().to_json()["keys"])


def member(name: str) -> Member:
    return Member(name=name, organisation_type="hospital", jurisdiction="DE", keys=keys_of(name))


AGGREGATOR = Aggregator(name="aggregator", keys=keys_of("aggregator"))
RITA = Person(name="rita", role="researcher", keys=keys_of("rita"))
OTTO = Person(name="otto", role="officer", silo="hospital-b", keys=keys_of("otto"))


def empty(**changes: Any) -> Draft:
    values = {"name": "heart", "custody": "shared", "created": NOW, "expires": NOW + timedelta(days=365)}
    return Draft.model_validate({**values, **changes})


def full(**changes: Any) -> Draft:
    draft = empty(**changes)
    for party in (*(member(name) for name in ABC), AGGREGATOR, RITA, OTTO):
        draft = draft.with_party(party)
    return draft.with_pack("baseline", "sha256:" + "0" * 64)


def signed_by(agreement: Agreement, *names: str) -> Agreement:
    for name in names:
        agreement = agreement.signed(IDENTITIES[name], keyring)
    return agreement


@pytest.fixture(scope="module")
def agreed() -> Agreement:
    return signed_by(Agreement(full()), *ABC)


def test_the_order_of_adding_and_signing_does_not_matter() -> None:
    first = full().frozen()
    for order in permutations((member("hospital-a"), member("hospital-b"), member("hospital-c"))):
        draft = empty()
        for party in (OTTO, *order, AGGREGATOR, RITA):
            draft = draft.with_party(party)
        assert draft.with_pack("baseline", "sha256:" + "0" * 64).frozen() == first
    for names in permutations(ABC):
        whole = signed_by(Agreement(full()), *names)
        assert whole.newest.body == first
        assert whole.verified(keyring, now=NOW) == first


def test_a_draft_says_what_is_missing_before_it_is_signed() -> None:
    assert empty().missing() == ["members (two or more)", "the aggregator", "a policy pack"]
    with pytest.raises(DocumentError, match=r"lacks members \(two or more\), the aggregator, a policy pack"):
        empty().frozen()
    assert full().missing() == []
    with pytest.raises(DocumentError, match="minimum_silos is 4"):
        full(minimum_silos=4).frozen()


def test_a_party_stands_once() -> None:
    assert full().with_party(member("hospital-a")) == full()
    with pytest.raises(DocumentError, match="hospital-a already stands"):
        full().with_party(member("hospital-a").model_copy(update={"jurisdiction": "FR"}))
    with pytest.raises(DocumentError, match="rita already stands"):
        full().with_party(member("rita"))
    with pytest.raises(DocumentError, match="the aggregator is aggregator"):
        full().with_party(Aggregator(name="other", keys=keys_of("hospital-d")))
    assert full().with_pack("baseline", "sha256:" + "1" * 64).packs == {"baseline": "sha256:" + "1" * 64}


@pytest.mark.parametrize("size", range(1, 12))
def test_a_majority_is_more_than_half_and_no_more_than_needed(size: int) -> None:
    assert 2 * majority(size) > size >= 2 * (majority(size) - 1)


def test_every_form_survives_being_written(agreed: Agreement) -> None:
    amended = agreed.amended(agreed.newest.body.amended(created=NOW, minimum_silos=2))
    for whole in (Agreement(empty()), Agreement(full()), agreed, amended, signed_by(amended, "hospital-a")):
        assert parse_agreement(whole.to_json()) == whole
    assert json.loads(agreed.to_json())["kind"] == "silo/v1/consortium"  # as in homes and submissions
    for party in (member("hospital-a"), AGGREGATOR, RITA, OTTO):
        assert parse_public(json.dumps(public_of(party))) == party


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 5000,
        '{"kind": NaN}',
        '{"kind": "silo/v1/consortium-draft"}',
        '{"kind": "silo/v1/consortium-draft", "body": 3}',
        '{"kind": "silo/v1/consortium-chain", "manifests": []}',
        '{"kind": "silo/v1/consortium-chain", "manifests": [3]}',
        '{"kind": "silo/v1/consortium-chain", "manifests": {}}',
        '{"kind": "silo/v1/run", "body": {}, "signatures": {}}',
        '{"kind": "silo/v1/consortium", "body": {}, "signatures": {}}',
    ],
)
def test_what_is_no_consortium_file_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_agreement(text, where="x.json")
    with pytest.raises(DocumentError):
        parse_public(text, where="x.json")


def test_who_has_a_say(agreed: Agreement) -> None:
    assert agreed.lacking() == (0, ())
    with pytest.raises(SignatureRefused, match="rita is no member"):
        signed_by(Agreement(full()), "rita")
    with pytest.raises(SignatureRefused, match="already signed"):
        signed_by(agreed, "hospital-a")
    with pytest.raises(SignatureRefused, match="does not hold"):
        Agreement(full()).signed(Identity.generate("hospital-a"), keyring)
    with pytest.raises(DocumentError, match="can no longer change"):
        agreed.editable()
    with pytest.raises(DocumentError, match="nobody has signed"):
        Agreement(full()).verified(keyring, now=NOW)


def test_an_amendment_needs_a_quorum_and_whoever_is_new(agreed: Agreement) -> None:
    members = (member("hospital-a"), member("hospital-b"), member("hospital-d"))
    manifest = agreed.newest.body.amended(created=NOW, members=members)
    begun = agreed.amended(manifest)
    assert begun.lacking() == (3, ("hospital-a", "hospital-b", "hospital-c", "hospital-d"))
    with pytest.raises(DocumentError, match="not fully signed"):
        begun.amended(manifest)
    one = signed_by(begun, "hospital-d", "hospital-c")  # who leaves may vote on it
    assert one.lacking() == (1, ("hospital-a", "hospital-b"))
    with pytest.raises(SignatureRefused, match="1 of 2"):
        one.verified(keyring, now=NOW)
    done = signed_by(one, "hospital-a")
    assert done.lacking() == (0, ())
    assert done.verified(keyring, now=NOW) == manifest
    with pytest.raises(SignatureRefused, match="missing: hospital-d"):
        signed_by(begun, "hospital-a", "hospital-b").verified(keyring, now=NOW)


def test_nobody_changes_a_members_keys_without_a_rotation(agreed: Agreement) -> None:
    new = Identity.generate("hospital-a")
    renewed = member("hospital-a").model_copy(update={"keys": Keys(**new.public().to_json()["keys"])})
    members = (renewed, member("hospital-b"), member("hospital-c"))
    begun = agreed.amended(agreed.newest.body.amended(created=NOW, members=members))
    with pytest.raises(SignatureRefused, match="without a rotation of its own"):
        begun.signed(new, keyring)
    with pytest.raises(SignatureRefused, match="without a rotation of its own"):
        signed_by(begun, *ABC).verified(keyring, now=NOW)


def test_copies_are_merged_only_if_they_are_the_same(agreed: Agreement) -> None:
    a, b, c = (signed_by(Agreement(full()), name) for name in ABC)
    assert a.merged(b).merged(c).newest.signatures == agreed.newest.signatures
    other = signed_by(Agreement(full(minimum_silos=2)), "hospital-b")
    for copy in (other, Agreement(full())):
        with pytest.raises(DocumentError, match="not two signed copies"):
            a.merged(copy)


def test_a_chain_is_checked_from_the_manifest_a_home_joined(agreed: Agreement) -> None:
    chain = agreed
    for days in (400, 500):
        manifest = chain.newest.body.amended(created=NOW, expires=NOW + timedelta(days=days))
        chain = signed_by(chain.amended(manifest), "hospital-b", "hospital-c")
    digests = [signed.body.digest for signed in chain.chain]
    for digest in digests:
        later = chain.since(digest)
        assert later is not None
        assert later.verified(keyring, now=NOW, pinned=digest) == chain.newest.body
    assert chain.since("sha256:" + "0" * 64) is None
    later = chain.since(digests[1])
    assert later is not None
    with pytest.raises(DocumentError, match="amends a manifest that is not here"):
        later.verified(keyring, now=NOW)  # without having joined it before, half a history proves nothing
    with pytest.raises(DocumentError, match="not the pinned"):
        later.verified(keyring, now=NOW, pinned=digests[0])
    holed = Agreement(chain=(chain.chain[0], chain.chain[2]))
    with pytest.raises(DocumentError, match="it amends sha256"):
        holed.verified(keyring, now=NOW)


def test_a_digest_that_was_verified_when_joining_stands_for_its_history(agreed: Agreement) -> None:
    manifest = agreed.newest.body.amended(created=NOW, minimum_silos=2)
    unsigned = Signed(manifest)
    assert verify_consortium(unsigned, keyring, now=NOW, pinned=manifest.digest) == manifest
    with pytest.raises(DocumentError, match="amends a manifest that is not here"):
        verify_consortium(unsigned, keyring, now=NOW)
    with pytest.raises(DocumentError, match="not the pinned"):
        verify_consortium(unsigned, keyring, now=NOW, pinned=agreed.newest.body.digest)
    with pytest.raises(DocumentError, match="expired"):
        verify_consortium(unsigned, keyring, now=NOW + timedelta(days=365), pinned=manifest.digest)
    with pytest.raises(SignatureRefused):  # a first manifest shows its signatures, pinned or not
        verify_consortium(Signed(agreed.newest.body), keyring, now=NOW, pinned=agreed.newest.body.digest)


def test_who_acts_for_a_member_leaves_with_it(agreed: Agreement) -> None:
    left = remaining(agreed.newest.body, ["hospital-b"])
    assert [each.name for each in left["members"]] == ["hospital-a", "hospital-c"]
    assert [each.name for each in left["people"]] == ["rita"]
    assert [each.name for each in remaining(agreed.newest.body, ["otto"])["people"]] == ["rita"]
    with pytest.raises(DocumentError, match="nobody stands nowhere"):
        remaining(agreed.newest.body, ["nobody"])

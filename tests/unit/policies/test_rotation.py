"""Keys change only as their holder says: each attack on a rotation is written as the attack, and fails."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from silo_crypto.keys import Identity, PublicIdentity
from silo_policies import (
    Agreement,
    ConsortiumManifest,
    DocumentError,
    Keys,
    SignatureRefused,
    Signed,
    Verifier,
    refuse_reused_keys,
    sign,
    verify_chain,
    verify_consortium,
)

ABC = ("hospital-a", "hospital-b", "hospital-c")
OTHERS = ABC[1:]
HOUR = timedelta(hours=1)
Rotated = Callable[..., ConsortiumManifest]


def keyring(name: str, keys: Keys) -> Verifier:
    return PublicIdentity.from_json({"name": name, "keys": keys.model_dump()})


def statement(old: Identity, new: Identity, amends: ConsortiumManifest) -> str:
    return base64.b64encode(old.hand_over(new, amends.digest_bytes)).decode()


def with_keys(manifest: ConsortiumManifest, who: str, new: PublicIdentity, text: str | None, **more: Any) -> Any:
    """Return an amendment in which ``who`` has the keys of ``new``."""
    keys = Keys(**new.to_json()["keys"])
    more.setdefault("created", manifest.created + HOUR)
    if text is not None:
        more["rotations"] = {who: text}
    if who == manifest.aggregator.name:
        return manifest.amended(aggregator=manifest.aggregator.model_copy(update={"keys": keys}), **more)
    members = tuple(each.model_copy(update={"keys": keys}) if each.name == who else each for each in manifest.members)
    return manifest.amended(members=members, **more)


def check(manifest: ConsortiumManifest, before: ConsortiumManifest, now: datetime, *signers: Identity) -> Any:
    return verify_consortium(sign(manifest, *signers), keyring, now=now, previous=before)


@pytest.mark.parametrize("who", ["hospital-a", "aggregator"])
def test_a_party_rotates_its_keys(
    who: str, consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    new = Identity.generate(who)
    amended = with_keys(consortium, who, new.public(), statement(identities[who], new, consortium))
    signers = [identities[name] for name in OTHERS]
    assert check(amended, consortium, now, *signers).homes[who].ed25519 == new.public().to_json()["keys"]["ed25519"]
    assert "rotations" in amended.to_dict()
    assert "rotations" not in consortium.to_dict()
    if who == "hospital-a":  # it vouches with the key it had, and from the next amendment on with the new one
        check(amended, consortium, now, identities[who], signers[0])
        with pytest.raises(SignatureRefused, match="hospital-a's signature does not hold"):
            check(amended, consortium, now, new, signers[0])
        later = amended.amended(created=amended.created + HOUR, minimum_silos=2)
        assert later.rotations == {}
        check(later, amended, now, new, signers[0])
        with pytest.raises(SignatureRefused, match="hospital-a's signature does not hold"):
            check(later, amended, now, identities[who], signers[0])


def test_a_quorum_cannot_speak_for_a_member(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    """Two of three would hold the third's key, and with it its vote, its uploads and its decisions."""
    held_by_attackers = Identity.generate("hospital-a")
    taken = with_keys(consortium, "hospital-a", held_by_attackers.public(), None)
    with pytest.raises(SignatureRefused, match="hospital-a change without a rotation of its own"):
        check(taken, consortium, now, *(identities[name] for name in OTHERS))


def test_a_rotation_signed_by_a_stranger_is_refused(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    signers = [identities[name] for name in OTHERS]
    new, stranger = Identity.generate("hospital-a"), Identity.generate("hospital-a")
    good = base64.b64decode(statement(identities["hospital-a"], new, consortium))
    by_stranger = base64.b64decode(statement(stranger, new, consortium))
    swapped = good[64:] + good[:64]
    for text in (by_stranger, by_stranger[:64] + good[64:], good[:64] + by_stranger[:64], swapped, bytes(128)):
        amended = with_keys(consortium, "hospital-a", new.public(), base64.b64encode(text).decode())
        with pytest.raises(SignatureRefused, match="the rotation of hospital-a does not hold"):
            check(amended, consortium, now, *signers)


def test_a_rotation_to_a_key_that_somebody_else_holds_is_refused(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    """hospital-a claims a key it saw elsewhere: it can name it, but not sign with it; and no known key serves twice."""
    theirs, mine = Identity.generate("hospital-a"), Identity.generate("hospital-a")
    old = identities["hospital-a"]
    own_words = base64.b64decode(statement(old, mine, consortium))
    amended = with_keys(consortium, "hospital-a", theirs.public(), base64.b64encode(own_words).decode())
    with pytest.raises(SignatureRefused, match="the rotation of hospital-a does not hold"):
        check(amended, consortium, now, *(identities[name] for name in OTHERS))
    b = consortium.member("hospital-b").keys
    half = PublicIdentity("hospital-a", mine.public().ed25519, base64.b64decode(b.x25519))
    with pytest.raises(DocumentError, match=r"the sealing key .* belongs to two parties"):
        with_keys(consortium, "hospital-a", half, None)
    # The statement binds both keys: a signing key of one's own does not carry a foreign sealing key in.
    half = PublicIdentity("hospital-a", mine.public().ed25519, theirs.public().x25519)
    amended = with_keys(consortium, "hospital-a", half, base64.b64encode(own_words).decode())
    with pytest.raises(SignatureRefused, match="the rotation of hospital-a does not hold"):
        check(amended, consortium, now, *(identities[name] for name in OTHERS))


def test_a_rotation_is_neither_replayed_nor_rolled_back(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    old, second, third = (identities["hospital-a"], *(Identity.generate("hospital-a") for _ in range(2)))
    signers = [identities[name] for name in OTHERS]
    first_words = statement(old, second, consortium)
    one = with_keys(consortium, "hospital-a", second.public(), first_words)
    two = with_keys(one, "hospital-a", third.public(), statement(second, third, one))
    check(two, one, now, *signers)
    # Replay: the statement that led to the second keys, on the manifest with the second and with the third keys.
    for before, keys in ((two, second), (one, third)):
        again = with_keys(before, "hospital-a", keys.public(), first_words)
        with pytest.raises(SignatureRefused, match="does not hold for this amendment"):
            check(again, before, now, *signers)
    # ... and on a manifest that was amended otherwise meanwhile, though the keys are those it speaks of.
    other = consortium.amended(created=consortium.created + HOUR, minimum_silos=2)
    with pytest.raises(SignatureRefused, match="does not hold for this amendment"):
        check(with_keys(other, "hospital-a", second.public(), first_words), other, now, *signers)
    # Rollback: a thief of the first keys has whoever holds the third go back to them, with a fresh statement.
    back = with_keys(two, "hospital-a", old.public(), statement(third, old, two))
    chain = [sign(consortium, *(identities[name] for name in ABC))] + [sign(each, *signers) for each in (one, two)]
    assert verify_chain(chain, keyring, now=now) == two
    with pytest.raises(DocumentError, match="rotates to a key that stood in an older manifest"):
        verify_chain([*chain, sign(back, *signers)], keyring, now=now)
    # A history that hides the older manifests does not help.
    with pytest.raises(DocumentError, match="from its first manifest on"):
        refuse_reused_keys([two, back])
    with pytest.raises(DocumentError, match="from its first manifest on"):
        refuse_reused_keys([consortium, two, back])
    refuse_reused_keys([other])


def test_a_rotation_changes_both_keys_of_one_party_and_nothing_else(
    consortium: ConsortiumManifest, identities: dict[str, Identity], now: datetime
) -> None:
    old, new = identities["hospital-a"], Identity.generate("hospital-a")
    signers = [identities[name] for name in OTHERS]
    words = statement(old, new, consortium)
    idle = consortium.amended(created=consortium.created + HOUR, rotations={"hospital-a": words}, minimum_silos=2)
    with pytest.raises(SignatureRefused, match="hospital-a, which do not change"):
        check(idle, consortium, now, *signers)
    with pytest.raises(DocumentError, match="rotations"):
        consortium.amended(created=consortium.created + HOUR, rotations={"hospital-a": words[:-4]})
    with pytest.raises(ValueError, match="not in a first manifest"):
        ConsortiumManifest.model_validate({**dict(consortium), "rotations": {"hospital-a": words}})
    with pytest.raises(Exception, match="changes both keys"):
        old.hand_over(old, consortium.digest_bytes)
    with pytest.raises(Exception, match="cannot become those of"):
        old.hand_over(Identity.generate("hospital-z"), consortium.digest_bytes)


def test_nobody_signs_an_amendment_whose_rotation_does_not_hold(
    consortium: ConsortiumManifest, identities: dict[str, Identity]
) -> None:
    taken = with_keys(consortium, "hospital-a", Identity.generate("hospital-a").public(), None)
    agreement = Agreement(chain=(sign(consortium, *(identities[name] for name in ABC)), Signed(taken)))
    with pytest.raises(SignatureRefused, match="without a rotation of its own"):
        agreement.signed(identities["hospital-b"], keyring)

"""Signed documents: complete, unaltered, by exactly those who count."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from silo_crypto.keys import Identity
from silo_policies import (
    ConsortiumManifest,
    Decision,
    DocumentError,
    RunManifest,
    SignatureRefused,
    Signed,
    Verifier,
    parse_signed,
    sign,
)


@pytest.fixture
def people(identities: dict[str, Identity]) -> dict[str, Verifier]:
    return {name: identities[name].public() for name in ("rita", "otto")}


@pytest.fixture
def signed(make_run: Callable[..., RunManifest], identities: dict[str, Identity]) -> Signed[RunManifest]:
    return sign(make_run(), identities["rita"], identities["otto"])


def test_holds_when_everybody_signed(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    signed.verify(people)
    again = parse_signed(RunManifest, signed.to_json())
    again.verify(people)
    assert again.body == signed.body
    assert again.body.digest == signed.body.digest
    assert again.body.digest == "sha256:" + again.body.digest_bytes.hex()


def test_a_missing_signature_is_named(
    make_run: Callable[..., RunManifest], identities: dict[str, Identity], people: dict[str, Verifier]
) -> None:
    with pytest.raises(SignatureRefused, match="missing: otto"):
        sign(make_run(), identities["rita"]).verify(people)


def test_a_quorum_may_be_enough(
    make_run: Callable[..., RunManifest], identities: dict[str, Identity], people: dict[str, Verifier]
) -> None:
    sign(make_run(), identities["rita"]).verify(people, quorum=1)


def test_nobody_counting_is_not_everybody_agreeing(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    for parties, quorum in (({}, None), (people, 0)):
        with pytest.raises(SignatureRefused, match="nobody"):
            Signed(signed.body, {}).verify(parties, quorum=quorum)


def test_a_foreign_signature_is_named(
    signed: Signed[RunManifest], identities: dict[str, Identity], people: dict[str, Verifier]
) -> None:
    with pytest.raises(SignatureRefused, match="signed by sven"):
        signed.sign(identities["sven"]).verify(people)


def test_signing_twice_is_refused(signed: Signed[RunManifest], identities: dict[str, Identity]) -> None:
    with pytest.raises(SignatureRefused, match="already signed"):
        signed.sign(identities["rita"])


def test_one_signature_under_two_names_is_refused(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    doubled = Signed(signed.body, dict.fromkeys(("rita", "otto"), signed.signatures["rita"]))
    with pytest.raises(SignatureRefused, match="under two names"):
        doubled.verify(people)


def test_swapped_signatures_do_not_hold(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    swapped = {"rita": signed.signatures["otto"], "otto": signed.signatures["rita"]}
    with pytest.raises(SignatureRefused, match="does not hold"):
        Signed(signed.body, swapped).verify(people)


def test_a_changed_body_does_not_hold(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    with pytest.raises(SignatureRefused, match="does not hold"):
        Signed(signed.body.model_copy(update={"rounds": 11}), signed.signatures).verify(people)


def test_a_signature_for_another_kind_of_document_does_not_hold(
    make_run: Callable[..., RunManifest], identities: dict[str, Identity], people: dict[str, Verifier]
) -> None:
    class Lookalike(RunManifest):
        label = "silo/v1/lookalike"

    run = make_run()
    other = sign(Lookalike.model_validate(run.to_dict()), identities["rita"])
    with pytest.raises(SignatureRefused, match="does not hold"):
        Signed(run, other.signatures).verify({"rita": people["rita"]})


def test_a_key_filed_under_another_name_is_refused(
    signed: Signed[RunManifest], identities: dict[str, Identity]
) -> None:
    parties = {"rita": identities["rita"].public(), "otto": identities["sven"].public()}
    with pytest.raises(SignatureRefused, match="is sven's"):
        signed.verify(parties)


@pytest.mark.parametrize(
    "bend", [lambda s: s + "=", lambda s: s[:-4], lambda s: " " + s, lambda s: "!" + s[1:], str.lower]
)
def test_a_malformed_signature_is_refused(
    signed: Signed[RunManifest], people: dict[str, Verifier], bend: Callable[[str], str]
) -> None:
    bent = {**signed.signatures, "otto": bend(signed.signatures["otto"])}
    with pytest.raises(SignatureRefused, match="otto's signature"):
        Signed(signed.body, bent).verify(people)


def test_base64_with_stray_bits_is_refused(signed: Signed[RunManifest], people: dict[str, Verifier]) -> None:
    text = signed.signatures["otto"]  # 64 bytes end in "X==" where X carries four unused bits
    stray = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    assert base64.b64decode(stray) == base64.b64decode(text)
    with pytest.raises(SignatureRefused, match="malformed"):
        Signed(signed.body, {**signed.signatures, "otto": stray}).verify(people)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda v: v.pop("signatures"), "exactly: kind, body, signatures"),
        (lambda v: v.update(more=1), "exactly: kind, body, signatures"),
        (lambda v: v.update(kind="silo/v1/waiver"), "not 'silo/v1/run'"),
        (lambda v: v.update(signatures=[]), "signatures map"),
        (lambda v: v["signatures"].update(rita=3), "signatures map"),
        (lambda v: v["body"].update(more=1), "more: Extra inputs"),
        (lambda v: v["body"].update(rounds="10"), "rounds: Input should be a valid integer"),
        (lambda v: v["body"].update(rounds=True), "rounds: Input should be a valid integer"),
        (lambda v: v["body"]["privacy"].pop("delta"), "privacy.delta: Field required"),
        (lambda v: v["body"].update(members=["Hospital A", "b"]), r"members\[0\]: String should match"),
    ],
)
def test_malformed_documents_are_refused_naming_the_field(
    signed: Signed[RunManifest], change: Callable[[dict], object], what: str
) -> None:
    value = json.loads(signed.to_json())
    change(value)
    with pytest.raises(DocumentError, match=what) as caught:
        parse_signed(RunManifest, json.dumps(value), where="run.json")
    assert caught.value.where == "run.json"


def test_a_duplicate_signature_in_the_file_is_refused(signed: Signed[RunManifest]) -> None:
    text = signed.to_json().replace('"signatures":{', '"signatures":{"rita":"x",')
    with pytest.raises(DocumentError, match="'rita' stands twice"):
        parse_signed(RunManifest, text)


def test_labels_differ() -> None:
    from silo_policies import Approval, Waiver

    labels = {kind.label for kind in (RunManifest, ConsortiumManifest, Decision, Waiver, Approval)}
    assert len(labels) == 5

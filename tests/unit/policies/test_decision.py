"""The decision record: what it says follows from what the gate found, and nothing of the facts leaves with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from silo_crypto.keys import Identity
from silo_policies import (
    Approval,
    Decision,
    DocumentError,
    Facts,
    Gate,
    Layer,
    Outcome,
    SignatureRefused,
    Signed,
    Waiver,
    code_signers,
    parse_pack,
    parse_signed,
    shipped_pack,
    sign,
    verify_decision,
)

MANIFEST = "sha256:" + "7" * 64

OWN = """\
id: own
title: Our rules
version: 1.0.0
jurisdiction: Bavaria
notice: Not legal advice.
effective_from: "2026-01-01T00:00:00Z"
effective_until: "2027-01-01T00:00:00Z"
rules:
  - id: records
    title: Not too many
    moments: [accept]
    expr: dataset.records < 77
    severity: major
    cite: {instrument: Charter, article: "1", url: "https://example.org/charter"}
    message: Too many records.
    remediation: Ask for fewer.
"""

Decide = Callable[..., Outcome]


@pytest.fixture
def decide(facts: Facts, now: datetime, identities: dict[str, Identity]) -> Decide:
    def run(*, own: bool = True, waived: bool = False) -> Outcome:
        layer = Layer.pinned(parse_pack(OWN, "own.yaml")) if own else None
        gate = Gate(Layer.pinned(shipped_pack("baseline")), layer, approvers={"otto": identities["otto"].public()})
        waiver = (
            Waiver(
                pack="own",
                pack_digest=layer.pins["own"] if layer else "",
                rule="records",
                silo="hospital-a",
                run="run-1",
                approver="otto",
                reason="The board agreed on 31 May.",
                created=now - timedelta(days=1),
                expires=now + timedelta(days=1),
            )
            if waived
            else None
        )
        waivers = [sign(waiver, identities["otto"])] if waiver else []
        return gate.evaluate("accept", facts, now=now, waivers=waivers)

    return run


def test_a_permission(decide: Decide, identities: dict[str, Identity], now: datetime) -> None:
    decision = Decision.of(decide(own=False), run="run-1", manifest=MANIFEST, silo="hospital-a")
    assert (decision.decision, decision.deciding, decision.reasons, decision.waivers) == ("permit", (), (), ())
    signed = sign(decision, identities["hospital-a"])
    again = parse_signed(Decision, signed.to_json())
    assert (
        verify_decision(again, identities["hospital-a"].public(), run="run-1", manifest=MANIFEST, now=now) == decision
    )


def test_a_denial_says_why_in_the_packs_words_and_nothing_of_the_facts(decide: Decide) -> None:
    outcome = decide()
    decision = Decision.of(outcome, run="run-1", manifest=MANIFEST, silo="hospital-a")
    assert decision.decision == "deny"
    assert decision.deciding == ("own/records",)
    (reason,) = decision.reasons
    assert (reason.message, reason.remediation) == ("Too many records.", "Ask for fewer.")
    assert reason.cite is not None
    assert reason.cite.article == "1"
    assert outcome.denied[0].facts == {"dataset.records": 300}
    assert "300" not in json.dumps({**decision.to_dict(), "packs": {}, "facts_hash": ""})


def test_a_waiver_stands_out(decide: Decide) -> None:
    decision = Decision.of(decide(waived=True), run="run-1", manifest=MANIFEST, silo="hospital-a")
    assert decision.decision == "permit"
    assert decision.deciding == ("own/records",)
    (used,) = decision.waivers
    assert (used.approver, used.reason) == ("otto", "The board agreed on 31 May.")
    assert {(rule.id, rule.result) for rule in decision.rules if rule.pack == "own"} == {("records", "waived")}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"decision": "permit"}, "does not follow"),
        ({"deciding": ()}, "deciding rules"),
        ({"rules": ()}, "rules"),
        ({"facts_hash": "x"}, "facts_hash"),
    ],
)
def test_a_record_that_contradicts_itself_cannot_be_made(decide: Decide, change: dict[str, Any], what: str) -> None:
    good = Decision.of(decide(), run="run-1", manifest=MANIFEST, silo="hospital-a")
    with pytest.raises(ValueError, match=what):
        Decision.model_validate({**good.model_dump(), **change})


def test_a_waived_rule_needs_its_waiver(decide: Decide) -> None:
    good = Decision.of(decide(waived=True), run="run-1", manifest=MANIFEST, silo="hospital-a")
    with pytest.raises(ValueError, match="waivers do not match"):
        Decision.model_validate({**good.model_dump(), "waivers": ()})


def test_only_the_silo_itself_decides_for_this_run_and_now(
    decide: Decide, identities: dict[str, Identity], now: datetime
) -> None:
    decision = Decision.of(decide(), run="run-1", manifest=MANIFEST, silo="hospital-a")
    signed = sign(decision, identities["hospital-a"])
    public = identities["hospital-a"].public()
    with pytest.raises(DocumentError, match="for run run-1"):
        verify_decision(signed, public, run="run-2", manifest=MANIFEST, now=now)
    with pytest.raises(DocumentError, match="future"):
        verify_decision(signed, public, run="run-1", manifest=MANIFEST, now=now - timedelta(minutes=6))
    with pytest.raises(SignatureRefused, match="is hospital-b's"):
        verify_decision(signed, identities["hospital-b"].public(), run="run-1", manifest=MANIFEST, now=now)
    forged = Signed(decision.model_copy(update={"run": "run-2"}), signed.signatures)
    with pytest.raises(SignatureRefused, match="does not hold"):
        verify_decision(forged, public, run="run-2", manifest=MANIFEST, now=now)


# -- approval of code -----------------------------------------------------------------------------------------------

CODE = "sha256:" + "1" * 64


@pytest.fixture
def approve(identities: dict[str, Identity], now: datetime) -> Callable[..., Signed[Approval]]:
    def make(by: str = "sven", *, signer: str | None = None, **changes: Any) -> Signed[Approval]:
        values = {
            "code_digest": CODE,
            "by": by,
            "note": "Read line by line.",
            "created": now - timedelta(days=1),
            "expires": now + timedelta(days=1),
        }
        return sign(Approval.model_validate({**values, **changes}), identities[signer or by])

    return make


def test_approvals_name_a_digest(
    approve: Callable[..., Signed[Approval]], identities: dict[str, Identity], now: datetime
) -> None:
    people = {name: identities[name].public() for name in ("sven", "rita")}
    assert code_signers(CODE, [approve(), approve("rita"), approve()], people, now=now) == ("rita", "sven")
    assert code_signers("sha256:" + "2" * 64, [approve()], people, now=now) == ()
    assert code_signers(CODE, [], people, now=now) == ()


def test_approvals_that_do_not_hold_do_not_count(
    approve: Callable[..., Signed[Approval]], identities: dict[str, Identity], now: datetime
) -> None:
    people = {"sven": identities["sven"].public()}
    bad = [
        approve("otto"),
        approve(signer="otto"),
        approve(expires=now),
        approve(created=now + timedelta(minutes=6), expires=now + timedelta(days=1)),
        Signed(approve().body, {}),
        Signed(approve().body, approve(note="Another note.").signatures),
    ]
    for signed in bad:
        assert code_signers(CODE, [signed], people, now=now) == ()


def test_an_approval_ends_after_it_begins(approve: Callable[..., Signed[Approval]], now: datetime) -> None:
    with pytest.raises(ValueError, match="expires must lie after"):
        approve(expires=now - timedelta(days=1))

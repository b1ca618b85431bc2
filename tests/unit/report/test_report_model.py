"""The facts: strict, coherent, and the same after a trip through JSON."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from silo.report import CLAIMS_NOT_MADE, Report, render_json
from silo.report.facts.parties import Estimate, Reason, Silo
from tests.unit.report.sample import sample


def changed(**changes: object) -> Report:
    """The sample with some facts replaced, validated again."""
    facts = {name: getattr(sample(), name) for name in Report.model_fields}
    return Report(**{**facts, **changes})


def test_json_reads_back_to_the_same_facts_and_the_same_bytes() -> None:
    text = render_json(sample())
    assert Report.model_validate_json(text) == sample()
    assert render_json(Report.model_validate_json(text)) == text
    assert text.endswith("}\n")
    assert "\r" not in text


def test_json_holds_what_the_demo_prints() -> None:
    facts = json.loads(render_json(sample()))
    refused = facts["silos"][-1]
    assert {"name", "records", "epsilon", "delta", "decision"} <= refused.keys()
    assert (refused["decision"], refused["records"], refused["epsilon"]) == ("deny", None, 0.0)
    assert [type(facts["auc"][key]) for key in ("pooled", "federated", "silo_only")] == [float] * 3
    assert {"scheme", "custody", "security_bits", "upload_bytes", "plain_bytes"} <= facts["encryption"].keys()
    assert facts["aggregator"]["has_secret_key"] is False
    assert list(facts)[:3] == ["version", "run", "name"]


def test_facts_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sample().run = "another"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", "3"),
        ("epsilon", True),
        ("epsilon", float("nan")),
        ("epsilon", float("inf")),
        ("epsilon", -1.0),
        ("name", "Cleveland"),
        ("name", "cleveland\n"),
        ("records", 2**53),
        ("records", 1.0),
        ("decision", "maybe"),
    ],
)
def test_a_fact_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    facts = {"name": "a", "display_name": "A", "epsilon": 1.0, "delta": 1e-4, "decision": "permit"}
    Silo(**facts)
    with pytest.raises(ValidationError, match=name):
        Silo(**{**facts, name: value})


def test_unknown_facts_are_refused() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        changed(surprise=1)


@pytest.mark.parametrize("moment", ["2025-11-21 10:15:02Z", "2025-11-21T10:15:02", "2025-11-21T10:15:02+01:00"])
def test_times_are_utc(moment: str) -> None:
    with pytest.raises(ValidationError, match="started"):
        changed(started=moment)


def test_a_refusal_names_a_reason_and_spends_nothing() -> None:
    facts = {"name": "a", "display_name": "A", "delta": 1e-4, "decision": "deny"}
    reason = Reason(pack="p", rule="r", message="no")
    with pytest.raises(ValidationError, match="at least one reason"):
        Silo(**facts, epsilon=0.0)
    with pytest.raises(ValidationError, match="spent no epsilon"):
        Silo(**facts, epsilon=0.1, reasons=(reason,))


def test_an_interval_holds_its_value() -> None:
    with pytest.raises(ValidationError, match="low <= value <= high"):
        Estimate(value=0.5, low=0.6, high=0.7)


def test_the_ratio_is_checked() -> None:
    lock = sample().encryption
    with pytest.raises(ValidationError, match="ratio"):
        type(lock)(**{**{name: getattr(lock, name) for name in type(lock).model_fields}, "ratio": 1.02})


def test_contradictions_between_facts_are_refused() -> None:
    report = sample()
    with pytest.raises(ValidationError, match="same name"):
        changed(silos=(*report.silos, report.silos[0]))
    with pytest.raises(ValidationError, match="the verdict counts 12 rounds, the report lists 11"):
        changed(rounds=report.rounds[1:])
    # The refusing silo may not appear in a round.
    stray = report.rounds[0].model_copy(update={"participants": ("cleveland", "lakeside")})
    with pytest.raises(ValidationError, match="lakeside"):
        changed(rounds=(stray,))
    log = report.evidence.logs[0].model_copy(update={"holder": "stranger"})
    with pytest.raises(ValidationError, match="stranger"):
        changed(evidence=report.evidence.model_copy(update={"logs": (log,)}))


def test_claims_not_made_can_be_added_to_but_not_shortened() -> None:
    assert changed(claims_not_made=(*CLAIMS_NOT_MADE, "That it rained.")).claims_not_made[-1] == "That it rained."
    with pytest.raises(ValidationError, match="not shortened"):
        changed(claims_not_made=CLAIMS_NOT_MADE[1:])


def test_a_lone_surrogate_cannot_prevent_the_report() -> None:
    assert "bad?name" in render_json(changed(name="bad\ud800name"))


def test_backing_finds_each_log_that_holds_an_entry() -> None:
    assert {holder for holder, _ in sample().backing("manifest")} == {
        "cleveland",
        "hungary",
        "switzerland",
        "va-long-beach",
        "lakeside",
        "aggregator",
    }
    assert sample().backing("decision/nobody") == ()

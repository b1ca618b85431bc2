"""The gate: permits only what every rule permits, and denies whatever is in doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from silo_crypto.keys import Identity
from silo_policies import (
    DatasetFacts,
    Evaluator,
    Facts,
    Gate,
    Layer,
    Pack,
    Signed,
    Waiver,
    parse_pack,
    shipped_pack,
    sign,
)
from silo_policies.errors import EvaluationError
from silo_policies.evaluator import CelExpr

RULE = """
  - id: {id}
    title: T
    moments: [accept]
    expr: '{expr}'
    severity: {severity}
    cite: {{instrument: Charter, article: "1", url: "https://example.org/charter"}}
    message: M
    remediation: R
"""


def make_pack(*rules: tuple[str, str], name: str = "own", severity: str = "major", extra: str = "") -> Pack:
    head = (
        f"id: {name}\ntitle: T\nversion: 1.0.0\njurisdiction: any\nnotice: N\n"
        'effective_from: "2026-01-01T00:00:00Z"\neffective_until: "2027-01-01T00:00:00Z"\nrules:'
    )
    body = "".join(RULE.format(id=id_, expr=expr, severity=severity) + extra for id_, expr in rules)
    return parse_pack(head + body, f"{name}.yaml")


@pytest.fixture(scope="module")
def baseline() -> Layer:
    return Layer.pinned(shipped_pack("baseline"))


def failing(gate: Gate, facts: Facts, now: datetime, **more: Any) -> dict[str, str]:
    outcome = gate.evaluate("accept", facts, now=now, **more)
    assert not outcome.permitted
    return {result.id: result.result for result in outcome.denied}


def test_permits_when_every_rule_is_true(baseline: Layer, facts: Facts, now: datetime) -> None:
    outcome = Gate(baseline).evaluate("accept", facts, now=now)
    assert outcome.permitted
    assert {result.result for result in outcome.results} == {"true"}
    assert outcome.packs == {"baseline": baseline.packs[0].digest}


def test_a_silo_pack_denies_with_everything_needed_to_explain_it(baseline: Layer, facts: Facts, now: datetime) -> None:
    own = make_pack(("no-heart", 'run.purpose != "heart-disease-research"'))
    outcome = Gate(baseline, Layer.pinned(own)).evaluate("accept", facts, now=now)
    (denied,) = outcome.denied
    assert (denied.pack, denied.rule, denied.result) == ("own", "no-heart", "false")
    assert (denied.message, denied.remediation) == ("M", "R")
    assert denied.cite is not None
    assert denied.cite.instrument == "Charter"
    assert denied.facts == {"run.purpose": "heart-disease-research"}


@pytest.mark.parametrize("moment", ["join", "accept", "round", "release"])
def test_facts_that_are_not_known_deny_at_every_moment(baseline: Layer, now: datetime, moment: Any) -> None:
    outcome = Gate(baseline).evaluate(moment, Facts(), now=now)
    assert not outcome.permitted
    assert {result.result for result in outcome.results} == {"error"}


def test_a_missing_fact_is_an_error_even_beside_something_false(facts: Facts, now: datetime) -> None:
    # In CEL `error && false` is false, which a waiver could cover.
    layer = Layer.pinned(make_pack(("r", "dataset.records > 10 && run.epsilon < 1.0")))
    blind = facts.model_copy(update={"dataset": DatasetFacts()})
    outcome = Gate(layer).evaluate("accept", blind, now=now)
    assert [result.result for result in outcome.results] == ["error"]
    assert "dataset.records" in outcome.results[0].detail


def test_no_pack_denies(facts: Facts, now: datetime) -> None:
    assert failing(Gate(Layer((), {})), facts, now) == {"gate/no-rules": "error"}


def test_own_rules_do_not_stand_in_for_the_consortiums(facts: Facts, now: datetime) -> None:
    own = Layer.pinned(make_pack(("r", "run.epsilon > 0.0")))
    assert failing(Gate(Layer((), {}), own), facts, now) == {"gate/no-rules": "error"}


def test_a_pack_that_says_nothing_at_the_moment_denies(facts: Facts, now: datetime) -> None:
    layer = Layer.pinned(make_pack(("r", "run.epsilon > 0.0")))
    outcome = Gate(layer).evaluate("release", facts, now=now)
    assert [result.id for result in outcome.denied] == ["gate/no-rules"]


def test_expired_unknown_unpinned_and_differing_packs_deny(baseline: Layer, facts: Facts, now: datetime) -> None:
    (pack,) = baseline.packs
    other = {"baseline": "sha256:" + "f" * 64}
    assert failing(Gate(Layer((pack,), other)), facts, now) == {"gate/pack-differs": "error"}
    assert failing(Gate(Layer((pack,), {})), facts, now) == {"gate/pack-unpinned": "error"}
    both = Layer((pack,), {**baseline.pins, **{"gone": "sha256:" + "f" * 64}})
    assert failing(Gate(both), facts, now) == {"gate/pack-unknown": "error"}
    assert "gate/pack-duplicate" in failing(Gate(baseline, baseline), facts, now)
    late = facts.at(now)
    own = Layer.pinned(make_pack(("r", "run.epsilon > 0.0")))
    for moment in (pack_time("2027-01-01T00:00:00Z"), pack_time("2025-12-31T23:59:59Z")):
        assert failing(Gate(own), late, moment) == {"gate/pack-expired": "error"}
    assert Gate(own).evaluate("accept", late, now=pack_time("2026-12-31T23:59:59Z")).permitted


def pack_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_the_clock_of_the_gate_is_the_fact(facts: Facts, now: datetime) -> None:
    layer = Layer.pinned(make_pack(("r", "time.now < run.expires")))
    lying = facts.at(now - timedelta(days=9999))
    assert failing(Gate(layer), lying, now + timedelta(days=60)) == {"own/r": "false"}


@pytest.mark.parametrize("answer", [1, "true", None, [True]])
def test_a_truthy_answer_that_is_not_true_denies(answer: Any, facts: Facts, now: datetime) -> None:
    class Odd(CelExpr):
        def compile(self, expression: Any, *, where: str = "") -> Any:
            return lambda bound: answer

    assert _with_engine(Odd(), facts, now) == "false"


@pytest.mark.parametrize("error", [EvaluationError("no"), RuntimeError("boom"), KeyError("x")])
def test_whatever_an_engine_raises_denies(error: Exception, facts: Facts, now: datetime) -> None:
    class Broken(CelExpr):
        def compile(self, expression: Any, *, where: str = "") -> Any:
            def program(bound: Any) -> bool:
                raise error

            return program

    assert _with_engine(Broken(), facts, now) == "error"


def _with_engine(engine: Evaluator, facts: Facts, now: datetime) -> str:
    source = make_pack(("r", "run.epsilon > 0.0"))
    program = engine.compile(source.compiled[0].expression)
    compiled = source.compiled[0].__class__(source.compiled[0].rule, source.compiled[0].expression, program, "")
    pack = Pack(source.document, source.digest, source.origin, (compiled,))
    outcome = Gate(Layer.pinned(pack), evaluator=engine).evaluate("accept", facts, now=now)
    assert not outcome.permitted
    return outcome.results[0].result


def test_an_engine_that_cannot_take_the_facts_denies(facts: Facts, now: datetime) -> None:
    class Deaf(CelExpr):
        def bind(self, facts: Mapping[str, Any]) -> Any:
            raise RuntimeError("no")

    layer = Layer.pinned(make_pack(("r", "run.epsilon > 0.0")))
    assert failing(Gate(layer, evaluator=Deaf()), facts, now) == {"gate/facts-unusable": "error"}


# -- waivers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own() -> Layer:
    return Layer.pinned(make_pack(("strict", "run.epsilon <= 1.0")))


@pytest.fixture
def make_waiver(identities: dict[str, Identity], own: Layer) -> Callable[..., Signed[Waiver]]:
    def make(*, signer: str = "otto", **changes: Any) -> Signed[Waiver]:
        values = {
            "pack": "own",
            "pack_digest": own.pins["own"],
            "rule": "strict",
            "silo": "hospital-a",
            "run": "run-1",
            "approver": "otto",
            "reason": "Approved by the board on 31 May.",
            "created": "2026-06-01T00:00:00Z",
            "expires": "2026-06-30T00:00:00Z",
        }
        return sign(Waiver.model_validate({**values, **changes}), identities[signer])

    return make


@pytest.fixture
def gate(baseline: Layer, own: Layer, identities: dict[str, Identity]) -> Gate:
    return Gate(baseline, own, approvers={"otto": identities["otto"].public(), "rita": identities["rita"].public()})


def test_a_waiver_covers_a_false_rule_and_stands_out(
    gate: Gate, make_waiver: Callable[..., Signed[Waiver]], facts: Facts, now: datetime
) -> None:
    assert failing(gate, facts, now) == {"own/strict": "false"}
    outcome = gate.evaluate("accept", facts, now=now, waivers=[make_waiver()])
    assert outcome.permitted
    (waived,) = outcome.waived
    assert (waived.id, waived.result) == ("own/strict", "waived")
    assert "otto" in waived.detail


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"silo": "hospital-b"}, "for silo hospital-b"),
        ({"run": "run-2"}, "for run run-2"),
        ({"pack_digest": "sha256:" + "f" * 64}, "another version"),
        ({"expires": "2026-06-01T12:00:00Z"}, "expired"),
        ({"created": "2026-06-01T12:06:00Z"}, "future"),
        ({"approver": "sven", "signer": "sven"}, "may not approve"),
        ({"approver": "rita", "signer": "rita"}, "researcher"),
        ({"signer": "sven"}, "no say"),
    ],
)
def test_a_waiver_that_does_not_hold_is_refused_and_named(
    gate: Gate,
    make_waiver: Callable[..., Signed[Waiver]],
    facts: Facts,
    now: datetime,
    changes: dict[str, str],
    why: str,
) -> None:
    outcome = gate.evaluate("accept", facts, now=now, waivers=[make_waiver(**changes)])
    assert not outcome.permitted
    assert why in outcome.refused_waivers[0]


def test_a_forged_waiver_is_refused(
    gate: Gate, make_waiver: Callable[..., Signed[Waiver]], facts: Facts, now: datetime
) -> None:
    good = make_waiver(reason="A reason that was signed.")
    forged = Signed(good.body.model_copy(update={"reason": "A reason that was not."}), good.signatures)
    outcome = gate.evaluate("accept", facts, now=now, waivers=[forged])
    assert not outcome.permitted
    assert "does not hold" in outcome.refused_waivers[0]


def test_errors_and_missing_facts_cannot_be_waived(
    gate: Gate, make_waiver: Callable[..., Signed[Waiver]], facts: Facts, now: datetime
) -> None:
    blind = facts.model_copy(update={"run": facts.run.model_copy(update={"epsilon": None})})
    outcome = gate.evaluate("accept", blind, now=now, waivers=[make_waiver()])
    assert {result.id: result.result for result in outcome.denied}["own/strict"] == "error"


def test_a_rule_may_forbid_its_waiver(
    baseline: Layer, identities: dict[str, Identity], facts: Facts, now: datetime, make_waiver: Any
) -> None:
    hard = Layer.pinned(make_pack(("strict", "run.epsilon <= 1.0"), extra="    waivable: false\n"))
    gate = Gate(baseline, hard, approvers={"otto": identities["otto"].public()})
    outcome = gate.evaluate("accept", facts, now=now, waivers=[make_waiver(pack_digest=hard.pins["own"])])
    assert not outcome.permitted
    assert "does not let" in outcome.refused_waivers[0]


def test_most_severe_first(facts: Facts, now: datetime) -> None:
    minor = Layer.pinned(make_pack(("m", "run.epsilon > 9.0"), severity="minor", name="minor"))
    critical = Layer.pinned(make_pack(("c", "run.epsilon > 9.0"), severity="critical", name="critical"))
    outcome = Gate(minor, critical).evaluate("accept", facts, now=now)
    assert [result.rule for result in outcome.denied] == ["c", "m"]

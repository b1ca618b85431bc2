"""Properties of the gate, of signatures and of the readers, over random input."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from silo_crypto.keys import Identity
from silo_policies import (
    ExpressionError,
    Facts,
    Gate,
    Layer,
    Pack,
    PackError,
    SignatureRefused,
    Signed,
    Waiver,
    parse_json,
    parse_pack,
    shipped_text,
    sign,
)
from silo_policies.evaluator import default_evaluator
from silo_policies.expressions import parse
from silo_policies.strict_yaml import load

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EXPRESSIONS = [
    "run.epsilon <= 3.0",
    "run.epsilon > 1.0",
    "run.rounds < 10",
    "run.code_approved",
    "run.purpose in dataset.permitted_purposes",
    'run.releases.all(r, r != "records")',
]
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "run.epsilon": st.floats(0.5, 5.0),
        "run.rounds": st.integers(1, 20),
        "run.code_approved": st.booleans(),
        "run.purpose": st.sampled_from(["a", "b"]),
        "dataset.permitted_purposes": st.lists(st.sampled_from(["a", "b"])),
        "run.releases": st.lists(st.sampled_from(["model", "records"])),
    },
)


def _pack(name: str, chosen: list[str]) -> Pack:
    rules = [
        {
            "id": f"r{number}",
            "title": "T",
            "moments": ["accept"],
            "expr": source,
            "severity": "major",
            "cite": {"instrument": "I", "article": "1", "url": "https://example.org"},
            "message": "M",
            "remediation": "R",
        }
        for number, source in enumerate(chosen)
    ]
    head = {"id": name, "title": "T", "version": "1.0.0", "jurisdiction": "any", "notice": "N"}
    dates = {"effective_from": "2026-01-01T00:00:00Z", "effective_until": "2027-01-01T00:00:00Z"}
    return parse_pack(json.dumps({**head, **dates, "rules": rules}), f"{name}.yaml")


RULES = st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=4)


@given(FACTS, RULES, RULES)
@settings(max_examples=300, deadline=None)
def test_a_further_pack_only_tightens(values: dict[str, Any], federation: list[str], own: list[str]) -> None:
    facts = Facts.parse(values)
    base, more = Layer.pinned(_pack("base", federation)), Layer.pinned(_pack("own", own))
    alone = Gate(base).evaluate("accept", facts, now=NOW)
    both = Gate(base, more).evaluate("accept", facts, now=NOW)
    assert alone.permitted or not both.permitted
    assert both.permitted == (alone.permitted and Gate(more).evaluate("accept", facts, now=NOW).permitted)


@given(FACTS, RULES)
@settings(max_examples=300, deadline=None)
def test_permits_exactly_when_every_rule_is_true(values: dict[str, Any], rules: list[str]) -> None:
    outcome = Gate(Layer.pinned(_pack("base", rules))).evaluate("accept", Facts.parse(values), now=NOW)
    assert outcome.permitted == all(result.result == "true" for result in outcome.results)
    for result in outcome.results:
        if result.result == "error":
            assert result.detail.startswith("not known")
        else:
            assert set(result.facts) == parse(rules[int(result.rule[1:])]).facts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(string.printable, max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.ascii_letters, max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=300, deadline=None)
def test_json_is_yaml_and_reads_the_same(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == value
    assert load(text, "x")[0] == value


@given(st.binary(max_size=200) | st.text(max_size=200) | st.text("[]{}:,-&*!|>'\" \nab1", max_size=60))
@settings(max_examples=500, deadline=None)
def test_whatever_is_read_is_a_value_or_a_pack_error(text: str | bytes) -> None:
    try:
        value, _ = load(text, "x")
    except PackError:
        return
    # What is accepted means the same to an ordinary YAML reader, up to its dates, switches and odd numbers.
    if isinstance(value, dict):
        assert set(value) == {str(key) for key in value}


@given(st.integers(0, 2**32), st.integers(0, 2**8), st.sampled_from([1, 3, 20]))
@settings(max_examples=300, deadline=None)
def test_a_damaged_pack_is_refused_or_another_pack(position: int, byte: int, length: int) -> None:
    good = shipped_text("finance-model-risk")
    start = position % len(good)
    damaged = good[:start] + bytes([byte % 256]) + good[start + length :]
    try:
        pack = parse_pack(damaged, "x.yaml")
    except PackError as error:
        refusal = error
    else:
        same = yaml.safe_load(damaged) == yaml.safe_load(good)
        assert (pack.digest == parse_pack(good, "x").digest) == same
        return
    assert refusal.where.startswith("x.yaml")


WORDS = [
    *("run.epsilon", "run.members", "dataset.public", "m", "m.name", "true", "3.0", '"a"', '"""', "//", "in"),
    *("&&", "||", "!", "(", ")", "[", "]", ",", "<=", "==", "?", ":", "+", "-"),
    *("size(", "timestamp(", "run.members.all(m, "),
]


@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | st.text(max_size=40))
@settings(max_examples=500, deadline=None)
def test_an_expression_is_refused_or_total(source: str) -> None:
    engine = default_evaluator()
    try:
        program = engine.compile(parse(source))
    except ExpressionError:
        return
    assert "||" not in source.replace('"', "")
    members = [{"name": "a", "organisation_type": "b", "jurisdiction": "DE"}]
    facts = Facts.parse({"run.epsilon": 3.0, "run.members": members, "dataset.public": True})
    assert program(engine.bind(facts.values())) in (True, False)


@pytest.fixture(scope="module")
def otto() -> Identity:
    return Identity.generate("otto")


GOOD = {
    "pack": "own",
    "pack_digest": "sha256:" + "0" * 64,
    "rule": "r",
    "silo": "hospital-a",
    "run": "run-1",
    "approver": "otto",
    "reason": "The board agreed.",
    "created": "2026-06-01T00:00:00Z",
    "expires": "2026-06-02T00:00:00Z",
}
ALTERED = st.one_of(
    *(
        st.tuples(st.just(field), values)
        for field, values in {
            "pack": st.text("abow-n", min_size=1, max_size=3).filter(lambda text: text[0] != "-"),
            "pack_digest": st.text("01", min_size=64, max_size=64).map("sha256:".__add__),
            "rule": st.text("rule", min_size=1, max_size=3),
            "silo": st.sampled_from(["hospital-a", "hospital-b", "h"]),
            "run": st.text("run-1", min_size=1, max_size=5),
            "reason": st.text(string.printable, min_size=10, max_size=30),
            "created": st.integers(0, 59).map("2026-06-01T00:00:{:02d}Z".format),
            "expires": st.integers(0, 59).map("2026-06-02T00:00:{:02d}Z".format),
        }.items()
    )
)


@given(altered=ALTERED)
@settings(max_examples=100, deadline=None)
def test_a_signature_holds_for_its_document_and_no_other(altered: tuple[str, str], otto: Identity) -> None:
    signed = sign(Waiver.model_validate(GOOD), otto)
    other = Waiver.model_validate({**GOOD, altered[0]: altered[1]})
    party = {"otto": otto.public()}
    signed.verify(party)
    if other == signed.body:
        Signed(other, signed.signatures).verify(party)
    else:
        with pytest.raises(SignatureRefused, match="does not hold"):
            Signed(other, signed.signatures).verify(party)

"""What rules may say: everything outside the small, total part of CEL is refused with what to write instead."""

from __future__ import annotations

import time

import pytest
from silo_policies import EvaluationError, ExpressionError, Facts
from silo_policies.evaluator import default_evaluator
from silo_policies.expressions import MAX_LENGTH, parse
from silo_policies.facts import MAX_LIST


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("run.epsilon <= 3.0", {"run.epsilon"}),
        ('run.members.all(m, m.name == "a") && !dataset.public', {"run.members", "dataset.public"}),
        ("run.purpose\n  in dataset.permitted_purposes", {"run.purpose", "dataset.permitted_purposes"}),
        ('"run.epsilon || x" == run.purpose', {"run.purpose"}),
        ("run.code_signers.exists(s, s != run.researcher)", {"run.code_signers", "run.researcher"}),
    ],
)
def test_names_the_facts_it_reads(source: str, facts: set[str]) -> None:
    assert parse(source).facts == facts


@pytest.mark.parametrize(
    ("source", "what", "fix"),
    [
        ("run.epsilon <= 3.0 || true", "'||' is not permitted", "a ? true : b"),
        ("run.code_approved ? run.epsilon > 1.0 || dataset.public : true", "'||'", ""),
        ("!(run.epsilon <= 3.0 && dataset.public)", "'!' may stand only", "turn the comparison"),
        ("run.epsilom <= 3.0", "no fact 'run.epsilom'", "run.epsilon"),
        ("epsilon <= 3.0", "no fact 'epsilon'", ""),
        ("run <= 3.0", "no fact 'run'", ""),
        ("has(run.epsilon)", "'has' is not permitted", ""),
        ("run.purpose.matches('.*')", "not permitted", ""),
        ("dyn(run.epsilon) <= 3", "'dyn' is not permitted", ""),
        ("run.members.map(m, m.name) == []", "not permitted", ""),
        ("run.members[0].name == 'a'", "outside the part of CEL", ""),
        ("run.members[0] == 'a'", "indexing", ""),
        ("run.releases[0] == 'a'", "indexing", ""),
        ("[1, 2][0] == 1", "indexing", ""),
        ("run.rounds / 2 == 1", "outside the part of CEL", ""),
        ("run.rounds % 2 == 1", "outside the part of CEL", ""),
        ("run.epsilon <= 3.0 // fine", "outside the part of CEL", ""),
        ('run.purpose == "a\\"b"', "outside the part of CEL", ""),
        ('run.purpose == r"a"', "outside the part of CEL", ""),
        ('run.purpose == """a"""', "outside the part of CEL", ""),
        ("{'a': 1} == {'a': 1}", "outside the part of CEL", ""),
        ("run.epsilon <= 3.", "outside the part of CEL", ""),
        ("run.rounds <= 3u", "outside the part of CEL", ""),
        ("run.rounds <= 0x3", "outside the part of CEL", ""),
        ("run.members.all(m, run.releases.all(r, r == m.name))", "inside another comprehension", ""),
        ("run.members.all(m, size(run.releases.filter(r, true)) > 0)", "inside another comprehension", ""),
        ("run.members.all(m, m.nope == 'x')", "no 'nope'", "jurisdiction"),
        ("run.releases.all(r, r.name == 'x')", "no 'name'", ""),
        ("run.epsilon.all(m, m == 1.0)", "not a list", ""),
        ("run.nope.all(m, m == 1.0)", "no fact", ""),
        ("run.members.all(run.epsilon, true)", "needs a variable", ""),
        ("run.members.all(in, true)", "needs a variable", ""),
        ("run.members.all(m, m.name == 'a'", "not closed", ""),
        ("m.name == 'a'", "no fact", ""),
        ("run.members.all(m, true) && m.name == 'a'", "no fact", ""),
        ("run.expires < timestamp(run.purpose)", "takes one literal", ""),
        ("run.expires < timestamp('tomorrow')", "takes one literal", ""),
        ("run.expires < timestamp('2026-13-01T00:00:00Z')", "takes one literal", ""),
        ("time.now + duration('a day') < run.expires", "takes one literal", "24h"),
        ("", "empty", ""),
        ("   ", "empty", ""),
        ("true && " * 200 + "true", f"more than {MAX_LENGTH}", "split"),
    ],
)
def test_refuses_and_says_what_to_write(source: str, what: str, fix: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(source, where="p.yaml:3: rule r")
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == "p.yaml:3: rule r"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('run.epsilon <= "3"', "no matching overload"),
        ("run.epsilon <= 3", "no matching overload"),
        ("run.code_approved == 1", "no matching overload"),
        ("run.purpose in run.epsilon", "no matching overload"),
        ("run.epsilon", "is a DOUBLE"),
        ("(" * 100 + "run.code_approved" + ")" * 100, "does not compile"),
    ],
)
def test_wrong_types_are_refused_when_compiling(source: str, what: str) -> None:
    with pytest.raises(ExpressionError, match=what):
        default_evaluator().compile(parse(source))


def test_the_slowest_permitted_expression_on_the_largest_facts_is_quick() -> None:
    one = 'run.members.all(m, m.organisation_type in ["a", "b", "c", "d", "e", "f", "hospital"])'
    source = one
    while len(source) + len(one) + 4 <= MAX_LENGTH and source.count("all") < 9:
        source += " && " + one
    members = [
        {"name": f"m{number}", "organisation_type": "hospital", "jurisdiction": "DE"} for number in range(MAX_LIST)
    ]
    facts = Facts.parse({"run.members": members}).values()
    engine = default_evaluator()
    program = engine.compile(parse(source))
    start = time.perf_counter()
    assert program(engine.bind(facts)) is True
    # Measured 15 ms; the bound only has to tell milliseconds from minutes on a busy machine.
    assert time.perf_counter() - start < 2.0


def test_what_takes_longer_than_the_engine_allows_is_an_error() -> None:
    source = " && ".join(["run.members.all(m, m.name != 'x')"] * 20)
    members = [{"name": f"m{number}", "organisation_type": "a", "jurisdiction": "DE"} for number in range(MAX_LIST)]
    engine = default_evaluator()
    program = engine.compile(parse(source))
    with pytest.raises(EvaluationError, match="budget"):
        program(engine.bind(Facts.parse({"run.members": members}).values()))

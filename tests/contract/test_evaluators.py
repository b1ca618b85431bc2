"""Both CEL engines answer the same questions in the same way: the contract of :class:`silo_policies.Evaluator`."""

from __future__ import annotations

from typing import Any

import pytest
from silo_policies import EvaluationError, Evaluator, ExpressionError, Facts, shipped_pack, shipped_packs
from silo_policies.evaluator import CelExpr, CommonExpression
from silo_policies.expressions import parse

MEMBERS = [
    {"name": "a", "organisation_type": "hospital", "jurisdiction": "DE"},
    {"name": "b", "organisation_type": "university", "jurisdiction": "US-CA"},
]
FACTS: dict[str, Any] = {
    "run.epsilon": 3.0,
    "run.delta": 1e-5,
    "run.rounds": 4,
    "run.purpose": "heart-disease-research",
    "run.releases": ["metrics", "model"],
    "run.members": MEMBERS,
    "run.expires": "2026-07-01T00:00:00Z",
    "run.code_approved": True,
    "dataset.public": False,
    "dataset.records": 10_000,
    "dataset.permitted_purposes": [],
    "dataset.epsilon_left": 3.0,
    "time.now": "2026-06-30T00:00:00Z",
}

CASES = [
    ("run.epsilon <= 3.0", True),
    ("run.epsilon < 3.0", False),
    ("run.epsilon <= dataset.epsilon_left", True),
    ("run.epsilon == 3.0 && run.rounds != 5", True),
    ("run.rounds >= 4 && run.rounds > 3", True),
    ("run.rounds * 3 - 2 + 1 == 11", True),
    ("-run.rounds < 0", True),
    ("run.delta * double(dataset.records) <= 0.1", True),
    ("run.delta * double(dataset.records) <= 9.9e-2", False),
    ('run.purpose in ["x", "heart-disease-research"]', True),
    ("run.purpose in dataset.permitted_purposes", False),
    ('"model" in run.releases', True),
    ('"records" in run.releases', False),
    ('run.purpose.endsWith("-research") && run.purpose.startsWith("heart") && run.purpose.contains("disease")', True),
    ('run.purpose < "i"', True),
    ("size(run.members) == 2 && size(dataset.permitted_purposes) == 0", True),
    ('size("four") == run.rounds', True),
    ("run.code_approved", True),
    ("!run.code_approved", False),
    ("dataset.public ? false : run.code_approved", True),
    ('run.members.all(m, m.jurisdiction.startsWith("US"))', False),
    ('run.members.exists(m, m.jurisdiction.startsWith("US"))', True),
    ('run.members.all(m, m.organisation_type in ["hospital", "university"])', True),
    ('!run.members.exists(m, m.name == "c")', True),
    ('size(run.members.filter(m, m.organisation_type == "hospital")) == 1', True),
    ('dataset.permitted_purposes.all(p, p == "x")', True),
    ('dataset.permitted_purposes.exists(p, p == "x")', False),
    ("time.now < run.expires", True),
    ('time.now + duration("24h") < run.expires', False),
    ('time.now + duration("24h") <= run.expires', True),
    ('run.expires - duration("1440m") == time.now', True),
    ('run.expires == timestamp("2026-07-01T00:00:00Z")', True),
]

FAILING = ["run.rounds + 9223372036854775807 > 0", "run.rounds * 9223372036854775807 > 0"]


@pytest.mark.parametrize("engine", [CelExpr(), CommonExpression()], ids=lambda engine: engine.name)
class TestEvaluator:
    """One class per protocol, run on every implementation."""

    @pytest.mark.parametrize(("source", "expected"), CASES)
    def test_answers(self, engine: Evaluator, source: str, expected: bool) -> None:
        program = engine.compile(parse(source))
        assert program(engine.bind(Facts.parse(FACTS).values())) is expected

    @pytest.mark.parametrize("source", FAILING)
    def test_overflow_is_an_error_not_an_answer(self, engine: Evaluator, source: str) -> None:
        program = engine.compile(parse(source))
        with pytest.raises(EvaluationError):
            program(engine.bind(Facts.parse(FACTS).values()))

    @pytest.mark.parametrize("source", ["run.epsilon <= 3.0", "run.code_approved", 'run.purpose == "x"'])
    def test_a_missing_fact_is_an_error(self, engine: Evaluator, source: str) -> None:
        with pytest.raises(EvaluationError):
            engine.compile(parse(source))(engine.bind({}))

    @pytest.mark.parametrize("source", ["run.epsilon", "run.purpose", "size(run.releases)", "run.releases"])
    def test_what_is_not_a_yes_or_no_is_refused(self, engine: Evaluator, source: str) -> None:
        with pytest.raises((ExpressionError, EvaluationError)):
            engine.compile(parse(source))(engine.bind(Facts.parse(FACTS).values()))

    @pytest.mark.parametrize("source", ["run.epsilon <=", "(run.epsilon <= 3.0", "run.epsilon 3.0", ") == ("])
    def test_what_does_not_parse_is_refused(self, engine: Evaluator, source: str) -> None:
        with pytest.raises(ExpressionError, match="does not compile"):
            engine.compile(parse(source))

    def test_binding_twice_does_not_mix(self, engine: Evaluator) -> None:
        program = engine.compile(parse("run.epsilon <= 3.0"))
        low, high = (engine.bind({"run.epsilon": value}) for value in (3.0, 3.5))
        assert [program(low), program(high), program(low)] == [True, False, True]

    @pytest.mark.parametrize("name", shipped_packs())
    def test_every_fixture_of_every_shipped_rule(self, engine: Evaluator, name: str) -> None:
        for compiled in shipped_pack(name, engine).compiled:
            for fixture in compiled.rule.tests:
                answer = compiled.program(engine.bind(Facts.parse(fixture.facts).values()))
                assert answer is (fixture.expect == "pass"), (compiled.rule.id, fixture.name)

"""10,000 random fact sets: two independent CEL engines, one C++ and one Rust, make the same decision rule by rule.

Values are drawn near what the shipped rules ask about (their own literals, and numbers next to their bounds), so that
both answers of every rule occur; any fact may also be unknown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from silo_policies import Facts, Gate, Layer, Moment, shipped_pack, shipped_packs
from silo_policies.evaluator import CelExpr, CommonExpression
from silo_policies.facts import schema

NOW = datetime(2026, 7, 1, tzinfo=UTC)
FIRST, SECOND = CelExpr(), CommonExpression()
PACKS = {
    engine.name: Layer.pinned(*(shipped_pack(name, engine) for name in shipped_packs())) for engine in (FIRST, SECOND)
}
GATES = {engine.name: Gate(PACKS[engine.name], evaluator=engine) for engine in (FIRST, SECOND)}
NAMED = sorted({fact for pack in PACKS[FIRST.name].packs for rule in pack.compiled for fact in rule.expression.facts})
INSTANTS = ["2026-06-30T23:59:59Z", "2026-07-01T00:00:00Z", "2026-07-01T00:00:01Z", "2026-07-02T00:00:00Z"]


def _from_fixtures() -> Iterator[tuple[str, Any]]:
    for pack in PACKS[FIRST.name].packs:
        for rule in pack.document.rules:
            for fixture in rule.tests:
                yield from fixture.facts.items()


def _choices(name: str) -> list[Any]:
    """The values a fact takes in the shipped fixtures: bounds, their neighbours, and every listed word."""
    found = [value for fact, value in _from_fixtures() if fact == name]
    if schema()[name].type == "timestamp":
        found = [*INSTANTS]
    if name in ("dataset.evidence", "silo.evidence"):
        found = [*found, sorted({word for value in found for word in value})]
    return [None, *found]


RANGED: dict[str, Callable[[random.Random], Any]] = {
    "run.epsilon": lambda rng: rng.uniform(0.001, 10.0),
    "run.delta": lambda rng: rng.uniform(1e-9, 0.5),
    "dataset.records": lambda rng: rng.randrange(2**53),
    "dataset.epsilon_left": lambda rng: rng.uniform(0.0, 10.0),
    "release.rounding": lambda rng: rng.randint(1, 20),
}
CHOICES = {name: _choices(name) for name in NAMED if name != "time.now"}
MOMENTS: tuple[Moment, ...] = ("accept", "accept", "accept", "join", "round", "release")
seen: Counter[tuple[str, str]] = Counter()


def test_both_engines_decide_alike() -> None:
    """Drawn by hand: hypothesis takes longer to draw fifty facts than both engines take to judge them."""
    rng = random.Random()
    for _ in range(10_000):
        values = {
            name: RANGED[name](rng) if name in RANGED and rng.random() < 0.5 else rng.choice(found)
            for name, found in CHOICES.items()
        }
        facts = Facts.parse({name: value for name, value in values.items() if value is not None})
        moment = rng.choice(MOMENTS)
        first, second = (gate.evaluate(moment, facts, now=NOW) for gate in GATES.values())
        ours, theirs = ([(each.id, each.result) for each in outcome.results] for outcome in (first, second))
        assert ours == theirs, (moment, values)
        assert (first.decision, first.facts_hash) == (second.decision, second.facts_hash), (moment, values)
        seen.update(ours)


def test_the_random_fact_sets_reached_every_answer_of_every_rule() -> None:
    # Runs after the test above in the same process; alone it would have nothing to look at.
    if not seen:
        test_both_engines_decide_alike()
    for pack in PACKS[FIRST.name].packs:
        for rule in pack.rules:
            answers = {result for (id_, result) in seen if id_ == f"{pack.id}/{rule}"}
            assert {"true", "false"} <= answers, (pack.id, rule, answers)

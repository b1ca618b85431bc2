"""Facts are of their declared type and range, or not known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from silo_policies import FactError, Facts
from silo_policies.facts import schema


def test_dotted_and_nested_are_the_same() -> None:
    dotted = Facts.parse({"run.epsilon": 3.0, "run.rounds": 4, "dataset.public": True})
    nested = Facts.parse({"run": {"epsilon": 3.0, "rounds": 4}, "dataset": {"public": True}})
    assert dotted == nested
    assert dotted.values() == {"run.epsilon": 3.0, "run.rounds": 4, "dataset.public": True}


def test_what_is_not_known_is_absent_not_defaulted() -> None:
    assert Facts().values() == {}
    assert Facts().to_dict() == {section: {} for section in Facts.model_fields}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run.epsilon", "3"),
        ("run.epsilon", True),
        ("run.epsilon", -1.0),
        ("run.epsilon", 0.0),
        ("run.epsilon", float("nan")),
        ("run.epsilon", float("inf")),
        ("run.delta", 1.0),
        ("run.rounds", 3.0),
        ("run.rounds", True),
        ("run.rounds", 0),
        ("run.rounds", 2**53),
        ("run.purpose", "Heart Disease"),
        ("run.purpose", 3),
        ("run.code_approved", 1),
        ("run.code_approved", "true"),
        ("run.releases", "model"),
        ("run.releases", ["model", 3]),
        ("run.members", [{"name": "a"}]),
        ("run.members", [{"name": "a", "organisation_type": "b", "jurisdiction": "Germany"}]),
        ("run.members", [{"name": "a", "organisation_type": "b", "jurisdiction": "DE", "more": "c"}]),
        ("run.releases", ["model"] * 1025),
        ("run.expires", "2026-06-01"),
        ("run.sample_rate", 1.5),
        ("run.epsilom", 3.0),
        ("dataset.epsilon_left", -0.1),
        ("silo.jurisdiction", "de"),
        ("weather.now", "good"),
        ("run", 3),
    ],
)
def test_wrong_types_ranges_and_names_are_refused(name: str, value: Any) -> None:
    with pytest.raises(FactError) as caught:
        Facts.parse({name: value})
    assert name.split(".")[0] in caught.value.what


def test_a_whole_number_is_a_decimal_where_a_decimal_is_due() -> None:
    (value,) = Facts.parse({"run.epsilon": 3}).values().values()
    assert isinstance(value, float)


def test_the_schema_names_a_type_a_source_and_a_meaning_for_every_fact() -> None:
    assert len(schema()) > 60
    for name, info in schema().items():
        assert name == info.name
        assert info.source in ("measured", "signed", "declared")
        assert info.meaning
    assert schema()["run.members"].type == "list(map(string, string))"
    assert schema()["run.releases"].type == "list(string)"
    assert schema()["run.epsilon"].source == "measured"
    assert {schema()[name].type for name in ("time.now", "run.expires")} == {"timestamp"}


def test_facts_do_not_change() -> None:
    facts = Facts.parse({"run.epsilon": 3.0})
    with pytest.raises(ValueError, match="frozen"):
        facts.run.epsilon = 1.0  # type: ignore[misc]


def test_the_clock_is_set_without_touching_the_rest() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    facts = Facts.parse({"run.epsilon": 3.0}).at(now)
    assert facts.values() == {"run.epsilon": 3.0, "time.now": now}
    assert facts.to_dict()["time"] == {"now": "2026-06-01T00:00:00Z"}

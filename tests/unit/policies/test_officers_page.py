"""The officer's page says what the package does: its example is a good pack, its table is the schema."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from silo_policies import MOMENTS, Facts, Gate, Layer, Pack, check_pack, parse_pack, shipped_pack, shipped_packs
from silo_policies.expressions import parse
from silo_policies.facts import schema

PAGE = (Path(__file__).parents[3] / "policies" / "README.md").read_text()


@pytest.fixture
def example() -> Pack:
    return parse_pack(PAGE.split("```yaml\n")[1].split("```")[0], "our-charter.yaml")


def test_the_example_is_a_good_pack(example: Pack) -> None:
    assert check_pack(example, mutate=True).problems() == []


def test_the_example_denies_as_the_page_says(example: Pack, facts: Facts, now: datetime) -> None:
    gate = Gate(Layer.pinned(shipped_pack("baseline")), Layer.pinned(example))
    denied = gate.evaluate("accept", facts, now=now).denied
    assert [each.id for each in denied] == ["our-charter/board-sees-heart-studies"]
    assert denied[0].cite is not None
    assert denied[0].cite.instrument == "Our patient charter"
    assert denied[0].message in " ".join(PAGE.split("```text\n")[1].split("```")[0].split())


def test_every_fact_stands_in_the_table() -> None:
    for info in schema().values():
        assert f"| `{info.name}` | {info.type} | {info.source} | {info.meaning} |" in PAGE


def test_every_shipped_pack_and_moment_is_named() -> None:
    for name in (*shipped_packs(), *MOMENTS):
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize(
    "source",
    [
        line.split("`")[1]
        for line in PAGE.split("| write | for |")[1].split("There is no")[0].splitlines()
        if "`run." in line
    ],
)
def test_the_expressions_shown_are_permitted(source: str) -> None:
    assert parse(source).facts


def test_the_shipped_packs_are_in_effect_for_years() -> None:
    for name in shipped_packs():
        assert shipped_pack(name).in_effect(datetime(2029, 12, 31, tzinfo=UTC))

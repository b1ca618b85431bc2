"""Only the harmless part of YAML is read, and every refusal names file and line."""

from __future__ import annotations

import pytest
from silo_policies import PackError
from silo_policies.strict_yaml import MAX_BYTES, load


def test_reads_plain_values_with_their_lines() -> None:
    value, lines = load('a: 1\nb:\n  - NO\n  - 3.50\n  - "2"\nc: {d: null, e: true, f: -1.5e-3}\n', "p.yaml")
    assert value == {"a": 1, "b": ["NO", 3.5, "2"], "c": {"d": None, "e": True, "f": -1.5e-3}}
    assert lines.where(("b", 1)) == "p.yaml:4"
    assert lines.where(("c", "e")) == "p.yaml:6"
    assert lines.where(("b", 9, "x")) == "p.yaml:2"


@pytest.mark.parametrize("text", ["yes", "0x10", "012", "1_000", "2026-01-01", ".inf", ".nan", "1:30", "on", "+1"])
def test_what_only_yaml_takes_for_a_number_date_or_switch_stays_text(text: str) -> None:
    assert load(f"a: {text}", "p.yaml")[0] == {"a": text}


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        (BOMB, "anchor", 1),
        ("a: 1\nb: *a\n", "anchor", 2),
        ("a: 1\n<<: {b: 2}\nc: &x 1\n", "anchor", 3),
        ("a: 1\na: 2\n", "stands twice", 2),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "stands twice", 4),
        ("a: !!python/object/apply:os.system [x]\n", "tag", 1),
        ("a: !!str 1\n", "tag", 1),
        ("a: 1\n---\nb: 2\n", "second document", 2),
        ("? [a]\n: 1\n", "plain text", 1),
        ("a: [1, 2\nb: 3\n", "not valid YAML", 2),
        ("a: 'x\n", "not valid YAML", 2),
        ("a: \x07\n", "not valid YAML", 0),
        ("a: " + "[" * 40 + "]" * 40, "nesting", 1),
        ("a: [" + "1," * 30_000 + "1]", "nodes", 1),
    ],
)
def test_refuses_naming_file_and_line(text: str, what: str, line: int) -> None:
    with pytest.raises(PackError, match=what) as caught:
        load(text, "p.yaml")
    assert caught.value.where == (f"p.yaml:{line}" if line else "p.yaml")


@pytest.mark.parametrize(
    ("text", "what"), [("", "empty"), (b"\xff\xfe\xff", "UTF-8"), ("#" * (MAX_BYTES + 1), "more than")]
)
def test_refuses_what_is_no_text_of_bearable_size(text: str | bytes, what: str) -> None:
    with pytest.raises(PackError, match=what) as caught:
        load(text, "p.yaml")
    assert caught.value.where == "p.yaml"


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    with pytest.raises(PackError):
        load("[" * 100_000, "p.yaml")

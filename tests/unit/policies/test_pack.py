"""Packs are read whole or not at all; every refusal names file, line and rule."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from silo_policies import ExpressionError, PackError, check_pack, diff_packs, load_pack, parse_pack, shipped_packs
from silo_policies.expressions import Expression
from silo_policies.mutation import mutants, survivors
from silo_policies.pack import shipped_pack, shipped_text

PACK = """\
id: own
title: Our rules
version: 1.2.3
jurisdiction: Bavaria
notice: Not legal advice.
effective_from: "2026-01-01T00:00:00Z"
effective_until: "2027-01-01T00:00:00Z"
rules:
  - id: epsilon
    title: Epsilon is small
    moments: [accept]
    expr: run.epsilon <= 3.0
    severity: major
    cite: {instrument: Charter, article: "1", url: "https://example.org/charter"}
    message: Epsilon is above 3.
    remediation: Ask for less.
    tests:
      - {name: at the bound, expect: pass, facts: {run.epsilon: 3.0}}
      - {name: above, expect: fail, facts: {run.epsilon: 3.01}}
  - id: marketing
    title: No marketing
    moments: [accept]
    expr: run.purpose != "marketing"
    severity: critical
    cite: {instrument: Charter, article: "2", url: "https://example.org/charter"}
    message: The charter forbids marketing.
    remediation: None.
    tests:
      - {name: research, expect: pass, facts: {run.purpose: research}}
      - {name: marketing, expect: fail, facts: {run.purpose: marketing}}
"""


def changed(old: str, new: str) -> str:
    assert old in PACK
    return PACK.replace(old, new, 1)


def test_reads_a_pack() -> None:
    pack = parse_pack(PACK, "own.yaml")
    assert list(pack.rules) == ["epsilon", "marketing"]
    assert pack.compiled[0].expression.facts == {"run.epsilon"}
    assert pack.compiled[1].where == "own.yaml:23: rule marketing"


def test_the_digest_is_of_the_content_not_the_layout() -> None:
    pack = parse_pack(PACK, "own.yaml")
    as_json = json.dumps(yaml.safe_load(PACK))
    assert parse_pack("# a comment\n" + as_json, "other.yaml").digest == pack.digest
    assert parse_pack(changed("3.0\n", "3.00\n"), "own.yaml").digest != pack.digest


@pytest.mark.parametrize(
    ("old", "new", "what", "where"),
    [
        ("title: Our rules\n", "title: Our rules\ncolour: red\n", "colour: Extra inputs", "own.yaml:3"),
        ("    severity: major\n", "    severity: major\n    colour: red\n", "colour", "own.yaml:14: rule epsilon"),
        ("    severity: major\n", "    severity: dire\n", "severity", "own.yaml:13: rule epsilon"),
        ("    severity: major\n", "", "severity: Field required", "own.yaml:9: rule epsilon"),
        ("  - id: epsilon\n", "  - id: 3\n", "id: Input should be a valid string", "own.yaml:9: rule 3"),
        ("  - id: epsilon\n", "  - id: Eps_Ilon\n", "id: String should match", "own.yaml:9"),
        ("  - id: marketing\n", "  - id: epsilon\n", "second rule of this id", "own.yaml:20: rule epsilon"),
        ("moments: [accept]", "moments: []", "moments", "own.yaml:11: rule epsilon"),
        ("moments: [accept]", "moments: [sometimes]", "moments[0]", "own.yaml:11: rule epsilon"),
        ("moments: [accept]", "moments: accept", "moments", "own.yaml:11: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: 3.0", "expr", "own.yaml:12: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: run.epsilon <= 3", "does not compile", "own.yaml:12: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: run.epsilom <= 3.0", "no fact", "own.yaml:12: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: run.epsilon <= 3.0 || true", "'||'", "own.yaml:12: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: 1 < 2", "no fact", "own.yaml:12: rule epsilon"),
        ("expr: run.epsilon <= 3.0", "expr: run.epsilon", "DOUBLE", "own.yaml:12: rule epsilon"),
        ('article: "1"', "article: 1", "cite.article", "own.yaml:14: rule epsilon"),
        ("https://example.org/charter", "http://example.org", "cite.url", "own.yaml:14: rule epsilon"),
        ("run.epsilon: 3.01", 'run.epsilon: "3"', "test 'above': run.epsilon", "own.yaml:19: rule epsilon"),
        ("run.epsilon: 3.01", "run.epsilon: -1.0", "test 'above': run.epsilon", "own.yaml:19: rule epsilon"),
        ("run.epsilon: 3.01", "run.epsilom: 3.01", "test 'above': run.epsilom", "own.yaml:19: rule epsilon"),
        ("expect: fail", "expect: maybe", "expect", "own.yaml:19: rule epsilon"),
        ("version: 1.2.3", "version: 1.2", "version", "own.yaml:3"),
        ("id: own", "id: gate", "reserved", "own.yaml"),
        ('"2027-01-01T00:00:00Z"', '"2025-01-01T00:00:00Z"', "effective_until", "own.yaml"),
        ('"2027-01-01T00:00:00Z"', "2027-01-01", "effective_until", "own.yaml:7"),
        ("id: own\n", "id: own\nid: own\n", "stands twice", "own.yaml:2"),
        ("jurisdiction: Bavaria", "jurisdiction: &j Bavaria", "anchor", "own.yaml:4"),
    ],
)
def test_refuses_naming_file_line_and_rule(old: str, new: str, what: str, where: str) -> None:
    with pytest.raises(PackError) as caught:
        parse_pack(changed(old, new), "own.yaml")
    assert what in caught.value.what
    assert caught.value.where.startswith(where)


@pytest.mark.parametrize("text", ["3", "[]", "a: b", PACK[: PACK.index("rules:")] + "rules: []\n"])
def test_refuses_what_is_no_pack(text: str) -> None:
    with pytest.raises(PackError):
        parse_pack(text, "own.yaml")


def test_reads_files_and_says_which_it_could_not(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(PACK)
    assert load_pack(path).digest == parse_pack(PACK, "x").digest
    with pytest.raises(PackError, match="cannot read"):
        load_pack(tmp_path / "gone.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(PackError, match="more than"):
        load_pack(tmp_path / "big.yaml")


def test_an_unknown_shipped_pack_is_named() -> None:
    with pytest.raises(PackError, match=r"no pack named '\.\./baseline'"):
        shipped_text("../baseline")


# -- the tests that stand in a pack ---------------------------------------------------------------------------------


def test_a_good_pack_passes_its_tests() -> None:
    report = check_pack(parse_pack(PACK, "own.yaml"), mutate=True)
    assert report.ok
    assert len(report.results) == 4
    assert report.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("      - {name: above, expect: fail, facts: {run.epsilon: 3.01}}\n", "", "no test that the rule must fail"),
        ("      - {name: at the bound, expect: pass, facts: {run.epsilon: 3.0}}\n", "", "the rule must pass"),
        ("run.epsilon: 3.01", "run.epsilon: 2.0", "'above' expects fail, got pass"),
        ("run.epsilon: 3.01", "run.rounds: 2", "'above' expects fail, got error (it does not state run.epsilon)"),
        ("run.epsilon: 3.0}", "run.rounds: 2}", "'at the bound' expects pass, got error"),
    ],
)
def test_a_bad_pack_says_what_is_wrong(old: str, new: str, problem: str) -> None:
    report = check_pack(parse_pack(changed(old, new), "own.yaml"))
    assert not report.ok
    assert any(problem in line for line in report.problems())


def test_weak_fixtures_are_found_by_mutation() -> None:
    weak = parse_pack(changed("run.epsilon: 3.0}", "run.epsilon: 1.0}"), "own.yaml")
    assert check_pack(weak).ok
    report = check_pack(weak, mutate=True)
    assert not report.ok
    assert "epsilon: no test notices if the rule read: run.epsilon < 3.0" in report.problems()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run.epsilon <= 3.0", {"run.epsilon < 3.0", "run.epsilon > 3.0", "3.03", "2.97"}),
        ("run.rounds >= 0", {"run.rounds > 0", "run.rounds < 0", "run.rounds >= 1", "run.rounds >= (-1)"}),
        ("run.code_approved && !dataset.public", {"||", "(!run.code_approved)", "&& dataset.public"}),
        ('run.purpose in ["a"]', {'!(run.purpose in [ "a" ])', '["ax"]'}),
        ('run.members.all(m, m.name == "a")', {"run.members.exists(", "!=", '"ax"'}),
        ('dataset.public ? true : "a" in run.releases', {"? false", '!("a" in run.releases)'}),
        ('time.now + duration("24h") < run.expires', {"time.now -", '"25h"', '"23h"', "<="}),
        ('run.expires < timestamp("2026-01-01T00:00:00Z")', {"2026-01-01T00:00:01Z", "2025-12-31T23:59:59Z"}),
    ],
)
def test_every_comparison_bound_and_operator_has_a_mutant(source: str, expected: set[str]) -> None:
    from silo_policies.expressions import parse

    made = list(mutants(parse(source)))
    for part in expected:
        assert any(part in mutant for mutant in made), (part, made)
    assert source not in made


@pytest.mark.parametrize("name", shipped_packs())
def test_shipped_packs_are_cited_tested_and_leave_no_mutant_alive(name: str) -> None:
    pack = shipped_pack(name)
    assert pack.id == name
    assert "not legal advice" in pack.document.notice
    report = check_pack(pack, mutate=True)
    assert report.problems() == []
    assert all(rule.cite.url.startswith("https://") and rule.remediation for rule in pack.document.rules)


def test_mutants_that_do_not_compile_do_not_count_as_noticed_ones() -> None:
    # Every mutant of every shipped rule compiles, so none is "killed" for a silly reason.
    from silo_policies.evaluator import default_evaluator

    for name in shipped_packs():
        for compiled in shipped_pack(name).compiled:
            for source in mutants(compiled.expression):
                default_evaluator().compile(Expression(source, (), frozenset()))
            assert survivors(compiled) == []


# -- what changed ---------------------------------------------------------------------------------------------------


def test_diff_lists_what_changed_and_what_surely_loosens() -> None:
    old = parse_pack(PACK, "own.yaml")
    value: Any = copy.deepcopy(yaml.safe_load(PACK))
    value["version"] = "1.3.0"
    value["rules"][0]["expr"] = "run.epsilon <= 4.0"
    value["rules"][0]["moments"] = ["round"]
    value["rules"][1]["id"] = "selling"
    new = parse_pack(json.dumps(value), "own.yaml")
    found = {(change.kind, change.rule, change.field): change.loosens for change in diff_packs(old, new)}
    assert found == {
        ("changed", "", "version"): None,
        ("changed", "epsilon", "moments"): True,
        ("changed", "epsilon", "expr"): None,
        ("removed", "marketing", "expr"): True,
        ("added", "selling", "expr"): False,
    }
    assert diff_packs(old, old) == ()


def test_becoming_waivable_loosens() -> None:
    strict = parse_pack(changed("    severity: major\n", "    severity: major\n    waivable: false\n"), "own.yaml")
    (change,) = diff_packs(strict, parse_pack(PACK, "own.yaml"))
    assert (change.field, change.loosens) == ("waivable", True)


def test_an_expression_error_is_a_pack_error() -> None:
    assert issubclass(ExpressionError, PackError)

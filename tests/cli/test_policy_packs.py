"""`silo policy list|show|facts|test|diff` on good packs and on every kind of bad one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from silo_policies import shipped_packs
from silo_policies.facts import schema

from tests.cli.conftest import Command

PAGE = (Path(__file__).parents[2] / "policies" / "README.md").read_text()
RULE = """\
  - id: {id}
    title: A small epsilon
    moments: [accept]
    expr: {expr}
    severity: major
    cite: {{instrument: Charter, article: "7", url: "https://hospital.example/charter"}}
    message: Epsilon is too large.
    remediation: Ask for less.
    tests:
{tests}"""
HEAD = """\
id: ours
title: Ours
version: 1.0.0
jurisdiction: here
notice: An exercise.
effective_from: "2020-01-01T00:00:00Z"
effective_until: "2090-01-01T00:00:00Z"
"""
PASS = "      - {name: small, expect: pass, facts: {run.epsilon: 1.0}}\n"
FAIL = "      - {name: large, expect: fail, facts: {run.epsilon: 9.0}}\n"


def pack(*, expr: str = "run.epsilon <= 1.0", tests: str = PASS + FAIL, head: str = HEAD, rule: str = "small") -> str:
    return f"{head}rules:\n" + RULE.format(id=rule, expr=expr, tests=tests)


def test_a_good_pack_passes(silo: Command, tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(pack())
    assert "1 rule, 2 tests, all hold" in silo("policy", "test", file).out
    told = silo("policy", "test", file, "--json").json
    assert (told["ok"], told["rules"], told["tests"], told["problems"]) == (True, 1, 2, [])
    # a mutant lives: no test stands exactly at the bound
    assert "no test notices" in silo("policy", "test", file, "--mutants", status=3).out


@pytest.mark.parametrize("name", shipped_packs())
def test_every_shipped_pack_passes(silo: Command, name: str) -> None:
    assert silo("policy", "test", name, "--json").json["ok"]


@pytest.mark.parametrize(
    ("tests", "what"),
    [
        (PASS, "small: there is no test that the rule must fail"),
        (FAIL, "small: there is no test that the rule must pass"),
        ("      []", "small: there is no test that the rule must pass"),
        (PASS + FAIL.replace("9.0", "0.5"), "small: test 'large' expects fail, got pass"),
        (
            PASS + FAIL.replace("run.epsilon: 9.0", "run.delta: 0.1"),
            "small: test 'large' expects fail, got error (it does not state run.epsilon)",
        ),
    ],
)
def test_a_rule_needs_a_test_of_each_kind_that_holds(silo: Command, tmp_path: Path, tests: str, what: str) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(pack(tests=tests))
    said = silo("policy", "test", file, status=3)
    assert what in said.out
    assert what in said.line
    assert "ours.yaml" in said.line


BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True))
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (BOMB, "ours.yaml:1", "anchor"),
        (pack(head=HEAD.replace("title: Ours", "title: &t Ours")), "ours.yaml:2", "anchor"),
        (pack(head=HEAD + "id: ours\n"), "ours.yaml:8", "id"),
        (pack(head=HEAD + "colour: red\n"), "ours.yaml", "colour"),
        (pack(head=HEAD.replace('"2020-01-01T00:00:00Z"', "2020")), "ours.yaml:6", "effective_from"),
        (pack(expr="run.epsilon <= '3'"), "ours.yaml:12: rule small", ""),
        (pack(expr="run.epsilom <= 3.0"), "ours.yaml:12: rule small", "run.epsilom"),
        (pack(expr="run.epsilon <="), "ours.yaml:12: rule small", ""),
        (pack(expr="run.epsilon"), "ours.yaml:12: rule small", ""),
        (pack(expr="run.epsilon <= 3.0 || true"), "ours.yaml:12: rule small", "||"),
        (
            pack(expr="run.members.all(a, run.members.all(b, run.members.all(c, a.name == b.name)))"),
            "ours.yaml:12: rule small",
            "",
        ),
        (pack(expr="run.epsilon <= 1.0" + " && run.epsilon <= 1.0" * 500), "ours.yaml:12: rule small", ""),
        (pack(tests=PASS + FAIL.replace("9.0", "-1.0")), "rule small", "run.epsilon"),
        (pack(rule="Small!"), "ours.yaml:9", "rules[0].id"),
        (pack() + RULE.format(id="small", expr="run.epsilon <= 2.0", tests=PASS + FAIL), "rule small", "second rule"),
        ("[" * 100_000, "ours.yaml", ""),
        ("", "ours.yaml", ""),
        ("\x00", "ours.yaml", ""),
    ],
    ids=[
        "bomb", "anchor", "duplicate-key", "unknown-field", "wrong-type", "string-bound", "unknown-fact", "syntax",
        "no-boolean", "or", "loops", "long", "negative-epsilon", "bad-id", "same-id", "nesting", "empty", "binary",
    ],
)  # fmt: skip
def test_bad_packs_are_one_line_with_file_line_and_rule(
    silo: Command, tmp_path: Path, text: str, place: str, what: str
) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(text)
    for command in ("test", "show"):
        said = silo("policy", command, file, status=3)
        assert place in said.line
        assert what in said.line
        assert len(said.line) < 500
        assert said.out == ""


def test_what_does_not_exist_is_said(silo: Command, tmp_path: Path) -> None:
    assert "no pack 'baselin'" in silo("policy", "test", "baselin", status=3).line
    assert "cannot read" in silo("policy", "test", tmp_path / "none.yaml", status=3).line
    assert "No such command" in silo("policy", "tset", status=2).line
    assert "Missing argument" in silo("policy", "test", status=2).line


def test_list_show_and_facts(silo: Command, made: Path) -> None:
    rows = {row["id"]: row for row in silo("policy", "list", "--home", made / "alpha", "--json").json["packs"]}
    assert set(rows) == set(shipped_packs())
    assert rows["baseline"]["binds"] == "the consortium"
    assert "template" in rows["gdpr-research"]["binds"]
    table = silo("policy", "list", "--home", made / "alpha").out
    assert all(name in table for name in shipped_packs())

    shown = silo("policy", "show", "baseline").out
    assert "not legal advice" in shown
    assert "code-approved" in shown
    assert "NIST SP 800-226" in shown
    document = silo("policy", "show", "baseline", "--json").json
    assert document["digest"] == rows["baseline"]["digest"]
    assert {rule["id"] for rule in document["rules"]} >= {"code-approved", "budget-left"}

    facts = silo("policy", "facts", "--json").json["facts"]
    assert {each["name"] for each in facts} == set(schema())
    table = silo("policy", "facts").out
    assert all(name in table for name in schema())


def test_diff_marks_what_loosens(silo: Command, tmp_path: Path) -> None:
    old, new, looser = tmp_path / "old.yaml", tmp_path / "new.yaml", tmp_path / "looser.yaml"
    old.write_text(pack() + RULE.format(id="other", expr="run.rounds < 9", tests="      []"))
    new.write_text(old.read_text().replace("<= 1.0", "<= 0.5"))
    looser.write_text(pack())
    assert "the packs say the same" in silo("policy", "diff", old, old).out
    read = silo("policy", "diff", old, new)
    assert "read it" in read.out
    assert "- run.epsilon <= 1.0" in read.out
    assert "+ run.epsilon <= 0.5" in read.out
    assert "loosens other" in silo("policy", "diff", old, looser, status=4).line
    (change,) = silo("policy", "diff", old, looser, "--json", status=4).json["changes"]
    assert (change["kind"], change["rule"], change["loosens"]) == ("removed", "other", True)


@pytest.mark.parametrize(
    "command",
    [
        *(
            f"policy {verb}"
            for verb in ["list", "show", "facts", "test", "check", "explain", "pin", "unpin", "waive", "diff"]
        ),
        *(f"consortium {verb}" for verb in ["new", "add", "sign", "verify", "show", "amend", "join"]),
        *("keys new", "keys show", "experiment sign", "approve", "init"),
    ],
)
def test_help_shows_an_example(silo: Command, command: str) -> None:
    said = silo(*command.split(), "--help")
    assert f"Example: silo {command}" in " ".join(said.out.split())
    assert "--json" in said.out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from silo.cli.app import app\n"
        "try: app(['policy', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'opacus', 'tenseal', 'matplotlib', 'sklearn', 'numpy', 'cel_expr_python'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_every_command_on_the_officers_page_exists(silo: Command) -> None:
    blocks = PAGE.split("```console\n")[1:]
    commands = [line.removeprefix("$ ") for block in blocks for line in block.split("```")[0].splitlines()]
    asked = [shlex.split(line, comments=True)[1:] for line in commands if line.startswith("silo ")]
    assert len(asked) > 15
    for words in asked:
        verbs = words[:1] if words[0] in ("approve", "demo") else words[:2]
        told = silo(*verbs, "--help").out
        for option in (word for word in words if word.startswith("--")):
            assert option in told, (words, option)
    for line in PAGE.split("## Which commands there are")[1].splitlines():
        if line.startswith("| `silo policy"):
            silo("policy", line.split("`")[1].split()[2], "--help")

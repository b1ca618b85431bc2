"""The officer's page, followed to the letter: every command on it, in its order, in an empty folder.

Nothing is stubbed: the homes, signatures, gate, run and report are those of the product; only that the commands run in
one process is the test's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import silo_crypto.keys

from silo.cli import main

PAGE = (Path(__file__).parents[2] / "policies" / "README.md").read_text()
STORY = PAGE.split("## From a rule to a report")[1].split("## Which commands there are")[0]


@pytest.fixture(autouse=True)
def _cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # A key file carries its own cost; at the product's, deriving the keys of all these people would take five seconds.
    monkeypatch.setitem(silo_crypto.keys._SCRYPT, "iteration_count", 1 << 10)
    monkeypatch.delenv("SILO_HOME", raising=False)


def commands(text: str) -> Iterator[tuple[list[str], int]]:
    """Yield each command of the console blocks, and the status that its comment promises (else 0)."""
    for block in text.split("```console\n")[1:]:
        for line in block.split("```")[0].splitlines():
            assert line.startswith("$ "), line
            _, _, comment = line.partition("# ends with ")
            yield shlex.split(line.removeprefix("$ "), comments=True), int(comment or 0)


def test_a_new_officer_can_follow_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "our-charter.yaml").write_text(STORY.split("```yaml\n")[1].split("```")[0])
    said: list[tuple[str, int, str, str]] = []
    for words, promised in commands(STORY):
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
            continue
        assert words[0] == "silo"
        with pytest.raises(SystemExit) as stopped:
            main(words[1:])
        told = capsys.readouterr()
        assert stopped.value.code == promised, (words, told.err)
        said.append((" ".join(words[1:3]), promised, told.out, told.err))

    checks = [(out, err) for command, _, out, err in said if command == "policy check"]
    assert len(checks) == 3
    assert "all 19 rules hold" in checks[0][0]
    denied, reason = checks[1]
    shown = STORY.split("```text\n")[1].split("```")[0].split("\n", 1)[1]
    assert shown in "\n".join(line.rstrip() for line in denied.splitlines()) + "\n"
    assert "denied by our-charter/board-sees-heart-studies [Our patient charter, 4]" in reason
    assert "waived by cleveland-officer: The board saw the study on 3 May and agreed." in checks[2][0]

    report = json.loads(Path("practice/report.json").read_text())
    (waiver,) = report["waivers"]
    assert (waiver["silo"], waiver["pack"], waiver["rule"]) == ("cleveland", "our-charter", "board-sees-heart-studies")
    assert waiver["approver"] == "cleveland-officer"
    assert waiver["justification"] == "The board saw the study on 3 May and agreed."
    assert {each["name"]: each["decision"] for each in report["silos"]}["cleveland"] == "permit"
    results = {(each["silo"], each["rule"]): each["result"] for each in report["policies"]["outcomes"]}
    assert results["cleveland", "board-sees-heart-studies"] == "waived"
    page = unescape(Path("practice/report.html").read_text())
    assert "The board saw the study on 3 May and agreed." in page.split("Waivers and faults")[-1]

    explained = said[-1][2]
    assert "WAIVED   our-charter/board-sees-heart-studies" in explained
    assert "permitted run heart-disease-" in explained
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--resume", "practice"])
    assert stopped.value.code == 2  # it has run: nobody runs it twice under one waiver


def test_a_prepared_demo_that_everybody_refuses_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "our-charter.yaml").write_text(STORY.split("```yaml\n")[1].split("```")[0])

    def silo(*words: str) -> object:
        with pytest.raises(SystemExit) as stopped:
            main(list(words))
        return stopped.value.code

    assert silo("demo", "--prepare", "--out", "practice", "--policy", "our-charter.yaml", "--rounds", "1") == 0
    before = {path: path.read_bytes() for path in Path("practice").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert silo("demo", "--resume", "practice") == 4
    told = capsys.readouterr()
    assert "the board sees every heart study" in " ".join(told.err.split())
    assert {path: path.read_bytes() for path in Path("practice").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".practice")] == []
    assert silo("demo", "--resume", "practice", "--epsilon", "1") == 2
    assert silo("demo", "--resume", "nowhere") == 2

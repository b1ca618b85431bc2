"""`silo report RUN --home HOME` for runs that nobody wrote a report of: finished, failed, seen by one party only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from silo.demo.hospitals import REFUSER
from silo.errors import PeerError, PolicyDenied
from silo.messages import Packet
from tests.cli.conftest import silo
from tests.e2e.federation import Federation, Tap, head_of

FORMATS = ("html", "json", "oscal", "registry")


def report(run: str, *homes: Path) -> dict[str, Any]:
    found: dict[str, Any] = silo(
        "report", run, *(x for home in homes for x in ("--home", home)), "--format", "json"
    ).json
    return found


def backed(facts: dict[str, Any]) -> set[str]:
    return {entry["subject"] for log in facts["evidence"]["logs"] for entry in log["entries"]}


@pytest.fixture(scope="module")
def finished(federation: Federation) -> str:
    submission = federation.submit(rounds=2)
    federation.play(submission)
    return submission.run.body.run


def test_a_finished_run_from_all_homes_is_whole(federation: Federation, finished: str) -> None:
    homes = [federation.aggregator.path, *(home.path for home in federation.homes.values())]
    facts = report(finished, *homes)
    assert facts["verdict"]["outcome"] == "completed"
    assert [each["participants"] for each in facts["rounds"]] == [federation.names] * 2
    assert {each["name"]: each["decision"] for each in facts["silos"]} == {
        **dict.fromkeys(federation.names, "permit"),
        REFUSER: "deny",
    }
    (refused,) = [each for each in facts["silos"] if each["decision"] == "deny"]
    assert refused["reasons"][0]["pack"] != "not at hand"
    assert refused["display_name"] == "St. Elsewhere (fictional)"
    assert all(0 < each["epsilon"] < 0.1 for each in facts["silos"] if each["decision"] == "permit")
    assert facts["aggregator"]["has_secret_key"] is False
    assert facts["encryption"]["ratio"] > 1
    assert facts["unprotected"]["metrics"]["released"] is True
    wanted = {"manifest", "consortium", "keys", "round/1", "round/2", "release/model", f"decision/{REFUSER}"}
    assert backed(facts) >= wanted | {f"budget/{name}" for name in federation.names}
    assert all(len(log["cosigned_by"]) == 4 for log in facts["evidence"]["logs"] if log["holder"] != REFUSER)
    assert facts["auc"]["federated"] is None
    with federation.homes["cleveland"].log() as log:
        (started,) = log.entries("run-started", run=finished)
    held = f"{', '.join(started.body['confinement'])} at {', '.join(sorted(federation.names))}"
    assert facts["access"]["confinement"] == f"in a child process; in force, by the silos' logs: {held}"
    for form in FORMATS:
        first = silo("report", finished, "--home", federation.aggregator.path.parent, "--format", form).out
        assert first == silo("report", finished, "--home", federation.aggregator.path.parent, "--format", form).out
        assert finished in first


@pytest.mark.parametrize("who", ["aggregator", "cleveland"])
def test_one_home_gives_what_that_party_knows(federation: Federation, finished: str, who: str) -> None:
    home = federation.aggregator if who == "aggregator" else federation.homes[who]
    facts = report(finished, home.path)
    assert facts["verdict"]["outcome"] == "completed"
    assert [len(each["participants"]) for each in facts["rounds"]] == [4, 4]
    names = [each["name"] for each in facts["silos"]]
    assert set(names) == set(federation.names) | ({REFUSER} if who == "aggregator" else set())
    spent = {each["name"]: each["epsilon"] for each in facts["silos"] if each["decision"] == "permit"}
    assert len(set(spent.values())) == 1, "all took part in the same rounds under the same public constants"
    assert ("budget/cleveland" in backed(facts)) == (who == "cleveland")
    html = silo("report", finished, "--home", home.path).out
    assert "not evidenced" in html


def test_an_audit_of_the_same_code_is_quoted(federation: Federation, finished: str) -> None:
    home = federation.homes["cleveland"]
    assert report(finished, home.path)["attack_tests"] is None
    code = federation.setting.submission.run.body.code_digest
    found = {"canaries": 200, "guesses": 60, "correct": 34, "epsilon_lower_bound": 0.25, "confidence": 0.95}
    body = {"run": "audit-1", "population": "cleveland-cardiology", "epsilon": 3.0, "delta": 1e-4}
    with home.log() as log:
        log.append("budget-settled", {**body, "audit": {**found, "code_digest": "sha256:" + "0" * 64}})
        log.append("budget-settled", {**body, "audit": {**found, "code_digest": code}})
        index = len(log) - 1
    (test,) = report(finished, home.path)["attack_tests"]
    assert test["who"] == f"cleveland, entry {index} of its log"
    assert "200 canaries, 60 guesses, 34 right" in test["how"]
    assert test["result"] == "epsilon is at least 0.250 with 95% confidence; 3 at delta 0.0001 is proven"


def test_a_run_that_failed_says_why_and_what_it_cost(federation: Federation) -> None:
    def lose(name: str, packet: Packet) -> Packet | None:
        head = head_of(packet)
        return None if head["kind"] == "round" and head["round"] == 2 and name in ("hungary", "switzerland") else packet

    submission = federation.submit()
    run = submission.run.body.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silo.aggregator.aggregator.ROUND_SECONDS", 2.0)
        with pytest.raises(PeerError):
            federation.play(submission, Tap(federation, request=lose))
    facts = report(run, federation.aggregator.path, federation.homes["cleveland"].path)
    assert facts["verdict"]["outcome"] == "stopped"
    assert facts["verdict"]["rounds_completed"] == 1
    assert "did not answer in time" in facts["verdict"]["because"]
    assert {each["party"] for each in facts["faults"]} >= {"hungary", "switzerland", "cleveland", "aggregator"}
    steps = submission.run.body.privacy.steps_per_round
    spent = {each["name"]: each["epsilon"] for each in facts["silos"] if each["decision"] == "permit"}
    assert spent["cleveland"] > spent["va-long-beach"] > 0, (
        "its ledger was charged twice; of the other one sum is known"
    )
    assert federation.charged("cleveland", submission) == 2 * steps
    own = [each for each in facts["faults"] if each["party"] == "cleveland"]
    assert own
    assert all("of its own log" in each["what"] for each in own)
    number = 1 + [each["party"] for each in facts["faults"]].index("cleveland")
    assert f"fault/{number}" in backed(facts)
    for form in FORMATS:
        assert run in silo("report", run, "--home", federation.aggregator.path, "--format", form).out


def test_a_run_that_never_started_names_who_refused(federation: Federation) -> None:
    submission = federation.submit(minimum_silos=5)
    with pytest.raises(PolicyDenied):
        federation.play(submission)
    run = submission.run.body.run
    facts = report(run, federation.aggregator.path)
    assert facts["verdict"]["outcome"] == "not-started"
    assert facts["verdict"]["rounds_completed"] == 0
    assert "4 of 5 silos permit the run, 5 are needed" in facts["verdict"]["because"]
    assert [each["name"] for each in facts["silos"] if each["decision"] == "deny"] == [REFUSER]
    assert silo("report", run, "--home", federation.aggregator.path).out.startswith("<!DOCTYPE html>")
    alone = report(run, federation.homes[REFUSER].path)
    assert [(each["name"], each["decision"]) for each in alone["silos"]] == [(REFUSER, "deny")]
    json.dumps(alone)


def test_a_run_that_nobody_took_part_in(federation: Federation) -> None:
    said = silo("report", "run-nobody-knows", "--home", federation.aggregator.path, status=3).line
    assert "no home given took part in this run" in said


def spoilt(federation: Federation, tmp_path: Path) -> Path:
    return Path(shutil.copytree(federation.aggregator.path.parent, tmp_path / "homes"))


def test_what_was_altered_gives_no_report(federation: Federation, finished: str, tmp_path: Path) -> None:
    homes = spoilt(federation, tmp_path)
    aggregator = homes / "aggregator"
    kept = aggregator / "runs" / finished

    def altered(path: Path, old: str, new: str) -> str:
        whole = path.read_text()
        assert old in whole
        path.write_text(whole.replace(old, new, 1))
        said = silo("report", finished, "--home", aggregator, status=6)
        path.write_text(whole)
        assert said.out == ""
        return said.line

    assert "signature" in altered(kept / "run.json", '"rounds":2', '"rounds":3')
    assert "not the ones the researcher signed" in altered(kept / "experiment.py", "import", " import")
    assert "does not follow" in altered(kept / "result.json", '"decision": "deny"', '"decision": "permit"')
    assert "not a result: rounds.0.round" in altered(kept / "result.json", '"round": 1', '"round": "1"')
    log = aggregator / "log.db"
    content = log.read_bytes()
    place = content.index(b'"moment":"accept"' if b'"moment":"accept"' in content else b'"decision":"permit"')
    log.write_bytes(content[:place] + b"!" + content[place + 1 :])
    assert "does not match its stored hash" in silo("report", finished, "--home", aggregator, status=6).line

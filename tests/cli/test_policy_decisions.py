"""`silo policy pin|check|waive|explain` on a real run: what denies, what a waiver changes, what is on record."""

from __future__ import annotations

import json
import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from silo_crypto.keys import Identity
from silo_policies import Decision, Waiver, parse_signed, shipped_text, sign

from silo.agent.run import Run
from silo.cli.common import now
from silo.home import Home
from silo.home.keys import load_identity
from silo.messages import Common, Invite
from silo.submission import Submission
from tests.cli.conftest import Command, hand_over, run_of
from tests.cli.test_policy_packs import HEAD, PASS, pack

FORBIDS = pack(
    expr='run.purpose != "heart-disease-research"',
    rule="no-heart",
    tests="      - {name: other, expect: pass, facts: {run.purpose: x}}\n"
    "      - {name: heart, expect: fail, facts: {run.purpose: heart-disease-research}}\n",
)
WHY = "The board saw the study and agreed."


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours.yaml"
    path.write_text(FORBIDS)
    return path


@pytest.fixture
def bound(silo: Command, alpha: Path, ours: Path) -> Path:
    """Alpha, bound by a pack that forbids the run's purpose."""
    silo("policy", "pin", ours, "--home", alpha)
    return alpha


def decide(home: Path, place: Path) -> Decision:
    """Have the agent itself consider the run, and return the decision it signed."""
    party, submission = Home.open(home), Submission.load(place / "run")
    run = submission.run.body
    common = Common(run=run.run, manifest=run.digest, sender=party.name, re="")
    invite = Invite(
        run=run.run,
        manifest=run.digest,
        sender="aggregator",
        consortium_document=submission.consortium.to_dict(),
        run_document=submission.run.to_dict(),
    )
    agent = Run(party, party.identity(), common)
    reply = agent.consider(invite, {"bundle": submission.bundle})
    agent.close()
    return submission.decision(reply.decision, party.name)


def contents(home: Path) -> dict[Path, bytes]:
    """Return every file but the ledger, which gets to know the silo's populations whenever it is opened."""
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and "ledger.db" not in path.name}


# Checking ------------------------------------------------------------------------------------------------------------


def test_check_permits_and_leaves_no_trace(silo: Command, alpha: Path, place: Path) -> None:
    before = contents(alpha)
    said = silo("policy", "check", "--home", alpha)
    assert "would permit" in said.out
    assert "all 19 rules hold" in said.out
    told = silo("policy", "check", run_of(place).run, "--home", alpha, "--json").json
    assert (told["decision"], told["moment"], told["silo"]) == ("permit", "accept", "alpha")
    assert {rule["result"] for rule in told["rules"]} == {"true"}
    assert told["facts"]["dataset"]["records"] == 303  # counted, not claimed
    assert contents(alpha) == before
    home = Home.open(alpha)
    with home.ledger() as ledger:
        assert not list(ledger.reservations())
    with home.log() as log:
        assert [str(entry.kind) for entry in log.entries()] == ["manifest", "decision", "approval"]


def test_a_denial_names_rule_facts_and_citation(silo: Command, bound: Path) -> None:
    said = silo("policy", "check", "--home", bound, status=4)
    assert "denied by ours/no-heart [Charter, 7]: Epsilon is too large." in said.line
    for told in (
        "NOT MET: ours/no-heart (major)",
        'rule: run.purpose != "heart-disease-research"',
        "it read: run.purpose = heart-disease-research",
        "source: Charter, 7 https://hospital.example/charter",
        "remedy: Ask for less.",
    ):
        assert told in said.out
    told = silo("policy", "check", "--home", bound, "--json", status=4).json
    (rule,) = [each for each in told["rules"] if each["result"] != "true"]
    assert (rule["pack"], rule["rule"], rule["result"]) == ("ours", "no-heart", "false")
    assert rule["cite"]["url"] == "https://hospital.example/charter"
    assert rule["facts"] == {"run.purpose": "heart-disease-research"}


def test_a_run_can_be_named_by_folder_or_manifest(silo: Command, alpha: Path, place: Path) -> None:
    for name in (place / "run", place / "run" / "run.json"):
        assert "would permit" in silo("policy", "check", name, "--home", alpha).out
    # only the manifest: what the code decides about is not known, and not known denies
    shutil.copy(place / "run" / "run.json", place / "alone.json")
    said = silo("policy", "check", place / "alone.json", "--home", alpha, status=4)
    assert "the code is not beside" in said.out
    assert "run.epsilon is not known" in said.out
    assert "there is no run 'nonsense'" in silo("policy", "check", "nonsense", "--home", alpha, status=3).line
    assert "there is no run '../x'" in silo("policy", "check", "../x", "--home", alpha, status=3).line
    assert "no run was submitted" in silo("policy", "check", "--home", place / "beta", status=3).line


def test_code_that_nobody_approved_is_not_executed(silo: Command, place: Path) -> None:
    hand_over(place)
    sign_of_life = place / "executed"
    bundle = place / "run" / "experiment.py"
    source = bundle.read_text()
    assert "would deny" in silo("policy", "check", "--home", place / "alpha", status=4).out
    assert "baseline/code-approved" in silo("policy", "check", "--home", place / "alpha", status=4).line

    evil = place / "evil.py"
    evil.write_text(source + f"\nopen({str(sign_of_life)!r}, 'w').close()\n")
    silo(
        "experiment", "sign", evil, "--consortium", place / "heart.json", "--key", place / "keys" / "rita",
        "--out", place / "evil",
    )  # fmt: skip
    assert sign_of_life.exists()  # the researcher's own machine runs it
    sign_of_life.unlink()
    said = silo("policy", "check", place / "evil", "--home", place / "alpha", status=4)
    assert "baseline/code-approved" in said.line
    assert not sign_of_life.exists()


@pytest.mark.parametrize(
    ("spoil", "status", "what"),
    [
        ("code", 6, "not the ones the researcher signed"),
        ("run", 6, "signature does not hold"),
        ("consortium", 3, "not the pinned"),
        ("unsigned", 6, "0 of 1 signatures"),
        ("foreign", 6, "signed by otto"),
        ("json", 3, "not a usable JSON document"),
        ("duplicate", 3, "stands twice"),
        ("unknown-field", 3, "colour"),
        ("missing", 3, "cannot be read"),
    ],
)
def test_a_spoilt_submission_is_one_line(
    silo: Command, alpha: Path, place: Path, spoil: str, status: int, what: str
) -> None:
    folder = place / "run"
    run, consortium, code = (folder / name for name in ("run.json", "consortium.json", "experiment.py"))
    document = json.loads(run.read_text())
    match spoil:
        case "code":
            code.write_bytes(code.read_bytes() + b"#")
        case "run":
            document["body"]["rounds"] += 1
        case "unsigned":
            document["signatures"] = {}
        case "foreign":
            document["signatures"]["otto"] = document["signatures"]["rita"]
        case "unknown-field":
            document["body"]["colour"] = "red"
        case "consortium":
            other = json.loads(consortium.read_text())
            other["body"]["minimum_silos"] = 2
            consortium.write_text(json.dumps(other))
    run.write_text(json.dumps(document))
    match spoil:
        case "json":
            run.write_text("{")
        case "duplicate":
            run.write_text(run.read_text().replace('"rounds"', '"seed": 1, "seed": 1, "rounds"', 1))
        case "missing":
            run.unlink()
    assert what in silo("policy", "check", folder, "--home", alpha, status=status).line


# Pinning -------------------------------------------------------------------------------------------------------------


def test_only_the_pinned_version_counts(silo: Command, bound: Path, ours: Path) -> None:
    file = bound / "policy" / "ours.yaml"
    file.write_text(FORBIDS + "# a comment does not count\n")
    assert "ours/no-heart" in silo("policy", "check", "--home", bound, status=4).line
    file.write_text(FORBIDS.replace("heart-disease-research", "nothing-at-all"))  # edited, not pinned
    said = silo("policy", "check", "--home", bound, status=4)
    assert "gate/pack-differs" in said.line
    assert "ours.yaml: the pack ours is sha256:" in said.line
    file.unlink()
    assert "gate/pack-unknown" in silo("policy", "check", "--home", bound, status=4).line
    assert "PINNED, NOT HERE" in silo("policy", "list", "--home", bound, "--json").out
    silo("policy", "pin", ours, "--home", bound)
    assert "ours/no-heart" in silo("policy", "check", "--home", bound, status=4).line
    silo("policy", "unpin", "ours", "--home", bound)
    silo("policy", "check", "--home", bound)
    file.write_text(FORBIDS)  # dropped into the folder
    assert "gate/pack-unpinned" in silo("policy", "check", "--home", bound, status=4).line
    assert "NOT PINNED" in silo("policy", "list", "--home", bound, "--json").out
    silo("policy", "pin", "ours", "--home", bound)  # by id: the file in the folder
    assert "ours/no-heart" in silo("policy", "check", "--home", bound, status=4).line


def test_pin_says_what_it_replaces(silo: Command, bound: Path, ours: Path) -> None:
    first = silo("policy", "pin", ours, "--home", bound, "--json").json
    ours.write_text(FORBIDS.replace("    severity: major\n", "    severity: major\n    waivable: false\n"))
    tighter = silo("policy", "pin", ours, "--home", bound, "--json").json
    assert (tighter["replaced"], tighter["loosens"]) == (first["digest"], 0)
    ours.write_text(FORBIDS)
    assert "this loosens ours/no-heart: changed waivable" in silo("policy", "pin", ours, "--home", bound).err


def test_what_binds_a_silo_and_since_when_stands_in_its_log(silo: Command, bound: Path, ours: Path) -> None:
    first = silo("policy", "pin", ours, "--home", bound, "--json").json["digest"]
    ours.write_text(FORBIDS.replace("    severity: major\n", "    severity: major\n    waivable: false\n"))
    second = silo("policy", "pin", ours, "--home", bound, "--json").json["digest"]
    silo("policy", "unpin", "ours", "--home", bound)
    entries = silo("audit", "show", "--home", bound, "--kind", "policy", "--json").json["entries"][-3:]
    assert [(each["body"]["what"], each["body"]["digest"]) for each in entries] == [
        ("pinned", first),
        ("pinned", second),
        ("unpinned", second),
    ]
    assert entries[1]["body"]["replaces_digest"] == first
    assert {each["body"]["pack"] for each in entries} == {"ours"}


def test_what_cannot_be_pinned(silo: Command, alpha: Path, tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(pack(tests=PASS))
    assert "no test that the rule must fail" in silo("policy", "pin", file, "--home", alpha, status=3).line
    file.write_text(pack(head=HEAD.replace("2090", "2021")))
    assert (
        "it is in effect from 2020-01-01 to 2021-01-01" in silo("policy", "pin", file, "--home", alpha, status=3).line
    )
    file.write_bytes(shipped_text("baseline"))
    assert "the consortium pins a pack baseline" in silo("policy", "pin", file, "--home", alpha, status=3).line
    assert "pins no pack" in silo("policy", "unpin", "ours", "--home", alpha, status=3).line
    assert not list((alpha / "policy").glob("*.yaml"))
    silo("policy", "check", "--home", alpha)
    # a template can be pinned by its id, and binds at once
    silo("policy", "pin", "gdpr-research", "--home", alpha)
    assert "gdpr-research/" in silo("policy", "check", "--home", alpha, status=4).out


def test_an_unreadable_pack_denies_and_pinning_repairs_it(silo: Command, bound: Path, ours: Path) -> None:
    (bound / "policy" / "ours.yaml").write_text("rules: [")
    assert "ours.yaml" in silo("policy", "check", "--home", bound, status=3).line
    silo("policy", "pin", ours, "--home", bound)
    assert "ours/no-heart" in silo("policy", "check", "--home", bound, status=4).line
    (bound / "policy" / "pins.toml").write_text("pins = 3")
    assert "pins.toml" in silo("policy", "check", "--home", bound, status=3).line


# Waiving -------------------------------------------------------------------------------------------------------------


def waive(silo: Command, home: Path, place: Path, *words: str, key: str = "olga", status: int = 0) -> str:
    rule = () if words and "/" in words[0] else ("ours/no-heart",)
    reason = () if "--reason" in words else ("--reason", WHY)
    said = silo("policy", "waive", *rule, *words, *reason, "--key", place / "keys" / key, "--home", home, status=status)
    return said.line if status else said.out


def test_an_officer_waives_a_rule_for_a_run(silo: Command, bound: Path, place: Path) -> None:
    assert "olga waived ours/no-heart" in waive(silo, bound, place)
    said = silo("policy", "check", "--home", bound)
    assert "20 rules asked, 1 waived" in said.out
    assert f"waived by olga: {WHY}" in said.out
    (file,) = (bound / "waivers").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    waiver = parse_signed(Waiver, file.read_bytes())
    run = run_of(place)
    assert (waiver.body.run, waiver.body.expires, waiver.body.silo) == (run.run, run.expires, "alpha")
    with Home.open(bound).log() as log:
        (entry,) = log.entries("waiver")
    assert entry.body == {
        "digest": waiver.body.digest,
        "run": run.run,
        "silo": "alpha",
        "rule": "ours/no-heart",
        "approver": "olga",
    }


def test_a_waiver_is_for_one_wording_and_one_run(silo: Command, bound: Path, place: Path, ours: Path) -> None:
    waive(silo, bound, place)
    ours.write_text(FORBIDS.replace("1.0.0", "1.0.1"))
    silo("policy", "pin", ours, "--home", bound)
    said = silo("policy", "check", "--home", bound, status=4)
    assert "a waiver does not count" in said.out
    assert "another version of the pack" in said.out
    ours.write_text(FORBIDS)
    silo("policy", "pin", ours, "--home", bound)
    silo("policy", "check", "--home", bound)
    silo(
        "experiment", "sign", place / "run" / "experiment.py", "--consortium", place / "heart.json",
        "--key", place / "keys" / "rita", "--out", place / "again",
    )  # fmt: skip
    said = silo("policy", "check", place / "again", "--home", bound, status=4)
    assert f"it is for run {run_of(place).run}" in said.out


def test_who_and_what_cannot_waive(silo: Command, bound: Path, place: Path) -> None:
    assert "sven is a steward, not an officer" in waive(silo, bound, place, key="sven", status=2)
    assert "rita is a researcher, not an officer" in waive(silo, bound, place, key="rita", status=2)
    assert "otto acts for beta, not for alpha" in waive(silo, bound, place, key="otto", status=2)
    silo("keys", "new", "--role", "officer", "--name", "olga", "--silo", "alpha", "--out", place / "keys" / "false")
    assert "does not name olga, with these keys" in waive(silo, bound, place, key="false", status=6)
    assert "cannot be waived" not in waive(silo, bound, place, "baseline/epsilon-bounded")
    line = waive(silo, bound, place, "baseline/code-approved", status=3)
    assert "does not let this rule be waived" in line
    assert "no rule 'ours/none'" in waive(silo, bound, place, "ours/none", status=2)
    assert "reason" in waive(silo, bound, place, "--reason", "short", status=3)
    assert "0 days make no sense" in waive(silo, bound, place, "--days", "0", status=2)
    silo("policy", "waive", "ours/no-heart", "--key", place / "keys" / "olga", "--home", bound, status=2)
    said = silo("policy", "waive", "ours/no-heart", "--reason", WHY, "--home", bound, status=2)
    assert "silo keys new --role officer" in said.line


def test_waivers_that_do_not_hold_are_refused_and_say_why(silo: Command, bound: Path, place: Path) -> None:
    home = Home.open(bound)
    olga, start = load_identity(place / "keys" / "olga"), now()
    good = Waiver(
        pack="ours",
        pack_digest=home.packs()[0].digest,
        rule="no-heart",
        silo="alpha",
        run=run_of(place).run,
        approver="olga",
        reason=WHY,
        created=start - timedelta(days=2),
        expires=start + timedelta(days=2),
    )
    bad = {
        "expired": sign(good.model_copy(update={"expires": start - timedelta(days=1)}), olga),
        "future": sign(good.model_copy(update={"created": start + timedelta(days=1)}), olga),
        "for silo beta": sign(good.model_copy(update={"silo": "beta"}), olga),
        "does not hold": sign(good, Identity.generate("olga")),
        "may not approve": sign(good.model_copy(update={"approver": "sven"}), load_identity(place / "keys" / "sven")),
    }
    for why, waiver in bad.items():
        for old in (bound / "waivers").iterdir():
            old.unlink()
        home.add_waiver(waiver)
        said = silo("policy", "check", "--home", bound, status=4)
        assert "a waiver does not count" in said.out
        assert why in said.out
    home.add_waiver(sign(good, olga))
    silo("policy", "check", "--home", bound)


# On record -----------------------------------------------------------------------------------------------------------


def test_check_says_what_the_agent_then_decides(silo: Command, bound: Path, place: Path) -> None:
    asked = silo("policy", "check", "--home", bound, "--json", status=4).json
    denied = decide(bound, place)
    assert denied.decision == asked["decision"] == "deny"
    assert [(each.pack, each.id, each.result) for each in denied.rules] == [
        (each["pack"], each["rule"], each["result"]) for each in asked["rules"]
    ]
    waive(silo, bound, place)
    asked = silo("policy", "check", "--home", bound, "--json").json
    permitted = decide(bound, place)
    assert permitted.decision == asked["decision"] == "permit"
    assert permitted.deciding == ("ours/no-heart",)


def test_explain_shows_every_rule_with_what_it_read(silo: Command, bound: Path, place: Path) -> None:
    said = silo("policy", "explain", "--home", bound, status=3)
    assert "no decision on run" in said.line
    decide(bound, place)
    waive(silo, bound, place)
    decision = decide(bound, place)
    run = decision.run
    said = silo("policy", "explain", "--home", bound)
    assert f"alpha permitted run {run} at the moment accept: 20 rules asked, 1 waived" in said.out
    assert "dataset.records = 303" in said.out
    assert "NIST SP 800-226, section 2.3, delta" in said.out
    assert f"waived by olga: {WHY}" in said.out
    assert "2 decisions on this run are on record (accept)" in said.out
    told = silo("policy", "explain", run, "--home", bound, "--json").json
    assert told["digest"] == decision.digest
    assert len(told["rules"]) == 20
    assert all(rule["facts"] and rule["expr"] and rule["cite"] and not rule["missing"] for rule in told["rules"])
    assert [each["decision"] for each in told["on_record"]] == ["deny", "permit"]
    assert "no decision at the moment 'round'" in silo(
        "policy", "explain", "--moment", "round", "--home", bound, status=2
    ).line  # fmt: skip
    joined = silo("policy", "explain", "join-heart", "--home", bound).out
    assert "alpha permitted run join-heart at the moment join" in joined
    assert "consortium.size = 3" in joined


def test_explain_believes_nothing_that_was_changed(silo: Command, bound: Path, place: Path) -> None:
    decide(bound, place)
    folder = bound / "runs" / run_of(place).run
    (record,) = folder.glob("decision-*.json")
    facts = folder / record.name.replace("decision-", "facts-")
    for file in (record, facts):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    truth = facts.read_text()
    facts.write_text(truth.replace('"purpose":"heart-disease-research"', '"purpose":"something-else"'))
    assert "not the facts" in silo("policy", "explain", "--home", bound, status=6).line
    facts.unlink()
    said = silo("policy", "explain", "--home", bound)
    assert "a silo keeps its own" in said.out
    assert "NOT MET: ours/no-heart" in said.out
    # another member reads a decision that was handed over, without the facts
    shutil.copy(record, place / "handed.json")
    told = silo("policy", "explain", place / "handed.json", "--home", place / "beta").out
    assert "alpha denied run" in told
    assert "Epsilon is too large." in told
    document = json.loads(record.read_text())
    document["body"]["decision"] = "permit"
    record.write_text(json.dumps(document))
    assert "does not follow" in silo("policy", "explain", "--home", bound, status=3).line
    document["body"]["decision"], document["body"]["time"] = "deny", "2026-01-01T00:00:00Z"
    record.write_text(json.dumps(document))
    assert "signature does not hold" in silo("policy", "explain", "--home", bound, status=6).line

"""`silo audit` and `silo report` on a real run: what holds, what an auditor elsewhere can confirm, what is caught."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from silo.home import Home
from silo.log import Log, VerifierKey
from silo.log.tiles import read
from silo.log.witness import FILE
from tests.cli.conftest import silo

TRAINED = ("cleveland", "hungary", "switzerland", "va-long-beach")
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds with every party's home."""
    folder = tmp_path_factory.mktemp("audit") / "demo"
    command = [sys.executable, "-c", "from silo.cli import main; main()", "demo", "--rounds", "2", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return folder


@pytest.fixture
def spoilt(demo: Path, tmp_path: Path) -> Path:
    """A copy of the homes that a test may spoil."""
    return Path(shutil.copytree(demo, tmp_path / "spoilt"))


@pytest.fixture(scope="module")
def elsewhere(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an auditor on another machine has: the report, proofs, and the manifest with public keys. No home."""
    folder = tmp_path_factory.mktemp("auditor")
    silo("report", demo, "--format", "json", "--proofs", "--out", folder / "report.json")
    shutil.copy(demo / "homes" / "cleveland" / "consortium.json", folder)
    return folder


def settled(folder: Path, name: str = "cleveland") -> Path:
    """The proof of the entry that says what a silo spent."""
    report = json.loads((folder / "report.json").read_text())
    (log,) = [each for each in report["evidence"]["logs"] if each["holder"] == name]
    (entry,) = [each for each in log["entries"] if each["subject"] == f"budget/{name}"]
    return folder / str(entry["proof"])


def rewrite(home: Path, change: Callable[[list[tuple[str, dict[str, object]]]], object]) -> None:
    """Replace a log by one of other entries, whole in itself, as somebody who owns the machine can."""
    name = home.name
    with Log(home / "log.db", f"silo/{name}", create=False) as log:
        rows = [(str(each.kind), dict(each.body)) for each in log.entries()]
    change(rows)
    for path in home.glob("log.db*"):
        path.unlink()
    with Log(home / "log.db", f"silo/{name}") as log:
        log.extend(rows)


# show, watch -------------------------------------------------------------------------------------------------------


def test_show_filters_by_run_silo_and_kind(demo: Path) -> None:
    home = demo / "homes" / "aggregator"
    everything = silo("audit", "show", "--home", home, "--json").json
    assert everything["size"] == len(everything["entries"])
    uploads = silo("audit", "show", "--home", home, "--kind", "upload", "--silo", "hungary", "--json").json["entries"]
    assert [each["body"]["round"] for each in uploads] == [1, 2]
    counted = silo("audit", "show", "--home", home, "--kind", "aggregate", "--silo", "hungary", "--json").json
    assert len(counted["entries"]) == 2
    assert silo("audit", "show", "--home", home, "--run", "another", "--json").json["entries"] == []
    assert "upload" in silo("audit", "show", "--home", home).out
    assert "no kind 'uploads'" in silo("audit", "show", "--home", home, "--kind", "uploads", status=2).line


def test_watch_prints_what_is_there_and_then_what_comes(demo: Path) -> None:
    home = demo / "homes" / "st-elsewhere"
    lines = silo("audit", "watch", "--once", "--last", "2", "--json", "--home", home).out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["decision", "refusal"]
    assert silo("audit", "watch", "--once", "--last", "0", "--home", home).out == ""


def test_watch_follows(spoilt: Path) -> None:
    home = spoilt / "homes" / "st-elsewhere"
    command = [sys.executable, "-u", "-c", "from silo.cli import main; main()"]
    words = ["audit", "watch", "--last", "1", "--kind", "fault", "--kind", "refusal", "--home", str(home)]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert "denied by policy" in following.stdout.readline()
        with Log(home / "log.db", "silo/st-elsewhere", create=False) as log:
            log.append("fault", {"what": "something new"})
        assert "something new" in following.stdout.readline()
        following.terminate()


# verify ------------------------------------------------------------------------------------------------------------


def test_a_real_run_holds_and_what_was_not_looked_at_is_said(demo: Path) -> None:
    said = silo("audit", "verify", "--home", demo, "--checkpoint", demo / "report.json", "--json").json
    assert said["holds"] is True
    assert said["findings"] == []
    assert set(said["heads"]) == {*TRAINED, "st-elsewhere", "aggregator"}
    alone = silo("audit", "verify", "--home", demo / "homes" / "cleveland", "--json").json
    assert any("no aggregator's log at hand" in each for each in alone["unchecked"])
    assert "all that was checked holds" in silo("audit", "verify", "--home", demo).out


def of_kind(rows: list[tuple[str, dict[str, object]]], kind: str) -> dict[str, object]:
    return next(body for name, body in rows if name == kind)


@pytest.mark.parametrize(
    ("who", "change", "says"),
    [
        ("cleveland", lambda rows: rows.pop(), "was rolled back"),
        ("cleveland", lambda rows: rows.insert(3, rows[3]), "were rewritten"),
        ("aggregator", lambda rows: of_kind(rows, "upload").update(digest="sha256:" + "0" * 64), "were rewritten"),
    ],
)
def test_a_log_rewritten_as_a_whole_is_found_by_a_head_kept_elsewhere(
    spoilt: Path, who: str, change: Change, says: str
) -> None:
    rewrite(spoilt / "homes" / who, change)  # type: ignore[arg-type]
    said = silo("audit", "verify", "--home", spoilt, "--checkpoint", spoilt / "report.json", "--json", status=6).json
    assert any(each["holder"] == who and says in each["what"] for each in said["findings"]), said["findings"]


@pytest.mark.parametrize(
    ("who", "change", "says"),
    [
        ("aggregator", lambda rows: of_kind(rows, "upload").update(digest="sha256:" + "0" * 64), "not the upload that"),
        ("hungary", lambda rows: of_kind(rows, "decision").update(decision="deny"), "not the one logged"),
        (
            "hungary",
            lambda rows: of_kind(rows, "upload").update(digest="sha256:" + "0" * 64),
            "no charge in the ledger",
        ),
        (
            "hungary",
            lambda rows: rows.remove(next(x for x in rows if x[0] == "budget-reserved")),
            "without a reservation",
        ),
        ("hungary", lambda rows: of_kind(rows, "manifest").update(digest="sha256:" + "0" * 64), "signed document"),
    ],
)
def test_a_rewritten_log_contradicts_the_others_even_without_a_witness(
    spoilt: Path, who: str, change: Change, says: str
) -> None:
    rewrite(spoilt / "homes" / who, change)  # type: ignore[arg-type]
    if who == "hungary":
        assert "witnessed with another root" in silo("audit", "verify", "--home", spoilt, status=6).out
    for memory in spoilt.glob("homes/*/witness.db"):
        memory.unlink()
    said = silo("audit", "verify", "--home", spoilt, status=6)
    assert says in said.out
    assert said.err.startswith("silo: ")


def test_changed_code_a_changed_decision_and_a_damaged_file_are_named(spoilt: Path) -> None:
    homes = spoilt / "homes"
    next((homes / "cleveland" / "runs").glob("*/experiment.py")).write_text("# other code\n")
    decision = next((homes / "hungary" / "runs").glob("*/decision-*-accept.json"))
    decision.write_text(decision.read_text().replace('"true"', '"error"', 1))
    next((homes / "switzerland" / "runs").glob("*/decision-*-accept.json")).unlink()
    database = homes / "va-long-beach" / "log.db"
    content = bytearray(database.read_bytes())
    content[content.index(b'"budget-settled"') + 1] ^= 1
    database.write_bytes(bytes(content))
    findings = silo("audit", "verify", "--home", spoilt, "--json", status=6).json["findings"]
    named = {each["holder"]: each for each in findings}
    assert "not the ones the researcher signed" in named["cleveland"]["what"].replace("those that", "the ones")
    assert set(named) >= {"cleveland", "hungary", "switzerland", "va-long-beach"}
    assert named["va-long-beach"]["place"].startswith("entry ")


# witnesses ---------------------------------------------------------------------------------------------------------


def test_cosignatures_are_shown_and_travel_with_proof_and_report(demo: Path, tmp_path: Path) -> None:
    said = silo("audit", "verify", "--home", demo, "--json").json
    parties = ("aggregator", *TRAINED)
    assert said["cosigned"] == {name: [each for each in parties if each != name] for name in parties}
    home, proof = demo / "homes" / "cleveland", tmp_path / "one.tlog-proof"
    silo("audit", "prove", "3", "--home", home, "--out", proof)
    trust = ("--consortium", home / "consortium.json")
    assert silo("audit", "check", proof, *trust, "--quorum", "4", "--json").json["proofs"][0]["cosigned"]
    assert "4 of 5 cosignatures" in silo("audit", "check", proof, *trust, "--quorum", "5", status=6).line
    report = silo("report", demo, "--format", "json").json
    (log,) = [each for each in report["evidence"]["logs"] if each["holder"] == "cleveland"]
    assert log["cosigned_by"] == [each for each in parties if each != "cleveland"]


def test_a_rollback_is_found_in_the_memory_of_another_home(spoilt: Path) -> None:
    home = spoilt / "homes" / "cleveland"
    rewrite(home, lambda rows: rows.pop())
    (home / FILE).unlink()  # who rolls back their log also forgets what others cosigned
    said = silo("audit", "verify", "--home", spoilt, status=6)
    assert "was witnessed, but the log has only" in said.out


# prove, check: the auditor elsewhere -------------------------------------------------------------------------------


def test_an_auditor_confirms_a_claim_with_report_proof_and_public_keys(elsewhere: Path) -> None:
    words = (
        "audit",
        "check",
        elsewhere / "report.json",
        settled(elsewhere),
        "--consortium",
        elsewhere / "consortium.json",
    )
    said = silo(*words)
    assert "confirms the report: budget/cleveland" in said.out
    assert "the head of silo/cleveland" in said.out
    assert "no proof was given for" in said.out  # what was not proven here is said
    assert silo(*words, "--json").json["proofs"][0]["backs"] == ["budget/cleveland"]


def test_every_statement_is_confirmed_by_the_proofs_of_the_report(elsewhere: Path) -> None:
    proofs = sorted((elsewhere / "proofs").iterdir())
    words = (
        "audit",
        "check",
        elsewhere / "report.json",
        *proofs,
        "--consortium",
        elsewhere / "consortium.json",
        "--json",
    )
    said = silo(*words).json
    assert len(said["proofs"]) == len(proofs)
    assert said["unproven"] == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("silos", 0, "epsilon"), 1.5, "cleveland spent epsilon 1.5, the log says"),
        (("silos", 0, "delta"), 1e-9, "spent at delta"),
        (("run",), "another-run", "the report of another-run"),
        (("evidence", "logs", 0, "size"), 1, "beyond the"),
        (("evidence", "logs", 0, "checkpoint"), "silo/cleveland\n1\nAAAA\n\n", "note"),
    ],
)
def test_a_doctored_report_is_caught(
    elsewhere: Path, tmp_path: Path, path: tuple[str | int, ...], value: object, says: str
) -> None:
    report = json.loads((elsewhere / "report.json").read_text())
    place = report
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    doctored = tmp_path / "report.json"
    doctored.write_text(json.dumps(report))
    trust = ("--consortium", elsewhere / "consortium.json")
    assert says in silo("audit", "check", doctored, settled(elsewhere), *trust, status=6).line


def test_what_no_entry_carries_is_said_and_the_page_is_of_what_was_checked(elsewhere: Path, tmp_path: Path) -> None:
    report = json.loads((elsewhere / "report.json").read_text())
    report["silos"][0]["records"] = 2270
    (tmp_path / "report.json").write_text(json.dumps(report))
    proofs = sorted((elsewhere / "proofs").iterdir())
    trust, page = ("--consortium", elsewhere / "consortium.json"), tmp_path / "checked.html"
    said = silo("audit", "check", tmp_path / "report.json", *proofs, *trust, "--page", page).out
    assert "every statement that should have a log entry is confirmed by one" in said
    assert "everything else in it (record counts," in said
    assert "is signed by its holder, cosigned by aggregator, hungary" in said
    assert "2,270" in page.read_text() or "2270" in page.read_text()
    assert "no report to write" in silo("audit", "check", proofs[0], *trust, "--page", page, status=2).line


def test_the_file_that_is_wrong_is_named(elsewhere: Path, tmp_path: Path) -> None:
    proof, trust = settled(elsewhere), ("--consortium", elsewhere / "consortium.json")
    good = proof.read_text()
    lines = good.splitlines(keepends=True)
    spoilt = {
        "empty": ("", "not a proof file"),
        "half": (good[:300], "not a proof file"),
        "entry": (good.replace(lines[1][10:14], "AAAA", 1), ""),
        "head": (good.replace("\nsilo/cleveland\n", "\nsilo/cleveland\n1", 1), "the signature does not hold"),
        "cosignature": (good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:], "the cosignature does not hold"),
    }
    for name, (content, what) in spoilt.items():
        path = tmp_path / f"{name}.tlog-proof"
        path.write_text(content)
        line = silo("audit", "check", proof, path, *trust, status=6).line
        assert line.startswith(f"silo: {path}"), line
        assert what in line


@pytest.mark.parametrize(
    ("doctor", "says"),
    [
        (lambda report: report["rounds"].pop(), "round 2 is none, the log says one that was added up"),
        (lambda report: report["silos"].pop(), "the decision of st-elsewhere is nothing, the log says deny"),
        (lambda report: report["rounds"][0]["participants"].pop(), "the report says round 1 counted"),
        (lambda report: report["evidence"].update(manifest_digest="sha256:" + "0" * 64), "the run manifest is"),
    ],
)
def test_what_was_taken_out_of_a_report_is_missed(
    elsewhere: Path, tmp_path: Path, doctor: Callable[[Any], object], says: str
) -> None:
    report = json.loads((elsewhere / "report.json").read_text())
    doctor(report)
    report["verdict"]["rounds_completed"] = len(report["rounds"])
    names = {each["name"] for each in report["silos"]}
    report["policies"]["outcomes"] = [each for each in report["policies"]["outcomes"] if each["silo"] in names]
    logs = report["evidence"]["logs"]
    report["evidence"]["logs"] = [each for each in logs if each["holder"] in names | {"aggregator"}]
    report["privacy"]["spent"] = []
    (tmp_path / "report.json").write_text(json.dumps(report))
    proofs, trust = sorted((elsewhere / "proofs").iterdir()), ("--consortium", elsewhere / "consortium.json")
    assert says in silo("audit", "check", tmp_path / "report.json", *proofs, *trust, status=6).line


def test_a_doctored_entry_hash_is_caught(elsewhere: Path, tmp_path: Path) -> None:
    proof = settled(elsewhere)
    report = json.loads((elsewhere / "report.json").read_text())
    for entry in report["evidence"]["logs"][0]["entries"]:
        if entry["subject"] == "budget/cleveland":
            entry["hash"] = "sha256:" + "0" * 64
    (tmp_path / "report.json").write_text(json.dumps(report))
    trust = ("--consortium", elsewhere / "consortium.json")
    assert "another hash" in silo("audit", "check", tmp_path / "report.json", proof, *trust, status=6).line


def test_a_doctored_proof_and_a_wrong_key_are_caught(elsewhere: Path, tmp_path: Path, demo: Path) -> None:
    proof = settled(elsewhere)
    forged = tmp_path / "forged.tlog-proof"
    forged.write_text(proof.read_text().replace("index ", "index 1", 1))
    silo("audit", "check", forged, "--consortium", elsewhere / "consortium.json", status=6)
    keys = silo("audit", "key", "--home", demo / "homes" / "cleveland", "--json").json
    assert silo("audit", "check", proof, "--key", keys["log"]).code == 0
    (tmp_path / "keys.txt").write_text(f"# from the steward\n{keys['log']}\n{keys['witness']}\n")
    silo("audit", "check", proof, "--key", tmp_path / "keys.txt")
    impostor = VerifierKey("silo/cleveland", VerifierKey.parse(silo_key(demo, "hungary")).ed25519)
    assert "not signed by silo/cleveland" in silo("audit", "check", proof, "--key", str(impostor), status=6).line
    assert "no key for the log" in silo("audit", "check", proof, "--key", silo_key(demo, "hungary"), status=3).line
    assert "no public key" in silo("audit", "check", proof, status=2).line


def silo_key(demo: Path, name: str) -> str:
    return str(silo("audit", "key", "--home", demo / "homes" / name, "--json").json["log"])


def test_a_manifest_with_a_key_that_its_party_did_not_sign_is_refused(elsewhere: Path, tmp_path: Path) -> None:
    manifest = json.loads((elsewhere / "consortium.json").read_text())
    first, second = manifest["body"]["members"][:2]
    first["keys"], second["keys"] = second["keys"], first["keys"]
    (tmp_path / "consortium.json").write_text(json.dumps(manifest))
    said = silo("audit", "check", settled(elsewhere), "--consortium", tmp_path / "consortium.json", status=6)
    assert "signature" in said.line


# export ------------------------------------------------------------------------------------------------------------


def test_an_exported_log_is_read_back_and_completed(spoilt: Path, tmp_path: Path) -> None:
    home = spoilt / "homes" / "aggregator"
    first = silo("audit", "export", tmp_path / "log", "--home", home, "--json").json
    with Log(home / "log.db", "silo/aggregator", create=False) as log:
        log.append("fault", {"what": "something new"})
    silo("audit", "export", tmp_path / "log", "--home", home)
    head, entries = read(tmp_path / "log", VerifierKey.parse(silo_key(spoilt, "aggregator")))
    assert head.size == first["size"] + 1 == len(entries)


# report ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["html", "json", "oscal", "registry", "intoto"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param  # type: ignore[no-any-return]


def test_the_same_log_gives_the_same_bytes(demo: Path, form: str) -> None:
    first = silo("report", demo, "--format", form)
    assert first.out == silo("report", demo, "--format", form).out
    assert "not evidenced" not in first.err


def test_every_statement_has_its_entry_after_the_rebuild(demo: Path) -> None:
    page = silo("report", demo).out
    assert "Every statement that should have a log entry has one." in page


def test_what_no_given_log_backs_reads_not_evidenced(demo: Path) -> None:
    said = silo("report", demo, "--home", demo / "homes" / "cleveland")
    assert "No log entry backs these statements: not evidenced." in said.out
    assert "<li>decision of hungary</li>" in said.out
    assert "not evidenced: what 11 entries of hungary backed" in said.err


def test_a_report_that_a_log_contradicts_is_not_printed(spoilt: Path) -> None:
    path = spoilt / "report.json"
    path.write_text(path.read_text().replace('"decision": "deny"', '"decision": "permit"', 1))
    said = silo("report", spoilt, status=6)
    assert said.out == ""
    assert "the report says the members are" in said.line


def test_a_log_that_was_rolled_back_backs_nothing(spoilt: Path) -> None:
    rewrite(spoilt / "homes" / "hungary", lambda rows: rows.pop())
    said = silo("report", spoilt, "--format", "json")
    assert "not evidenced: the log of hungary" in said.err
    assert "hungary" not in {each["holder"] for each in said.json["evidence"]["logs"]}


def test_what_cannot_be_reported_says_so(demo: Path, tmp_path: Path) -> None:
    home = ("--home", demo / "homes" / "cleveland")
    assert "no home given took part in this run" in silo("report", "no-such-run", *home, status=3).line
    assert "no report.json" in silo("report", tmp_path, *home, status=3).line
    assert "give --out" in silo("report", demo, "--proofs", status=2).line
    (tmp_path / "report.json").write_text('{"version": "silo-report/v1"}')
    assert "not a report" in silo("report", tmp_path, *home, status=3).line


# A copy that may only be read ----------------------------------------------------------------------------------------


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Iterator[Path]:
    """What a holder hands to an auditor: the homes without their keys, to be read and not to be written."""
    folder = Path(shutil.copytree(demo, tmp_path / "copy", ignore=shutil.ignore_patterns("keys")))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_read_only_copy_without_keys_is_audited_and_nothing_in_it_changes(copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    home = copy / "homes" / "cleveland"
    assert silo("audit", "verify", "--home", copy / "homes", "--json").json["holds"] is True
    shown = silo("audit", "show", "--home", home, "--kind", "budget-settled", "--json").json["entries"]
    assert silo("audit", "watch", "--home", home, "--once", "--last", "3").out.count("\n") == 3
    out = tmp_path / "settled.tlog-proof"
    silo("audit", "prove", str(shown[-1]["index"]), "--home", home, "--out", out)
    said = silo("audit", "check", out, "--consortium", home / "consortium.json", "--quorum", "4").out
    assert "cosigned by aggregator, hungary, switzerland, va-long-beach" in said
    report = tmp_path / "report.json"
    silo("report", copy, "--format", "json", "--proofs", "--out", report)
    logs = json.loads(report.read_text())["evidence"]["logs"]
    assert all(len(each["cosigned_by"]) == 4 for each in logs if each["entries"] and each["holder"] in TRAINED)
    assert contents(copy) == before


def test_a_copy_without_keys_cannot_sign_for_its_holder(copy: Path, demo: Path) -> None:
    with Home.open(demo / "homes" / "st-elsewhere", read_only=True).log() as log:
        last = len(log) - 1
    said = silo("audit", "prove", str(last), "--home", copy / "homes" / "st-elsewhere", status=3).err
    assert "this copy holds no key to sign a new head" in said

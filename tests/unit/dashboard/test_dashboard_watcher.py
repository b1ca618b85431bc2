"""Looking at a home: it shows what is there, changes nothing, and says what it could not read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from silo.dashboard import Watcher
from silo.dashboard.alarms import expiring, on_disk
from silo.dashboard.view import Decision, Reason
from silo.errors import ConfigError
from silo.home import Home
from silo.home.stops import stop_run
from silo.ledger import Ledger
from silo.log import Log
from silo.storage import write_atomically
from tests.unit.dashboard.conftest import DIGEST, RUN
from tests.unit.dashboard.homes import lived_in

WRITER = """
import sys
from pathlib import Path
from silo.log import Log
with Log(Path(sys.argv[1]), "silo/cleveland", create=False) as log:
    print("open", flush=True)
    for line in sys.stdin:
        log.append("fault", {"run": "heart-1", "what": line.strip()})
        print(len(log), flush=True)
        if line.strip() == "die":
            import os
            os.kill(os.getpid(), 9)
"""


class Writer:
    """Another process that has the log open, as an agent does."""

    def __init__(self, home: Home) -> None:
        command = [sys.executable, "-c", WRITER, str(home.path / "log.db")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "open"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def append(self, words: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def close(self) -> None:
        self._process.communicate()


def everything(home: Home) -> dict[str, tuple[bytes, int, int]]:
    """Every file of a home: content, mode, time of change."""
    return {
        str(path.relative_to(home.path)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in sorted(home.path.rglob("*"))
    }


def what(home: Home) -> list[str]:
    return [f"{alarm.level}: {alarm.what}" for alarm in Watcher(home).look().alarms]


# What it shows


def test_a_look_says_who_what_and_how_much(home: Home) -> None:
    view = Watcher(home).look()
    assert (view.silo, view.display_name, view.role, view.consortium) == ("cleveland", "Cleveland Clinic", "silo", None)
    (run,) = view.runs
    assert (run.id, run.state, run.round, run.rounds, run.members) == (RUN, "training", 1, None, ("cleveland", "ulm"))
    (budget,) = view.budgets
    assert (budget.epsilon_spent, budget.epsilon_left, budget.epsilon_cap, budget.data) == (0.0, 10.0, 10.0, ("heart",))
    (decision,) = view.decisions
    assert (decision.decision, decision.moment, decision.times, decision.entry) == ("permit", "accept", 1, 1)
    assert view.log is not None
    assert (view.log.origin, view.log.size) == ("silo/cleveland", 4)
    with home.log() as log:
        assert view.log.root == log.head().root.hex()
    assert [line.index for line in view.log.newest] == [3, 2, 1, 0]
    json.dumps(dataclasses.asdict(view), allow_nan=False)


def test_a_view_is_frozen(home: Home) -> None:
    view = Watcher(home).look()
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.silo = "other"  # type: ignore[misc]


def test_a_data_set_whose_population_was_never_opened_has_its_whole_budget(home: Home) -> None:
    home.add_dataset(home.data()[0].model_copy(update={"name": "lab", "population": "lab"}))
    lab = Watcher(home).look().budgets[1]
    assert (lab.population, lab.opened, lab.epsilon_left) == ("lab", False, 10.0)


def test_what_a_second_process_appends_is_seen_at_the_next_look(home: Home) -> None:
    watcher, writer = Watcher(home), Writer(home)
    try:
        before = watcher.signature()
        for number in range(3):
            assert writer.append(f"fault {number}") == 5 + number
            view = watcher.look()
            assert view.log is not None
            assert (view.log.size, view.log.newest[0].what) == (5 + number, f"fault {number}")
            assert view.runs[0].state == "faulty"
        assert watcher.signature() != before
    finally:
        writer.close()
    assert watcher.look().log == view.log  # the writer closed the file, and nothing was lost


def test_reading_entry_by_entry_comes_to_the_same(home: Home) -> None:
    patient = Watcher(home)
    with home.log() as log:
        for number in range(2, 6):
            patient.look()
            log.append("upload", {"run": RUN, "round": number, "attempt": 1, "silo": "cleveland", "digest": DIGEST})
            body = {"run": RUN, "silo": "cleveland", "digest": DIGEST, "decision": "deny", "moment": "release"}
            log.append("decision", {**body, "deciding": ["baseline/metrics"]})
            log.append("refusal", {"run": RUN, "what": "metrics", "digest": DIGEST})
        log.append("run-finished", {"run": RUN})
    gradual, at_once = patient.look(), Watcher(home).look()
    assert dataclasses.replace(gradual, taken=at_once.taken) == at_once
    refused = next(each for each in at_once.decisions if each.decision == "deny")
    assert (refused.about, refused.times) == ("metrics", 4)
    assert at_once.runs[0].state == "finished"


def test_why_a_run_was_refused_comes_from_the_signed_decision_or_not_at_all(tmp_path: Path) -> None:
    home = lived_in(tmp_path / "cleveland")
    watcher = Watcher(home)

    def refusal(watcher: Watcher) -> Decision:
        return next(each for each in watcher.look().decisions if each.decision == "deny")

    (reason,) = refusal(watcher).reasons
    assert (reason.rule, reason.source) == ("ethics/whole-patient", "NIST SP 800-226, section 2.3, the unit of privacy")
    assert reason.message.startswith("The run protects one record")
    assert not [each for each in what(home) if "not on file" in each]
    (file,) = (home.path / "runs").glob("*/decision-*.json")
    file.write_text(file.read_text().replace("one record", "everybody"))
    altered = Watcher(home)
    assert refusal(altered).reasons == (Reason("ethics/whole-patient"),)
    assert any("is not on file as it was logged" in each for each in what(home))


def test_a_run_that_this_silo_s_people_stopped_says_so(home: Home) -> None:
    home.run_directory(RUN)
    stop_run(home, RUN, "the data officer asked")
    (run,) = Watcher(home).look().runs
    assert (run.state, run.note) == ("stopped", "the data officer asked")


# What it must not do


def test_a_look_changes_no_byte_no_time_and_makes_no_file(home: Home) -> None:
    before = everything(home)
    watcher = Watcher(home)
    for _ in range(3):
        watcher.look()
        watcher.signature()
    assert everything(home) == before


def test_a_look_at_a_home_in_use_changes_nothing_either(home: Home) -> None:
    writer = Writer(home)
    try:
        writer.append("in the write-ahead log")
        before = everything(home)
        assert {"log.db-wal", "log.db-shm"} <= before.keys()
        Watcher(home).look()
        assert everything(home) == before
    finally:
        writer.close()


def test_a_writer_never_waits_for_whoever_looks(home: Home) -> None:
    """A reader in the middle of its look holds nothing a writer needs, not even to close and clean up."""
    path = home.path / "log.db"
    with Log(path, home.origin) as writer:
        writer.append("fault", {"what": "one"})
        with Log(path, home.origin, read_only=True) as reader, reader._database.reading() as snapshot:
            assert snapshot.execute("SELECT count(*) FROM entry").fetchone() == (5,)
            writer._database.connection.execute("PRAGMA busy_timeout=0")
            writer.append("fault", {"what": "two"})
            assert snapshot.execute("SELECT count(*) FROM entry").fetchone() == (5,)
        assert len(writer) == 6


def test_nothing_can_be_written_through_a_database_that_was_opened_to_look(home: Home) -> None:
    for open_ in (True, False):  # in use by somebody, and not
        holder = home.log() if open_ else None
        if holder is not None:
            holder.append("fault", {"what": "x"})
        with Log(home.path / "log.db", home.origin, read_only=True) as log, pytest.raises(ConfigError):
            log.append("fault", {"what": "y"})
        with (
            Ledger(home.path / "ledger.db", read_only=True) as ledger,
            pytest.raises(ConfigError),
        ):
            ledger.open_population("other", 1.0, 1e-5)
        if holder is not None:
            holder.close()


def test_a_private_key_is_never_opened(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and recording:
            opened.append(str(arguments[0]))

    recording = True
    sys.addaudithook(watch)
    try:
        Watcher(home).look()
    finally:
        recording = False
    assert any("data.toml" in name for name in opened)  # the hook sees what is opened
    assert not [name for name in opened if "/keys/" in name]


# What it says when something is wrong


def test_after_kill_9_the_entries_are_shown_and_the_file_is_left_alone(home: Home) -> None:
    writer = Writer(home)
    writer.append("die")
    writer.close()
    before = everything(home)
    view = Watcher(home).look()
    assert view.log is not None
    assert view.log.newest[0].what == "die"
    assert everything(home) == before
    (home.path / "log.db-shm").unlink()
    view = Watcher(home).look()
    assert view.log is None
    assert any("last writer was killed" in alarm.what for alarm in view.alarms)
    assert view.budgets  # the rest is still shown
    with home.log() as log:
        assert len(log) == 5


def test_an_altered_entry_is_an_alarm(home: Home) -> None:
    path = home.path / "log.db"
    content = bytearray(path.read_bytes())
    content[content.index(b'"cleveland","ulm"') + 2] ^= 1
    path.write_bytes(bytes(content))
    view = Watcher(home).look()
    assert view.log is None
    assert any("the entry was altered" in alarm.what for alarm in view.alarms)


def test_a_log_that_was_rolled_back_while_it_was_watched_is_an_alarm(home: Home, tmp_path: Path) -> None:
    shutil.copy(home.path / "log.db", tmp_path / "old.db")
    watcher = Watcher(home)
    with home.log() as log:
        log.append("run-finished", {"run": RUN})
    assert watcher.look().runs[0].state == "finished"
    shutil.copy(tmp_path / "old.db", home.path / "log.db")
    view = watcher.look()
    assert any("rewritten while this page watched" in alarm.what for alarm in view.alarms)
    assert view.runs[0].state == "training"
    assert any("rewritten" in alarm.what for alarm in watcher.look().alarms)  # it is not forgotten


def test_a_ledger_older_than_the_log_saw_is_an_alarm(home: Home, tmp_path: Path) -> None:
    shutil.copy(home.path / "ledger.db", tmp_path / "old.db")
    with home.ledger() as ledger:
        ledger.open_population("other", 1.0, 1e-5)
        head = ledger.head()
    with home.log() as log:
        body = {"run": RUN, "population": "other", "ledger": dataclasses.asdict(head)}
        log.append("budget-reserved", body)
    assert not [each for each in what(home) if "rolled back" in each]
    shutil.copy(tmp_path / "old.db", home.path / "ledger.db")
    assert any("bad: the ledger is not the one this log saw last" in each for each in what(home))


def test_another_program_s_database_is_an_alarm(home: Home) -> None:
    (home.path / "ledger.db").unlink()
    with sqlite3.connect(home.path / "ledger.db") as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    assert any("another program's database" in each for each in what(home))


def test_keys_that_others_can_read_and_a_disk_that_fills_are_alarms(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_disk(home) == []
    (home.path / "keys" / "node.p384.pem").chmod(0o640)
    assert [alarm.level for alarm in on_disk(home)] == ["bad"]
    full = shutil.disk_usage(home.path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert "1024 MiB are free" in on_disk(home)[0].what


def test_what_expires_is_named_thirty_days_ahead(home: Home) -> None:
    now = datetime.now(UTC)
    soon = home.data()[0].model_copy(update={"consent_expires": now + timedelta(days=20)})
    home.add_dataset(soon)
    home.approve(DIGEST, days=10)
    (home.path / "tls").mkdir()
    write_atomically(home.path / "tls" / "server.crt", certificate(now + timedelta(days=3)))
    found = {(alarm.level, alarm.what.partition(" expire")[0]) for alarm in expiring(home)}
    assert found == {
        ("warn", "the consent of data set heart"),
        ("warn", f"the approval of code {DIGEST[:19]} by cleveland"),
        ("warn", "the certificate tls/server.crt"),
    }
    later = {alarm.level for alarm in expiring(home, now + timedelta(days=25))}
    assert later == {"bad"}
    (home.path / "tls" / "server.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    assert any("not a certificate" in alarm.what for alarm in expiring(home))


def certificate(ends: datetime) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "silo")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=90))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)

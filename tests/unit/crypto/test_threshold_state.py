"""The file of threshold custody's state: how durable it is, and what happens when it cannot be written."""

import subprocess
import sys
from dataclasses import replace

import pytest
from silo_crypto.errors import KeyUseError, ProtocolError
from silo_crypto.protocol import Header
from silo_crypto.threshold.state import State

HEADER = Header(bytes(32), "run", 0, 0, 0, ("a", "b"), bytes(32), (b"1" * 32, b"2" * 32))


def test_commits_reach_the_disk_and_deleted_keys_are_overwritten(tmp_path):
    state = State(tmp_path / "shares.db")
    pragmas = {name: state._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete")}
    assert pragmas == {"synchronous": 2, "secure_delete": 1}  # FULL, ON
    assert state._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    state.close()


def test_opening_it_twice_does_not_let_another_process_delete_what_is_written(tmp_path):
    """The one-share rule stands and falls with this file; see tests/unit/test_storage.py for what happened."""
    path = tmp_path / "shares.db"
    first = State(path)
    first.deal(bytes(32), 0)
    State(path).close()
    look = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT MAX(epoch) FROM dealings').fetchone())"
    )
    for epoch in (0, 1):
        done = subprocess.run([sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"({epoch},)"
        first.deal(bytes(32), epoch + 1)
    first.close()


def test_a_file_that_is_not_a_state_is_refused(tmp_path):
    (tmp_path / "shares.db").write_bytes(b"not a database, but long enough to be taken for one" * 20)
    with pytest.raises(KeyUseError, match="cannot open the state"):
        State(tmp_path / "shares.db")
    with pytest.raises(KeyUseError, match="cannot open the state"):
        State(tmp_path / "missing" / "shares.db")


def test_a_step_that_cannot_be_recorded_is_not_taken(tmp_path):
    state = State(tmp_path / "shares.db")
    state._db.execute("PRAGMA query_only=ON")
    for step in (
        lambda: state.deal(bytes(32), 0),
        lambda: state.claim(HEADER),
        lambda: state.agree(HEADER, b"t" * 32),
        lambda: state.release(HEADER, b"t" * 32, b"S", 1, 10),
    ):
        with pytest.raises(KeyUseError, match="cannot record a step"):
            step()
    state._db.execute("PRAGMA query_only=OFF")
    state.claim(HEADER)
    state.close()


def test_a_refused_release_records_nothing(tmp_path):
    state = State(tmp_path / "shares.db")
    with pytest.raises(ProtocolError, match="11 more"):
        state.release(HEADER, b"t" * 32, b"S", 11, 10)
    assert (state.released(HEADER), state.spent(bytes(32), 0)) == (0, 0)
    state.agree(HEADER, b"u" * 32)  # the refused agreement was rolled back with it
    state.release(HEADER, b"u" * 32, b"S", 10, 10)
    assert (state.released(HEADER), state.spent(bytes(32), 0)) == (1, 10)
    with pytest.raises(ProtocolError, match="10 of 10"):
        state.release(HEADER, b"u" * 32, b"R", 1, 10)
    state.close()


def test_a_later_key_epoch_ends_the_earlier_ones_for_good(tmp_path):
    """Rollback: an aggregator asks for the keys, or the dealing, of an epoch that another one has followed."""
    state, manifest = State(tmp_path / "shares.db"), HEADER.manifest
    state.deal(manifest, 0)
    state.keep(manifest, 0, {"": b"own", "a": b"box"}, 16)
    state.claim(HEADER)
    state.deal(manifest, 2)
    assert set(state.boxes(manifest, 0)) == {"", "a"}  # dealing alone ends nothing: the ceremony may fail
    state.keep(manifest, 2, {"": b"own"}, 16)
    assert state.boxes(manifest, 0) == {}
    for number in (0, 1, 2):
        with pytest.raises(ProtocolError, match="already dealt in epoch 2"):
            state.deal(manifest, number)
    with pytest.raises(ProtocolError, match="epoch 1 ended when epoch 2 began"):
        state.keep(manifest, 1, {"": b"own"}, 16)
    for step in (
        lambda: state.claim(replace(HEADER, attempt=1)),
        lambda: state.agree(HEADER, b"t" * 32),
        lambda: state.release(HEADER, b"t" * 32, b"S", 1, 10),
    ):
        with pytest.raises(ProtocolError, match="epoch 0 ended when epoch 2 began"):
            step()
    state.forget(manifest, 2)  # an epoch that was itself forgotten still bars those before
    with pytest.raises(ProtocolError, match="epoch 0 ended"):
        state.agree(HEADER, b"t" * 32)
    state.claim(replace(HEADER, epoch=2))
    state.deal(b"x" * 32, 0)  # another manifest counts for itself
    state.close()


def test_two_states_on_one_file_agree(tmp_path):
    first, second = State(tmp_path / "shares.db"), State(tmp_path / "shares.db")
    first.agree(HEADER, b"t" * 32)
    with pytest.raises(ProtocolError, match="another set"):
        second.agree(HEADER, b"u" * 32)
    with pytest.raises(ProtocolError, match="already encrypted"):
        second.claim(HEADER)
    first.close()
    second.close()

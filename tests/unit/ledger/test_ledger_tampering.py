"""Whatever is done to a ledger behind its back: it is found, and the event is named."""

import sqlite3

import pytest

from silo.errors import ConfigError, SiloError, VerificationFailed
from silo.ledger import Ledger
from silo.ledger.journal import CHAIN_LABEL, _chain
from tests.unit.ledger.conftest import DIGEST, gaussian

EVENTS = 12


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger(path) as ledger:
        ledger.open_population("cleveland", 3.0, 1e-5, "gdp")
        terms = {"delta": 1e-5, "code_digest": DIGEST, "data_digest": DIGEST}
        run = ledger.reserve("cleveland", "7", gaussian(20.0), 8, **terms)
        for round_ in range(8):
            ledger.charge(run, round_, 0, 1, upload_digest=DIGEST)
        ledger.settle(run)
        assert ledger.head().size == EVENTS
    return path


@pytest.fixture
def path(original, tmp_path):
    copy = tmp_path / "ledger.db"
    copy.write_bytes(original.read_bytes())
    return copy


def edit(path, *statements):
    """Run statements as somebody who removes the triggers, and puts them back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement, *values in statements:
        connection.execute(statement, values)
    for _, statement in triggers:
        connection.execute(statement)
    connection.close()


def rows(path):
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT i, body, head FROM event ORDER BY i").fetchall()
    connection.close()
    return found


def test_sqlite_refuses_to_change_it(path):
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in (
        "UPDATE event SET body = x'00'",
        "DELETE FROM event WHERE i = 11",
        "INSERT INTO event VALUES (3, x'00', x'00')",
        "INSERT OR REPLACE INTO event VALUES (3, x'00', x'00')",
        "INSERT INTO event VALUES (13, x'00', x'00')",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    connection.close()
    Ledger(path).close()


def test_every_byte_of_every_event(path):
    for index, body, head in rows(path):
        for place in range(0, len(body), 37):
            changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
            edit(path, ("UPDATE event SET body = ? WHERE i = ?", changed, index))
            with pytest.raises(VerificationFailed) as error:
                Ledger(path)
            assert error.value.where == f"{path} event {index}"
        edit(path, ("UPDATE event SET body = ?, head = ? WHERE i = ?", body, bytes(32), index))
        with pytest.raises(VerificationFailed, match=f"event {index}"):
            Ledger(path)
        edit(path, ("UPDATE event SET head = ? WHERE i = ?", head, index))
    Ledger(path).close()


def test_dropped_swapped_and_doubled(path):
    found = rows(path)
    cases = {
        5: found[:5] + found[6:],
        3: [*found[:3], found[4], found[3], *found[5:]],
        8: [*found[:8], found[7], *found[8:]],
    }
    for index, changed in cases.items():
        edit(
            path,
            ("DELETE FROM event",),
            *(("INSERT INTO event VALUES (?, ?, ?)", n, *row[1:]) for n, row in enumerate(changed)),
        )
        with pytest.raises(VerificationFailed, match=f"event {index}"):
            Ledger(path)


def test_a_forger_who_hashes_again_still_has_to_make_sense(path):
    """A charge more than was reserved, or twice, is no ledger, whatever its hashes say."""
    found = rows(path)
    bodies = [body for _, body, _ in found[:-1]]
    for extra, says in (
        (bodies[3], "already charged"),
        (bodies[3].replace(b'"round":0', b'"round":99'), "more is charged"),
    ):
        statements, head = [("DELETE FROM event",)], b""
        for index, body in enumerate([*bodies, extra]):
            head = _chain(head, body)
            statements.append(("INSERT INTO event VALUES (?, ?, ?)", index, body, head))
        edit(path, *statements)
        with pytest.raises(VerificationFailed, match=f"event {len(bodies)}.*{says}"):
            Ledger(path)


def test_an_open_ledger_notices_an_event_that_changed_or_went(path, original):
    with Ledger(path) as ledger:
        last = rows(path)[-1]
        edit(path, ("DELETE FROM event WHERE i = ?", last[0]))
        with pytest.raises(VerificationFailed, match="it has gone"):
            ledger.spent("cleveland")
    with Ledger(path) as ledger:
        edit(path, ("UPDATE event SET body = x'00' WHERE i = 4",))
        with pytest.raises(VerificationFailed, match="event 4"):
            ledger.verify()


def test_files_that_are_none(tmp_path, path):
    for make in (
        lambda file: file.write_bytes(b"no database" * 1000),
        lambda file: file.mkdir(),
        lambda file: sqlite3.connect(file).execute("CREATE TABLE x (y)").connection.close(),
    ):
        file = tmp_path / f"other{make.__code__.co_firstlineno}.db"
        make(file)
        with pytest.raises(SiloError):
            Ledger(file)
    with pytest.raises(ConfigError, match="no such file"):
        Ledger(tmp_path / "none.db", create=False)


def test_bytes_of_the_file(path):
    data = path.read_bytes()
    with Ledger(path) as ledger:
        history = ledger.history()
    found = 0
    for place in range(0, len(data), 61):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            with Ledger(path) as ledger:
                ledger.verify()
                assert ledger.history() == history, f"byte {place} changes the ledger unseen"
        except SiloError:
            found += 1
        for leftover in path.parent.glob("ledger.db-*"):
            leftover.unlink()
    assert found > 50


def test_the_chain_has_a_label_of_its_own():
    assert CHAIN_LABEL == b"silo/v1/ledger"
    assert _chain(b"", b"x") == _chain(bytes(32), b"x") != _chain(bytes(31) + b"\x01", b"x")

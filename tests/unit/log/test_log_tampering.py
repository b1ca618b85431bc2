"""Whatever is done to a log behind its back: ``verify`` finds it and names the place."""

import shutil
import sqlite3

import pytest

from silo.errors import SiloError, VerificationFailed
from silo.log import Log, tree
from silo.log.verification import faults

ORIGIN = "silo/cleveland"


class Editor:
    """Somebody with the file and SQLite, who first removes the triggers that stand in the way."""

    def __init__(self, path):
        source = sqlite3.connect(path)
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        source.backup(self.connection)
        source.close()
        for (name,) in self.run("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            self.run(f"DROP TRIGGER {name}")

    def run(self, statement, *values):
        return self.connection.execute(statement, values)

    def faults(self, *witnessed):
        return [str(fault) for fault in faults(self.connection, ORIGIN, witnessed)]

    def entries(self):
        return [data for (data,) in self.run("SELECT data FROM entry ORDER BY i")]

    def replace(self, entries, *, hashes=True):
        """Write other entries; with ``hashes``, also all that they hash to: a forger who is thorough."""
        self.run("DELETE FROM entry")
        self.connection.executemany("INSERT INTO entry VALUES (?, ?)", enumerate(entries))
        if hashes:
            nodes = {}
            for index, data in enumerate(entries):
                for level, place, value in tree.completed(index, tree.leaf_hash(data), lambda *key: nodes[key]):
                    nodes[level, place] = value
            self.run("DELETE FROM hash")
            rows = [(*key, value) for key, value in nodes.items()]
            self.connection.executemany("INSERT INTO hash VALUES (?, ?, ?)", rows)


@pytest.fixture
def editor(hundred):
    editor = Editor(hundred)
    assert editor.faults() == []
    yield editor
    editor.connection.close()


@pytest.fixture(scope="module")
def heads(hundred):
    with Log(hundred, ORIGIN) as log:
        return {size: log.head(size) for size in (0, 1, 50, 64, 99, 100)}


def test_every_byte_of_every_entry(editor):
    tried = 0
    for index, data in enumerate(editor.entries()):
        for place in range(len(data)):
            changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            editor.run("UPDATE entry SET data = ? WHERE i = ?", changed, index)
            assert editor.faults() == [f"entry {index} does not match its stored hash"], (index, place)
            tried += 1
        editor.run("UPDATE entry SET data = ? WHERE i = ?", data, index)
    assert tried > 8_000
    assert editor.faults() == []


def test_every_stored_hash(editor):
    for level, index, value in editor.run("SELECT level, i, value FROM hash").fetchall():
        for place in (0, 13, 31):
            changed = value[:place] + bytes([value[place] ^ 0x80]) + value[place + 1 :]
            editor.run("UPDATE hash SET value = ? WHERE level = ? AND i = ?", changed, level, index)
            (found,) = editor.faults()
            first, last = index << level, (index + 1 << level) - 1
            assert found.startswith(f"entry {index} does" if level == 0 else f"hash of entries {first} to {last} does")
        editor.run("UPDATE hash SET value = ? WHERE level = ? AND i = ?", value, level, index)


def test_dropped_entries(editor):
    for index in (0, 1, 42, 98):
        data = editor.entries()[index]
        editor.run("DELETE FROM entry WHERE i = ?", index)
        assert editor.faults() == [f"entry {index} is missing"]
        editor.run("INSERT INTO entry VALUES (?, ?)", index, data)
    editor.run("DELETE FROM entry WHERE i = 99")
    assert editor.faults()[0] == "entry 99 is missing: only its hash is stored"
    editor.run("DELETE FROM entry")
    assert editor.faults()[0] == "entry 0 is missing: only its hash is stored"


@pytest.mark.parametrize("index", [0, 41, 98])
def test_dropped_and_moved_up(editor, index):
    entries = editor.entries()
    del entries[index]
    editor.replace(entries, hashes=False)
    assert editor.faults()[0] == f"entry {index} does not match its stored hash"


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 99), (40, 41), (63, 64)])
def test_swapped(editor, first, second):
    entries = editor.entries()
    entries[first], entries[second] = entries[second], entries[first]
    editor.replace(entries, hashes=False)
    places = [f"entry {index} does not match its stored hash" for index in (first, second)]
    assert editor.faults() == places


@pytest.mark.parametrize("index", [0, 41, 99])
def test_doubled(editor, index):
    entries = editor.entries()
    entries.insert(index, entries[index])
    editor.replace(entries, hashes=False)
    found = editor.faults()
    assert found[0] == f"entry {min(index + 1, 100)} " + (
        "has no stored hash" if index == 99 else "does not match its stored hash"
    )


def test_swapped_with_their_leaf_hashes(editor):
    entries = editor.entries()
    entries[8], entries[9] = entries[9], entries[8]
    editor.replace(entries, hashes=False)
    editor.run("UPDATE hash SET value = ? WHERE level = 0 AND i = 8", tree.leaf_hash(entries[8]))
    editor.run("UPDATE hash SET value = ? WHERE level = 0 AND i = 9", tree.leaf_hash(entries[9]))
    assert editor.faults() == ["hash of entries 8 to 9 does not match its stored hash"]


def test_an_entry_that_never_was_one(editor):
    entries = editor.entries()
    entries[17] = b'{"anything":"else"}'
    editor.replace(entries)
    assert editor.faults() == ["entry 17 is not a log entry: not an entry"]


@pytest.mark.parametrize("value", ["text", 3, 2.5])
def test_values_of_other_types(editor, value):
    editor.run("UPDATE entry SET data = ? WHERE i = 5", value)
    editor.run("INSERT INTO hash VALUES ('x', 'y', ?)", value)
    assert any("level 'x'" in fault for fault in editor.faults())
    editor.run("DELETE FROM hash WHERE level = 'x'")
    assert editor.faults() == ["entry 5 does not match its stored hash"]


def test_strange_numbers(editor):
    editor.run("INSERT INTO entry VALUES (-4, x'00')")
    assert editor.faults() == ["entry -4 has an impossible number"]


def test_an_origin_that_changed(editor):
    editor.run("UPDATE origin SET name = 'silo/other'")
    assert editor.faults() == ["origin is 'silo/other', not 'silo/cleveland'"]


class TestOnlyAWitnessKnows:
    def test_a_log_that_grew_keeps_its_promises(self, editor, heads):
        assert editor.faults(*heads.values()) == []

    @pytest.mark.parametrize("size", [0, 63, 99])
    def test_rolled_back(self, editor, heads, size):
        editor.replace(editor.entries()[:size])
        assert editor.faults() == []
        expected = f"checkpoint of size 100 was witnessed, but the log has only {size} entries: it was rolled back"
        assert expected in editor.faults(*heads.values())

    @pytest.mark.parametrize("index", [0, 49, 98])
    def test_forked(self, editor, heads, index):
        entries = editor.entries()
        entries[index] = entries[(index + 1) % 80]
        editor.replace(entries)
        assert editor.faults() == []
        found = editor.faults(*heads.values())
        late = [size for size in heads if size > index]
        assert len(found) == len(late)
        for size, text in zip(late, found, strict=True):
            assert text.startswith(f"checkpoint of size {size} was witnessed with another root")

    def test_another_logs_checkpoint(self, editor, tmp_path):
        with Log(tmp_path / "other.db", "silo/hungary") as other:
            assert editor.faults(other.head()) == ["checkpoint of size 0 is of another log, silo/hungary"]


class TestTheFile:
    def test_triggers_that_were_removed(self, copy):
        connection = sqlite3.connect(copy)
        connection.execute("DROP TRIGGER entry_no_update")
        connection.commit()
        connection.close()
        with pytest.raises(VerificationFailed, match="'entry_no_update' is missing"):
            Log(copy, ORIGIN)

    def test_triggers_that_were_replaced(self, copy):
        connection = sqlite3.connect(copy)
        connection.execute("DROP TRIGGER entry_no_update")
        connection.execute("CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT 1; END")
        connection.commit()
        connection.close()
        with pytest.raises(VerificationFailed, match="changed"):
            Log(copy, ORIGIN)

    def test_verify_names_file_and_places(self, copy):
        connection = sqlite3.connect(copy, isolation_level=None)
        statements = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in statements:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE entry SET data = x'00' WHERE i > 80")
        for _, statement in statements:
            connection.execute(statement)
        connection.close()
        with Log(copy, ORIGIN) as log:
            with pytest.raises(
                VerificationFailed, match=r"entry 81 does not .*entry 88 does not .*; and 11 more"
            ) as error:
                log.verify()
            assert error.value.where == str(copy)
            with pytest.raises(VerificationFailed, match="entry 85: the entry was altered"):
                list(log.entries("upload", start=85))
            assert log.entry(80).kind == "upload"

    def test_a_file_that_was_restored(self, tmp_path, hundred, heads):
        early = tmp_path / "early.db"
        with Log(early, ORIGIN) as log:
            log.append("fault", {"what": "fault 0"})
        with Log(early, ORIGIN) as log:
            assert log.verify().size == 1
            with pytest.raises(VerificationFailed, match="rolled back"):
                log.verify(heads[100])

    def test_a_truncated_file(self, copy, tmp_path):
        size = copy.stat().st_size
        for keep in range(0, size, 1024):
            target = tmp_path / "cut.db"
            target.write_bytes(copy.read_bytes()[:keep])
            with pytest.raises(SiloError):
                _open_and_verify(target, 100)

    def test_bytes_of_the_file(self, copy, tmp_path):
        data = copy.read_bytes()
        with Log(copy, ORIGIN) as log:
            original = [entry.data for entry in log.entries()]
        found = 0
        for place in range(0, len(data), 149):
            target = tmp_path / "flipped.db"
            target.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
            try:
                assert _open_and_verify(target, 100) == original, f"byte {place} changes the log unseen"
            except SiloError:
                found += 1
            for leftover in tmp_path.glob("flipped.db*"):
                leftover.unlink()
        assert found > 100


def _open_and_verify(path, size):
    """Open, verify against a size that others witnessed, and return the entries' bytes."""
    with Log(path, ORIGIN) as log:
        if log.verify().size < size:
            raise VerificationFailed("rolled back")
        return [entry.data for entry in log.entries()]


def test_copies_are_independent(copy, hundred):
    with Log(copy, ORIGIN) as log:
        log.append("fault", {"what": "one more"})
    with Log(shutil.copy(hundred, copy.parent / "again.db"), ORIGIN) as log:
        assert len(log) == 100

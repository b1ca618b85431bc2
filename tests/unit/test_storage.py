"""Files that are there whole or not at all, and databases that only grow."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from silo.errors import ConfigError, VerificationFailed
from silo.storage import Database, write_atomically

TABLES = {"thing": "(i INTEGER PRIMARY KEY, x)"}


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "x.db", 77, TABLES, {}) as database:
        yield database


class TestFiles:
    def test_content_and_mode_whatever_the_umask(self, tmp_path):
        for umask in (0, 0o077, 0o777):
            previous = os.umask(umask)
            try:
                write_atomically(tmp_path / "file", b"content")
                write_atomically(tmp_path / "public", b"content", mode=0o644)
            finally:
                os.umask(previous)
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
            assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644

    def test_the_old_content_stays_if_the_new_cannot_be_written(self, tmp_path, monkeypatch):
        write_atomically(tmp_path / "file", b"old")

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            write_atomically(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_link_is_replaced_not_followed(self, tmp_path):
        (tmp_path / "target").write_bytes(b"target")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        write_atomically(tmp_path / "link", b"new")
        assert (tmp_path / "target").read_bytes() == b"target"
        assert not (tmp_path / "link").is_symlink()

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(ConfigError) as error:
            write_atomically(tmp_path / "none" / "file", b"")
        assert error.value.where == str(tmp_path / "none" / "file")

    def test_readers_see_one_or_the_other(self, tmp_path):
        path, seen, done = tmp_path / "file", set(), threading.Event()
        contents = [bytes([value]) * 100_000 for value in (1, 2)]
        write_atomically(path, contents[0])

        def read():
            while not done.is_set():
                seen.add(path.read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(40):
            write_atomically(path, contents[number % 2])
        done.set()
        reader.join()
        assert seen <= set(contents)


class TestDatabases:
    def test_it_only_grows(self, database):
        with database.writing() as connection:
            connection.execute("INSERT INTO thing VALUES (1, 'a')")
        for statement in ("UPDATE thing SET x = 'b'", "DELETE FROM thing"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"), database.writing() as connection:
                connection.execute(statement)
        with database.reading() as connection:
            assert connection.execute("SELECT * FROM thing").fetchall() == [(1, "a")]

    def test_a_block_that_raises_writes_nothing(self, database):
        def spoil():
            with database.writing() as connection:
                connection.execute("INSERT INTO thing VALUES (1, 'a')")
                raise KeyError

        with pytest.raises(KeyError):
            spoil()
        with database.writing() as connection:
            assert connection.execute("SELECT count(*) FROM thing").fetchone() == (0,)

    def test_a_snapshot_does_not_move(self, database, tmp_path):
        with Database(tmp_path / "x.db", 77, TABLES, {}) as other, database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM thing").fetchone() == (0,)
            with other.writing() as writer:
                writer.execute("INSERT INTO thing VALUES (1, 'a')")
            assert connection.execute("SELECT count(*) FROM thing").fetchone() == (0,)

    def test_threads_take_turns(self, database):
        def add():
            for _ in range(20):
                with database.writing() as connection:
                    (count,) = connection.execute("SELECT count(*) FROM thing").fetchone()
                    connection.execute("INSERT INTO thing VALUES (?, 'x')", (count,))

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM thing").fetchone() == (80,)

    def test_another_application(self, database):
        with pytest.raises(ConfigError, match="another program's"):
            Database(database.path, 78, TABLES, {})

    def test_another_programs_file_is_left_as_it_was(self, tmp_path):
        path = tmp_path / "other.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(ConfigError, match="another program's"):
            Database(path, 77, TABLES, {})
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["other.db"]

    def test_another_schema(self, database):
        with pytest.raises(VerificationFailed, match="'other'"):
            Database(database.path, 77, {**TABLES, "other": "(i)"}, {})

    def test_a_lock_that_somebody_keeps(self, database, tmp_path, monkeypatch):
        monkeypatch.setattr("silo.storage.BUSY_SECONDS", 0.05)
        with (
            Database(tmp_path / "x.db", 77, TABLES, {}) as other,
            database.writing(),
            pytest.raises(ConfigError, match="locked"),
            other.writing(),
        ):
            pass

    def test_a_closed_one_is_closed(self, tmp_path):
        database = Database(tmp_path / "y.db", 77, TABLES, {})
        database.close()
        with pytest.raises(sqlite3.ProgrammingError), database.reading():
            pass

    def test_another_process_never_takes_the_log_away_that_this_one_writes(self, tmp_path):
        """A process loses its locks on a file when it closes any descriptor of it (SQLite, "How To Corrupt", 2.2).

        Opening a second time once did that: the next process to close the file thought it was the last, deleted the
        write-ahead log under this one's hands, and what was committed from then on was gone.
        """
        path = tmp_path / "x.db"
        with Database(path, 77, TABLES, {}) as first:
            with first.writing() as db:
                db.execute("INSERT INTO thing VALUES (1, 'a')")
            Database(path, 77, TABLES, {}).close()
            Database(path, 77, TABLES, {}, read_only=True).close()
            seen_by_another(path, [1])
            with first.writing() as db:
                db.execute("INSERT INTO thing VALUES (2, 'b')")
            seen_by_another(path, [1, 2])
            Database(path, 77, TABLES, {}).close()  # once it also failed, with a disk I/O error


def seen_by_another(path, expected):
    """Have another process open, read and close the database, and say what it saw."""
    program = "import sqlite3, sys; print([i for (i,) in sqlite3.connect(sys.argv[1]).execute('SELECT i FROM thing')])"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


class TestReadOnly:
    def test_it_sees_what_is_there_and_writes_nothing(self, tmp_path, database):
        path = tmp_path / "x.db"
        with database.writing() as connection:
            connection.execute("INSERT INTO thing VALUES (1, 'a')")
        # Within one process SQLite shares the index; that another process leaves it alone is tested with the dashboard.
        files = (path, tmp_path / "x.db-wal")
        before = [each.read_bytes() for each in files]
        with Database(path, 77, TABLES, {}, read_only=True) as other:
            with other.reading() as connection:
                assert connection.execute("SELECT x FROM thing").fetchall() == [("a",)]
            with pytest.raises(ConfigError), other.writing() as connection:
                connection.execute("INSERT INTO thing VALUES (2, 'b')")
        assert [each.read_bytes() for each in files] == before

    def test_whoever_writes_into_a_file_that_was_closed_makes_the_reader_look_again(self, tmp_path, database):
        database.close()
        with Database(tmp_path / "x.db", 77, TABLES, {}, read_only=True) as other:
            assert {each.name for each in tmp_path.iterdir()} == {"x.db"}
            with (
                pytest.raises(ConfigError, match="read it again"),
                other.reading(),
                Database(tmp_path / "x.db", 77, TABLES, {}) as writer,
                writer.writing() as connection,
            ):
                connection.execute("INSERT INTO thing VALUES (1, 'a')")

    def test_it_makes_no_file(self, tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            Database(tmp_path / "none.db", 77, TABLES, {}, read_only=True)
        assert list(tmp_path.iterdir()) == []

    def test_another_program_s_file_is_refused(self, tmp_path, database):
        database.close()
        with pytest.raises(ConfigError, match="another program"):
            Database(tmp_path / "x.db", 78, TABLES, {}, read_only=True)


def test_a_pipe_or_device_is_written_to_and_stays_one(tmp_path):
    """`silo report --out /dev/null` as root replaced the device by a file, for the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(tmp_path / "pipe", b"report")
        assert os.read(reader, 100) == b"report"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()

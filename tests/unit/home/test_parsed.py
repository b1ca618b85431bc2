"""The memo of parsed files: never older than the bytes on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from silo.errors import ConfigError
from silo.home.parsed import Parsed


class Counted:
    """``int``, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, content: bytes) -> int:
        self.asked += 1
        return int(content)


def test_a_file_is_parsed_once_and_again_when_its_bytes_change(tmp_path: Path) -> None:
    file, parse, parsed = tmp_path / "number", Counted(), Parsed()
    file.write_bytes(b"1")
    assert [parsed.of(file, parse) for _ in range(3)] == [1, 1, 1]
    assert parse.asked == 1
    before = file.stat()
    file.write_bytes(b"2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time: the bytes decide
    assert parsed.of(file, parse) == 2
    assert parse.asked == 2


def test_what_cannot_be_parsed_is_refused_each_time_and_nothing_older_is_given(tmp_path: Path) -> None:
    file, parsed = tmp_path / "number", Parsed()
    file.write_bytes(b"1")
    assert parsed.of(file, int) == 1
    file.write_bytes(b"one")
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            parsed.of(file, int)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot read the file"):
        parsed.of(file, int)

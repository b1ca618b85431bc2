"""`silo init` by flags and by questions on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from silo.home import Home
from tests.cli.conftest import Command

SECONDS = 60.0


def test_without_a_terminal_a_name_is_due(silo: Command, tmp_path: Path) -> None:
    assert "--name: the home needs a name" in silo("init", "--home", tmp_path / "a", status=2).line
    assert not (tmp_path / "a").exists()


def test_flags_say_everything_and_what_comes_next(silo: Command, tmp_path: Path) -> None:
    said = silo("init", "--name", "riverside", "--jurisdiction", "US-CA", "--home", tmp_path / "a").out
    assert "next: silo keys show" in said
    home = Home.open(tmp_path / "a")
    assert (home.settings.display_name, home.settings.jurisdiction) == ("riverside", "US-CA")
    for name in ("silo.toml", "data.toml", "keys", "policy", "ledger.db", "log.db"):
        assert (home.path / name).exists()


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    answers = ["Bad Name", "riverside", "Riverside Clinic", "", "DE"]  # the first is asked again
    heard = converse([Path(sys.executable).with_name("silo"), "init", "--home", tmp_path / "a"], answers)
    settings = Home.open(tmp_path / "a").settings
    assert (settings.name, settings.display_name) == ("riverside", "Riverside Clinic")
    assert (settings.organisation_type, settings.jurisdiction) == ("hospital", "DE")
    assert heard.count("Short name") == 2


def converse(command: list[str | Path], answers: list[str]) -> str:
    """Run a command on a terminal of its own, answer each question, and return what it wrote."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([str(word) for word in command], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    heard, waiting, until = "", list(answers), time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            ready, _, _ = select.select([ours], [], [], 0.1)
            try:
                said = os.read(ours, 4096).decode() if ready else ""
            except OSError:  # the terminal is closed: the command has ended
                break
            heard += said
            if waiting and said.rstrip(" ").endswith(":"):
                os.write(ours, waiting.pop(0).encode() + b"\n")
            if not ready and child.poll() is not None:
                break
    finally:
        if child.poll() is None:
            child.kill()
        code = child.wait()
        os.close(ours)
    assert code == 0, heard
    assert not waiting, heard
    return heard

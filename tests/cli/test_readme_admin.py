"""The README's page for the silo admin, run as it is written, in a home of its own and an empty folder.

From a clean machine to a silo that has joined: at most five commands, under two minutes besides downloads.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
COMMANDS, SECONDS = 5, 120.0


def page(heading: str) -> str:
    text = (ROOT / "README.md").read_text()
    start = text.index(f"## {heading}\n")
    return text[start : text.index("\n## ", start)]


def blocks(heading: str) -> list[list[str]]:
    """Return the commands of each console block of a page."""
    found = re.findall(r"```console\n(.*?)```", page(heading), flags=re.S)
    return [[line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")] for block in found]


def test_a_silo_joins_by_the_commands_of_the_readme(silo: Command, tmp_path: Path) -> None:
    joining, afterwards = blocks("For the silo admin")
    assert len(joining) <= COMMANDS
    # The first makes the environment that this test runs in: downloads, which do not count.
    assert joining[0].startswith("make setup && export PATH=")
    others = _others(silo, tmp_path)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
    }

    def typed(command: str) -> float:
        started = time.monotonic()
        done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return time.monotonic() - started

    taken = 0.0
    for command in joining[1:]:
        if command.startswith("silo consortium sign"):
            _draft(silo, tmp_path, others)
        if command.startswith("silo consortium join"):
            for name in others:
                silo("consortium", "sign", tmp_path / "heart.json", "--home", tmp_path / "others" / name)
        taken += typed(command)
    assert taken < SECONDS
    facts = silo("status", "--home", tmp_path / ".silo", "--json").json
    assert (facts["name"], facts["consortium"]["members"]) == ("riverside", ["alpha", "beta", "riverside"])
    (tmp_path / "heart.csv").write_bytes((ROOT / "silo/data/uci_heart/cleveland.csv").read_bytes())
    *afterwards, agent = afterwards
    assert agent.startswith("silo agent --aggregator ")  # tests/e2e/test_deployment.py starts it, beside an aggregator
    for command in afterwards:
        assert command.split()[0] == "silo"
        typed(command.replace("/srv/heart.csv", str(tmp_path / "heart.csv")))
    assert silo("data", "list", "--home", tmp_path / ".silo", "--json").json[0]["records"] == 303


def test_every_command_that_a_page_names_exists() -> None:
    import typer.main

    from silo.cli import app

    for heading in ("For the silo admin", "For the researcher"):
        named = re.findall(r"(?:`|\$ )silo ((?:[a-z]+ ?)+)((?:--[a-z-]+)?)", page(heading))
        assert named
        for words, option in named:
            command = typer.main.get_command(app)
            for word in words.split():
                if not hasattr(command, "commands"):
                    break
                assert word in command.commands, f"silo {words}"
                command = command.commands[word]
            if option and not hasattr(command, "commands"):
                assert option in {each for parameter in command.params for each in parameter.opts}, f"{words} {option}"


def _others(silo: Command, place: Path) -> tuple[str, ...]:
    """Make the other members and the aggregator."""
    (place / "others").mkdir()
    for name in ("alpha", "beta", "aggregator"):
        kind = "aggregator" if name == "aggregator" else "member"
        silo("init", "--name", name, "--home", place / "others" / name)
        said = silo("keys", "show", "--as", kind, "--home", place / "others" / name)
        (place / "others" / f"{name}.json").write_text(said.out)
    return "alpha", "beta"


def _draft(silo: Command, place: Path, others: tuple[str, ...]) -> None:
    """Draft the consortium with everybody's public half in it, as one of the others would."""
    silo("consortium", "new", place / "heart.json", "--name", "heart")
    parties = [place / "others" / f"{name}.json" for name in (*others, "aggregator")]
    silo("consortium", "add", place / "heart.json", place / "riverside.json", *parties, "--pack", "baseline")

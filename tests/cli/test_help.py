"""The first thing a newcomer types: quick, because nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from silo.cli import app
from tests.cli.conftest import Command

HEAVY = (
    "torch",
    "flwr",
    "opacus",
    "tenseal",
    "matplotlib",
    "sklearn",
    "scipy",
    "dp_accounting",
    "numpy",
    "cel_expr_python",
)
SECONDS = 1.0

# Every command's help in one process, and what that process has imported by then.
SHOW_ALL = """
import contextlib, io, json, sys
from silo.cli import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            main([*words, "--help"])
        except SystemExit as stopped:
            assert stopped.code == 0, words
    assert "Usage: " in shown.getvalue(), words
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def every_command() -> list[list[str]]:
    """Return the words of every command and group, the root's first."""

    def below(command: click.Command, words: list[str]) -> list[list[str]]:
        found = [words]
        if isinstance(command, click.Group):
            for name, each in command.commands.items():
                found += below(each, [*words, name])
        return found

    return below(typer.main.get_command(app), [])


def test_help_is_there_within_a_second() -> None:
    """The best of five in processor time, so that what else the machine does is not measured."""
    command, taken = [Path(sys.executable).with_name("silo"), "--help"], []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if taken[-1] < SECONDS:
            break
    assert "demo" in done.stdout
    assert min(taken) < SECONDS, taken


def test_no_help_imports_anything_heavy() -> None:
    commands = every_command()
    assert ["demo"] in commands
    done = subprocess.run(
        [sys.executable, "-c", SHOW_ALL, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    imported = set(json.loads(done.stdout))
    assert "typer" in imported
    assert not imported & set(HEAVY)


def test_version(silo: Command) -> None:
    import silo as package

    assert silo("--version").out == f"silo {package.__version__}\n"


def test_no_command_is_usage(silo: Command) -> None:
    """The help, and the status of a command line that cannot be."""
    said = silo(status=2)
    assert "Usage: " in said.out
    assert said.err == ""


@pytest.mark.parametrize(("words", "wrong"), [(["demmo"], "demmo"), (["demo", "--rond", "3"], "--rond")])
def test_unknown_words_are_usage(silo: Command, words: list[str], wrong: str) -> None:
    assert wrong in silo(*words, status=2).line


# Commands that have no answer to print as JSON, each with its reason. `silo agent` and `silo aggregator up` serve until
# they are stopped: what they say is a status line on stderr, and their state is read with `silo status --json` and
# `silo aggregator status --json`.
WITHOUT_JSON = {("agent",), ("aggregator", "up")}


def leaves() -> dict[tuple[str, ...], click.Command]:
    """Return every command that does something, by its words."""

    def below(command: click.Command, words: tuple[str, ...]) -> dict[tuple[str, ...], click.Command]:
        if not isinstance(command, click.Group):
            return {words: command}
        found: dict[tuple[str, ...], click.Command] = {}
        for name, each in command.commands.items():
            found |= below(each, (*words, name))
        return found

    return below(typer.main.get_command(app), ())


def test_every_command_has_json_and_an_example() -> None:
    commands = leaves()
    assert len(commands) > 40
    without = {
        words for words, command in commands.items() if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without <= WITHOUT_JSON, f"no --json: {without - WITHOUT_JSON}"
    for words, command in commands.items():
        assert "Example: silo " + words[0] in (command.help or ""), f"no example: {' '.join(words)}"


@pytest.mark.parametrize(
    ("typed", "completed"), [("silo do", "doctor"), ("silo data a", "add"), ("silo consortium jo", "join")]
)
def test_the_shell_completes_commands(typed: str, completed: str) -> None:
    words = {"_SILO_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = Path(sys.executable).with_name("silo")
    done = subprocess.run([command], capture_output=True, text=True, check=True, env={**os.environ, **words})
    assert done.stdout.split() == [completed]


def test_the_completion_script_is_shown_for_the_shell_that_asks() -> None:
    command = Path(sys.executable).with_name("silo")
    done = subprocess.run(["bash", "-c", f"{command} --show-completion; true"], capture_output=True, text=True)
    assert "_SILO_COMPLETE=complete_bash" in done.stdout

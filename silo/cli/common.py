"""What every command shares: the options ``--home`` and ``--json``, and how answers and files are read and written.

Results go to stdout, either tables for people or one JSON value; whatever else a command says goes to stderr.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from silo.home import Home

HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="SILO_HOME", help="The home to work in.", show_default="~/.silo")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", envvar="SILO_KEY", help="The folder of a person's keys, made with `silo keys new`."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, and nothing else there.")]
MAX_FILE = 4 << 20


def open_home(path: Path | None, *, read_only: bool = False) -> Home:
    """Open the home at ``path``, or the default one; ``read_only`` also opens a copy that holds no keys."""
    from silo.home import Home

    return Home.open(path, read_only=read_only)


def now() -> datetime:
    """Return the time in whole seconds, as documents carry it."""
    return datetime.now(UTC).replace(microsecond=0)


def until(start: datetime, days: int) -> datetime:
    """Return the moment ``days`` days after ``start``; raise :class:`UsageError` for a number that makes no sense."""
    if not 1 <= days <= 36_500:
        raise UsageError(f"{days} days make no sense", where="--days", fix="give a number from 1 to 36500")
    return start + timedelta(days=days)


def read_file(path: Path) -> bytes:
    """Return a file's content; raise :class:`ConfigError` if it cannot be read or is far too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", where=str(path), fix="check the path") from error
    if len(content) > MAX_FILE:
        raise ConfigError(f"the file is larger than {MAX_FILE} bytes", where=str(path), fix="check the path")
    return content


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console() -> Console:
    """Return the console for results; it wraps to the terminal's width and reads no markup from data."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table_of(*headings: str) -> Table:
    """Return an empty table whose first column keeps its words whole and whose last takes the room that is left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number < len(headings) - 1, overflow="fold")
    return table


def count(number: int, thing: str) -> str:
    """Return ``1 rule``, ``2 rules``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def say(text: str) -> None:
    """Say something on stderr that is not the result."""
    typer.echo(text, err=True)

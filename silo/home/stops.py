"""How a silo's people tell its agent to stop: two small files in the home, which the agent looks for at every message.

    runs/RUN/stop    this silo takes no further part in the run; stays, so that a restarted agent knows it too
    stop             the agent ends after the message it is at; the next start takes the file away

Invariant: a file works whether or not the agent runs, on any machine that mounts the home, and nobody without write
access to the home can make one. What was charged to the budget stays charged.
"""

from __future__ import annotations

from pathlib import Path

from silo.errors import ConfigError
from silo.home.home import Home
from silo.storage import write_atomically

FILE = "stop"
MAX_NOTE = 300


def stop_run(home: Home, run: str, note: str) -> None:
    """Ask that the run be ended at this silo; raise :class:`ConfigError` if the home knows no such run."""
    folder = home.run_path(run)
    if not folder.is_dir():
        raise ConfigError(f"there is no run {run!r}", where=str(folder.parent), fix="list them with: silo runs")
    _write(folder / FILE, note)


def stop_agent(home: Home, note: str) -> None:
    """Ask the agent of ``home`` to end."""
    _write(home.path / FILE, note)


def run_stopped(home: Home, run: str) -> str | None:
    """Return the note with which the run was stopped here, or None; raise ConfigError for what is no run's id."""
    return _read(home.run_path(run) / FILE)


def agent_stopped(home: Home) -> str | None:
    """Return the note with which the agent was asked to end, or None. The agent's loop asks at every message."""
    return _read(home.path / FILE)


def agent_started(home: Home) -> None:
    """Forget an earlier request to end: somebody starts the agent again."""
    (home.path / FILE).unlink(missing_ok=True)


def _write(path: Path, note: str) -> None:
    write_atomically(path, note.strip()[:MAX_NOTE].encode() + b"\n")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()[:MAX_NOTE]
    except FileNotFoundError:
        return None
    except OSError as error:  # it is there, and cannot be read: take it as meant
        raise ConfigError(f"cannot read the file: {error.strerror}", where=str(path), fix="check its owner") from error

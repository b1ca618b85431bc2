"""Runs at an aggregator: taken from researchers, kept in its home, and told of to the researcher who signed them.

Invariant: a submission is kept only if every signature in it holds, it is of the consortium this aggregator joined, and
the sender is the researcher who signed it. Nobody learns of another researcher's runs, not even that they exist.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from silo_policies import PolicyError
from silo_policies.documents import parse_json

from silo.aggregator import FAILURE, RESULT, Follower
from silo.errors import ConfigError, VerificationFailed
from silo.home import Home
from silo.submission import RUN, Submission

MAX_OPEN_RUNS = 64
_SEALED = re.compile(r"(model|digest)\.[a-z0-9-]{1,32}\.sealed")


class Runs:
    """The runs in an aggregator's home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def submit(self, researcher: str, body: bytes) -> str:
        """Keep a submission and return its run's id; the supervisor starts it. Sending it again changes nothing."""
        submission = _parsed(body)
        run = submission.run.body
        try:
            submission.check(now=datetime.now(UTC), pinned=self._home.consortium().body.digest)
        except PolicyError as error:
            raise VerificationFailed(error.what, where=f"run {run.run}", fix=error.fix) from error
        if run.researcher != researcher:
            raise VerificationFailed("another researcher signed the run", where=f"run {run.run}")
        directory = self._directory(run.run)
        if directory.exists():
            if (directory / RUN).read_bytes() == submission.parts()[RUN]:
                return run.run
            raise ConfigError("there is another run of this id", where=f"run {run.run}", fix="sign it under a new id")
        if len(self.open_runs()) >= MAX_OPEN_RUNS:
            raise ConfigError("too many runs wait", where=f"run {run.run}", fix="submit it when others have ended")
        self._home.add_submission(run.run, submission.parts())
        return run.run

    def open_runs(self) -> list[str]:
        """Return the runs that have neither a result nor failed, oldest first."""
        folders = [path.parent for path in (self._home.path / "runs").glob(f"*/{RUN}")]
        waiting = [each for each in folders if not (each / RESULT).exists() and not (each / FAILURE).exists()]
        return [each.name for each in sorted(waiting, key=lambda each: (each / RUN).stat().st_mtime)]

    def listed(self, researcher: str) -> list[dict[str, Any]]:
        """Return the researcher's runs, each with its state."""
        folders = sorted(path.parent for path in (self._home.path / "runs").glob(f"*/{RUN}"))
        return [{"run": each.name, "state": _state(each)} for each in folders if _researcher_of(each) == researcher]

    def state(self, researcher: str, run: str) -> dict[str, Any]:
        """Return a run's state, its events so far, and the names of the files it left."""
        directory = self._mine(researcher, run)
        files = [path.name for path in directory.iterdir() if path.name == RESULT or _SEALED.fullmatch(path.name)]
        told: dict[str, Any] = {
            "run": run,
            "state": _state(directory),
            "events": list(Follower(directory / "events.jsonl").new()),
            "files": sorted(files),
        }
        if (directory / FAILURE).exists():
            told["failure"] = json.loads((directory / FAILURE).read_bytes())
        return told

    def result(self, researcher: str, run: str, file: str) -> bytes:
        """Return one of the files that a finished run left."""
        directory = self._mine(researcher, run)
        if _state(directory) != "finished" or not (file == RESULT or _SEALED.fullmatch(file)):
            raise ConfigError("the run left no such file", where=f"run {run}", fix="ask for its state first")
        try:
            return (directory / file).read_bytes()
        except OSError as error:
            raise ConfigError("the run left no such file", where=f"run {run}") from error

    def _mine(self, researcher: str, run: str) -> Path:
        directory = self._directory(run)
        if _researcher_of(directory) != researcher:
            raise ConfigError("there is no such run of yours", where=f"run {run}")
        return directory

    def _directory(self, run: str) -> Path:
        return self._home.path / "runs" / run


def encode_submission(submission: Submission) -> bytes:
    """Return the body with which a submission is sent."""
    parts = {name: base64.b64encode(content).decode() for name, content in submission.parts().items()}
    return json.dumps({"kind": "silo/v1/submission", "parts": parts}).encode()


def _parsed(body: bytes) -> Submission:
    from silo.submission import BUNDLE, CONSORTIUM

    where = "submission"
    try:
        value = json.loads(body)
        parts = {name: base64.b64decode(value["parts"][name], validate=True) for name in (CONSORTIUM, RUN, BUNDLE)}
        consortium, run = (parse_json(parts[name], where=name) for name in (CONSORTIUM, RUN))
        return Submission.parse(consortium, run, parts[BUNDLE])
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError, PolicyError) as error:
        raise ConfigError("this is no submission", where=where, fix="sign it with: silo experiment sign") from error


def _state(directory: Path) -> str:
    if (directory / RESULT).exists():
        return "finished"
    if (directory / FAILURE).exists():
        return "failed"
    return "running" if (directory / "events.jsonl").exists() else "waiting"


def _researcher_of(directory: Path) -> str | None:
    try:
        return Submission.load(directory).run.body.researcher
    except (ConfigError, PolicyError):
        return None

"""A run at an aggregator, as its researcher submits it, follows it and fetches what it left.

Invariant: what is fetched is kept only when it is whole, and is checked as any result is (:mod:`silo.client.result`):
the aggregator can withhold a result, and cannot make one up.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from silo_crypto.keys import Identity
from silo_policies import PolicyError

from silo.client.result import RESULTS, RunResult, identity_of, load_result
from silo.deploy.client import ResearcherClient
from silo.errors import BudgetExceeded, ConfigError, PeerError, PolicyDenied, SiloError, UsageError, VerificationFailed
from silo.storage import write_atomically
from silo.submission import Submission

SUBMITTED = "submitted.json"  # in the submission's folder: where it was sent
POLL_SECONDS = 1.0
AWAY_SECONDS = 120.0
_FILE = re.compile(r"result\.json|(model|digest)\.[a-z0-9-]{1,32}\.sealed")
_ERRORS: Mapping[int, type[SiloError]] = {
    each.exit_code: each for each in (UsageError, ConfigError, PolicyDenied, BudgetExceeded, VerificationFailed)
}


@dataclass(frozen=True)
class RemoteRun:
    """One submitted run. Every call is a request of its own, signed by ``researcher``."""

    folder: Path
    submission: Submission
    researcher: Identity
    aggregator: str
    root_certificate: bytes | None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.submission.run.body.run

    def state(self) -> dict[str, Any]:
        """Return the aggregator's word: ``state`` (waiting, running, finished, failed), ``events``, ``files``."""
        with self._client() as client:
            return client.state(self.run)

    def events(self, *, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield each event as it comes, until the run has ended; see `silo.aggregator.events`.

        Raises what ended the run if it failed, :class:`PeerError` after ``timeout`` seconds. An aggregator that
        answered before may be away for two minutes: it is being started again, and its runs go on.
        """
        seen, until = 0, time.monotonic() + (float("inf") if timeout is None else timeout)
        heard: float | None = None
        while True:
            try:
                told = self.state()
            except PeerError:
                now = time.monotonic()
                if heard is None or now > min(heard + AWAY_SECONDS, until):
                    raise
                time.sleep(POLL_SECONDS)
                continue
            heard = time.monotonic()
            yield from told["events"][seen:]
            seen = max(seen, len(told["events"]))
            if told["state"] == "finished":
                return
            if told["state"] == "failed":
                raise _failure(told.get("failure") or {}, self.run)
            if time.monotonic() > until:
                raise PeerError(f"it is {told['state']} after {timeout:g} s", where=f"run {self.run}", fix="watch on")
            time.sleep(POLL_SECONDS)

    def wait(self, *, timeout: float | None = None) -> RunResult:
        """Return the result when the run has ended."""
        for _ in self.events(timeout=timeout):
            pass
        return self.results()

    def results(self) -> RunResult:
        """Fetch what the run left into ``folder/results``, all or nothing, and return it checked and opened."""
        with self._client() as client:
            told = client.state(self.run)
            if told["state"] == "failed":
                raise _failure(told.get("failure") or {}, self.run)
            if told["state"] != "finished":
                raise PeerError(
                    f"the run is {told['state']}", where=f"run {self.run}", fix="watch it: silo experiment watch"
                )
            names = [str(name) for name in told["files"]]
            odd = [name for name in names if not _FILE.fullmatch(name)]
            if odd:
                raise VerificationFailed("the aggregator names a file that no run leaves", where=f"run {self.run}")
            files = {name: client.file(self.run, name) for name in names}
        self._keep(files)
        opens = any(name.startswith("model.") for name in files)
        return load_result(self.folder, self.researcher if opens else None)

    def _keep(self, files: Mapping[str, bytes]) -> None:
        place = self.folder / RESULTS
        if place.is_dir():
            for name, content in files.items():  # fetched again: each file is whole, and the same
                write_atomically(place / name, content)
            return
        try:
            with tempfile.TemporaryDirectory(prefix=f".{RESULTS}.", dir=self.folder) as scratch:
                whole = Path(scratch) / RESULTS
                whole.mkdir(mode=0o700)
                for name, content in files.items():
                    write_atomically(whole / name, content)
                whole.rename(place)
        except OSError as error:
            raise ConfigError(f"cannot keep the results: {error.strerror}", where=str(place)) from error

    def _client(self) -> ResearcherClient:
        name = self.submission.consortium.body.aggregator.name
        return ResearcherClient(self.aggregator, self.root_certificate, self.researcher, name)


def submit(
    folder: str | Path,
    *,
    key: str | Path | Identity,
    aggregator: str,
    root_certificate: str | Path | None = None,
) -> RemoteRun:
    """Send a signed submission (`silo experiment sign`) to its consortium's aggregator at ``HOST:PORT``.

    ``root_certificate`` is the PEM file of the authority behind the aggregator's certificate, if it is not one that
    this machine trusts anyway. Sending the same again changes nothing. Raises what the aggregator refuses with.
    """
    folder = Path(folder)
    submission = Submission.load(folder)
    try:
        submission.check(now=datetime.now(UTC))
    except PolicyError as error:
        raise VerificationFailed(error.what, where=str(folder), fix=error.fix) from error
    root = Path(root_certificate).read_bytes() if root_certificate is not None else None
    remote = RemoteRun(folder, submission, identity_of(key), aggregator, root)
    with remote._client() as client:
        client.submit(submission)
    kept = {"aggregator": aggregator, "root_certificate": None if root is None else root.decode("ascii")}
    write_atomically(folder / SUBMITTED, (json.dumps(kept, indent=2) + "\n").encode(), mode=0o644)
    return remote


def submitted(folder: str | Path, key: str | Path | Identity) -> RemoteRun:
    """Return a run that was submitted before from this folder."""
    folder = Path(folder)
    submission = Submission.load(folder)
    try:
        kept = json.loads((folder / SUBMITTED).read_bytes())
        address, root = str(kept["aggregator"]), kept["root_certificate"]
        certificate = None if root is None else str(root).encode("ascii")
    except FileNotFoundError as error:
        raise ConfigError("it was not submitted from here", where=str(folder), fix="silo experiment submit") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("cannot be read", where=str(folder / SUBMITTED), fix="submit it again") from error
    return RemoteRun(folder, submission, identity_of(key), address, certificate)


def _failure(told: Mapping[str, Any], run: str) -> SiloError:
    """Return what ended a run as the error it was at the aggregator."""
    kind = _ERRORS.get(told.get("exit_code", 7), PeerError)
    what, fix = str(told.get("what", "it failed")), str(told.get("fix", ""))
    return kind(what[:500], where=str(told.get("where") or f"run {run}")[:200], fix=fix[:500])

"""The homes under audit, opened for reading: each with its log, and the role that its consortium gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from silo.audit.trust import Trust
from silo.errors import ConfigError, VerificationFailed
from silo.home import Home
from silo.log import Log, Witness
from silo.log.witness import FILE
from silo.submission import CONSORTIUM, RUN, Submission


@dataclass(frozen=True)
class Party:
    """One home under audit. ``trust`` is empty for a home that joined no consortium."""

    home: Home
    log: Log
    trust: Trust
    aggregates: bool

    @property
    def name(self) -> str:
        return self.home.name

    def submission(self, run: str) -> Submission | None:
        """Return what a run was made from, as this party keeps it; None if it does not.

        Raises an error of the project if a signature does not hold or the code is not what was signed. The clock is
        that of the run, not of the audit: evidence does not expire with the consortium. Amendments were checked with
        their history when the home joined, which pinned them.
        """
        folder = self.home.path / "runs" / run
        if not (folder / RUN).is_file():
            return None
        submission = Submission.load(folder)
        manifest, consortium = submission.run.body, submission.consortium.body
        if manifest.run != run:
            raise VerificationFailed(f"these are the documents of run {manifest.run}", where=str(folder))
        pinned = consortium.digest if consortium.previous is not None else None
        submission.check(now=manifest.created, pinned=pinned)
        return submission

    def witness(self) -> Witness | None:
        """Open what this party remembers of others' logs; None if it never witnessed one."""
        return memory_of(self.home)


def memory_of(home: Home) -> Witness | None:
    """Open what a home remembers of others' logs and its own, as the home was opened; None if there is nothing."""
    path = home.path / FILE
    if not path.exists():
        return None
    try:
        return Witness(path, read_only=True)
    except ConfigError:
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise
        return Witness(path, create=False)  # its last writer was killed: this makes it whole


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return the homes meant: a folder that is no home stands for the homes in it, or in its folder ``homes``."""
    found: list[Path] = []
    for path in paths:
        if (path / "silo.toml").is_file():
            found.append(path)
            continue
        inside = [each.parent for each in sorted((*path.glob("*/silo.toml"), *path.glob("homes/*/silo.toml")))]
        if not inside:
            raise ConfigError("no home here", where=str(path), fix="give a home, or a folder of homes, with --home")
        found += inside
    return list(dict.fromkeys(path.absolute() for path in found))


@contextmanager
def open_parties(paths: Sequence[Path], given: Trust | None = None) -> Iterator[tuple[Party, ...]]:
    """Open homes and their logs; ``given`` keys count beside those of each home's consortium."""
    with ExitStack() as stack:
        parties = []
        for path in expand(paths):
            home = Home.open(path, read_only=True)
            trust, aggregates = _trust_of(home)
            log = stack.enter_context(home.log())
            parties.append(Party(home, log, trust | (given or Trust()), aggregates))
        names = [party.name for party in parties]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two homes are named {name}", fix="give each party's home once")
        yield tuple(parties)


def _trust_of(home: Home) -> tuple[Trust, bool]:
    if home.settings.consortium is not None:
        manifest = home.consortium().body
        return Trust.of_manifest(manifest), home.name == manifest.aggregator.name
    # A home that did not join (an aggregator's need not) still has the manifests of its runs.
    trust, aggregates = Trust(), False
    for path in sorted((home.path / "runs").glob(f"*/{CONSORTIUM}")):
        content = path.read_bytes()
        trust = Trust.of_file(content, where=str(path))
        from silo_policies import ConsortiumManifest, parse_signed

        aggregates |= parse_signed(ConsortiumManifest, content, where=str(path)).body.aggregator.name == home.name
    return trust, aggregates

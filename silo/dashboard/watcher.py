"""Looking at a home again and again, without touching it.

Invariant: a look opens the databases read only and closes them, so that no agent waits and no file changes; what cannot
be read becomes an alarm that says why, and everything else is still shown. Entries are read once: the second look costs
what was appended since, after the log was proven to have only grown (RFC 9162 section 2.1.4).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from silo_policies import ConsortiumManifest, PolicyError, RunManifest, parse_signed
from silo_policies import Decision as SignedDecision

from silo.audit import Trust
from silo.canonical import rfc3339, utc_now
from silo.dashboard.alarms import expiring, on_disk
from silo.dashboard.history import History
from silo.dashboard.view import Alarm, Budget, Decision, LogHead, Reason, Run, View
from silo.dashboard.view import Witness as WitnessView
from silo.errors import ConfigError, SiloError, VerificationFailed
from silo.home import DataSet, Home
from silo.home.stops import run_stopped
from silo.ledger import Head, Ledger, Spent
from silo.ledger.book import ADJACENCY
from silo.log import Checkpoint, Log, VerifierKey, Witness, verify_checkpoint, verify_consistency
from silo.log.witness import FILE as WITNESS_FILE
from silo.report.text import given, left
from silo.submission import RUN

_TRIES = 3
_PAUSE_SECONDS = 0.05
_NOTES = 4
_LITTLE = 0.1
_MAX_FILE = 1 << 20
_WATCHED = ("log.db", "ledger.db", WITNESS_FILE)

T = TypeVar("T")


class Watcher:
    """What is known of one home from looking at it; threads take turns."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._history = History()
        self._head: Checkpoint | None = None
        self._broken = ""
        self._manifests: dict[str, RunManifest] = {}
        self._reasons: dict[tuple[str, int], tuple[Reason, ...] | None] = {}

    def signature(self) -> tuple[object, ...]:
        """Return what changes when something is written to the home's databases or a run arrives."""
        names = [self._home.path / f"{name}{suffix}" for name in _WATCHED for suffix in ("", "-wal")]
        return tuple(_state(path) for path in (*names, self._home.path / "runs", self._home.path / "silo.toml"))

    def look(self) -> View:
        """Return what the home holds now."""
        with self._lock:
            return self._look()

    def _look(self) -> View:
        home = self._home
        alarms: list[Alarm] = []
        guard = _Guard(alarms)
        manifest = guard(self._consortium)
        log = guard(lambda: self._log(manifest, alarms))
        budgets = guard(lambda: self._budgets(alarms)) or ()
        alarms += on_disk(home)
        alarms += expiring(home)
        runs = tuple(self._named(run) for run in self._history.runs)
        alarms += [
            Alarm("warn", f"{run.id}: {run.note}", "`silo audit show --kind fault` lists every one with its moment")
            for run in runs
            if run.state == "faulty"
        ]
        decisions = tuple(self._explained(each, alarms) for each in self._history.decisions)
        return View(
            silo=home.name,
            display_name=home.settings.display_name,
            role="aggregator" if manifest is not None and manifest.aggregator.name == home.name else "silo",
            consortium=manifest.name if manifest is not None else None,
            taken=utc_now(),
            alarms=tuple(dict.fromkeys(sorted(alarms, key=lambda alarm: alarm.level != "bad"))),
            runs=runs,
            budgets=budgets,
            decisions=decisions,
            log=log,
        )

    def _consortium(self) -> ConsortiumManifest | None:
        return None if self._home.settings.consortium is None else self._home.consortium().body

    # The log ---------------------------------------------------------------------------------------------------------

    def _log(self, manifest: ConsortiumManifest | None, alarms: list[Alarm]) -> LogHead:
        head = _retried(self._catch_up)
        if self._broken:
            alarms.append(Alarm("bad", self._broken, "stop the agent, keep log.db, run `silo audit verify`"))
        trust = Trust() if manifest is None else Trust.of_manifest(manifest)
        quorum = 0 if manifest is None else manifest.witness_quorum
        witnesses, found = _retried(lambda: self._witnesses(trust, quorum))
        alarms += found
        return LogHead(head.origin, head.size, head.root.hex(), self._history.newest, witnesses, quorum)

    def _catch_up(self) -> Checkpoint:
        """Take in what was appended since the last look; start over, and say so, if the log did not only grow."""
        with Log(self._home.path / "log.db", self._home.origin, read_only=True) as log:
            head = log.head()
            if self._head is not None and not self._grew(log, self._head, head):
                self._broken = (
                    f"the log was rewritten while this page watched it: it had {self._head.size} entries, and the "
                    f"{head.size} it has now do not begin with them"
                )
                self._history = History()
            for entry in log.entries(start=self._history.size, end=head.size):
                self._history.apply(entry)
        self._head = head
        return head

    @staticmethod
    def _grew(log: Log, before: Checkpoint, now: Checkpoint) -> bool:
        if now.size < before.size:
            return False
        try:
            proof = log.consistency(before.size, now.size) if before.size else []
            verify_consistency(before.size, now.size, before.root, now.root, proof)
        except VerificationFailed:
            return False
        return True

    def _witnesses(self, trust: Trust, quorum: int) -> tuple[tuple[WitnessView, ...], list[Alarm]]:
        alarms: list[Alarm] = []
        origin = self._home.origin
        others = {key.name: key for key in trust.others(origin)}
        path = self._home.path / WITNESS_FILE
        cosigned: dict[str, tuple[int, int]] = {}
        seen: dict[str, int] = {}
        if path.exists() and origin in trust.logs:
            with Witness(path, read_only=True) as memory:
                for note in memory.cosigned(origin)[:_NOTES]:
                    for name, (size, moment) in _cosigners(note, trust.log(origin), others.values()).items():
                        cosigned.setdefault(name, (size, moment))
                seen = memory.sizes()
                alarms += [
                    Alarm(
                        "bad",
                        f"the log {note.partition(chr(10))[0]} contradicts what was seen of it before: forked or "
                        "rolled back",
                        "stop the run and ask its holder; witness.db keeps both heads as evidence",
                    )
                    for note in memory.conflicts()
                ]
        if others and not cosigned:
            alarms.append(
                Alarm(
                    "warn",
                    "no other party has cosigned this log: nobody else would notice if it were rewritten",
                    "witnesses cosign during a run; until then give `silo audit` a checkpoint that somebody else keeps",
                )
            )
        elif others and len(cosigned) < quorum:
            alarms.append(
                Alarm(
                    "warn",
                    f"{len(cosigned)} parties have cosigned this log, the consortium asks for {quorum}",
                    "a run pauses until enough of them answer: ask those that never did",
                )
            )
        views = tuple(
            WitnessView(
                name=name,
                cosigned=cosigned[name][0] if name in cosigned else None,
                when=rfc3339(datetime.fromtimestamp(cosigned[name][1], UTC)) if name in cosigned else None,
                seen=seen.get(f"silo/{name}"),
            )
            for name in sorted(others)
        )
        return views, alarms

    # The ledger ------------------------------------------------------------------------------------------------------

    def _budgets(self, alarms: list[Alarm]) -> tuple[Budget, ...]:
        declared: dict[str, list[DataSet]] = {}
        for each in self._home.data():
            declared.setdefault(each.population, []).append(each)
        budgets, behind = _retried(lambda: self._read_ledger(declared))
        if behind:
            alarms.append(Alarm("bad", f"the ledger is not the one this log saw last: {behind}", "restore the newest"))
        alarms += [
            Alarm(
                "warn",
                f"{each.population}: {left(each.epsilon_left)} of epsilon {given(each.epsilon_cap)} is left for life",
                "runs that ask for more are refused; what is spent does not come back",
            )
            for each in budgets
            if each.epsilon_left < _LITTLE * each.epsilon_cap
        ]
        return budgets

    def _read_ledger(self, declared: dict[str, list[DataSet]]) -> tuple[tuple[Budget, ...], str]:
        """Return the budgets, and what is wrong with the ledger if it is not the one the log saw."""
        with Ledger(self._home.path / "ledger.db", read_only=True) as ledger:
            opened = {each.name: each for each in ledger.populations()}
            budgets = [_budget(ledger.spent(name), ledger, declared.get(name, ())) for name in opened]
            behind = ""
            if self._history.ledger is not None:
                try:
                    ledger.require_head(Head(**self._history.ledger))
                except VerificationFailed as error:
                    behind = error.what
        budgets += [_not_opened(name, data) for name, data in declared.items() if name not in opened]
        return tuple(budgets), behind

    # What lies in runs/ ----------------------------------------------------------------------------------------------

    def _named(self, run: Run) -> Run:
        stopped = None if run.state == "finished" else _stopped(self._home, run.id)
        if stopped is not None:
            run = replace(run, state="stopped", note=stopped)
        manifest = self._manifest(run.id)
        if manifest is None:
            return run
        return replace(run, name=manifest.name, purpose=manifest.purpose, rounds=manifest.rounds)

    def _manifest(self, run: str) -> RunManifest | None:
        if run not in self._manifests:
            path = self._home.path / "runs" / run / RUN
            if "/" in run or not path.is_file():
                return None
            try:
                self._manifests[run] = parse_signed(RunManifest, path.read_bytes()[:_MAX_FILE], where=str(path)).body
            except (OSError, PolicyError):
                return None  # the log still says what happened; `silo audit verify` says what is wrong with the file
        return self._manifests[run]

    def _explained(self, decision: Decision, alarms: list[Alarm]) -> Decision:
        """Give the reasons in full where the signed decision is on file and is the one whose digest was logged."""
        if not decision.reasons or decision.silo != self._home.name:
            return decision
        key = (decision.run, decision.entry)
        if key not in self._reasons:
            self._reasons[key] = self._reasons_on_file(decision)
        found = self._reasons[key]
        if found is None:
            alarms.append(
                Alarm(
                    "bad",
                    f"the decision of entry {decision.entry} on {decision.run} is not on file as it was logged",
                    "`silo audit verify` names the file",
                )
            )
        return replace(decision, reasons=found) if found else decision

    def _reasons_on_file(self, decision: Decision) -> tuple[Reason, ...] | None:
        path = self._home.path / "runs" / decision.run / f"decision-{decision.entry:06d}-{decision.moment}.json"
        try:
            with Log(self._home.path / "log.db", self._home.origin, read_only=True) as log:
                logged = log.entry(decision.entry).body["digest"]
            body = parse_signed(SignedDecision, path.read_bytes()[:_MAX_FILE], where=str(path)).body
        except (OSError, PolicyError, SiloError):
            return None
        if body.digest != logged:
            return None
        return tuple(
            Reason(
                f"{each.pack}/{each.id}",
                each.message,
                each.remediation,
                f"{each.cite.instrument}, {each.cite.article}" if each.cite else "",
            )
            for each in body.reasons
        )


def _stopped(home: Home, run: str) -> str | None:
    try:
        return run_stopped(home, run)
    except ConfigError:  # an id that was logged and can be no folder's name
        return None


def _cosigners(note: str, own: VerifierKey, others: Iterable[VerifierKey]) -> dict[str, tuple[int, int]]:
    """Return size and Unix time by cosigner; nothing for a note that does not hold under the keys of today."""
    try:
        head = verify_checkpoint(note, own, others)
    except VerificationFailed:
        return {}
    return {name: (head.size, moment) for name, moment in head.cosigned.items()}


class _Guard:
    """Calls what may fail on what is on disk, and turns the error into an alarm."""

    def __init__(self, alarms: list[Alarm]) -> None:
        self._alarms = alarms

    def __call__(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except (SiloError, PolicyError) as error:
            where = f"{error.where}: " if error.where else ""
            self._alarms.append(Alarm("bad", f"{where}{error.what}", error.fix or "run `silo audit verify`"))
            return None


def _retried(act: Callable[[], T]) -> T:
    """Look again when a writer came in between: a file that nobody had open was read without a lock."""
    for _ in range(_TRIES - 1):
        try:
            return act()
        except (ConfigError, VerificationFailed):
            time.sleep(_PAUSE_SECONDS)
    return act()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _budget(spent: Spent, ledger: Ledger, data: Sequence[DataSet]) -> Budget:
    return Budget(
        population=spent.population,
        data=tuple(each.name for each in data),
        epsilon_cap=spent.epsilon_cap,
        epsilon_spent=spent.epsilon,
        epsilon_held=max(0.0, spent.committed - spent.epsilon),
        epsilon_left=spent.left,
        delta_cap=spent.delta_cap,
        delta_spent=spent.delta,
        unit=spent.unit,
        adjacency=spent.adjacency,
        filter=spent.filter,
        runs=len({each.run for each in ledger.reservations(spent.population)}),
        opened=True,
    )


def _not_opened(name: str, data: Sequence[DataSet]) -> Budget:
    cap, delta, filter_name, unit = data[0].terms
    return Budget(
        population=name,
        data=tuple(each.name for each in data),
        epsilon_cap=cap,
        epsilon_spent=0.0,
        epsilon_held=0.0,
        epsilon_left=cap,
        delta_cap=delta,
        delta_spent=0.0,
        unit=unit,
        adjacency=ADJACENCY,
        filter=filter_name,
        runs=0,
        opened=False,
    )

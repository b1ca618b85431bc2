"""What the dashboard shows, as plain values: one :class:`View` is one look at a home.

Invariant: a view is frozen, holds only what JSON can carry; looks that found the same differ in ``taken`` alone.
Strings may come from strangers (a run's purpose, a fault's text): whoever shows them makes them readable and escapes
them. Times are RFC 3339 in UTC with ``Z``; epsilons hold per ``unit`` under ``adjacency``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["invited", "refused", "training", "finished", "faulty", "stopped"]


@dataclass(frozen=True)
class Alarm:
    """Something the admin should see to. ``bad`` stops or endangers a run now, ``warn`` will."""

    level: Literal["bad", "warn"]
    what: str
    fix: str


@dataclass(frozen=True)
class Run:
    """A run this party was asked about. ``rounds`` is None while its manifest is not on file; ``since`` is the moment
    of its newest entry in the log, ``note`` the words of its newest fault, or of who stopped it here."""

    id: str
    name: str
    purpose: str
    state: State
    round: int
    rounds: int | None
    members: tuple[str, ...]
    started: str
    since: str
    note: str


@dataclass(frozen=True)
class Budget:
    """What a population's budget has come to. ``epsilon_held`` may still be released by open reservations; with what is
    spent and left it adds up to the cap, each rounded to the side that flatters nobody."""

    population: str
    data: tuple[str, ...]
    epsilon_cap: float
    epsilon_spent: float
    epsilon_held: float
    epsilon_left: float
    delta_cap: float
    delta_spent: float
    unit: str
    adjacency: str
    filter: str
    runs: int
    opened: bool


@dataclass(frozen=True)
class Reason:
    """A rule that decided, in the words of its pack; only ``rule`` is there while the signed decision is not."""

    rule: str
    message: str = ""
    remediation: str = ""
    source: str = ""


@dataclass(frozen=True)
class Decision:
    """Decisions of one silo on one run that came out alike: how many, and the entry and moment of the newest.

    ``about`` is what was to be released, empty at other moments.
    """

    run: str
    silo: str
    moment: str
    about: str
    decision: Literal["permit", "deny"]
    reasons: tuple[Reason, ...]
    waivers: tuple[str, ...]
    times: int
    entry: int
    time: str


@dataclass(frozen=True)
class Line:
    """One log entry in a few words."""

    index: int
    time: str
    kind: str
    run: str
    what: str


@dataclass(frozen=True)
class Witness:
    """Another party: the newest head of this log that it cosigned, and the size of its own log that was seen here."""

    name: str
    cosigned: int | None
    when: str | None
    seen: int | None


@dataclass(frozen=True)
class LogHead:
    """Where this party's log stands. ``root`` is the RFC 6962 root of all ``size`` entries, in hexadecimal; ``quorum``
    is how many witnesses the consortium asks for."""

    origin: str
    size: int
    root: str
    newest: tuple[Line, ...]
    witnesses: tuple[Witness, ...]
    quorum: int


@dataclass(frozen=True)
class View:
    """One look at a home. ``log`` is None if the log could not be read; an alarm then says why."""

    silo: str
    display_name: str
    role: Literal["silo", "aggregator"]
    consortium: str | None
    taken: str
    alarms: tuple[Alarm, ...]
    runs: tuple[Run, ...]
    budgets: tuple[Budget, ...]
    decisions: tuple[Decision, ...]
    log: LogHead | None

"""What a ledger's events add up to: a fold, with no disk and no clock.

Invariant: the state is a function of the event bodies in their order and of nothing else, so two processes that read
the same events hold the same state. :meth:`Book.apply` refuses an event that could not have been written, which makes
reading a ledger also a check of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from silo.ledger.filters import Filter, Total, Use, exact, filter_named
from silo.ledger.mechanism import Mechanism, epsilon_of_run

Unit = Literal["record", "patient"]
ADJACENCY = "add/remove"


@dataclass(frozen=True)
class Population:
    """Whose budget it is: all versions, extracts and overlapping tables of the same people share one population.

    ``epsilon_cap`` holds for its life, at ``delta``, per ``unit`` under add/remove adjacency, as ``filter`` adds up.
    Its people may raise or lower the cap, for a reason that the ledger keeps; the promise is the highest there was.
    """

    name: str
    epsilon_cap: float
    delta: float
    filter: str
    unit: Unit = "record"


@dataclass(frozen=True)
class Charge:
    """Steps that were released: one attempt of one round, charged before its first byte left."""

    round: int
    attempt: int
    steps: int
    upload_digest: str


@dataclass(frozen=True)
class Reservation:
    """Steps of one mechanism that one run may release about a population, and those it has.

    ``part`` tells a run's several releases apart (training, a scored vote). ``delta`` is the run's own, at which
    :attr:`epsilon` holds for all its ``steps``.
    """

    population: str
    run: str
    part: str
    mechanism: Mechanism
    steps: int
    delta: float
    code_digest: str
    data_digest: str
    charges: tuple[Charge, ...] = ()
    open: bool = True

    @property
    def charged(self) -> int:
        """Steps charged so far."""
        return sum(charge.steps for charge in self.charges)

    @property
    def epsilon(self) -> float:
        """Epsilon at :attr:`delta` of all reserved steps: an upper bound by privacy loss distribution."""
        return epsilon_of_run(self.mechanism, self.steps, self.delta)

    @property
    def epsilon_charged(self) -> float:
        """The same for the steps charged so far: a reading, since when a run stops may depend on the data."""
        return epsilon_of_run(self.mechanism, self.charged, self.delta)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.population, self.run, self.part

    def find(self, round_: int, attempt: int) -> Charge | None:
        """Return the charge of one attempt, if there is one."""
        return next((one for one in self.charges if (one.round, one.attempt) == (round_, attempt)), None)

    def use(self, *, whole_runs: bool, held: bool) -> Use:
        """Return what this comes to: with ``held``, as if an open reservation were used up."""
        if whole_runs:
            steps = self.steps if self.charges or (held and self.open) else 0
        else:
            steps = self.steps if held and self.open else self.charged
        return Use(self.mechanism, steps, exact(self.delta))


@dataclass
class Book:
    """Populations and reservations by name, after some events."""

    ledger: str = ""
    populations: dict[str, Population] = field(default_factory=dict)
    reservations: dict[tuple[str, str, str], Reservation] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)  # data digest -> the population it belongs to

    def of(self, population: str) -> Iterator[Reservation]:
        """Yield the reservations of one population, oldest first."""
        return (one for one in self.reservations.values() if one.population == population)

    def total(self, population: Population, *, held: bool, extra: Reservation | None = None) -> Total:
        """Return what was released about a population; with ``held``, also what open reservations may still release."""
        rule: Filter = filter_named(population.filter)
        reservations = [*self.of(population.name), *([extra] if extra else [])]
        uses = [one.use(whole_runs=rule.whole_runs, held=held) for one in reservations]
        return rule.total((use for use in uses if use.steps), exact(population.delta))

    def exceeds(self, population: Population, total: Total) -> bool:
        """Say whether ``total`` is more than the population's cap allows."""
        return total.epsilon > exact(population.epsilon_cap) or total.delta > exact(population.delta)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event into account; raise ValueError or KeyError if it does not follow from those before."""
        kind = event["kind"]
        if (kind == "created") != (not self.ledger):
            raise ValueError("a ledger begins with the event that created it, and has only one")
        if kind == "created":
            self.ledger = event["ledger"]
        elif kind == "opened":
            _require(event["population"] not in self.populations, "the population is already open")
            self.populations[event["population"]] = Population(
                event["population"], float(event["epsilon_cap"]), float(event["delta"]), event["filter"], event["unit"]
            )
        elif kind == "recapped":
            cap, reason = float(event["epsilon_cap"]), event["reason"]
            _require(cap > 0 and isinstance(reason, str) and reason != "", "a cap is above 0 and changes for a reason")
            present = self.populations[event["population"]]
            self.populations[present.name] = replace(present, epsilon_cap=cap)
        elif kind == "reserved":
            self._reserve(event)
        elif kind == "charged":
            self._charge(event)
        elif kind == "settled":
            reservation = self._open(event)
            self.reservations[reservation.key] = replace(reservation, open=False)
        else:
            raise ValueError(f"unknown event {kind!r}")

    def _reserve(self, event: Mapping[str, Any]) -> None:
        reservation = Reservation(
            population=event["population"],
            run=event["run"],
            part=event["part"],
            mechanism=Mechanism.from_json(event["event"]),
            steps=event["steps"],
            delta=float(event["delta"]),
            code_digest=event["code_digest"],
            data_digest=event["data_digest"],
        )
        _require(reservation.population in self.populations, "the population is not open")
        _require(reservation.key not in self.reservations, "the run already has this reservation")
        _require(reservation.steps >= 1, "no steps are reserved")
        owner = self.data.setdefault(reservation.data_digest, reservation.population)
        _require(owner == reservation.population, "the data belong to another population")
        self.reservations[reservation.key] = reservation

    def _charge(self, event: Mapping[str, Any]) -> None:
        reservation = self._open(event)
        charge = Charge(event["round"], event["attempt"], event["steps"], event["upload_digest"])
        _require(charge.steps >= 1, "no steps are charged")
        _require(reservation.find(charge.round, charge.attempt) is None, "the attempt is already charged")
        _require(reservation.charged + charge.steps <= reservation.steps, "more is charged than was reserved")
        self.reservations[reservation.key] = replace(reservation, charges=(*reservation.charges, charge))

    def _open(self, event: Mapping[str, Any]) -> Reservation:
        reservation = self.reservations[event["population"], event["run"], event["part"]]
        _require(reservation.open, "the reservation is settled")
        return reservation


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)

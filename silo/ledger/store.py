"""The silo's own ledger: what was released about whom, what it cost, and what is left.

Invariant: the sum of what the ledger holds is never below what was released. Steps are reserved before a run trains
and charged, durably, before the first byte of their upload leaves; a crash anywhere in between leaves more reserved
than was used, never less. Nothing is refunded: a charge stays, and under ``basic`` so does the whole run it belongs
to. A ledger that is older than, or other than, what the others witnessed refuses all runs.

Source: PROTOCOL section 5, "Ledger".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from silo.canonical import is_digest
from silo.errors import BudgetExceeded, ConfigError, UsageError, VerificationFailed
from silo.ledger.book import ADJACENCY, Book, Charge, Population, Reservation, Unit
from silo.ledger.filters import check_delta, check_epsilon, exact, filter_named
from silo.ledger.journal import Event, Head, Journal
from silo.ledger.mechanism import Mechanism

_MAX_REASON = 500
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True)
class Spent:
    """What a population's budget has come to.

    ``epsilon`` at ``delta`` covers what was released, ``committed`` also what open reservations may still release; both
    are rounded up. Add/remove adjacency, for one ``unit``, as the population's ``filter`` adds up.
    """

    population: str
    epsilon: float
    delta: float
    committed: float
    epsilon_cap: float
    delta_cap: float
    filter: str
    unit: Unit
    adjacency: str = ADJACENCY

    @property
    def left(self) -> float:
        """What may still be reserved: the cap less what is committed, never below 0."""
        return max(0.0, float(exact(self.epsilon_cap) - exact(self.committed)))


class Ledger:
    """One ledger file, with any number of populations."""

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        self.path = path
        self._journal = Journal(path, create=create, read_only=read_only)
        self._refused = ""

    def open_population(
        self,
        name: str,
        epsilon_cap: float,
        delta: float,
        filter: str = "basic",  # noqa: A002
        *,
        unit: Unit = "record",
    ) -> Population:
        """Open a population, once and for its life; opening it again with the same terms changes nothing.

        Raises :class:`ConfigError` for terms that make no sense, or other terms than those it was opened with.
        """
        _check_names(population=name)
        check_epsilon(epsilon_cap)
        check_delta(delta)
        if unit not in ("record", "patient"):
            raise ConfigError(f"unknown unit {unit!r}", where=name, fix="use record or patient")
        wanted = Population(name, float(epsilon_cap), float(delta), filter_named(filter).name, unit)
        with self._journal.deciding() as book:
            present = book.populations.get(name)
            if present is None:
                self._journal.write(
                    "opened",
                    population=name,
                    epsilon_cap=wanted.epsilon_cap,
                    delta=wanted.delta,
                    filter=wanted.filter,
                    unit=unit,
                    adjacency=ADJACENCY,
                )
            elif present != wanted:
                raise ConfigError(
                    f"population {name!r} was opened with {_terms(present)}, not with {_terms(wanted)}",
                    where=str(self.path),
                    fix="a population keeps its terms for life: correct data.toml",
                )
        return wanted

    def change_cap(self, name: str, epsilon_cap: float, reason: str) -> Population:
        """Give a population another cap, with the reason on record; the same cap again changes nothing.

        Raises :class:`BudgetExceeded` for a cap below what was released or is reserved: that cannot be promised any
        more. (What was promised before a rise was the old cap; since then it is the new one.)
        """
        check_epsilon(epsilon_cap)
        if not reason.strip() or len(reason) > _MAX_REASON:
            raise ConfigError(
                "a cap changes for a reason", where=name, fix=f"give one, at most {_MAX_REASON} characters"
            )
        with self._journal.deciding() as book:
            present = self._population(book, name)
            committed = book.total(present, held=True).epsilon
            if exact(epsilon_cap) < committed:
                raise BudgetExceeded(
                    f"{float(committed):g} of epsilon are released or reserved: no cap of {epsilon_cap:g} holds",
                    where=f"population {name}",
                    fix=f"set at least {float(committed):g}; at that nothing more is spent",
                )
            if present.epsilon_cap != float(epsilon_cap):
                self._journal.write("recapped", population=name, epsilon_cap=float(epsilon_cap), reason=reason.strip())
            return book.populations[name]

    def populations(self) -> tuple[Population, ...]:
        """Return every population, in the order they were opened."""
        with self._journal.current() as book:
            return tuple(book.populations.values())

    def spent(self, population: str) -> Spent:
        """Return what a population's budget has come to, computed from its events now."""
        with self._journal.current() as book:
            return _spent(book, self._population(book, population))

    def reserve(
        self,
        population: str,
        run: str,
        event_per_step: Any,
        steps: int,
        *,
        delta: float,
        code_digest: str,
        data_digest: str,
        unit: Unit = "record",
        part: str = "training",
    ) -> Reservation:
        """Hold the budget for ``steps`` of ``event_per_step`` (a ``dp_accounting`` event), before anything is released.

        ``delta`` is the run's own; under ``basic`` the runs' deltas add up to at most the population's. Reserving again
        with the same terms returns the same open reservation with its charges: so a restarted silo goes on.

        Raises :class:`BudgetExceeded`, with the numbers, if the cap would not cover it; :class:`ConfigError` for an
        event that the population's filter is not proven for, a unit other than the population's, data that belong to
        another population, or a run that reserved something else or has settled.
        """
        self._require_accepted()
        _check_names(population=population, run=run, part=part)
        _check_digests(code_digest=code_digest, data_digest=data_digest)
        _check_count("steps", steps, 1)
        check_delta(delta)
        wanted = Reservation(
            population, run, part, Mechanism.of(event_per_step), steps, float(delta), code_digest, data_digest
        )
        with self._journal.current() as book:
            terms = self._population(book, population)
            if unit != terms.unit:
                raise ConfigError(f"the budget is per {terms.unit}, the run protects each {unit}", where=population)
            filter_named(terms.filter).check(wanted.mechanism)
            book.total(terms, held=True, extra=wanted)  # fills the cache: the slow part, before others have to wait
        with self._journal.deciding() as book:
            present = book.reservations.get(wanted.key)
            if present is not None:
                return self._resumed(present, wanted)
            self._check_owner(book, wanted)
            self._check_cap(book, terms, wanted)
            self._journal.write(
                "reserved",
                population=population,
                run=run,
                part=part,
                event=wanted.mechanism.to_json(),
                steps=steps,
                delta=wanted.delta,
                code_digest=code_digest,
                data_digest=data_digest,
            )
        return wanted

    def charge(
        self,
        reservation: Reservation,
        round: int,  # noqa: A002
        attempt: int,
        steps: int,
        *,
        upload_digest: str,
    ) -> Charge:
        """Record, durably, that ``steps`` are released; call it before the first byte of the upload leaves.

        The digest is of the bytes to be sent: sending the same bytes again is free, and the same attempt with other
        bytes is refused (:class:`VerificationFailed`), because it would be a second release. Raises
        :class:`BudgetExceeded` if the run would release more than it reserved.
        """
        self._require_accepted()
        _check_digests(upload_digest=upload_digest)
        for name, value, least in (("round", round, 0), ("attempt", attempt, 0), ("steps", steps, 1)):
            _check_count(name, value, least)
        charge = Charge(round, attempt, steps, upload_digest)
        with self._journal.deciding() as book:
            present = self._held(book, reservation)
            if self._is_charged(present, charge):
                return charge
            self._journal.write(
                "charged",
                population=present.population,
                run=present.run,
                part=present.part,
                round=round,
                attempt=attempt,
                steps=steps,
                upload_digest=upload_digest,
                code_digest=present.code_digest,
                data_digest=present.data_digest,
            )
        return charge

    def settle(self, reservation: Reservation) -> Reservation:
        """Close a reservation: nothing more is charged to it, and what it held but did not need returns.

        Under ``basic`` that is all of it if nothing was charged, else nothing; under ``rdp`` and ``gdp`` it is the
        steps that were not charged. Settling twice changes nothing.
        """
        with self._journal.deciding() as book:
            present = self._held(book, reservation)
            if present.open:
                self._journal.write("settled", population=present.population, run=present.run, part=present.part)
            return book.reservations[present.key]

    def reservation(self, population: str, run: str, part: str = "training") -> Reservation:
        """Return what a run reserved and charged; raise :class:`ConfigError` if it reserved nothing."""
        with self._journal.current() as book:
            found = book.reservations.get((population, run, part))
        if found is None:
            raise ConfigError(f"run {run} reserved nothing of {population!r} for {part}", where=str(self.path))
        return found

    def reservations(self, population: str | None = None) -> tuple[Reservation, ...]:
        """Return every reservation (of one population), oldest first."""
        with self._journal.current() as book:
            return tuple(book.of(population) if population else book.reservations.values())

    def history(self, population: str | None = None) -> tuple[Event, ...]:
        """Return the events (of one population), oldest first."""
        events = self._journal.history()
        return tuple(event for event in events if population in (None, event.body.get("population")))

    def head(self) -> Head:
        """Return where the ledger stands, for others to witness."""
        return self._journal.head()

    def require_head(self, witness: Head) -> None:
        """Return if the ledger is the witnessed one, or has grown from it; else refuse all runs from here on.

        Raises :class:`VerificationFailed` for another ledger, an older one (a restored backup), or a forked one.
        """
        self._refused = self._journal.compare(witness) or self._refused
        self._require_accepted()

    def verify(self) -> Head:
        """Check every page and every event of the file, and return the head that holds.

        Raises :class:`VerificationFailed` naming the first event that does not hold.
        """
        return self._journal.verify()

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _population(self, book: Book, name: str) -> Population:
        if name not in book.populations:
            raise ConfigError(f"no population {name!r} in the ledger", where=str(self.path), fix="name it in data.toml")
        return book.populations[name]

    def _held(self, book: Book, reservation: Reservation) -> Reservation:
        """Return the book's present view of a reservation that a caller holds."""
        present = book.reservations.get(reservation.key)
        if present is None or _terms_of(present) != _terms_of(reservation):
            raise UsageError(f"run {reservation.run} holds no such reservation", where=str(self.path))
        return present

    def _resumed(self, present: Reservation, wanted: Reservation) -> Reservation:
        if _terms_of(present) != _terms_of(wanted):
            raise ConfigError(
                f"run {wanted.run} reserved other steps, noise, code or data of {wanted.population!r} before",
                where=str(self.path),
                fix="what a run releases is fixed when it starts: start a new run",
            )
        if not present.open:
            raise ConfigError(f"run {wanted.run} has settled its budget", where=str(self.path), fix="start a new run")
        return present

    def _check_owner(self, book: Book, wanted: Reservation) -> None:
        owner = book.data.get(wanted.data_digest, wanted.population)
        if owner != wanted.population:
            raise ConfigError(
                f"these data belong to population {owner!r}, and are asked for as {wanted.population!r}",
                where=str(self.path),
                fix="the same people have one budget: correct data.toml",
            )

    def _check_cap(self, book: Book, population: Population, wanted: Reservation) -> None:
        after = book.total(population, held=True, extra=wanted)
        if not book.exceeds(population, after):
            return
        spent = _spent(book, population)
        raise BudgetExceeded(
            f"population {population.name!r} has {_terms(population)} for its life; {spent.epsilon:g} is spent, "
            f"{spent.committed:g} with open reservations; run {wanted.run} asks for {wanted.epsilon:.6g} at delta "
            f"{wanted.delta:g}, which would make {float(after.epsilon):.6g} at delta {float(after.delta):g}",
            where=str(self.path),
            fix="ask for fewer steps or more noise, or settle runs that will not go on",
        )

    def _is_charged(self, present: Reservation, charge: Charge) -> bool:
        """Return True if ``charge`` stands already, False if it may be written; raise if it may not."""
        where = f"run {present.run} round {charge.round} attempt {charge.attempt}"
        earlier = present.find(charge.round, charge.attempt)
        if earlier == charge:
            return True
        if earlier is not None:
            raise VerificationFailed(
                "the attempt was charged for another upload", where=where, fix="a new upload is a new attempt"
            )
        if not present.open:
            raise BudgetExceeded("the run's budget is settled", where=where, fix="start a new run")
        if present.charged + charge.steps > present.steps:
            raise BudgetExceeded(
                f"{present.charged} of {present.steps} reserved steps are charged, {charge.steps} more are asked for",
                where=where,
                fix="finish the run with fewer rounds; the next one may reserve steps to spare",
            )
        return False

    def _require_accepted(self) -> None:
        if self._refused:
            raise VerificationFailed(
                self._refused, where=str(self.path), fix="restore the newest copy; all runs are refused until then"
            )


def _spent(book: Book, population: Population) -> Spent:
    released = book.total(population, held=False)
    return Spent(
        population=population.name,
        epsilon=float(released.epsilon),
        delta=float(released.delta),
        committed=float(book.total(population, held=True).epsilon),
        epsilon_cap=population.epsilon_cap,
        delta_cap=population.delta,
        filter=population.filter,
        unit=population.unit,
    )


def _terms_of(reservation: Reservation) -> Reservation:
    """Return what was fixed when the reservation was made."""
    return replace(reservation, charges=(), open=True)


def _terms(population: Population) -> str:
    return (
        f"epsilon {population.epsilon_cap:g} at delta {population.delta:g} per {population.unit} ({population.filter})"
    )


def _check_names(**names: str) -> None:
    for kind, name in names.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a {kind}", fix="use letters, digits and . _ : - (at most 128)")


def _check_digests(**digests: str) -> None:
    for kind, value in digests.items():
        if not is_digest(value):
            raise ConfigError(f"{kind} {value!r} is no digest", fix="expected sha256:<hex>")


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 53:
        raise ConfigError(f"{name} {value!r}", fix=f"it is a whole number from {least}")

"""`silo budget`: what a silo's ledger holds about each population, and the terms a population is opened with.

Invariant: ``show``, ``history`` and ``export`` change nothing, not even open a population that ``data.toml`` declares.
``set`` writes terms once: the ledger keeps them for the population's life. Only the cap may change, for a reason that
ledger and log keep, and never to less than was spent.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, count, open_home, print_json, table_of
from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from silo.home import DataSet, Home
    from silo.ledger import Event, Ledger, Population, Reservation

app = typer.Typer(no_args_is_help=True, help="The privacy budget of this silo's populations: read it, open it.")

PopulationOption = Annotated[str | None, typer.Option("--population", help="Only this population.")]
EXPORT_VERSION = 1
_ACCOUNTANTS = {"basic": "pld", "rdp": "rdp", "gdp": "gdp"}


@app.command()
def show(population: PopulationOption = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what was spent of each population's budget, what open runs may still spend, and what is left.

    Epsilon is at the population's delta, per record or patient, for adding or removing one of them.

    Example: silo budget show --home silo-demo/homes/cleveland
    """
    place = open_home(home)
    with _ledger(place) as ledger:
        rows = _rows(place, ledger, population)
        head = ledger.head()
    if as_json:
        print_json({"silo": place.name, "head": asdict(head), "populations": rows})
        return
    table = table_of("population", "epsilon spent", "committed", "left", "cap", "runs")
    for row in rows:
        numbers = (row["epsilon_spent"], row["epsilon_committed"], row["epsilon_left"], row["epsilon_cap"])
        table.add_row(row["population"], *(f"{number:g}" for number in numbers), str(row["runs"]))
    console().print(table)
    for row in rows:
        console().print(
            f"{row['population']}: delta {row['delta_spent']:g} of {row['delta_cap']:g}; per {row['unit']}, "
            f"{row['adjacency']} adjacency, accountant {row['accountant']}, filter {row['filter']}"
            + ("" if row["open"] else "; not opened yet, data.toml declares it")
        )
    console().print(f"ledger {head.ledger}: {count(head.size, 'event')}, head {head.digest}")


@app.command()
def history(population: PopulationOption = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the ledger's events, oldest first: opened, reserved, charged, settled.

    Example: silo budget history --population cleveland-cardiology
    """
    place = open_home(home)
    with _ledger(place) as ledger:
        _require_known(place, ledger, population)
        events = ledger.history(population)
        reservations = {each.key: each for each in ledger.reservations(population)}
    if as_json:
        print_json([_event(each) for each in events])
        return
    table = table_of("#", "time", "event", "what")
    for each in events:
        about = " ".join(str(each.body[name]) for name in ("population", "run", "part") if name in each.body)
        what = _what(each, reservations)
        table.add_row(str(each.index), each.time, each.kind, f"{about}: {what}" if about else what)
    console().print(table)


@app.command(name="set")
def set_(
    population: Annotated[str, typer.Argument(help="The population's name.", show_default=False)],
    epsilon_cap: Annotated[float, typer.Option("--epsilon-cap", help="Epsilon for the population's whole life.")],
    delta: Annotated[float, typer.Option("--delta", help="Delta of all its runs together; far below 1/records.")],
    filter_name: Annotated[str, typer.Option("--filter", help="basic, gdp (q = 1 only) or rdp(ORDER).")] = "basic",
    unit: Annotated[str, typer.Option("--unit", help="record or patient: whom epsilon protects.")] = "record",
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why the cap of an open population changes; kept on record.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a population's budget for its life; data sets of data.toml that name it get the same terms.

    With --reason the cap of an open population is raised or lowered: never below what is spent or reserved, and the
    ledger and the log keep the old cap, the new one and the reason.

    Example: silo budget set riverside-cardiology --epsilon-cap 10 --delta 1e-5
    """
    place = open_home(home)
    before = _populations(place)
    known = {each.name for each in before}
    opened = _open(place, population, epsilon_cap, delta, filter_name, unit, reason)
    changed = opened not in before
    if as_json:
        print_json({**asdict(opened), "adjacency": "add/remove", "changed": changed})
        return
    done = ("has a new cap," if population in known else "opened with") if changed else "was already open with"
    console().print(f"{opened.name} {done} {_terms(opened)}; its terms stay for its life")


@app.command()
def export(
    out: Annotated[Path | None, typer.Option("--out", help="A new file, instead of stdout.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = True,
) -> None:
    """Write the whole ledger as JSON: its events in order, and the head that is the hash over all of them.

    The file is checked first. head.digest is h of the last event, where h = SHA-256("silo/v1/ledger" | h of the event
    before, or 32 zero bytes | the event as RFC 8785 canonical JSON).

    Example: silo budget export --out ledger.json
    """
    import json

    from silo.ledger.journal import CHAIN_LABEL
    from silo.storage import write_atomically

    place = open_home(home)
    with _ledger(place) as ledger:
        head = ledger.verify()
        events = ledger.history()
    if head.size != len(events):  # somebody wrote in between: the head is of fewer events
        events = events[: head.size]
    body = {
        "version": EXPORT_VERSION,
        "silo": place.name,
        "chain": {"label": CHAIN_LABEL.decode(), "hash": "sha256", "canonical": "RFC 8785"},
        "head": asdict(head),
        "events": [dict(each.body) for each in events],
    }
    if out is None:
        print_json(body)
        return
    if out.exists():
        raise UsageError("something is already there", where=str(out), fix="name a new file")
    write_atomically(out, (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode(), mode=0o600)
    typer.echo(f"wrote {head.size} events to {out}", err=True)


def _ledger(home: Home) -> Ledger:
    """Open the ledger as it is; ``Home.ledger`` would open every population that data.toml declares."""
    from silo.ledger import Ledger

    return Ledger(home.path / "ledger.db", create=False)


def _populations(home: Home) -> tuple[Population, ...]:
    with _ledger(home) as ledger:
        return ledger.populations()


def _declared(home: Home) -> dict[str, list[DataSet]]:
    """Return the data sets of data.toml by population."""
    found: dict[str, list[DataSet]] = {}
    for each in home.data():
        found.setdefault(each.population, []).append(each)
    return found


def _require_known(home: Home, ledger: Ledger, population: str | None) -> None:
    known = {each.name for each in ledger.populations()} | _declared(home).keys()
    if population is not None and population not in known:
        raise ConfigError(
            f"there is no population {population!r}",
            where=str(home.path),
            fix=f"there is {', '.join(sorted(known))}" if known else "open one with: silo budget set",
        )


def _rows(home: Home, ledger: Ledger, population: str | None) -> list[dict[str, Any]]:
    _require_known(home, ledger, population)
    declared = _declared(home)
    rows = []
    for each in ledger.populations():
        spent = ledger.spent(each.name)
        reservations = ledger.reservations(each.name)
        rows.append(
            _row(
                each,
                epsilon_spent=spent.epsilon,
                delta_spent=spent.delta,
                epsilon_committed=spent.committed,
                epsilon_left=spent.left,
                runs=len({one.run for one in reservations}),
                open_reservations=sum(one.open for one in reservations),
                data=[one.name for one in declared.get(each.name, [])],
                open=True,
            )
        )
    opened = {each.name for each in ledger.populations()}
    rows += [_not_opened(name, data) for name, data in declared.items() if name not in opened]
    return [row for row in rows if population in (None, row["population"])]


def _row(population: Population, **values: Any) -> dict[str, Any]:
    return {
        "population": population.name,
        "epsilon_cap": population.epsilon_cap,
        "delta_cap": population.delta,
        "unit": population.unit,
        "adjacency": "add/remove",
        "accountant": _ACCOUNTANTS[population.filter.partition("(")[0]],
        "filter": population.filter,
        **values,
    }


def _not_opened(name: str, data: list[DataSet]) -> dict[str, Any]:
    from silo.ledger import Population

    cap, delta, filter_name, unit = data[0].terms
    return _row(
        Population(name, cap, delta, filter_name, "patient" if unit == "patient" else "record"),
        epsilon_spent=0.0,
        delta_spent=0.0,
        epsilon_committed=0.0,
        epsilon_left=cap,
        runs=0,
        open_reservations=0,
        data=[each.name for each in data],
        open=False,
    )


def _open(
    home: Home, name: str, epsilon_cap: float, delta: float, filter_name: str, unit: str, reason: str | None
) -> Population:
    """Check the terms, write them into data.toml where it names the population, and open it in the ledger.

    In this order: a crash in between leaves terms declared that the next run opens, never two that differ.
    """
    from silo.home.settings import write_data
    from silo.ledger import Population
    from silo.ledger.filters import check_delta, check_epsilon, filter_named

    if unit not in ("record", "patient"):
        raise UsageError(f"there is no unit {unit!r}", where="--unit", fix="record or patient")
    check_epsilon(epsilon_cap)
    check_delta(delta)
    wanted = Population(name, float(epsilon_cap), float(delta), filter_named(filter_name).name, unit)  # type: ignore[arg-type]
    with _ledger(home) as ledger:
        present = next((each for each in ledger.populations() if each.name == name), None)
        if present is not None and present != wanted and reason and replace(present, epsilon_cap=epsilon_cap) == wanted:
            return _recap(home, ledger, present, wanted.epsilon_cap, reason)
        if present is not None and present != wanted:
            raise ConfigError(
                f"{name} was opened with {_terms(present)} and keeps these terms: the cap is the promise under which "
                "everything since was released, and another one now would have been chosen knowing what came out",
                where=str(ledger.path),
                fix="people who are not in it may have a population of their own; of these the cap alone may change, "
                "with --reason",
            )
        if present is None:
            terms = {"epsilon_cap": wanted.epsilon_cap, "delta": wanted.delta, "filter": wanted.filter, "unit": unit}
            data = home.data()
            unlike = [
                each.name for each in data if each.population == name and (each.patients is None) == (unit == "patient")
            ]
            if unlike:
                raise ConfigError(
                    f"a budget per {unit}, and {unlike[0]} declares "
                    + ("no patients" if unit == "patient" else "patients"),
                    where=str(home.path / "data.toml"),
                    fix="set unit and `patients` (the column that says whose a row is) of the data set there",
                )
            if any(each.population == name and each.terms != tuple(terms.values()) for each in data):
                write_data(home.path, [e.model_copy(update=terms) if e.population == name else e for e in data])
        return ledger.open_population(name, wanted.epsilon_cap, wanted.delta, wanted.filter, unit=wanted.unit)


def _recap(home: Home, ledger: Ledger, present: Population, epsilon_cap: float, reason: str) -> Population:
    """Change the cap in the ledger, which may refuse; then in data.toml; and say so in the log, for the officer."""
    from silo.home.settings import write_data

    changed = ledger.change_cap(present.name, epsilon_cap, reason)
    data, terms = home.data(), {"epsilon_cap": epsilon_cap}
    write_data(home.path, [e.model_copy(update=terms) if e.population == present.name else e for e in data])
    with home.log() as log:
        log.append(
            "data",
            {
                "what": "budget cap changed",
                "population": present.name,
                "from": present.epsilon_cap,
                "to": epsilon_cap,
                "reason": reason,
                "ledger": asdict(ledger.head()),
            },
        )
    return changed


def _terms(population: Population) -> str:
    return (
        f"epsilon {population.epsilon_cap:g} at delta {population.delta:g} per {population.unit}, {population.filter}"
    )


def _event(event: Event) -> dict[str, Any]:
    return {"index": event.index, **event.body}


def _what(event: Event, reservations: dict[tuple[str, str, str], Reservation]) -> str:
    """Say in words what an event holds."""
    body = event.body
    if event.kind == "opened":
        cap, delta = body["epsilon_cap"], body["delta"]
        return f"cap epsilon {cap:g} at delta {delta:g} per {body['unit']}, filter {body['filter']}"
    if event.kind == "recapped":
        return f"cap epsilon {body['epsilon_cap']:g} from here on: {body['reason']}"
    if event.kind == "reserved":
        held = reservations[body["population"], body["run"], body["part"]]
        noise, rate = held.mechanism.noise_multiplier, held.mechanism.sampling_probability
        return (
            f"{count(held.steps, 'step')} of noise multiplier {noise:.4g} at sample rate {rate:g}: "
            f"epsilon {held.epsilon:.4g} at delta {held.delta:g}"
        )
    if event.kind == "charged":
        return f"round {body['round']}, attempt {body['attempt']}: {count(body['steps'], 'step')} released"
    return {"settled": "nothing more is charged to it", "created": "the ledger was made"}.get(event.kind, "")

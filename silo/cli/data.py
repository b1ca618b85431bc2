"""`silo data`: which tables this silo trains on, whose records they are, and what they may be used for.

Invariant: what is written down about a table is its place, its schema, how many records it holds, and terms; never a
value of a record. A table is read whole before anything is written, so a bad one leaves the home as it was. The same
people keep one budget: a table is not given a second population, and a further population needs its people's word
that its people are others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silo.cli.common import HomeOption, JsonOption, console, count, open_home, print_json, say, table_of
from silo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from silo.api import Records
    from silo.data.table import Table
    from silo.home import DataSet, Home

app = typer.Typer(no_args_is_help=True, help="The tables this silo trains on: add one, list them, take one away.")

SplitSeed = Annotated[int, typer.Option("--split-seed", min=0, help="Fixes which records test the model; public.")]


@app.callback()
def data() -> None:
    """The tables this silo trains on: add one, list them, take one away."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call the table: lower-case words with hyphens.")],
    source: Annotated[
        str,
        typer.Argument(help="A CSV or Parquet file, a folder of them, or package.module:function (of your own code)."),
    ],
    purposes: Annotated[
        list[str] | None, typer.Option("--purpose", help="What it may be used for, as runs name it; may be repeated.")
    ] = None,
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="What kind of data, such as health; may be repeated.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", help="Its columns, with public ranges and categories: TOML or YAML.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="The same by hand: age=18..90 or sex=female|male; repeated.")
    ] = None,
    population: Annotated[
        str | None, typer.Option("--population", help="Whose records: all tables of the same people name the same.")
    ] = None,
    epsilon_cap: Annotated[
        float | None, typer.Option("--epsilon-cap", help="Privacy budget of the population, for its whole life.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="Of all its runs together; well below 1 / number of records.")
    ] = None,
    filter_name: Annotated[str, typer.Option("--filter", help="basic, gdp (q = 1 only) or rdp(ORDER).")] = "basic",
    patients: Annotated[
        str | None, typer.Option("--patients", help="The column that says whose a row is: the budget is per patient.")
    ] = None,
    different_people: Annotated[
        str | None,
        typer.Option("--different-people", help="Why nobody of a new population is in the ones you have; on record."),
    ] = None,
    legal_basis: Annotated[str | None, typer.Option("--legal-basis", help="Such as consent, public-data.")] = None,
    consent_expires: Annotated[str | None, typer.Option("--consent-expires", help="A date, YYYY-MM-DD.")] = None,
    retention_until: Annotated[str | None, typer.Option("--retention-until", help="A date, YYYY-MM-DD.")] = None,
    deidentification: Annotated[
        str | None, typer.Option("--deidentification", help="What was done, such as safe-harbor.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="The records are public anyway.")] = False,
    split_seed: SplitSeed = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="A new extract of a table you have: same name, same people, same budget.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a table. It is read once, here, to check it; only its place, schema and number of records are kept.

    Ranges and categories come from you, from practice or literature: nothing is estimated from the records. Without
    --schema the columns must be those of a schema Silo knows (uci-heart).

    Example: silo data add heart /srv/heart.csv --purpose heart-disease-research --category health
    --epsilon-cap 10 --delta 1e-5
    """
    from silo.home import DataSet
    from silo.home.settings import checked

    place = open_home(home)
    before = {each.name: each for each in place.data()}
    if name in before and not replace:
        raise ConfigError(
            f"there is a table {name} already", where=str(place.path), fix="--replace it, or choose another name"
        )
    if replace and name not in before:
        raise UsageError(f"there is no table {name} to replace", where="--replace", fix="leave --replace out")
    old = before.get(name)
    fields: dict[str, Any] = old.model_dump() if old is not None else {}
    given = {
        "categories": tuple(categories) if categories else None,
        "permitted_purposes": tuple(purposes) if purposes else None,
        "population": population,
        "epsilon_cap": epsilon_cap,
        "delta": delta,
        "legal_basis": legal_basis,
        "consent_expires": _end_of(consent_expires, "--consent-expires"),
        "retention_until": _end_of(retention_until, "--retention-until"),
        "deidentification": deidentification,
    }
    fields |= {field: value for field, value in given.items() if value is not None}
    fields.setdefault("population", f"{place.name}-{name}"[:64])
    _require(fields)
    table = _table(name, schema, columns)
    if table is not None or old is None:
        fields["table"] = table
    if old is None:
        fields |= {"filter": filter_name, "split_seed": split_seed, "public": public}
        fields |= {"patients": patients, "unit": "record" if patients is None else "patient"}
    elif patients is not None:
        fields["patients"] = patients  # a new extract may call it something else; the unit stays
    fields |= {"name": name, "source": _source(source)}
    if isinstance(fields.get("table"), dict):
        fields["table"] = old.table if old is not None else None
    dataset = checked(DataSet, fields, Path("silo data add"))
    records = _read(dataset, place)
    dataset = dataset.model_copy(update={"records": len(records)})
    _one_budget(place, dataset, old, records.source, different_people)
    with place.ledger() as ledger:  # the terms first: where they contradict the ledger nothing is written
        ledger.open_population(
            dataset.population, dataset.epsilon_cap, dataset.delta, dataset.filter, unit=dataset.unit
        )
    place.add_dataset(dataset)
    _record(place, dataset, "replaced" if old else "added", different_people)
    _warn(dataset)
    if as_json:
        print_json(_facts(dataset))
        return
    columns_read = count(len(records.schema.names), "column")
    console().print(
        f"{name}: {count(len(records), 'record')}, {columns_read} of schema {records.schema.name}; population "
        f"{dataset.population}, epsilon {dataset.epsilon_cap:g} at delta {dataset.delta:g} per {dataset.unit} for life"
    )


@app.command("list")
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the tables, whose records they are, and what they may be used for.

    Example: silo data list --home silo-demo/homes/cleveland
    """
    place = open_home(home)
    found = place.data()
    if as_json:
        print_json([_facts(each) for each in found])
        return
    if not found:
        console().print("no table yet; next: silo data add")
        return
    table = table_of("name", "population", "records", "schema", "purposes", "source")
    for each in found:
        records = "?" if each.records is None else str(each.records)
        schema = each.table.name if each.table is not None else "known"
        table.add_row(each.name, each.population, records, schema, ", ".join(each.permitted_purposes), each.source)
    console().print(table)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The table's name.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a table away: no run uses it from now on. Its files stay, and so does what its people's budget has spent.

    Example: silo data remove heart
    """
    from silo.home.settings import write_data

    place = open_home(home)
    found = {each.name: each for each in place.data()}
    if name not in found:
        raise ConfigError(f"there is no table {name}", where=str(place.path), fix="list them with: silo data list")
    with place.ledger():  # its population is in the ledger from now on, whatever data.toml says
        pass
    write_data(place.path, [each for each in found.values() if each.name != name])
    _record(place, found[name], "removed", None)
    if as_json:
        print_json({"removed": name, "population": found[name].population})
    else:
        console().print(f"removed {name}; the budget of {found[name].population} stays in the ledger")


def _require(fields: dict[str, Any]) -> None:
    """Raise for what nobody but the silo's people can decide; there is no default for it."""
    options = {
        "permitted_purposes": "--purpose",
        "categories": "--category",
        "epsilon_cap": "--epsilon-cap",
        "delta": "--delta",
    }
    missing = [option for field, option in options.items() if field not in fields]
    if missing:
        raise UsageError(f"{', '.join(missing)} is for you to say", where="silo data add", fix="give it")


def _table(name: str, schema: Path | None, columns: Iterable[str] | None) -> Table | None:
    from silo.data.table import read_table, table_from_columns

    if schema is not None and columns:
        raise UsageError("give --schema or --column, not both", where="silo data add")
    if schema is not None:
        return read_table(schema)
    return table_from_columns(name, columns) if columns else None


def _source(source: str) -> str:
    """Return a source as it is kept: registered, an entry point, or an absolute path."""
    from silo.agent.prepare import PYTHON, REGISTERED
    from silo.data.sources import is_entry_point

    if source.startswith((REGISTERED, PYTHON)):
        return source
    if is_entry_point(source) and not Path(source).exists():
        return PYTHON + source
    return str(Path(source).absolute())


def _read(dataset: DataSet, home: Home) -> Records:
    from silo.agent.prepare import source_of
    from silo.data import load

    return load(source_of(dataset, home.path), schema=dataset.schema_of, patients=dataset.patients)


def _one_budget(home: Home, dataset: DataSet, old: DataSet | None, digest: str, different: str | None) -> None:
    """Raise if the table would give people a second budget."""
    if old is not None and old.population != dataset.population:
        raise ConfigError(
            f"{old.name} holds the people of {old.population}",
            where="--population",
            fix="a new extract keeps its population and what that has spent",
        )
    for each in home.data():
        if each.source == dataset.source and each.population != dataset.population:
            raise ConfigError(
                f"this table is {each.name} already, of population {each.population}",
                where="--population",
                fix="the same people have one budget",
            )
    with home.ledger() as ledger:
        known = {each.name for each in ledger.populations()}
        owners = {each.population for each in ledger.reservations() if each.data_digest == digest}
    if owners - {dataset.population}:
        raise ConfigError(
            f"runs were charged for these records to population {min(owners)}",
            where="--population",
            fix="the same people have one budget",
        )
    if known and dataset.population not in known and not (different or "").strip():
        raise UsageError(
            f"{dataset.population} would be a further population with a budget of its own",
            where="--population",
            fix=f"the people of {', '.join(sorted(known))} keep theirs: name that one, or say with --different-people "
            "why nobody is in both",
        )


def _record(home: Home, dataset: DataSet, what: str, different: str | None) -> None:
    body = {"what": what, "silo": home.name, "data": dataset.name, "population": dataset.population}
    with home.log() as log:
        log.append("data", body | ({"different_people": different.strip()[:500]} if different else {}))


def _warn(dataset: DataSet) -> None:
    if dataset.records and dataset.delta >= 1 / dataset.records:
        say(f"delta {dataset.delta:g} is not below 1 / {dataset.records} records: it may give one whole record away")


def _end_of(day: str | None, option: str) -> Any:
    """Return the last second of a day, UTC."""
    from datetime import UTC, datetime

    if day is None:
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day):
            raise ValueError(day)
        return datetime.fromisoformat(day).replace(hour=23, minute=59, second=59, tzinfo=UTC)
    except ValueError as error:
        raise UsageError(f"{day!r} is no date", where=option, fix="write YYYY-MM-DD") from error


def _facts(dataset: DataSet) -> dict[str, Any]:
    return dataset.to_dict()

"""What is written down about a silo, its data and its packs: ``silo.toml``, ``data.toml``, ``policy/pins.toml``.

Invariant: what is read was checked field by field (strict types, no unknown field), and what is written reads back the
same. Errors name the file and the field, never a value that might be secret.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from silo_policies.documents import (
    AsTuple,
    Digest,
    Document,
    Instant,
    Jurisdiction,
    Name,
    Slug,
    Text,
    first_problem,
    problem_path,
)

from silo.api.records import Schema
from silo.data.table import Table
from silo.errors import ConfigError
from silo.ledger.filters import check_delta, check_epsilon, filter_named
from silo.storage import write_atomically

SETTINGS_FILE, DATA_FILE, PINS_FILE = "silo.toml", "data.toml", "policy/pins.toml"
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
MAX_BYTES = 1 << 20

Slugs = Annotated[tuple[Slug, ...], AsTuple]


class Sandbox(Document):
    """``[sandbox]``: what a researcher's code may use. ``memory_mib`` beyond the libraries it shares, ``seconds`` to
    answer one request (a batch's gradients, say).

    Trying a model on made-up records takes some 45 bytes for each parameter (``tests/unit/training/test_check.py``),
    and training it less: 4096 MiB are enough for 80 million parameters.
    """

    memory_mib: Annotated[int, Field(ge=64, le=1 << 20)] = 4096
    seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0


class Settings(Document):
    """``silo.toml``: who the home belongs to. ``consortium`` is the digest of the manifest it joined, once it has.

    ``key_epoch`` is which of its keys that manifest names: 0 for the first, one more with each rotation.
    ``aggregator`` is the HOST:PORT that its agent connects to, once it was told.
    A round's answer on records that are not public leaves at a multiple of ``answer_seconds`` after it was asked for:
    set it well above the time that training takes, and how long it took says nothing.
    """

    name: Name
    display_name: Text
    organisation_type: Slug
    jurisdiction: Jurisdiction
    consortium: Digest | None = None
    key_epoch: Annotated[int, Field(ge=0)] = 0
    aggregator: Text | None = None
    log_retention_days: Annotated[int, Field(ge=1)] | None = None
    answer_seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    evidence: Slugs = ()
    sandbox: Sandbox = Sandbox()


class DataSet(Document):
    """One table of ``data.toml``: a data set, whose people are in it, and what they may be used for.

    All data sets of one ``population`` share its budget: ``epsilon_cap`` at ``delta`` for its life, as ``filter`` adds
    up, per ``unit``. With unit "patient", ``patients`` names the column of the table that says whose a row is; rows
    in which it is empty are left out. ``metrics_epsilon`` is what one noised release of metrics costs it; at 0 metrics
    are never noised, so a policy that demands noise keeps them in the silo. ``source`` is a registered one
    (``uci-heart:cleveland``), a path, or ``python:package.module:function``; ``split_seed`` fixes which records test
    the model; it is public. ``table`` describes the columns, where it is not a schema that Silo knows; ``records`` is
    how many there were when the table was added, for this silo's own people.
    """

    name: Slug
    population: Slug
    source: Text
    categories: Annotated[Slugs, Field(min_length=1)]
    permitted_purposes: Slugs
    legal_basis: Slug | None = None
    consent_expires: Instant = FOREVER
    retention_until: Instant = FOREVER
    deidentification: Slug | None = None
    evidence: Slugs = ()
    public: bool = False
    epsilon_cap: float
    delta: float
    filter: str = "basic"
    metrics_epsilon: Annotated[float, Field(ge=0, le=20)] = 0.0
    unit: Literal["record", "patient"] = "record"
    patients: Text | None = None
    split_seed: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    records: Annotated[int, Field(ge=0)] | None = None
    table: Table | None = None

    @model_validator(mode="after")
    def _sensible(self) -> DataSet:
        try:
            check_epsilon(self.epsilon_cap)
            check_delta(self.delta)
            filter_named(self.filter)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if (self.unit == "patient") != (self.patients is not None):
            raise ValueError('unit "patient" needs `patients`, the column that says whose a row is; unit "record" none')
        return self

    @property
    def schema_of(self) -> Schema | None:
        """The schema to read the source by; None if it is one that Silo knows."""
        return None if self.table is None else self.table.schema_of()

    @property
    def terms(self) -> tuple[float, float, str, str]:
        """What a population is opened with in the ledger."""
        return self.epsilon_cap, self.delta, self.filter, self.unit


class Pins(Document):
    """``policy/pins.toml``: the digest of each of the silo's own packs when it was pinned."""

    pins: dict[Slug, Digest] = Field(default_factory=dict)


def read_settings(home: Path) -> Settings:
    """Read ``silo.toml``; raise :class:`ConfigError` if it is missing, unreadable or malformed."""
    return checked(Settings, _read(home / SETTINGS_FILE), home / SETTINGS_FILE)


def write_settings(home: Path, settings: Settings) -> None:
    """Write ``silo.toml``, whole or not at all."""
    _write(home / SETTINGS_FILE, _plain(settings))


def read_data(home: Path) -> tuple[DataSet, ...]:
    """Read ``data.toml``; raise :class:`ConfigError` if it cannot be used, or contradicts itself."""
    path = home / DATA_FILE
    body = _read(path)
    if body.keys() - {"data"} or not isinstance(body.get("data", []), list):
        raise ConfigError("expected nothing but [[data]] tables", where=str(path), fix="see `silo data --help`")
    data = tuple(checked(DataSet, table, path) for table in body.get("data", []))
    check_data(data, path)
    return data


def write_data(home: Path, data: Iterable[DataSet]) -> None:
    """Write ``data.toml``, whole or not at all; raise :class:`ConfigError` if it would contradict itself."""
    data = tuple(data)
    check_data(data, home / DATA_FILE)
    _write(home / DATA_FILE, {"data": [_plain(one) for one in data]})


def check_data(data: Iterable[DataSet], path: Path) -> None:
    """Raise :class:`ConfigError` for two data sets of one name, or one population with two budgets."""
    names: set[str] = set()
    terms: dict[str, tuple[float, float, str, str]] = {}
    for one in data:
        if one.name in names:
            raise ConfigError(f"two data sets are called {one.name}", where=str(path), fix="rename one")
        names.add(one.name)
        if terms.setdefault(one.population, one.terms) != one.terms:
            raise ConfigError(
                f"population {one.population} has two budgets: {terms[one.population]} and {one.terms}",
                where=str(path),
                fix="all data sets of the same people share one budget",
            )


def read_pins(home: Path) -> dict[str, str]:
    """Read ``policy/pins.toml``; a home that never pinned a pack has none."""
    path = home / PINS_FILE
    return dict(checked(Pins, _read(path), path).pins) if path.exists() else {}


def write_pins(home: Path, pins: dict[str, str]) -> None:
    """Write ``policy/pins.toml``, whole or not at all."""
    _write(home / PINS_FILE, Pins(pins=pins).to_dict())


Model = TypeVar("Model", bound=Document)


def checked(kind: type[Model], table: Any, path: Path) -> Model:
    """Return ``table`` as a ``kind``; raise :class:`ConfigError` naming ``path`` and the first field that is wrong."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        place, sentence = first_problem(error)
        raise ConfigError(f"{problem_path(place) or 'table'}: {sentence}", where=str(path), fix="correct it") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the file: {error.strerror}", where=str(path), fix="check the path, or run `silo init`"
        ) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES} bytes", where=str(path), fix="check the path")
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(path), fix="correct the line it names") from error


def _plain(document: Document) -> dict[str, Any]:
    """Return what TOML can hold: fields that are not set are left out."""
    return _without_none(document.to_dict())


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict):
            plain[name] = _without_none(value)
        elif isinstance(value, list):
            plain[name] = [_without_none(each) if isinstance(each, dict) else each for each in value]
        elif value is not None:
            plain[name] = value
    return plain


def _write(path: Path, body: dict[str, Any]) -> None:
    import tomli_w

    write_atomically(path, tomli_w.dumps(body).encode())

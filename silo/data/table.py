"""What a silo's people write down about a table: its columns with public ranges or categories.

    name = "diabetes"                       the schema's name
    [[columns]]
    name = "age"
    range = [18, 90]                        public, from practice or literature; scales the column to [-1, 1]
    unit = "years"
    valid = [0, 130]                        optional: outside, a value cannot have been measured and counts as missing
    [[columns]]
    name = "sex"
    values = ["female", "male"]             the public categories

Invariant: ranges and categories are given, never read off the records: a minimum or a list of the values that occur
would be statistics of private data, released without budget (PROTOCOL section 5).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from silo_policies import PolicyError
from silo_policies.documents import AsTuple, Document, Slug, Text, first_problem, problem_path
from silo_policies.strict_yaml import load as load_yaml

from silo.api.records import Categorical, Column, Numeric, Schema
from silo.errors import ConfigError

MAX_BYTES = 256 << 10
MAX_COLUMNS = 10_000
FORM = "NAME=LOW..HIGH or NAME=this|that"
_RANGE = re.compile(r"\s*([^.\s|]+(?:\.\d+)?)\s*\.\.\s*([^\s|]+)\s*")

Pair = Annotated[tuple[float, float], AsTuple]


class ColumnSpec(Document):
    """One column: a ``range`` makes it a number, ``values`` a category."""

    name: Text
    range: Pair | None = None
    unit: str = ""
    valid: Pair | None = None
    values: Annotated[tuple[Text, ...], AsTuple] | None = None

    @model_validator(mode="after")
    def _either(self) -> ColumnSpec:
        if (self.range is None) == (self.values is None):
            raise ValueError(f"column {self.name!r} needs a public range or its values, one of the two")
        if self.range is None and (self.valid is not None or self.unit):
            raise ValueError(f"column {self.name!r} holds categories: unit and valid are for numbers")
        try:
            self.column()
        except ConfigError as error:
            raise ValueError(error.what) from error
        return self

    def column(self) -> Column:
        """Return the column as records are read by."""
        if self.range is None:
            return Categorical(self.name, self.values or ())
        bounds = {"valid_low": self.valid[0], "valid_high": self.valid[1]} if self.valid is not None else {}
        return Numeric(self.name, *self.range, self.unit, **bounds)


class Table(Document):
    """The schema of one table, as it stands in a file or in ``data.toml``."""

    name: Slug
    columns: Annotated[tuple[ColumnSpec, ...], AsTuple, Field(min_length=1, max_length=MAX_COLUMNS)]

    @model_validator(mode="after")
    def _distinct(self) -> Table:
        names = [each.name for each in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("a column stands there twice")
        return self

    def schema_of(self) -> Schema:
        """Return the schema as records are read by."""
        return Schema(self.name, tuple(each.column() for each in self.columns))


def read_table(path: Path) -> Table:
    """Read a schema from a TOML or YAML file; raise :class:`ConfigError` with the path and what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the schema: {error.strerror}", where=str(path), fix="check the path") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the schema is larger than {MAX_BYTES} bytes", where=str(path), fix="check the path")
    return table_of(_parsed(content, path), str(path))


def table_from_columns(name: str, columns: Iterable[str]) -> Table:
    """Return the schema of ``NAME=LOW..HIGH`` and ``NAME=this|that`` words."""
    return table_of({"name": name, "columns": [_column_of(each) for each in columns]}, "--column")


def table_of(body: Any, where: str) -> Table:
    """Return a schema from its plain form; raise :class:`ConfigError` naming the first field that is wrong."""
    try:
        return Table.model_validate(body)
    except ValidationError as error:
        place, sentence = first_problem(error)
        raise ConfigError(
            f"{problem_path(place) or 'schema'}: {sentence}", where=where, fix="see: silo data add --help"
        ) from error


def _parsed(content: bytes, path: Path) -> Any:
    if path.suffix.lower() in (".yaml", ".yml"):
        try:
            return load_yaml(content, str(path))[0]
        except PolicyError as error:
            raise ConfigError(error.what, where=error.where, fix=error.fix) from error
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(path), fix="a schema is .toml or .yaml") from error


def _column_of(word: str) -> dict[str, Any]:
    name, equals, rest = word.partition("=")
    if not equals or not name.strip() or not rest.strip():
        raise ConfigError(f"{word!r} describes no column", where="--column", fix=f"write {FORM}")
    numbers = _RANGE.fullmatch(rest)
    if numbers is None:
        return {"name": name.strip(), "values": [each.strip() for each in rest.split("|")]}
    try:
        return {"name": name.strip(), "range": [float(each) for each in numbers.groups()]}
    except ValueError as error:
        raise ConfigError(f"{word!r}: not a range of numbers", where="--column", fix=f"write {FORM}") from error

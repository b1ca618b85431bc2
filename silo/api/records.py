"""Records: one silo's rows as columns, under a schema that is public.

Invariant: everything that scales or encodes a record comes from the schema (ranges, categories), nothing from the
other records. So a record's features are a function of that record alone, which per-record privacy needs: a mean or
a maximum taken from the data would let one record move the features of all others, and would cost budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo.errors import ConfigError


@dataclass(frozen=True)
class Numeric:
    """A measured column: float64, NaN where missing, scaled by the public range [low, high] in ``unit``.

    A value outside [valid_low, valid_high] cannot have been measured and counts as missing. Both default to infinity;
    the scaled value is cut off at the range, so an extreme but possible value stays in [-1, 1].
    """

    name: str
    low: float
    high: float
    unit: str = ""
    valid_low: float = -math.inf
    valid_high: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"the public range of {self.name!r} is [{self.low}, {self.high}]",
                where="schema",
                fix="give two finite numbers, the lower first",
            )


@dataclass(frozen=True)
class Categorical:
    """A column of named values: str, empty where missing; ``values`` are the public categories in one-hot order."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values) or "" in self.values:
            raise ConfigError(
                f"the categories of {self.name!r} must be distinct, not empty strings, and at least one",
                where="schema",
            )


Column = Numeric | Categorical


@dataclass(frozen=True)
class Schema:
    """The public description of a table: its name and its columns in order."""

    name: str
    columns: tuple[Column, ...]

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise ConfigError(
            f"there is no column {name!r} in the schema {self.name!r}",
            where="Records",
            fix=f"use one of: {', '.join(self.names)}",
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class Records:
    """Rows of one silo. ``records["age"]`` is a read-only 1-D array: float64 (NaN missing) or str ("" missing).

    ``source`` is the ``sha256:`` digest of the bytes the rows were read from ("" if they were not read from a file).
    ``patients`` says whose each row is, str (n,), if the silo's data declare that; an experiment is not given it.
    Neither ``repr`` nor any error shows a value or the number of rows.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Mapping[str, NDArray[np.generic]],
        *,
        source: str = "",
        patients: NDArray[np.str_] | None = None,
    ) -> None:
        missing = [name for name in schema.names if name not in columns]
        if missing:
            raise ConfigError(f"columns are missing: {', '.join(missing)}", where=f"schema {schema.name!r}")
        self.schema = schema
        self.source = source
        self._columns: dict[str, NDArray[np.generic]] = {}
        for column in schema.columns:
            dtype = np.float64 if isinstance(column, Numeric) else np.str_
            values = np.array(columns[column.name], dtype=dtype)
            if values.ndim != 1:
                raise ConfigError(f"column {column.name!r} must be 1-D", where=f"schema {schema.name!r}")
            values.setflags(write=False)
            self._columns[column.name] = values
        self.patients = patients
        everything = [*self._columns.values(), *([] if patients is None else [patients])]
        if len({len(values) for values in everything}) > 1:
            raise ConfigError("the columns differ in length", where=f"schema {schema.name!r}")

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()))) if self._columns else 0

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return self._columns[self.schema[name].name]

    def __repr__(self) -> str:
        return f"Records({self.schema.name!r}, <hidden>)"

    def row_bytes(self) -> Iterator[bytes]:
        """Yield each row as bytes that depend on its values alone."""
        columns = [self._columns[name] for name in self.schema.names]
        for row in range(len(self)):
            yield repr([column[row].item() for column in columns]).encode()

    def take(self, rows: NDArray[np.integer]) -> Records:
        """Return the given rows (indices, shape (k,)) as new records under the same schema and source."""
        patients = None if self.patients is None else self.patients[rows]
        columns = {name: values[rows] for name, values in self._columns.items()}
        return Records(self.schema, columns, source=self.source, patients=patients)

    def without_patients(self) -> Records:
        """Return the same rows without whose they are: what an experiment is given."""
        return self if self.patients is None else Records(self.schema, self._columns, source=self.source)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a numeric column, float64 (n,), NaN where missing."""
        if not isinstance(self.schema[name], Numeric):
            raise ConfigError(f"column {name!r} holds categories", where="Records.numbers", fix="use records[name]")
        return self._columns[name].astype(np.float64)

    def features(self, columns: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Return float32 features, shape (n, d), all in [-1, 1]; d depends on the schema and ``columns`` only.

        A numeric column gives two: the value scaled from its public range to [-1, 1] and cut off there (0 when
        missing), and a flag that is 1 when it is missing. A categorical column gives one 0/1 per category, all zero
        when the value is missing or unknown.
        """
        parts: list[NDArray[np.float32]] = []
        for name in self.schema.names if columns is None else columns:
            column = self.schema[name]
            values = self._columns[name]
            if isinstance(column, Numeric):
                numbers = values.astype(np.float64)
                scaled = np.clip((numbers - column.low) / (column.high - column.low) * 2 - 1, -1, 1)
                absent = np.isnan(scaled)
                parts += [np.where(absent, 0, scaled).astype(np.float32)[:, None], absent.astype(np.float32)[:, None]]
            else:
                parts.append((values[:, None] == np.array(column.values)[None, :]).astype(np.float32))
        if not parts:
            raise ConfigError("no columns were asked for", where="Records.features", fix="name at least one column")
        return np.concatenate(parts, axis=1)

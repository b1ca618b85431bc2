"""Loading one silo's records, and only those.

Invariant: a source names what is opened (a file, a folder, a function), and no other data file is. The shipped files
are checked against the table below before they are parsed. Errors name file, row and column, never a cell's content: a
message travels further than a record may.

Source of the shipped data and every change made to it: ``uci_heart/ATTRIBUTION.md``.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silo.api.records import Column, Numeric, Records, Schema
from silo.data.schema import HEART, SCHEMAS, accepts, with_key
from silo.data.sources import PYTHON, from_folder, from_function, from_parquet
from silo.errors import ConfigError

# SHA-256 of each shipped file.
HOSPITALS: dict[str, str] = {
    "cleveland": "3dbe732fef7e1234eb67db996bf091dc2db75796735478decd1390644fd38a5e",
    "hungary": "24cd844343c8fbd0a0f06233024d643516b1877e6fd9726209ffedcb41a92689",
    "switzerland": "3b7e13b72b19855fc251824cfc953845d50647ca3f7278e5b66bf42d2d178d81",
    "va-long-beach": "28480d71620f2b6e6057474daf22f710322ec37f1508deebf0a9832fe31395fb",
}
PREFIX = "uci-heart:"
MAX_BYTES = 1 << 30


def load(source: str, *, schema: Schema | None = None, patients: str | None = None) -> Records:
    """Return the records of ``"uci-heart:HOSPITAL"``, of a CSV or Parquet file (``.parquet``), of a folder of such
    files, or of ``"python:package.module:function"``. Its columns are those of ``schema``, or of one that Silo knows.

    A CSV is UTF-8 with one header line; an empty cell is a missing value, columns outside the schema are ignored.
    ``patients`` names the column that says whose a row is, any text. A row in which it is empty is left out: it may be
    anybody's, so no bound on what one patient contributes could hold with it, and nothing tells others that it was
    there. Raises :class:`~silo.errors.ConfigError` naming file, row (the header is row 1) and column.
    """
    if source.startswith(PREFIX):
        if patients is not None:
            raise ConfigError(
                f"the shipped tables have no column {patients!r}",
                where=f"data source {source}",
                fix="each of their rows is one patient: use unit record",
            )
        return _load_hospital(source.removeprefix(PREFIX))
    schemas = SCHEMAS if schema is None else (schema,)
    if patients is None:
        return _load(source, schemas)
    return _told_apart(_load(source, tuple(with_key(each, patients) for each in schemas)), patients)


def _load(source: str, schemas: tuple[Schema, ...]) -> Records:
    if source.startswith(PYTHON):
        return from_function(source, lambda header, where: _match(header, where, schemas))
    if source and "\0" not in source and Path(source).is_dir():
        return from_folder(Path(source), lambda path: _load_file(str(path), schemas))
    return _load_file(source, schemas)


def _load_file(source: str, schemas: tuple[Schema, ...]) -> Records:
    try:
        path = Path(source)
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"the file is larger than {MAX_BYTES} bytes", where=source)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the data cannot be read: {getattr(error, 'strerror', None) or error}",
            where=source or "data source",
            fix=f"name a CSV or Parquet file, a folder, or {PREFIX}NAME with NAME one of {', '.join(HOSPITALS)}",
        ) from error
    if path.suffix.lower() == ".parquet":
        return from_parquet(content, source, lambda header, where: _match(header, where, schemas))
    return _parse(content, source, schemas)


def _told_apart(records: Records, patients: str) -> Records:
    """Return the records with the last column, ``patients``, taken off: it says whose they are, and is no feature."""
    schema = Schema(records.schema.name, records.schema.columns[:-1])
    keys = records[patients].astype(np.str_)
    columns = {name: records[name] for name in schema.names}
    return Records(schema, columns, source=records.source, patients=keys).take(np.flatnonzero(keys != ""))


def _load_hospital(name: str) -> Records:
    if name not in HOSPITALS:
        raise ConfigError(
            f"there is no hospital {name!r}",
            where=f"data source {PREFIX}{name}",
            fix=f"use one of {', '.join(HOSPITALS)}",
        )
    file = f"uci_heart/{name}.csv"
    try:
        content = (resources.files("silo.data") / "uci_heart" / f"{name}.csv").read_bytes()
    except OSError as error:
        raise ConfigError("the shipped data cannot be read", where=file, fix="install the package again") from error
    if not hmac.compare_digest(hashlib.sha256(content).hexdigest(), HOSPITALS[name]):
        raise ConfigError("the shipped data was altered: its SHA-256 is another", where=file, fix="install it again")
    return _without_repeats(_parse(content, file, (HEART,)))


def _parse(content: bytes, file: str, schemas: tuple[Schema, ...]) -> Records:
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise ConfigError("the data is not UTF-8 text", where=file, fix="save it as UTF-8 CSV") from error
    except csv.Error as error:
        raise ConfigError(f"the data is not CSV: {error}", where=f"{file}, row {reader.line_num}") from error
    if not rows:
        raise ConfigError("the data is empty", where=file, fix="begin it with a line of column names")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) != len(header):
        raise ConfigError("a column name appears twice", where=f"{file}, row 1")
    schema = _match(header, file, schemas)
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise ConfigError(f"{len(row)} cells under {len(header)} columns", where=f"{file}, row {number}")
    columns: dict[str, NDArray[np.generic]] = {}
    for column in schema.columns:
        position = header.index(column.name)
        cells = ((number, row[position].strip()) for number, row in rows[1:])
        columns[column.name] = np.array(list(_values(column, cells, file)), dtype=_dtype(column))
    return Records(schema, columns, source="sha256:" + hashlib.sha256(content).hexdigest())


def _match(header: list[str], file: str, schemas: tuple[Schema, ...]) -> Schema:
    """Return the schema whose columns the header holds."""
    missing = {schema: [name for name in schema.names if name not in header] for schema in schemas}
    nearest = min(missing, key=lambda schema: len(missing[schema]))
    if missing[nearest]:
        raise ConfigError(
            f"columns of the schema {nearest.name!r} are missing: {', '.join(missing[nearest])}",
            where=f"{file}, row 1",
            fix="name the columns as the schema does, or describe yours: silo data add --schema FILE",
        )
    return nearest


def _dtype(column: Column) -> type:
    return np.float64 if isinstance(column, Numeric) else np.str_


def _values(column: Column, cells: Iterator[tuple[int, str]], file: str) -> Iterator[float | str]:
    for number, cell in cells:
        where = f"{file}, row {number}, column {column.name!r}"
        if not isinstance(column, Numeric):
            if cell and not accepts(column, cell):
                raise ConfigError(
                    "not one of the categories", where=where, fix=f"use {', '.join(column.values)} or nothing"
                )
            yield cell
            continue
        try:
            value = float(cell) if cell else math.nan
        except ValueError:
            # `from None`: the parser's own message quotes the cell.
            raise ConfigError("not a number", where=where, fix="write a decimal number or nothing") from None
        if math.isinf(value):
            raise ConfigError("not a finite number", where=where, fix="write a decimal number or nothing")
        yield value if column.valid_low <= value <= column.valid_high else math.nan


def _without_repeats(records: Records) -> Records:
    """Return the records without later rows that repeat an earlier one in every column.

    Two of the shipped hospitals hold one such pair each. Adding one record changes the result by one record at most,
    so adjacency stays what it was. A silo's own table is left alone: two of its patients may well look alike.
    """
    seen: set[tuple[str, ...]] = set()
    keep = []
    for row in range(len(records)):
        key = tuple(str(records[name][row]) for name in records.schema.names)
        if key not in seen:
            seen.add(key)
            keep.append(row)
    return records.take(np.array(keep, dtype=np.int64))

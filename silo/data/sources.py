"""Tables that are not one CSV file: Parquet files, folders of files, and a function of the silo's own.

Invariant: as in :mod:`silo.data.load`, a source names what is opened and nothing else is, and errors name file, row and
column, never a cell's content. A function is code that this silo's people installed beside Silo: it runs with the
agent's own rights, so it is theirs to vouch for; nobody outside can name one.

Source for Parquet: the Apache Arrow reader (``pyarrow``), which is optional (``pip install 'silo-fl[data]'``).
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silo.api.records import Column, Numeric, Records, Schema
from silo.data.schema import accepts
from silo.errors import ConfigError

PYTHON = "python:"
SUFFIXES = (".csv", ".parquet")
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

Read = Callable[[bytes, str], Records]
Choose = Callable[[list[str], str], Schema]


def is_entry_point(source: str) -> bool:
    """Say whether ``source`` reads ``package.module:function``."""
    return _ENTRY.fullmatch(source) is not None


def from_folder(folder: Path, read: Callable[[Path], Records]) -> Records:
    """Return the records of every file in a folder, in the order of their names, as one table.

    The digest is SHA-256 over the files' digests in that order. A file that is no table is refused, not passed over:
    one with a misspelt name would otherwise be missing from every run, unnoticed.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"the data cannot be read: {error.strerror}", where=str(folder)) from error
    odd = [path.name for path in files if path.suffix.lower() not in SUFFIXES or not path.is_file()]
    if odd or not files:
        raise ConfigError(
            f"{odd[0]} is no table" if odd else "the folder holds no table",
            where=str(folder),
            fix=f"keep only {' and '.join(SUFFIXES)} files in it",
        )
    parts = [read(path) for path in files]
    if len({part.schema.name for part in parts}) > 1:
        raise ConfigError("its files are tables of different schemas", where=str(folder), fix="give --schema")
    schema = parts[0].schema
    columns = {name: np.concatenate([part[name] for part in parts]) for name in schema.names}
    digest = hashlib.sha256(b"\n".join(part.source.encode() for part in parts)).hexdigest()
    return Records(schema, columns, source=f"sha256:{digest}")


def from_parquet(content: bytes, file: str, choose: Choose) -> Records:
    """Return the records of a Parquet file; columns outside the schema are not read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(
            "reading Parquet needs pyarrow, which is not installed",
            where=file,
            fix="pip install 'silo-fl[data]', or export the table as CSV",
        ) from error
    try:
        table = ParquetFile(io.BytesIO(content))
        schema = choose(list(table.schema_arrow.names), file)
        found = table.read(columns=list(schema.names))
        values = {name: found.column(name).to_pylist() for name in schema.names}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        # `from None`: Arrow's own words may quote what it read.
        raise ConfigError(
            f"not a usable Parquet file ({type(error).__name__})", where=file, fix="export it again"
        ) from None
    return Records(schema, _columns(schema, values, file), source="sha256:" + hashlib.sha256(content).hexdigest())


def from_function(source: str, choose: Choose) -> Records:
    """Call ``python:package.module:function`` and return the columns it returns as records.

    The function takes nothing and returns a mapping from column names to 1-D sequences of one length (a pandas
    DataFrame is one): numbers, texts, True/False, None where missing. The digest is SHA-256 over the rows.
    """
    name = source.removeprefix(PYTHON)
    module, _, attribute = name.partition(":")
    if not is_entry_point(name):
        raise ConfigError("not an entry point", where=source, fix="write package.module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
        table = function()
        values = {str(key): table[key] for key in table.keys()}  # noqa: SIM118  a DataFrame iterates otherwise
    except Exception as error:
        # Its words may quote a record, and this message travels further than a record may.
        raise ConfigError(
            f"the function failed with {type(error).__name__}",
            where=source,
            fix="it takes nothing and returns a mapping of columns; call it in Python to see why",
        ) from None
    schema = choose(list(values), source)
    records = Records(schema, _columns(schema, values, source))
    digest = hashlib.sha256()
    for row in records.row_bytes():
        digest.update(hashlib.sha256(row).digest())
    return Records(schema, {each: records[each] for each in schema.names}, source=f"sha256:{digest.hexdigest()}")


def _columns(schema: Schema, values: Mapping[str, Sequence[Any]], file: str) -> dict[str, NDArray[np.generic]]:
    """Return every column as records hold it; raise naming file, row (from 1) and column."""
    columns: dict[str, NDArray[np.generic]] = {}
    for column in schema.columns:
        cells = list(values[column.name])
        read = _number if isinstance(column, Numeric) else _category
        dtype = np.float64 if isinstance(column, Numeric) else np.str_
        columns[column.name] = np.array([read(column, cell, file, row) for row, cell in enumerate(cells, 1)], dtype)
    return columns


def _number(column: Column, cell: Any, file: str, row: int) -> float:
    where = f"{file}, row {row}, column {column.name!r}"
    assert isinstance(column, Numeric)
    try:
        value = math.nan if _absent(cell) else float(cell)
    except (TypeError, ValueError):
        raise ConfigError("not a number", where=where, fix="use numbers, or nothing where missing") from None
    if math.isinf(value):
        raise ConfigError("not a finite number", where=where, fix="use numbers, or nothing where missing")
    return value if column.valid_low <= value <= column.valid_high else math.nan


def _category(column: Column, cell: Any, file: str, row: int) -> str:
    assert not isinstance(column, Numeric)
    if _absent(cell):
        return ""
    word = str(cell).upper() if isinstance(cell, bool | np.bool_) else str(cell).strip()
    if word and not accepts(column, word):
        raise ConfigError(
            "not one of the categories",
            where=f"{file}, row {row}, column {column.name!r}",
            fix=f"use {', '.join(column.values)} or nothing",
        )
    return word


def _absent(cell: Any) -> bool:
    """Say whether a cell is missing: None, NaN, pandas' NA and NaT, or blank text."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    if isinstance(cell, float | np.floating):
        return math.isnan(cell)
    return type(cell).__name__ in ("NAType", "NaTType")

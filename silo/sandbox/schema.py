"""A public schema as JSON, for the way into the child."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from silo.api.records import Categorical, Column, Numeric, Schema


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Return a public schema as JSON; infinite bounds are left out."""
    columns: list[dict[str, Any]] = []
    for column in schema.columns:
        if isinstance(column, Numeric):
            fields = {name: getattr(column, name) for name in ("low", "high", "unit", "valid_low", "valid_high")}
            finite = {name: value for name, value in fields.items() if isinstance(value, str) or math.isfinite(value)}
            columns.append({"name": column.name, **finite})
        else:
            columns.append({"name": column.name, "values": list(column.values)})
    return {"name": schema.name, "columns": columns}


def schema_from_json(body: Mapping[str, Any]) -> Schema:
    """Read :func:`schema_to_json`."""
    columns: list[Column] = [
        Categorical(column["name"], tuple(column["values"])) if "values" in column else Numeric(**column)
        for column in body["columns"]
    ]
    return Schema(body["name"], tuple(columns))

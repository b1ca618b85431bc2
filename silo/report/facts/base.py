"""What every group of facts in a report has in common.

A fact is frozen, typed strictly (no coercion: "3" is not 3, True is not 1), finite, and has no unknown fields.
`None` means that nothing on record backs the fact; renderers print it as "not evidenced", never as a pass. An empty
tuple means that the record was read and holds none.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Facts(BaseModel):
    """Base of all facts: frozen, strict, closed, finite numbers only."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _well_formed(value: Any) -> Any:
    # A lone surrogate cannot be written as UTF-8, and a peer's message must not prevent the report that quotes it.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_well_formed)]
"""Any text, possibly written by a stranger; lone surrogates become "?"."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
"""A party's name as the consortium manifest has it."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

Moment = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]{1,9})?Z$")
]
"""A time, RFC 3339 in UTC, with Z."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number that every JSON reader keeps exact (RFC 8785 refuses 2^53 and above)."""

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
"""A probability, a rate or an AUC, in [0, 1]."""

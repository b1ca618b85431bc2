"""Canonical bytes, digests, times and names: what every signed document of the package is made of.

Invariant: two parties that hold the same document derive the same bytes, so a digest or signature made by one is
checked by the other without sending the bytes along. Canonical form is JCS (RFC 8785); times are RFC 3339 in UTC with
``Z`` and whole seconds; a digest is ``sha256:`` and 64 hexadecimal digits of SHA-256 over the JCS bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import rfc8785
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
)

from silo_policies.errors import DocumentError, PolicyError

MAX_BYTES = 1 << 20
"""Longest document that is parsed, in bytes: a manifest of 1,000 members is a third of it."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far two parties' clocks may differ before a document counts as dated in the future."""

_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def canonical(value: Any) -> bytes:
    """Return the JCS form (RFC 8785) of a JSON value.

    Raises :class:`PolicyError` for what JSON cannot carry exactly: NaN, infinities, integers of 2^53 and above.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise PolicyError(
            f"this value has no canonical JSON form: {error}", fix="large integers travel as strings"
        ) from error


def digest(value: Any) -> str:
    """Return ``sha256:<64 hex digits>`` over :func:`canonical` of a JSON value."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def parse_json(text: str | bytes, *, where: str = "") -> Any:
    """Parse JSON strictly: bounded size, no duplicate keys, no NaN or infinity."""
    if len(text) > MAX_BYTES:
        raise DocumentError(f"the document has {len(text)} bytes, more than {MAX_BYTES}", where=where)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not a usable JSON document: {error}", where=where) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def parse_instant(value: object) -> datetime:
    """Return an RFC 3339 time such as ``2026-01-31T12:00:00Z``, or an aware datetime, as UTC in whole seconds."""
    if isinstance(value, str):
        if not _INSTANT.fullmatch(value):
            raise ValueError("a time is written 2026-01-31T12:00:00Z")
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("a time is written 2026-01-31T12:00:00Z, or is a datetime with a time zone")
    return value.astimezone(UTC).replace(microsecond=0)


def format_instant(value: datetime) -> str:
    """Return ``2026-01-31T12:00:00Z``; a naive datetime is refused."""
    return parse_instant(value).isoformat().replace("+00:00", "Z")


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Instant = Annotated[datetime, BeforeValidator(parse_instant), PlainSerializer(format_instant, return_type=str)]
AsTuple = BeforeValidator(_as_tuple)
"""JSON and YAML have lists only; documents hold tuples."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")]
"""A silo or a person."""
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""A purpose, category, pack or rule id."""
Jurisdiction = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
"""ISO 3166-1 alpha-2, or ISO 3166-2 where a state's law matters (``US-CA``)."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class Document(BaseModel):
    """Base of everything that is signed or digested: strict types, no unknown fields, immutable.

    ``later`` names the fields that a kind of document got after others had signed it without them. At its default such
    a field has no place in the canonical form, so what was signed before it existed keeps its bytes and digest.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_it_was_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                value.pop(name, None)
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value whose canonical form is digested and signed."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` over the canonical form."""
        return digest(self.to_dict())

    @property
    def digest_bytes(self) -> bytes:
        """The 32 bytes of :attr:`digest`."""
        return bytes.fromhex(self.digest.removeprefix("sha256:"))


def first_problem(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Return the path and the sentence of the first problem that pydantic found."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return problem["loc"], problem["msg"].removeprefix("Value error, ")


def problem_path(path: Iterable[str | int]) -> str:
    """Write a pydantic path as a person would: ``members[2].name``."""
    written = ""
    for part in path:
        written += f"[{part}]" if isinstance(part, int) else f".{part}" if written else part
    return written

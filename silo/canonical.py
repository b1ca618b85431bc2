"""One byte string for one value: the canonical form of what is signed, hashed and logged.

Invariant: equal values have equal bytes on every machine, so a digest names a value. JSON is canonical as in RFC 8785
(JCS), digests read ``sha256:<hex>``, times are UTC in RFC 3339 with ``Z`` and whole seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import rfc8785

from silo.errors import ConfigError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def canonical_bytes(value: Any) -> bytes:
    """Return the JCS form of a JSON value (dict, list, str, int below 2^53, finite float, bool, None).

    Raises :class:`ConfigError` for anything JSON cannot say exactly: NaN, infinities, larger integers, other types.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise ConfigError(
            f"a value has no canonical JSON form: {error}",
            fix="use strings for identifiers and large integers, and finite numbers",
        ) from error


def parse_canonical(data: bytes) -> Any:
    """Return the JSON value of ``data``; raise ValueError unless ``data`` is exactly its canonical form."""
    try:
        value = json.loads(data)
        same = rfc8785.dumps(value) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not same:
        raise ValueError("not in canonical form")
    return value


def digest_of(data: bytes) -> str:
    """Return ``sha256:<hex>`` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical form of a JSON value."""
    return digest_of(canonical_bytes(value))


def is_digest(text: object) -> bool:
    """Say whether ``text`` is a string of the form ``sha256:<64 lower-case hex digits>``."""
    return isinstance(text, str) and DIGEST.fullmatch(text) is not None


def rfc3339(moment: datetime) -> str:
    """Return an aware ``moment`` as ``YYYY-MM-DDTHH:MM:SSZ``, fractions of a second dropped."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone names no moment")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_now() -> str:
    """Return the present moment as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return rfc3339(datetime.now(UTC))


def parse_time(text: str) -> datetime:
    """Return the moment that :func:`rfc3339` wrote; raise ValueError for any other form."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a time of the form 2026-01-31T12:00:00Z")
    return datetime.fromisoformat(text)

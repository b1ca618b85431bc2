"""One byte string for one value: the canonical form of what is signed, hashed and logged.

Invariant: equal values have equal bytes on every machine, so a digest names a value. The form itself is that of
:mod:`silo_policies.documents` (JCS, RFC 8785; times in UTC with ``Z`` and whole seconds): there is one, so that a
manifest, a message and a log entry that hold the same value hold the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

from silo_policies.documents import canonical, format_instant, parse_instant
from silo_policies.errors import PolicyError

from silo.errors import ConfigError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def canonical_bytes(value: Any) -> bytes:
    """Return the JCS form of a JSON value (dict, list, str, int below 2^53, finite float, bool, None).

    Raises :class:`ConfigError` for anything JSON cannot say exactly: NaN, infinities, larger integers, other types.
    """
    try:
        return canonical(value)
    except PolicyError as error:
        raise ConfigError(
            error.what, fix="use strings for identifiers and large integers, and finite numbers"
        ) from error


def parse_canonical(data: bytes) -> Any:
    """Return the JSON value of ``data``; raise ValueError unless ``data`` is exactly its canonical form."""
    try:
        value = json.loads(data)
        same = canonical(value) == data
    except (ValueError, RecursionError, PolicyError) as error:
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
    """Return an aware ``moment`` as ``YYYY-MM-DDTHH:MM:SSZ``, fractions of a second dropped; a naive one is refused."""
    return format_instant(moment)


def utc_now() -> str:
    """Return the present moment as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return format_instant(datetime.now(UTC))


def parse_time(text: str) -> datetime:
    """Return the moment that :func:`rfc3339` wrote; raise ValueError for any other form."""
    return parse_instant(str(text))

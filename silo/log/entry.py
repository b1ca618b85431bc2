"""What a log entry is: one of a closed set of kinds, a moment, and facts about something that happened.

Invariant: an entry is its canonical bytes, and the bytes are accepted only if they are canonical, small, of a known
kind and say at least what that kind must say. Hashes and metadata only: a body holds no long text, no long array, no
bytes, so that records, updates and keys have no place in it.

Sources: RFC 8785 for the bytes; fewer than 65,536 of them, the limit of C2SP tlog-tiles for an entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from silo.canonical import canonical_bytes, is_digest, parse_canonical, parse_time
from silo.errors import ConfigError
from silo.log.tree import leaf_hash

MAX_ENTRY_BYTES = 65_535
MAX_TEXT = 2_048
MAX_ITEMS = 1_024
MAX_DEPTH = 6
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}")


class Kind(StrEnum):
    """Everything that is worth an entry."""

    MANIFEST = "manifest"
    DECISION = "decision"
    WAIVER = "waiver"
    APPROVAL = "approval"
    KEY_EPOCH = "key-epoch"
    KEY_ROTATION = "key-rotation"
    RUN_STARTED = "run-started"
    BUDGET_RESERVED = "budget-reserved"
    UPLOAD = "upload"
    AGGREGATE = "aggregate"
    SHARE = "share"
    VOTE = "vote"
    RELEASE = "release"
    BUDGET_SETTLED = "budget-settled"
    RUN_FINISHED = "run-finished"
    FAULT = "fault"
    REFUSAL = "refusal"
    DATA = "data"
    POLICY = "policy"


_ROUND = ("run", "round", "attempt")
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    Kind.MANIFEST: ("digest",),
    Kind.DECISION: ("run", "silo", "digest"),
    Kind.WAIVER: ("digest",),
    Kind.APPROVAL: ("digest",),
    Kind.KEY_EPOCH: ("run", "epoch"),
    Kind.KEY_ROTATION: ("silo", "epoch", "digest"),
    Kind.RUN_STARTED: ("run", "digest"),
    Kind.BUDGET_RESERVED: ("run", "population"),
    Kind.UPLOAD: (*_ROUND, "silo", "digest"),
    Kind.AGGREGATE: (*_ROUND, "digest"),
    Kind.SHARE: (*_ROUND, "digest"),
    Kind.VOTE: ("run", "round"),
    Kind.RELEASE: ("run", "digest"),
    Kind.BUDGET_SETTLED: ("run", "population"),
    Kind.RUN_FINISHED: ("run",),
    Kind.FAULT: ("what",),
    Kind.REFUSAL: ("what",),
    Kind.DATA: ("what", "population"),
    Kind.POLICY: ("what", "silo", "pack", "digest"),
}
"""The fields a body must have, by kind; it may have more."""

_TEXTS = frozenset({"run", "silo", "population", "what"})
_NUMBERS = frozenset({"round", "attempt", "epoch"})


@dataclass(frozen=True)
class Entry:
    """One entry: its place from 0, what it says, its canonical bytes and its RFC 6962 leaf hash (32 bytes)."""

    index: int
    kind: Kind
    time: str
    body: Mapping[str, Any]
    data: bytes
    hash: bytes


def encode(kind: str, time: str, body: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of an entry; raise :class:`ConfigError` if it is not one that belongs in a log."""
    try:
        _check(kind, time, body)
    except ValueError as error:
        raise ConfigError(f"not an entry for the log: {error}", where=str(kind), fix="see silo.log.entry") from error
    data = canonical_bytes({"body": dict(body), "kind": str(kind), "time": time})
    if len(data) > MAX_ENTRY_BYTES:
        raise ConfigError(
            f"the entry has {len(data)} bytes, {MAX_ENTRY_BYTES} is the most", where=str(kind), fix="log its digest"
        )
    return data


def decode(index: int, data: bytes) -> Entry:
    """Return the entry in ``data``; raise ValueError if the bytes are not exactly what :func:`encode` makes."""
    if len(data) > MAX_ENTRY_BYTES:
        raise ValueError(f"{len(data)} bytes")
    value = parse_canonical(data)
    if not isinstance(value, dict) or value.keys() != {"body", "kind", "time"}:
        raise ValueError("not an entry")
    _check(value["kind"], value["time"], value["body"])
    return _entry(index, data, value)


def encoded(index: int, data: bytes) -> Entry:
    """Return the entry in ``data``, which :func:`encode` made just now."""
    return _entry(index, data, json.loads(data))


def _entry(index: int, data: bytes, value: Mapping[str, Any]) -> Entry:
    return Entry(index, Kind(value["kind"]), value["time"], value["body"], data, leaf_hash(data))


def _check(kind: Any, time: Any, body: Any) -> None:
    if kind not in Kind.__members__.values():
        raise ValueError(f"unknown kind {kind!r}")
    if not isinstance(time, str):
        raise ValueError("the time is not text")
    parse_time(time)
    if not isinstance(body, Mapping):
        raise ValueError("the body is not an object")
    for name in REQUIRED[Kind(kind)]:
        if name not in body:
            raise ValueError(f"{name!r} is missing")
    for name, value in body.items():
        _check_field(name, value)
    _check_value(body, "body", 0)


def _check_field(name: Any, value: Any) -> None:
    """Fields of one name mean the same in every kind, so that an auditor can join entries by them."""
    if name in _TEXTS and not (isinstance(value, str) and value):
        raise ValueError(f"{name!r} is not a non-empty text")
    if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{name!r} is not a number from 0")
    if name == "decision" and value not in ("permit", "deny"):
        raise ValueError(f"the decision is {value!r}, neither permit nor deny")
    if (name == "digest" or str(name).endswith("_digest")) and not is_digest(value):
        raise ValueError(f"{name!r} is not of the form sha256:<hex>")


def _check_value(value: Any, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{place} is nested too deeply")
    if isinstance(value, Mapping | list | tuple) and len(value) > MAX_ITEMS:
        raise ValueError(f"{place} has {len(value)} items, {MAX_ITEMS} is the most")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"{place} has {len(value)} characters, {MAX_TEXT} is the most")
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not _KEY.fullmatch(name):
                raise ValueError(f"{name!r} in {place} is not a field name")
            _check_value(item, f"{place}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_value(item, f"{place}[{number}]", depth + 1)

"""Canonical bytes, digests, strict JSON and times."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from silo_policies import DocumentError, PolicyError, canonical, digest, format_instant, parse_instant, parse_json


def test_canonical_form_is_that_of_rfc_8785() -> None:
    # RFC 8785, section 3.2.2 and 3.2.3: the sample object and its canonical form.
    sample = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(sample).decode() == expected
    assert digest(sample) == "sha256:" + hashlib.sha256(expected.encode()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, -(2**53), {1: 2}, "\ud800", object()])
def test_what_json_cannot_carry_has_no_canonical_form(value: object) -> None:
    with pytest.raises(PolicyError):
        canonical(value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": NaN}', "not a JSON number"),
        ('{"a": -Infinity}', "not a JSON number"),
        ("{", "not a usable JSON"),
        (b"\xff", "not a usable JSON"),
        ("[" * 100_000, "not a usable JSON"),
        ('"' + "x" * (1 << 20) + '"', "more than"),
    ],
)
def test_json_is_read_strictly(text: str | bytes, what: str) -> None:
    with pytest.raises(DocumentError, match=what):
        parse_json(text, where="run.json")


def test_times_are_utc_in_whole_seconds() -> None:
    local = datetime(2026, 6, 1, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert format_instant(local) == "2026-06-01T12:00:00Z"
    assert parse_instant("2026-06-01T12:00:00Z") == datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-06-01",
        "2026-06-01T12:00:00",
        "2026-06-01T12:00:00+00:00",
        "2026-06-01T12:00:00.5Z",
        "2026-02-30T00:00:00Z",
    ],
)
def test_other_spellings_of_times_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_instant(value)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), 0, None, True])
def test_what_is_no_instant_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="time is written"):
        parse_instant(value)

"""Canonical bytes, digests and times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from silo.canonical import (
    canonical_bytes,
    digest,
    digest_of,
    is_digest,
    parse_canonical,
    parse_time,
    rfc3339,
    utc_now,
)
from silo.errors import ConfigError


def test_known_answers():
    # RFC 8785 section 3.2.2 and 3.2.3
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_bytes(value).decode() == expected
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest({"b": 1, "a": 2}) == digest_of(b'{"a":2,"b":1}')


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, -(2**53), b"x", {1: 2}, {"a": object()}, "\ud800"]
)
def test_what_json_cannot_say(value):
    with pytest.raises(ConfigError, match="no canonical JSON"):
        canonical_bytes(value)


@pytest.mark.parametrize("data", [b'{"b":1,"a":2}', b'{"a": 1}', b"1.0", b'"\\u0041"', b"", b"{", b"NaN", b"\xff"])
def test_other_spellings(data):
    with pytest.raises(ValueError):
        parse_canonical(data)


def test_it_reads_back():
    value = {"a": [1, 2.5, "é", None, True], "b": {}}
    assert parse_canonical(canonical_bytes(value)) == value


def test_digests():
    assert is_digest("sha256:" + "0" * 64)
    for other in ("sha256:" + "0" * 63, "sha256:" + "A" * 64, "0" * 64, "sha256:" + "0" * 64 + "\n", None, 3, b"x"):
        assert not is_digest(other)


def test_times():
    moment = datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-01-02T01:04:05Z"
    assert parse_time("2026-01-02T01:04:05Z") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert abs(parse_time(utc_now()) - datetime.now(UTC)) < timedelta(seconds=5)
    with pytest.raises(ValueError, match="zone"):
        rfc3339(datetime(2026, 1, 2))
    for other in (
        "2026-01-02 01:04:05Z",
        "2026-01-02T01:04:05.0Z",
        "2026-13-02T01:04:05Z",
        "",
        "2026-01-02T01:04:05Z\n",
    ):
        with pytest.raises(ValueError):
            parse_time(other)

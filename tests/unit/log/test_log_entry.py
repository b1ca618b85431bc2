"""What may stand in a log, and what may not."""

import json

import pytest

from silo.errors import ConfigError
from silo.log.entry import MAX_ENTRY_BYTES, REQUIRED, Kind, decode, encode
from silo.log.tree import leaf_hash

DIGEST = "sha256:" + "0123456789abcdef" * 4
TIME = "2026-11-21T10:00:00Z"
FIELDS = {
    "digest": DIGEST,
    "run": "run-7",
    "silo": "cleveland",
    "decision": "permit",
    "population": "cleveland",
    "what": "x",
    "pack": "ours",
    "round": 1,
    "attempt": 0,
    "epoch": 1,
}


def body_of(kind):
    return {name: FIELDS[name] for name in REQUIRED[kind]}


def test_the_kinds_are_these():
    expected = (
        "manifest decision waiver approval key-epoch key-rotation upload aggregate share budget-reserved "
        "budget-settled vote release fault refusal run-started run-finished data policy"
    )
    assert {kind.value for kind in Kind} == set(expected.split()) == {kind.value for kind in REQUIRED}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_goes_in_and_comes_out(kind):
    data = encode(kind, TIME, body_of(kind))
    entry = decode(3, data)
    assert (entry.index, entry.kind, entry.time, entry.body) == (3, kind, TIME, body_of(kind))
    assert entry.hash == leaf_hash(data)
    assert (
        data
        == json.dumps({"body": body_of(kind), "kind": kind, "time": TIME}, sort_keys=True)
        .replace(": ", ":")
        .replace(", ", ",")
        .encode()
    )


@pytest.mark.parametrize("kind", [kind for kind in Kind if REQUIRED[kind]])
def test_every_required_field_is_missed(kind):
    for name in REQUIRED[kind]:
        body = body_of(kind)
        del body[name]
        with pytest.raises(ConfigError, match=f"'{name}' is missing"):
            encode(kind, TIME, body)


def test_more_may_be_said():
    body = {
        "what": "x",
        "rules": [{"id": "a/b", "result": "true"}],
        "epsilon": 2.5,
        "none": None,
        "packs": {"p": DIGEST},
    }
    assert decode(0, encode("fault", TIME, body)).body == body


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"what": ""}, "non-empty"),
        ({"what": 3}, "non-empty"),
        ({"what": "x", "round": -1}, "number from 0"),
        ({"what": "x", "round": True}, "number from 0"),
        ({"what": "x", "round": 1.0}, "number from 0"),
        ({"what": "x", "digest": "sha256:abc"}, "sha256"),
        ({"what": "x", "model_digest": DIGEST.upper()}, "sha256"),
        ({"what": "x", "decision": "maybe"}, "neither"),
        ({"what": "x" * 2049}, "2049 characters"),
        ({"what": "x", "values": [0.5] * 1025}, "1025 items"),
        ({"what": "x", "deep": [[[[[[[1]]]]]]]}, "deeply"),
        ({"what": "x", "a name": 1}, "field name"),
        ({"what": "x", "": 1}, "field name"),
        ({"what": "x", "in": {3: 1}}, "field name"),
        ({"what": "x", "value": float("nan")}, "canonical"),
        ({"what": "x", "value": float("inf")}, "canonical"),
        ({"what": "x", "value": 2**53}, "canonical"),
        ({"what": "x", "value": b"bytes"}, "canonical"),
        ({"what": "x", "value": "\ud800"}, "canonical"),
        ({"what": "x", **{f"k{n}": "y" * 2000 for n in range(33)}}, "65535 is the most"),
        ("text", "not an object"),
    ],
)
def test_what_does_not_belong_in_a_log(body, says):
    with pytest.raises(ConfigError, match=says):
        encode("fault", TIME, body)


@pytest.mark.parametrize("kind", ["", "Fault", "faults", None, 3, ["fault"]])
def test_unknown_kinds(kind):
    with pytest.raises(ConfigError, match="unknown kind"):
        encode(kind, TIME, {"what": "x"})


@pytest.mark.parametrize("time", ["", "2026-11-21", "2026-11-21T10:00:00+00:00", "2026-02-30T10:00:00Z", None])
def test_times_that_are_none(time):
    with pytest.raises(ConfigError, match=r"time|day is out"):
        encode("fault", time, {"what": "x"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        b'{"body":{"what":"x"}, "kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b'{"kind":"fault","body":{"what":"x"},"time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":"x"},"extra":1,"kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":"x","what":"y"},"kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":"\\u0078"},"kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":"x"},"kind":"other","time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":NaN},"kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b'{"body":{"what":"\xff"},"kind":"fault","time":"2026-11-21T10:00:00Z"}',
        b"[" * 60_000,
        b'{"body":{"what":"x"},"kind":"fault","time":"2026-11-21T10:00:00Z"}' + b" " * MAX_ENTRY_BYTES,
    ],
)
def test_bytes_that_are_no_entry(data):
    with pytest.raises(ValueError):
        decode(0, data)

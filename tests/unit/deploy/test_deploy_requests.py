"""A researcher's request is taken once, from the researcher, as it was signed."""

from __future__ import annotations

import pytest
from silo_crypto.keys import Identity

from silo.canonical import parse_time
from silo.deploy.requests import NONCE, SIGNATURE, WHEN, WHO, Gatekeeper, signed_headers
from silo.errors import PeerError, VerificationFailed
from silo.home import Home

PATH, BODY = "/silo/v1/runs", b'{"a": 1}'


@pytest.fixture
def gate(aggregator: Home) -> Gatekeeper:
    gate = Gatekeeper(lambda: aggregator.consortium().body)
    gate._started -= 5  # it has been up for a while
    return gate


def signed(identity: Identity, aggregator: str = "aggregator") -> dict[str, str]:
    return signed_headers(identity, aggregator, "POST", PATH, BODY)


def test_a_researcher_is_admitted_once(gate: Gatekeeper, people: dict[str, Identity]) -> None:
    headers = signed(people["rita"])
    assert gate.admit(headers, "POST", PATH, BODY).name == "rita"
    with pytest.raises(VerificationFailed, match="answered before"):
        gate.admit(headers, "POST", PATH, BODY)
    assert gate.admit(signed(people["rita"]), "POST", PATH, BODY).name == "rita"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", PATH, BODY), ("POST", PATH + "/x", BODY), ("POST", PATH + "?a=1", BODY), ("POST", PATH, BODY + b" ")],
)
def test_a_changed_request_is_refused(
    gate: Gatekeeper, people: dict[str, Identity], method: str, path: str, body: bytes
) -> None:
    with pytest.raises(VerificationFailed, match="no researcher"):
        gate.admit(signed(people["rita"]), method, path, body)


@pytest.mark.parametrize("header", [WHO, WHEN, NONCE, SIGNATURE])
def test_each_header_counts(gate: Gatekeeper, people: dict[str, Identity], header: str) -> None:
    headers = signed(people["rita"])
    other = signed_headers(people["rolf"], "aggregator", "POST", PATH, b"other")
    if header == WHEN:
        other[WHEN] = "2026-01-01T00:00:00Z"
    with pytest.raises(VerificationFailed):
        gate.admit({**headers, header: other[header]}, "POST", PATH, BODY)
    with pytest.raises(VerificationFailed):
        gate.admit({name: value for name, value in headers.items() if name != header}, "POST", PATH, BODY)


@pytest.mark.parametrize("who", ["mallory", "north"])
def test_others_are_refused(gate: Gatekeeper, people: dict[str, Identity], who: str) -> None:
    """Neither a stranger nor a member's own key is a researcher's, also under a researcher's name."""
    with pytest.raises(VerificationFailed, match="no researcher"):
        gate.admit(signed(people[who]), "POST", PATH, BODY)
    with pytest.raises(VerificationFailed, match="no researcher"):
        gate.admit({**signed(people[who]), WHO: "rita"}, "POST", PATH, BODY)


def test_a_request_to_another_aggregator_is_refused(gate: Gatekeeper, people: dict[str, Identity]) -> None:
    with pytest.raises(VerificationFailed, match="no researcher"):
        gate.admit(signed(people["rita"], "another"), "POST", PATH, BODY)


def test_old_requests_and_those_before_a_restart_are_refused(aggregator: Home, people: dict[str, Identity]) -> None:
    headers = signed(people["rita"])
    sent = parse_time(headers[WHEN]).timestamp()
    for started, now, error, what in (
        (sent - 500, sent + 121, VerificationFailed, "not of now"),
        (sent - 500, sent - 121, VerificationFailed, "not of now"),
        (sent + 0.5, sent + 1, PeerError, "only just started"),
    ):
        times = iter([started])
        gate = Gatekeeper(lambda: aggregator.consortium().body, clock=lambda times=times, now=now: next(times, now))
        with pytest.raises(error, match=what):
            gate.admit(headers, "POST", PATH, BODY)

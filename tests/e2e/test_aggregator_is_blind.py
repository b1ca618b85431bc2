"""The aggregator never sees an update, an aggregate, a model, a record or a key: everything it sees is searched.

One real run of each custody. Searched are all bytes that Flower carried to and from the aggregator, every object it
held after each exchange, and every file of its home; searched for are the secrets themselves, taken from the silos
while they made them. The second half plants each kind of secret in each of the three places and sees it found.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from silo_crypto.shared import SharedKey

from silo.aggregator import Aggregator
from silo.aggregator.blind import secrets_held
from silo.custody import set_up_header, shared_parameters
from silo.flower.records import to_records
from silo.messages import Packet
from tests.e2e.federation import Federation
from tests.e2e.secrets_seen import (
    RecordingTap,
    Secrets,
    Seen,
    WatchedExchange,
    add_records,
    held,
    keep_what_the_aggregator_makes,
    private_keys,
    wrap_makers,
)

KINDS = {
    "shared": {"BFV secret", "group key"},
    "threshold": {"threshold secret", "threshold key share", "pair seed", "group key"},
}
ALWAYS = {"update", "encoded update", "fields with presence and MAC", "aggregate", "model", "record", "private key"}


@dataclass(frozen=True)
class Watched:
    """A finished run: what was secret in it, what was seen, and the aggregator's objects."""

    custody: str
    secrets: Secrets
    seen: Seen
    roots: list[object]
    result: dict[str, Any]
    home: Path
    federation: Federation


@pytest.fixture(scope="module", params=["shared", "threshold"])
def watched(request: pytest.FixtureRequest) -> Watched:
    federation: Federation = request.getfixturevalue(
        "federation" if request.param == "shared" else "threshold_federation"
    )
    secrets, seen = Secrets(), Seen()
    add_records(secrets, federation)
    for home in federation.homes.values():
        for key in private_keys(home.identity()):
            secrets.add_key("private key", key)
        secrets.add_key("private key", (home.keys_directory / "passphrase").read_bytes().strip())
    submission = federation.submit(rounds=2)
    aggregator = Aggregator(federation.aggregator, submission)
    roots: list[object] = [aggregator]
    with pytest.MonkeyPatch.context() as patch:
        wrap_makers(patch, secrets)
        keep_what_the_aggregator_makes(patch, roots)
        grid = RecordingTap(federation, seen)
        exchange = WatchedExchange(grid, roots)
        try:
            aggregator.run(exchange)
        finally:
            grid.close()
    seen.add(held([*roots, exchange]))
    seen.add_files(federation.aggregator.path)
    return Watched(
        request.param, secrets, seen, roots, federation.result(submission), federation.aggregator.path, federation
    )


def test_nothing_secret_reached_the_aggregator(watched: Watched) -> None:
    assert watched.secrets.found_in(watched.seen.bytes()) == set()


def test_every_kind_of_secret_was_searched_for(watched: Watched) -> None:
    assert set(watched.secrets.needles) == ALWAYS | KINDS[watched.custody]
    silos, rounds = len(watched.federation.names), 2
    assert len(watched.secrets.needles["update"]) > silos * rounds * 32  # 32 numbers as text, and their bytes
    assert len(watched.secrets.needles["private key"]) >= 3 * 3 * len(watched.federation.homes)


def test_what_is_meant_to_reach_the_aggregator_was_seen(watched: Watched) -> None:
    """The search is over the real traffic: uploads, aggregates, sealed boxes and decisions are in it."""
    seen = watched.seen.bytes()
    directory = watched.home / "runs" / watched.result["run"]
    for file in ("experiment.py", "run.json", "result.json", f"model.{watched.result['releaser']}.sealed"):
        assert (directory / file).read_bytes()[200:400] in seen
    assert all(each["participants"] == watched.federation.names for each in watched.result["rounds"])
    assert seen.count(b'"kind":"round-reply"') >= 2 * len(watched.federation.names)
    assert b"aggregate" in seen


def test_the_aggregators_objects_hold_no_key(watched: Watched) -> None:
    assert watched.result["secrets_held"] == []
    assert secrets_held(*watched.roots) == []
    assert len(watched.roots) >= 1 + 1 + 2  # the aggregator, its collector, an adder a round


@pytest.mark.parametrize("place", ["wire", "object", "array", "numbers", "disk"])
def test_planted_secrets_are_found(watched: Watched, place: str) -> None:
    """Every kind of secret in every place: else the first test would prove nothing."""
    secrets = {what: b"in front" + max(needles, key=len) for what, needles in watched.secrets.needles.items()}
    seen = Seen()
    if place == "wire":
        grid = RecordingTap(watched.federation, seen)
        grid.carry(_message(secrets))
        grid.close()
    elif place == "disk":
        planted = watched.home / "runs" / "planted"
        planted.mkdir()
        for what, secret in secrets.items():
            (planted / what).write_bytes(secret)
        seen.add_files(watched.home)
        shutil.rmtree(planted)
    else:
        aggregator = watched.roots[0]
        assert isinstance(aggregator, Aggregator)
        aggregator._state.rounds.append({"deep": [_HIDDEN[place](secret) for secret in secrets.values()]})
        seen.add(held(watched.roots))
        aggregator._state.rounds.pop()
    assert watched.secrets.found_in(seen.bytes()) == set(secrets)


_HIDDEN: dict[str, Callable[[bytes], object]] = {
    "object": lambda secret: (lambda: secret,),  # in the closure of a function in a tuple
    "array": lambda secret: np.frombuffer(secret, dtype=np.uint8)[3:].copy(),
    "numbers": lambda secret: np.frombuffer(secret + bytes(8 + -len(secret) % 8), dtype="<u8").tolist(),
}


def _message(secrets: dict[str, bytes]) -> Message:
    """Return a message as a leaking silo would send it."""
    return Message(to_records(Packet(b"{}", bytes(64), secrets)), 101, "query.silo")


def test_a_planted_key_is_reported(federation: Federation) -> None:
    """`has_secret_key` in the report is a finding: it turns true when the aggregator does hold one."""
    submission = federation.submit()
    header = set_up_header(submission, submission.run.body.members)
    aggregator = Aggregator(federation.aggregator, submission)
    aggregator._state.faults.append({"kept": [SharedKey.generate(shared_parameters(submission), header)]})
    assert secrets_held(aggregator) == ["SharedKey"]
    aggregator._events.close()
    aggregator._log.close()

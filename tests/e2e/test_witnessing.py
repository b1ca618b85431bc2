"""Silos and aggregator cosign each other's logs in every round; who rewrites a log is named, and too few is a pause."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from silo_crypto.verification import GroupKey

from silo.aggregator import RESULT
from silo.aggregator.aggregator import Aggregator
from silo.audit import Trust, Witnessing, open_parties, verify
from silo.cli.fail import exit_code
from silo.errors import PeerError, VerificationFailed
from silo.log import Witness, verify_checkpoint
from silo.log.tree import leaf_hash
from silo.log.witness import FILE
from silo.messages import Packet
from silo.submission import Submission
from tests.e2e.federation import Federation, Tap, alive, assert_stopped, head_of

QUORUM = 3


def homes(federation: Federation) -> dict[str, Any]:
    return {**{name: federation.homes[name] for name in federation.names}, "aggregator": federation.aggregator}


def events(federation: Federation, submission: Submission) -> list[dict[str, Any]]:
    path = federation.run_directory(submission) / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_run_ends_with_everybodys_last_head_cosigned_by_all_others(federation: Federation, rounds: int) -> None:
    submission = federation.submit(rounds=rounds)
    assert submission.consortium.body.witness_quorum == QUORUM
    result = federation.play(submission)
    trust = Trust.of_manifest(submission.consortium.body)
    parties = homes(federation)
    assert result["cosigned"] == dict.fromkeys(sorted(parties), 4)
    for name, home in parties.items():
        with home.log() as log, Witness(home.path / FILE, create=False) as memory:
            note = memory.cosigned(log.origin)[0]
            head = verify_checkpoint(note, trust.log(log.origin), trust.others(log.origin))
            assert head.size == len(log), "not even the end of the run is left out"
            assert head.root == log.head().root
            assert sorted(head.cosigned) == sorted(set(parties) - {name})
    assert not [each for each in events(federation, submission) if each["event"] == "paused"]
    with open_parties([home.path for home in parties.values()]) as opened:
        found = verify(opened)
    assert {name: len(by) for name, by in found.cosigned.items()} == dict.fromkeys(parties, 4)
    assert not [each for each in found.findings if each.place == "witness.db"]


# A log that is rewritten between two rounds --------------------------------------------------------------------------


@contextmanager
def rewritten(path: Path, *, forked: bool) -> Iterator[None]:
    """Cut the last four entries off a log that others have seen; as a fork, with another story in their place."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as database:
        rows = list(database.execute("SELECT i, data FROM entry ORDER BY i"))
        hashes = list(database.execute("SELECT level, i, value FROM hash"))
        triggers = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]

        def guarded(*statements: tuple[str, list[Any]]) -> None:
            database.execute("BEGIN IMMEDIATE")
            for name in names:
                database.execute(f"DROP TRIGGER {name}")
            for statement, values in statements:
                database.executemany(statement, values)
            for sql in triggers:
                database.execute(sql)
            database.execute("COMMIT")

        keep = len(rows) - 4
        guarded(
            ("DELETE FROM entry WHERE i >= ?", [(keep,)]),
            ("DELETE FROM hash WHERE ((i + 1) << level) > ?", [(keep,)]),
        )
        if forked:
            # Honest tools write the other story: the file is flawless in itself.
            from silo.log import Log

            with Log(path, f"silo/{path.parent.name}", create=False) as log:
                log.extend([("fault", {"what": "another story"})] * 6)
                assert log.entry(keep).hash != leaf_hash(rows[keep][1])
        yield
        guarded(
            ("DELETE FROM entry WHERE i >= ?", [(0,)]),
            ("DELETE FROM hash WHERE level >= ?", [(0,)]),
            ("INSERT INTO entry VALUES (?, ?)", rows),
            ("INSERT INTO hash VALUES (?, ?, ?)", hashes),
        )


@pytest.mark.parametrize("who", ["hungary", "aggregator"])
@pytest.mark.parametrize("forked", [False, True], ids=["rolled-back", "forked"])
def test_who_rewrites_its_log_between_two_rounds_is_named_and_the_run_stops(
    federation: Federation, group_keys: list[GroupKey], who: str, forked: bool
) -> None:
    submission = federation.submit()
    rewriting = rewritten(homes(federation)[who].path / "log.db", forked=forked)
    rewrote = []

    def request(name: str, packet: Packet) -> Packet:
        # Its round 2 comes, its packet of round 1 is with the others: now it changes what it said.
        if who == name and head_of(packet)["kind"] == "round" and head_of(packet)["round"] == 2:
            rewriting.__enter__()
            rewrote.append(name)
        return packet

    def reply(name: str, packet: Packet) -> Packet:
        if who == "aggregator" and head_of(packet)["kind"] == "round-reply" and not rewrote:
            rewriting.__enter__()
            rewrote.append(name)
        return packet

    tap = Tap(federation, request=request, reply=reply)
    try:
        with pytest.raises(VerificationFailed, match=rf"silo/{who}: the log was (rolled back|forked)") as caught:
            federation.play(submission, tap)
        assert exit_code(caught.value) == 6
        assert max(head_of(packet).get("round", 0) for _, packet in tap.requests) == 2, "at the next exchange"
        assert_stopped(federation, submission, tap, group_keys)
    finally:
        rewriting.__exit__(None, None, None)
    evidence = federation.aggregator if who == "hungary" else federation.homes["cleveland"]
    with Witness(evidence.path / FILE, create=False) as memory:
        assert memory.conflicts()[0].startswith(f"silo/{who}\n")


# Too few cosignatures ------------------------------------------------------------------------------------------------


@pytest.fixture
def withheld(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Two silos cosign nothing while the list is not empty: with five parties, that leaves the others two each."""
    holding = [True]
    original: Callable[[Witnessing], dict[str, Any]] = Witnessing.packet

    def packet(self: Witnessing) -> dict[str, Any]:
        made = original(self)
        silent = self._log.origin in ("silo/hungary", "silo/switzerland")
        return {**made, "cosigned": {}} if holding and silent else made

    monkeypatch.setattr(Witnessing, "packet", packet)
    monkeypatch.setattr("silo.aggregator.aggregator.PAUSE_SECONDS", 0.02)
    return holding


def test_below_the_quorum_a_run_pauses_and_goes_on_when_it_is_reached(
    federation: Federation, withheld: list[bool]
) -> None:
    submission, asked = federation.submit(rounds=2), []

    def request(name: str, packet: Packet) -> Packet:
        if head_of(packet)["kind"] == "cosign":
            asked.append(name)
            if len(asked) > 2 * len(federation.names):
                withheld.clear()
        return packet

    result = federation.play(submission, Tap(federation, request=request))
    assert [len(each["participants"]) for each in result["rounds"]] == [4, 4]
    told = [each for each in events(federation, submission) if each["event"] in ("paused", "resumed")]
    assert [(each["event"], each["round"]) for each in told] == [("paused", 2), ("resumed", 2)]
    assert "cleveland by 2" in told[0]["what"]
    assert "the consortium asks for 3" in told[0]["what"]
    assert len(asked) >= 5 * len(federation.names)  # three times or more to no avail, and twice at the end


def test_a_quorum_that_is_never_reached_ends_the_run(
    federation: Federation, group_keys: list[GroupKey], withheld: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silo.aggregator.aggregator.WITNESS_SECONDS", 0.5)
    submission, tap = federation.submit(), Tap(federation)
    with pytest.raises(PeerError, match=r"too few others: .*cleveland by 2.*; the consortium asks for 3") as caught:
        federation.play(submission, tap)
    assert exit_code(caught.value) == 7
    assert sum(head_of(packet)["kind"] == "cosign" for _, packet in tap.requests) >= len(federation.names)
    assert_stopped(federation, submission, tap, group_keys)


def test_a_silo_does_not_go_on_below_the_quorum_whatever_the_aggregator_says(
    federation: Federation, group_keys: list[GroupKey], withheld: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Aggregator, "_await_witnesses", lambda *_: None)
    submission, tap = federation.submit(), Tap(federation)
    with pytest.raises(PeerError, match="the consortium asks for 3 others"):
        federation.play(submission, tap)
    uploads = [(name, head_of(packet)["round"]) for name, packet in tap.replies if "upload" in packet.blobs]
    assert sorted(number for name, number in uploads if name == "cleveland") == [1, 2]
    assert not (federation.run_directory(submission) / RESULT).exists()
    assert not alive(group_keys)

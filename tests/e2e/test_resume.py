"""A silo or the aggregator that was killed goes on where it was: same accounting, nothing sent twice for one price.

The processes are played in one (`tests/e2e/test_deployment.py` kills real ones): a killed agent is one that nobody asks
any more, and what the next one knows is what lies in the home.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from silo_crypto.verification import GroupKey

from silo.agent import memory
from silo.agent.agent import SiloAgent
from silo.aggregator import Aggregator, Interrupted
from silo.flower import client_app
from silo.messages import Packet
from tests.e2e.federation import ROUNDS, Federation, Tap, head_of

KILLED = "hungary"


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo.flower.server_app.AGAIN_SECONDS", 0.3)


# Each pair of kind and moment is tried with both custodies by `make test-faults`; these are the riskiest.
SILO = [("shared", "round", "after"), ("shared", "release", "after"), ("threshold", "step", "after")]
AGGREGATOR = [("shared", "round", "after"), ("shared", "release", "after"), ("threshold", "step", "before")]
if os.environ.get("SILO_FAULTS") == "all":
    SILO = list(itertools.product(("shared", "threshold"), ("round", "finish", "release"), ("before", "after")))
    SILO += [("threshold", "step", "before"), ("threshold", "step", "after")]
    AGGREGATOR = list(
        itertools.product(
            ("shared", "threshold"), ("invite", "step", "round", "finish", "release"), ("before", "after")
        )
    )


PLAYED: dict[int, list[str]] = {}  # by federation: the runs of this file


@pytest.fixture(autouse=True)
def _noted(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Federation.submit

    def noting(self: Federation, **changes: Any) -> Any:
        submission = submit(self, **changes)
        PLAYED.setdefault(id(self), []).append(submission.run.body.run)
        return submission

    monkeypatch.setattr(Federation, "submit", noting)


@pytest.fixture
def either(request: pytest.FixtureRequest) -> Federation:
    found: Federation = request.getfixturevalue("federation" if request.param == "shared" else "threshold_federation")
    return found


def kill(federation: Federation, name: str, dead: list[Any]) -> None:
    """Let no message reach the agent any more; it settles nothing and says nothing, as one that was killed."""
    dead.append(client_app._agents.pop(federation.homes[name].path, None))


def in_a_round(head: dict[str, Any]) -> bool:
    """Say whether a message is of round 2, or of no round at all. A ceremony that was cut off is begun anew, in a new
    run: `tests/unit/crypto/test_threshold_crash.py`."""
    return head.get("round", 2) == 2 and head.get("step", "share") in ("confirm", "share")


def assert_accounted(federation: Federation, result: dict[str, Any], submission: Any, uploads: dict[str, int]) -> None:
    """Assert that each round was charged once, and each upload logged once on both sides, the same."""
    steps = submission.run.body.privacy.steps_per_round
    for name in federation.names:
        assert federation.charged(name, submission) == ROUNDS * steps
        ours = federation.logged(name, submission, "upload")
        theirs = [each for each in federation.logged("aggregator", submission, "upload") if each["silo"] == name]
        assert len(ours) == len(theirs) == uploads[name]
        assert ours == theirs
        assert not (federation.homes[name].run_directory(submission.run.body.run) / memory.FILE).exists() or (
            name in result["silos"]
        )


@pytest.mark.parametrize(("either", "kind", "moment"), SILO, indirect=["either"])
def test_a_silo_is_killed(either: Federation, group_keys: list[GroupKey], kind: str, moment: str) -> None:
    """Before it took a request, or after it answered and before the answer arrived, in round 2 or at the end."""
    dead: list[Any] = []

    def due(name: str, head: dict[str, Any], wanted: str) -> bool:
        return name == KILLED and not dead and head["kind"] == wanted and in_a_round(head)

    def request(name: str, packet: Packet) -> Packet | None:
        if moment == "before" and due(name, head_of(packet), kind):
            kill(either, name, dead)
        return packet

    def reply(name: str, packet: Packet) -> Packet | None:
        answers = {"step": "step-reply", "round": "round-reply", "finish": "acknowledged", "release": "finish-reply"}
        if moment == "after" and due(name, head_of(packet), answers[kind]):
            kill(either, name, dead)
            return None
        return packet

    tap, submission = Tap(either, request=request, reply=reply), either.submit()
    result = either.play(submission, tap)
    assert dead
    assert set(result["silos"]) == set(either.names)
    lost = 0
    if either.setting.submission.run.body.encryption.custody == "threshold" and kind in ("step", "round"):
        # Its nonce for one attempt was in the memory of the killed process only: it sits that round out.
        lost = 1
    uploads = {name: ROUNDS - (lost if name == KILLED else 0) for name in either.names}
    assert [len(each["dropped"]) for each in result["rounds"]].count(1) == lost
    if not lost:
        assert_accounted(either, result, submission, uploads)
    else:
        assert either.charged(KILLED, submission) == tap.uploads(KILLED) == ROUNDS - 1
    for agent in dead:
        agent.close(keep=True)


def test_killed_between_the_charge_and_the_answer(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round is charged and its upload is lost with the process: the silo follows, and sends no other for it."""
    dead: list[Any] = []
    original = SiloAgent._remember

    def remember(self: SiloAgent, run: str, manifest: str) -> None:
        if self._identity.name == KILLED and run in self._runs and self._runs[run]._rounds == 2 and not dead:
            raise OSError("killed")
        original(self, run, manifest)

    def reply(name: str, packet: Packet) -> Packet | None:
        if name == KILLED and head_of(packet)["kind"] == "fault" and not dead:
            kill(federation, name, dead)
            return None
        return packet

    monkeypatch.setattr(SiloAgent, "_remember", remember)
    tap, submission = Tap(federation, reply=reply), federation.submit()
    result = federation.play(submission, tap)
    assert dead
    assert [each["dropped"] for each in result["rounds"]] == [[], [KILLED], []]
    assert federation.charged(KILLED, submission) == ROUNDS
    assert tap.uploads(KILLED) == ROUNDS - 1
    for agent in dead:
        agent.close(keep=True)


@pytest.mark.parametrize(("either", "kind", "moment"), AGGREGATOR, indirect=["either"])
def test_the_aggregator_is_killed(either: Federation, kind: str, moment: str) -> None:
    """Before a request left, or when some answers were in: the next process asks the same and ends the same run."""
    submission = either.submit()
    answers = {"invite": "invite-reply", "step": "step-reply", "round": "round-reply", "finish": "acknowledged",
               "release": "finish-reply"}  # fmt: skip
    count = 0

    def dies(wanted: str) -> Any:
        def hook(name: str, packet: Packet) -> Packet | None:
            nonlocal count
            head = head_of(packet)
            if head["kind"] == wanted and in_a_round(head):
                count += 1
                if count == 2:
                    raise Interrupted("killed")
            return packet

        return hook

    first = Tap(
        either, **{"request" if moment == "before" else "reply": dies(kind if moment == "before" else answers[kind])}
    )
    with pytest.raises(Interrupted):
        either.play(submission, first)
    tap = Tap(either)
    result = either.play(submission, tap, aggregator=Aggregator(either.aggregator, submission))
    assert set(result["silos"]) == set(either.names)
    assert len(result["rounds"]) == ROUNDS
    assert_accounted(either, result, submission, dict.fromkeys(either.names, ROUNDS))


def test_a_memory_opens_for_its_run_and_owner_only(federation: Federation, tmp_path: Any) -> None:
    from silo.errors import VerificationFailed

    home = federation.homes[KILLED]
    noted = memory.Memory("sha256:m", {"a": 1}, {"key": b"k" * 32}, {"x": Packet(b"h", b"s", {"b": b"1"}), "y": None})
    memory.save(tmp_path, "r", home.identity(), noted)
    assert b"kkkk" not in (tmp_path / memory.FILE).read_bytes()
    assert memory.load(tmp_path, "r", "sha256:m", home.identity()) == noted
    for run, manifest, owner in (("q", "sha256:m", KILLED), ("r", "sha256:n", KILLED), ("r", "sha256:m", "cleveland")):
        with pytest.raises(VerificationFailed):
            memory.load(tmp_path, run, manifest, federation.homes[owner].identity())
    memory.forget(tmp_path)
    assert memory.load(tmp_path, "r", "sha256:m", home.identity()) is None
    assert "kkkk" not in repr(noted)


@pytest.mark.parametrize("either", ["shared", "threshold"], indirect=True)
def test_the_audit_finds_nothing_broken_in_what_was_resumed(either: Federation) -> None:
    """Every run above: links between entries, charges, decisions, and the same story in every party's log."""
    from silo.audit import open_parties, verify
    from silo.audit.facts import facts_of

    played = PLAYED.get(id(either), [])
    homes = [either.aggregator.path, *(home.path for home in either.homes.values())]
    with open_parties(homes) as parties:
        found = verify(parties)
        # The federation lives on from file to file, and others attack it: only what is said of these runs counts.
        runs = {
            (party.name, f"entry {each.index}"): each.body.get("run")
            for party in parties
            for each in party.log.entries()
        }
        assert {facts_of(run, parties).verdict.outcome for run in played} <= {"completed"}
    assert set(played) <= set(found.runs)
    assert [str(each) for each in found.broken if runs.get((each.holder, each.place)) in played] == []

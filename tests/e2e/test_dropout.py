"""A silo that is late, silent or fails: the others go on if they may, the result says who, no charge is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from silo_crypto.verification import GroupKey

from silo.cli.fail import exit_code
from silo.errors import ConfigError, PeerError
from silo.messages import Packet
from silo.training.trainer import LocalTrainer, Update
from tests.e2e.federation import ROUNDS, Federation, Tap, alive, assert_stopped, head_of

LATE = "hungary"
SECONDS = 5.0  # a round takes a twentieth of that, and more on a loaded machine


@pytest.fixture(autouse=True)
def _short_deadlines(either: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUND_SECONDS", "STEP_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(f"silo.aggregator.aggregator.{name}", SECONDS)
    monkeypatch.setattr("silo.aggregator.aggregator.ABORT_SECONDS", 0.5)


def losing(kind: str, *silos: str, number: int | None = None) -> Callable[[str, Packet], Packet | None]:
    """Return what loses a kind of message (of one round, or of every round) to or from some silos."""

    def lose(name: str, packet: Packet) -> Packet | None:
        head = head_of(packet)
        lost = name in silos and head["kind"] == kind and number in (None, head.get("round"))
        return None if lost else packet

    return lose


SHARED = pytest.mark.parametrize("either", ["shared"], indirect=True)
BOTH = pytest.mark.parametrize("either", ["shared", "threshold"], indirect=True)


@pytest.fixture
def either(request: pytest.FixtureRequest) -> Federation:
    """The federation of the custody that the test asks for."""
    name = "federation" if request.param == "shared" else "threshold_federation"
    found: Federation = request.getfixturevalue(name)
    return found


def participants(federation: Federation, lost: str, since: int) -> list[list[str]]:
    """Return who takes part in each round when one silo is lost from a round on."""
    rest = [name for name in federation.names if name != lost]
    return [federation.names if number < since else rest for number in range(1, ROUNDS + 1)]


@SHARED
@pytest.mark.parametrize("since", [2, 3])
def test_a_request_that_never_arrives(either: Federation, group_keys: list[GroupKey], since: int) -> None:
    """The silo does nothing in that round and is charged nothing for it; the others finish."""
    tap, submission = Tap(either, request=losing("round", LATE, number=since)), either.submit()
    result = either.play(submission, tap)
    assert [each["participants"] for each in result["rounds"]] == participants(either, LATE, since)
    assert [each["dropped"] for each in result["rounds"]] == [[]] * (since - 1) + [[LATE]] * (ROUNDS - since + 1)
    assert [(each["party"], each["round"]) for each in result["faults"]] == [(LATE, since)]
    assert set(result["silos"]) == set(either.names) - {LATE}
    assert either.charged(LATE, submission) == tap.uploads(LATE) == since - 1
    assert all(either.charged(name, submission) == ROUNDS for name in result["silos"])
    assert not alive(group_keys)


@pytest.mark.parametrize(("either", "since"), [("shared", 1), ("threshold", 2)], indirect=["either"])
def test_an_answer_that_comes_too_late(either: Federation, group_keys: list[GroupKey], since: int) -> None:
    """The upload left the silo, so the silo is charged for it, though nobody added it."""
    tap, submission = Tap(either, reply=losing("round-reply", LATE, number=since)), either.submit()
    result = either.play(submission, tap)
    assert [each["participants"] for each in result["rounds"]] == participants(either, LATE, since)
    assert either.charged(LATE, submission) == tap.uploads(LATE) == since
    assert not either.releases(LATE, submission)
    assert set(result["silos"]) == set(either.names) - {LATE}
    assert not alive(group_keys)


@BOTH
def test_a_silo_that_is_silent_for_good(either: Federation) -> None:
    """It is waited for once, not in every round."""
    tap, submission = Tap(either, request=losing("round", LATE)), either.submit()
    result = either.play(submission, tap)
    assert [each["participants"] for each in result["rounds"]] == participants(either, LATE, 1)
    assert sum(1 for name, packet in tap.requests if name == LATE and head_of(packet)["kind"] == "round") == 1
    assert sum(each["seconds"] > SECONDS for each in result["rounds"]) == 1


@BOTH
def test_too_few_are_left(either: Federation, group_keys: list[GroupKey]) -> None:
    """Two of four are silent and the minimum is three: the run stops, and what left is charged."""
    tap, submission = Tap(either, request=losing("round", LATE, "switzerland", number=2)), either.submit()
    with pytest.raises(PeerError) as caught:
        either.play(submission, tap)
    assert exit_code(caught.value) == 7
    assert "did not answer in time" in str(caught.value)
    assert_stopped(either, submission, tap, group_keys)
    assert [either.charged(name, submission) for name in either.names] == [2, 1, 1, 2]


@pytest.mark.parametrize(("either", "kind"), [("shared", "step"), ("threshold", "step-reply")], indirect=["either"])
def test_a_silo_is_silent_while_keys_are_set_up(either: Federation, group_keys: list[GroupKey], kind: str) -> None:
    """Keys are for exactly the members: the run stops before anything was trained."""
    tap, submission = Tap(either, **{"request" if kind == "step" else "reply": losing(kind, LATE)}), either.submit()
    with pytest.raises(PeerError) as caught:
        either.play(submission, tap)
    assert LATE in str(caught.value)
    assert_stopped(either, submission, tap, group_keys)
    assert all(either.charged(name, submission) == 0 for name in either.names)


@pytest.fixture
def _short_invitation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not everywhere: to an invitation a silo starts a process, for which a loaded machine takes its time."""
    monkeypatch.setattr("silo.aggregator.aggregator.INVITE_SECONDS", 2 * SECONDS)


@SHARED
@pytest.mark.usefixtures("_short_invitation")
def test_a_silo_that_is_not_there_at_the_invitation(either: Federation) -> None:
    """It takes no part; the others do."""
    submission = either.submit(rounds=1)
    result = either.play(submission, Tap(either, request=losing("invite", LATE)))
    assert result["members"] == [name for name in either.names if name != LATE]
    assert LATE not in result["decisions"]
    assert either.charged(LATE, submission) == 0


@SHARED
@pytest.mark.usefixtures("_short_invitation")
def test_too_few_at_the_invitation(either: Federation, group_keys: list[GroupKey]) -> None:
    tap, submission = Tap(either, request=losing("invite", LATE, "switzerland")), either.submit()
    with pytest.raises(PeerError, match="hungary, switzerland did not answer; 2 silos permit the run, 3 are needed"):
        either.play(submission, tap)
    assert_stopped(either, submission, tap, group_keys)


@BOTH
def test_a_silo_whose_training_fails(either: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so and drops out; why is not said to others than its own people."""
    original, counts = LocalTrainer.run, {"trained": 0}

    def fail_once(self: LocalTrainer, start: object) -> Update:
        counts["trained"] += 1
        if counts["trained"] == 1:
            raise ConfigError("training left the range of float32", where="experiment")
        return original(self, start)

    monkeypatch.setattr(LocalTrainer, "run", fail_once)
    submission, tap = either.submit(), Tap(either)
    result = either.play(submission, tap)
    ((failed, _),) = tap.heads("fault").items()
    assert [each["participants"] for each in result["rounds"]] == participants(either, failed, 1)
    # It may have failed because of a record, and the others see that it did.
    assert either.charged(failed, submission) == 1
    assert result["faults"][0]["party"] == failed


@SHARED
def test_the_last_answer_is_lost(either: Federation) -> None:
    """A silo that finished but was not heard: the others' word is enough, unless it was to release the model."""
    submission = either.submit(rounds=1)
    result = either.play(submission, Tap(either, reply=losing("finish-reply", LATE)))
    assert set(result["silos"]) == set(either.names) - {LATE}
    submission = either.submit(rounds=1)
    with pytest.raises(PeerError, match="was to release the model"):
        either.play(submission, Tap(either, reply=losing("finish-reply", either.names[0])))
    assert not list(either.run_directory(submission).glob("*.sealed"))

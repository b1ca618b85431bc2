"""`silo stop RUN`: one silo's people end a run at their silo; the others go on, and nothing more leaves this one."""

from __future__ import annotations

import json

from silo.cli.running import runs_of
from silo.home.stops import stop_run
from silo.messages import Packet
from tests.e2e.federation import Federation, Tap, head_of

STOPS = "hungary"


def test_a_stopped_run_uploads_nothing_more_and_keeps_what_was_charged(federation: Federation) -> None:
    submission = federation.submit()
    run, note = submission.run.body.run, "the ethics board called"

    def before_round_two(name: str, packet: Packet) -> Packet:
        head = json.loads(packet.head)
        if name == STOPS and head["kind"] == "round" and head["round"] == 2:
            stop_run(federation.homes[STOPS], run, note)
        return packet

    tap = Tap(federation, request=before_round_two)
    result = federation.play(submission, tap)
    assert tap.uploads(STOPS) == 1
    assert {tap.uploads(name) for name in federation.names if name != STOPS} == {submission.run.body.rounds}
    assert STOPS not in result["rounds"][-1]["participants"]
    steps = submission.run.body.privacy.steps_per_round
    assert federation.charged(STOPS, submission) == steps
    faults = [head_of(packet) for name, packet in tap.replies if name == STOPS and head_of(packet)["kind"] == "fault"]
    assert {head["exit_code"] for head in faults} == {4}
    assert not any(note in head["what"] for head in faults), "the reason is this silo's own"
    assert any(note in body["what"] for body in federation.logged(STOPS, submission, "fault"))
    (here,) = [each for each in runs_of(federation.homes[STOPS]) if each.run == run]
    assert (here.rounds, here.decision) == (1, "permit")


def test_a_run_stopped_before_its_invitation_is_never_begun(federation: Federation) -> None:
    submission = federation.submit()
    home = federation.homes[STOPS]
    home.add_submission(submission.run.body.run, submission.parts())
    stop_run(home, submission.run.body.run, "")
    tap = Tap(federation)
    result = federation.play(submission, tap)
    assert STOPS not in result["members"]
    assert tap.uploads(STOPS) == 0
    assert federation.charged(STOPS, submission) == 0

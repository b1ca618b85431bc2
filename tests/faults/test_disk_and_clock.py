"""A full disk, and a clock ten minutes off."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flwr.supernode import node_auth_http_interceptor

from silo.errors import PeerError, VerificationFailed
from silo.flower.fleet import FleetConnection
from tests.e2e.deployment import PATIENCE, Deployment
from tests.faults.disk import SmallDisk
from tests.faults.soundness import assert_sound

FULL = "va-long-beach"
MEBIBYTES = 32


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, SmallDisk]]:
    """A deployment in which one home has a small disk of its own."""
    deployment = Deployment(tmp_path_factory.mktemp("disk"), rounds=3, epsilon=0.05)
    try:
        disk = SmallDisk(deployment.homes[FULL].path, MEBIBYTES).__enter__()
    except OSError as error:
        pytest.skip(f"no disk of our own here: {error}")
    with deployment:
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        yield deployment, disk
    disk.__exit__()


@pytest.fixture
def deployment(stage: tuple[Deployment, SmallDisk]) -> Deployment:
    return stage[0]


@pytest.mark.timeout(900)
@pytest.mark.riskiest
@pytest.mark.everyday
def test_a_full_disk_at_a_silo(stage: tuple[Deployment, SmallDisk], again: int) -> None:
    """No byte is free for ledger, log and memory of one silo from round 2 on. It uploads nothing that it could not
    charge, the others go on, and its people are told. With space again it serves the next run."""
    deployment, disk = stage
    submission = deployment.sign()
    run = submission.run.body.run
    with deployment.client() as client:
        client.submit(submission)
    deployment.until(lambda: deployment.rounds(submission) >= 1, PATIENCE, "a round ends")
    disk.fill()
    state = deployment.finish(run)
    assert deployment.processes[FULL].poll() is None, "the agent ended"
    disk.free()
    result = assert_sound(deployment, submission, state, missing=[FULL])
    assert FULL in result["rounds"][-1]["dropped"]
    (told,) = {each["what"] for each in result["faults"] if each["party"] == FULL}
    assert "free space" in told
    assert str(deployment.directory) not in told, "where a home lies is nobody else's business"
    assert "free space" in deployment.said(FULL)  # its own people read it too, though no log could take it
    with deployment.homes[FULL].ledger() as ledger, deployment.homes[FULL].log() as log:
        ledger.verify()
        log.verify()
    submission = deployment.sign()
    with deployment.client() as client:
        client.submit(submission)
    assert_sound(deployment, submission, deployment.finish(submission.run.body.run), missing=[])


def test_a_silos_clock_is_ten_minutes_off(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, again: int) -> None:
    """Node authentication signs the time, so such a node is not let in, and is told to compare the clocks."""
    name = deployment.names[0]
    deployment.stop(name)
    root, key = deployment.place.path("authority.crt").read_bytes(), deployment.homes[name].node_key()
    true_now = node_auth_http_interceptor.now
    with monkeypatch.context() as patch:
        for off in (timedelta(minutes=10), timedelta(minutes=-10)):
            patch.setattr(node_auth_http_interceptor, "now", lambda off=off: true_now() + off)
            with (
                pytest.raises(PeerError, match="Do the clocks agree"),
                FleetConnection(deployment.address, root, key),
            ):
                raise AssertionError("a node of another time was let in")
    deployment.join(name)
    deployment.wait_for(deployment.names)


def test_a_researchers_clock_is_ten_minutes_off(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    """The edge refuses the request before it reads it, and says why; nothing is kept."""
    submission = deployment.sign()
    for when in ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"):
        monkeypatch.setattr("silo.deploy.requests.utc_now", lambda when=when: when)
        with deployment.client() as client, pytest.raises(VerificationFailed, match="compare the clocks"):
            client.submit(submission)
    monkeypatch.undo()
    with deployment.client() as client:
        assert submission.run.body.run not in [each["run"] for each in client.runs()]

"""A silo behind a bad line, the rest in another network namespace: late, lossy, cut for half a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from silo.submission import Submission
from tests.e2e.deployment import PATIENCE, Deployment
from tests.faults.network import NEAR, Line
from tests.faults.soundness import assert_sound

REMOTE = "hungary"
PARTITION_SECONDS = 30.0


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    try:
        line = Line().__enter__()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield line
    line.__exit__()


@pytest.fixture(scope="module")
def deployment(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    within = {"": line.near, REMOTE: line.far}
    with Deployment(tmp_path_factory.mktemp("line"), rounds=3, epsilon=0.05, address=NEAR, within=within) as deployment:
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        yield deployment


def submit(deployment: Deployment) -> Submission:
    """Leave a run where the edge leaves it: the researcher's side of this network is not what is tried."""
    submission = deployment.sign()
    deployment.aggregator.add_submission(submission.run.body.run, submission.parts())
    return submission


@pytest.mark.timeout(900)
@pytest.mark.riskiest
def test_cut_off_for_half_a_minute(deployment: Deployment, line: Line, again: int) -> None:
    """The others wait for it, it connects again by itself, and the run ends with every silo in every round."""
    submission = submit(deployment)
    deployment.until(lambda: deployment.rounds(submission) >= 1, PATIENCE, "a round ends")
    before = len(deployment.said(REMOTE))
    line.be(loss=1.0)
    time.sleep(PARTITION_SECONDS)
    line.be()
    state = deployment.ended(submission)
    said = deployment.said(REMOTE)[before:]
    assert_sound(deployment, submission, state, missing=[REMOTE])
    if "waiting" in said:  # it noticed: then it said so, and that it is back
        assert said.rindex("connected") > said.index("waiting")
    deployment.wait_for(deployment.names)


@pytest.mark.timeout(900)
def test_late_and_lossy(deployment: Deployment, line: Line, again: int) -> None:
    """200 ms there and back and a packet in twenty lost: slower, and otherwise as ever."""
    line.be(delay=0.1, loss=0.05)
    try:
        submission = submit(deployment)
        state = deployment.ended(submission)
    finally:
        line.be()
    result = assert_sound(deployment, submission, state, missing=[])
    assert all(REMOTE in each["participants"] for each in result["rounds"])

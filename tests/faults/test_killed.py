"""kill -9 of each process in each phase of a run: the run ends as if nothing had happened.

Real processes on loopback. A process is killed when the aggregator has written down what it will ask (before), a
moment later (during), or when the silo has written down its answer (after). The edge lives in `silo aggregator up`,
which takes the SuperLink and the ServerApp with it; those two are also killed by themselves. `make test` kills an agent
and the edge once (`tests/e2e/test_deployment.py`).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from silo.agent import memory
from silo.aggregator import checkpoint
from silo.submission import Submission
from tests.e2e.deployment import PATIENCE, Deployment
from tests.faults.soundness import assert_sound

KILLED = "switzerland"
PARTS = ("agent", "superlink", "serverapp", "edge")
PHASES = ("invite", "step", "round", "finish", "release")
MOMENTS = ("before", "during", "after")
# A silo that has charged and not answered; and each part of the aggregator with a round's uploads in its hands.
RISKIEST = {
    ("agent", "round", "after"),
    ("superlink", "round", "during"),
    ("serverapp", "round", "after"),
    ("edge", "round", "during"),
}
CASES = [
    pytest.param(*case, id="-".join(case), marks=[pytest.mark.riskiest] if case in RISKIEST else [])
    for case in itertools.product(PARTS, PHASES, MOMENTS)
]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("killed"), rounds=3, epsilon=0.05) as deployment:
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        yield deployment


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("part", "phase", "moment"), CASES)
def test_killed(deployment: Deployment, part: str, phase: str, moment: str, again: int) -> None:
    submission = deployment.sign()
    with deployment.client() as client:
        client.submit(submission)
    wait_until(deployment, submission, phase, moment)
    kill(deployment, part)
    state = deployment.finish(submission.run.body.run)
    # Under shared custody nothing of a process is irreplaceable: whoever is killed goes on, at any moment.
    assert state["state"] == "finished", state.get("failure")
    assert_sound(deployment, submission, state, missing=[])


def wait_until(deployment: Deployment, submission: Submission, phase: str, moment: str) -> None:
    folder = deployment.aggregator.path / "runs" / submission.run.body.run
    kept = deployment.homes[KILLED].path / "runs" / submission.run.body.run / memory.FILE
    # Before the first checkpoint nothing that was asked is kept: the events tell what comes next.
    early = {"invite": ('"event": "inviting"', 1), "step": ('"event": "decision"', len(deployment.names))}
    mark = folder / ("events.jsonl" if phase in early else checkpoint.ASKED)

    def is_asked() -> bool:
        try:
            content = mark.read_bytes()
        except FileNotFoundError:
            return False
        if phase in early:
            text, count = early[phase]
            return content.count(text.encode()) >= count
        size = int.from_bytes(content[:8], "little")
        label = f"{phase}/2/" if phase == "round" else f"{phase}/"
        return any(each.startswith(label) for each in json.loads(content[8 : 8 + size])["asked"])

    deployment.until(is_asked, PATIENCE, f"{phase} is asked")
    since = time.time_ns() if phase in early else mark.stat().st_mtime_ns
    if moment == "during":
        time.sleep(0.1)
    if moment == "after":
        deployment.until(lambda: kept.exists() and kept.stat().st_mtime_ns > since, 60, f"{phase} is answered")


def kill(deployment: Deployment, part: str) -> None:
    """Kill one part; start again what nobody else starts."""
    if part == "agent":
        deployment.kill(KILLED)
        deployment.join(KILLED)
    elif part == "edge":
        deployment.kill("aggregator")
        deployment.up()
    else:
        command = {"superlink": "flower-superlink", "serverapp": "flwr-serverapp"}[part]
        found = deployment.until(lambda: below(deployment.processes["aggregator"].pid, command), 60, f"a {command}")
        for pid in found:
            os.kill(pid, signal.SIGKILL)


def below(pid: int, command: str) -> list[int]:
    """Return the process ids of a command among a process's descendants."""
    found = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for each in map(int, (thread / "children").read_text().split()):
                named = command.encode() in Path(f"/proc/{each}/cmdline").read_bytes()
                found += [*([each] if named else []), *below(each, command)]
    except OSError:  # it ended while we looked
        return found
    return found

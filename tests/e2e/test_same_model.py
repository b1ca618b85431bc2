"""Real processes and the local engine come to the same model, bit for bit, also when a silo is killed and comes back.

The samples, noise and rounding of both are drawn from one seed (`tests/e2e/seeded.py`); keys, ciphertexts and nonces
are not, and must not matter: what is opened is the exact sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from silo.agent.run import Run
from silo.aggregator import Aggregator
from silo.flower import client_app
from silo.flower.server_app import GridExchange
from silo.messages import Packet
from tests.e2e.deployment import PATIENCE, Deployment
from tests.e2e.federation import Tap, head_of
from tests.e2e.seeded import UnsafeSeededRandom

ROUNDS, KILLED, SEED = 4, "switzerland", "same-model"


@pytest.fixture
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("same")
    with Deployment(directory, rounds=ROUNDS, custody="threshold", agent=("tests.e2e.seeded", SEED)) as deployment:
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        yield deployment


@pytest.mark.timeout(900)
def test_the_model_of_a_deployment_is_that_of_the_local_engine(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = deployment.sign()
    with deployment.client() as client:
        client.submit(submission)
    deployment.until(lambda: deployment.rounds(submission) >= 1, PATIENCE, "a round ends")
    deployment.kill(KILLED)
    deployment.join(KILLED)
    state = deployment.finish(submission.run.body.run)
    assert state["state"] == "finished", state.get("failure")
    deployment.close()  # a home is served by one process at a time

    directory = deployment.aggregator.run_directory(submission.run.body.run)
    rounds = json.loads((directory / "result.json").read_bytes())["rounds"]
    missed = {(each["round"], name) for each in rounds for name in each["dropped"]}
    assert [name for _, name in missed] == [KILLED]  # its nonce went with the process; then it took part again
    # Noise alone makes two runs differ: that of one run fits no other unless every draw and every sum is the same.
    assert deployment.model(submission).tobytes() == replayed(deployment, missed, monkeypatch)


def replayed(deployment: Deployment, missed: set[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Play the run again in this process, with the same homes and the same silos killed, and return the model."""
    dead: list[Any] = []

    def request(name: str, packet: Packet) -> Packet:
        head = head_of(packet)
        if head["kind"] == "round" and (head["round"], name) in missed and not dead:
            dead.append(client_app._agents.pop(deployment.homes[name].path))
        return packet

    submission, threads = deployment.sign(), torch.get_num_threads()
    deployment.aggregator.add_submission(submission.run.body.run, submission.parts())
    tap = Tap(deployment, request=request)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_contribute", UnsafeSeededRandom(SEED).wrap(Run._contribute))
        torch.set_num_threads(1)  # as in the agents' processes
        try:
            Aggregator(deployment.aggregator, submission).run(GridExchange(tap))
        finally:
            tap.close()
            torch.set_num_threads(threads)
            client_app.forget_agents()
            for agent in dead:
                agent.close(keep=True)
    return deployment.model(submission).tobytes()

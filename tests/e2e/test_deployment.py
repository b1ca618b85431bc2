"""Real processes on loopback, TLS and node authentication on: an aggregator, four agents, a researcher, outsiders."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from silo_crypto.keys import Identity

import silo
from silo.agent.release import DIGEST_INFO, MODEL_INFO, release_info
from silo.canonical import digest_of
from silo.cli.experiment import write_folder
from silo.errors import PeerError, PolicyDenied, SiloError, VerificationFailed
from silo.flower.fleet import FleetConnection
from silo.flower.node import Node
from silo.home import Home
from silo.home.home import CONSORTIUM_FILE
from silo.home.keys import NODE_FILE, save_person
from silo.home.settings import write_settings
from silo.submission import Submission
from tests.cli.conftest import silo as silo_command
from tests.e2e.deployment import PATIENCE, Deployment

ROUNDS = 4


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment"), rounds=ROUNDS) as deployment:
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        yield deployment


def opened_model(deployment: Deployment, submission: Submission) -> np.ndarray:
    """Open what the silos sealed to the researcher, fetched over the edge; all must have sealed the same."""
    run, researcher = submission.run.body.run, deployment.setting.researcher
    with deployment.client() as client:
        result = json.loads(client.file(run, "result.json"))

        def opened(blob: str, label: bytes, silo: str) -> bytes:
            info = release_info(label, submission.digest, silo, researcher.name)
            return researcher.open(info, client.file(run, f"{blob}.{silo}.sealed"))

        weights = opened("model", MODEL_INFO, result["releaser"])
        for silo in result["silos"]:
            assert "sha256:" + opened("digest", DIGEST_INFO, silo).hex() == digest_of(weights)
    return np.frombuffer(weights, dtype="<f4")


def test_a_run_from_the_researcher_and_back(deployment: Deployment) -> None:
    submission = deployment.sign()
    run = submission.run.body.run
    with deployment.client() as client:
        assert client.submit(submission) == run
        assert client.submit(submission) == run  # a lost answer, sent again
        assert run in [each["run"] for each in client.runs()]
    state = deployment.finish(run)
    assert state["state"] == "finished"
    assert [event["round"] for event in state["events"] if event["event"] == "round"] == [1, 2, 3, 4]
    model = opened_model(deployment, submission)
    assert model.shape == (32,)
    assert np.isfinite(model).all()
    steps = submission.run.body.privacy.steps_per_round
    for name in deployment.names:
        assert deployment.charged(name, run) == [(number, steps) for number in range(1, ROUNDS + 1)]
        uploads = deployment.logged(name, run, "upload")
        assert uploads == [each for each in deployment.logged("aggregator", run, "upload") if each["silo"] == name]


def test_a_silo_that_is_killed_rejoins_and_so_does_the_aggregator(deployment: Deployment) -> None:
    """kill -9 of an agent in one round, of the whole aggregator in another: the run ends as if nothing had happened,
    but for a round that the silo may miss. Nothing is charged twice, and what was charged was at most once uploaded."""
    killed = "switzerland"
    submission = deployment.sign()
    run = submission.run.body.run
    with deployment.client() as client:
        client.submit(submission)
    deployment.until(lambda: deployment.rounds(submission) >= 1, PATIENCE, "a round ends")
    deployment.kill(killed)
    deployment.join(killed)
    deployment.until(lambda: deployment.rounds(submission) >= 2, PATIENCE, "a round ends with the silo killed")
    deployment.kill("aggregator")
    deployment.up()
    state = deployment.finish(run)
    assert state["state"] == "finished", state.get("failure")
    opened_model(deployment, submission)
    with deployment.client() as client:
        result = json.loads(client.file(run, "result.json"))
    assert set(result["silos"]) == set(deployment.names)
    steps = submission.run.body.privacy.steps_per_round
    for name in deployment.names:
        charged = deployment.charged(name, run)
        assert [number for number, _ in charged] == sorted({number for number, _ in charged})
        assert {each for _, each in charged} == {steps}
        took_part = [each["round"] for each in result["rounds"] if name in each["participants"]]
        assert set(took_part) <= {number for number, _ in charged}
        assert len(took_part) >= ROUNDS - (name == killed)
        uploads = [each for each in deployment.logged("aggregator", run, "upload") if each["silo"] == name]
        assert deployment.logged(name, run, "upload") == uploads


def test_a_connection_is_for_members_only(deployment: Deployment) -> None:
    """A node whose key the manifest does not name is refused, and so is another authority's certificate."""
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    root = deployment.place.path("authority.crt").read_bytes()
    with pytest.raises(PeerError), FleetConnection(deployment.address, root, key):
        raise AssertionError("an unregistered node was let in")
    other = deployment.place.path("local/authority.crt").read_bytes()
    member = deployment.homes[deployment.names[0]].node_key()
    with (
        pytest.raises(PeerError, match="certificate does not hold"),
        FleetConnection(deployment.address, other, member),
    ):
        raise AssertionError("the wrong certificate was taken")


def test_nothing_of_the_superlink_but_the_fleet_shows(deployment: Deployment) -> None:
    trust = ssl.create_default_context(cafile=str(deployment.place.path("authority.crt")))
    with httpx.Client(base_url=f"https://{deployment.address}", verify=trust) as client:
        for path in ("control/start-run", "control/register-node", "control/list-nodes", "runtime/acquire-task",
                     "fleet/register-node", "fleet/unregister-node"):  # fmt: skip
            assert client.post(f"/v1/{path}", content=b"").status_code == 404
        # What does pass needs a member's key: without its signature the SuperLink itself refuses.
        headers = {"content-type": "application/protobuf"}
        assert client.post("/v1/fleet/pull-messages", content=b"", headers=headers).is_client_error


def test_without_the_secret_nobody_takes_the_aggregators_task(deployment: Deployment) -> None:
    """Also on loopback: who does not hold the secret cannot act as the aggregator's app."""
    trust = ssl.create_default_context(cafile=str(deployment.place.path("local/authority.crt")))
    with httpx.Client(base_url=f"https://{deployment.place.superlink}", verify=trust) as client:
        headers = {"content-type": "application/protobuf"}
        assert client.post("/v1/runtime/acquire-task", content=b"", headers=headers).status_code == 401


def test_a_run_that_nobody_signed_is_not_kept(deployment: Deployment, tmp_path: Path) -> None:
    submission = deployment.sign()
    altered = Submission(submission.consortium, submission.run, submission.bundle + b"\n# and more\n")
    with deployment.client() as client:
        with pytest.raises(SiloError, match="not the ones the researcher signed"):
            client.submit(altered)
        assert submission.run.body.run not in [each["run"] for each in client.runs()]


def test_a_stolen_node_key_speaks_for_nobody(deployment: Deployment, tmp_path: Path) -> None:
    """Who has a silo's node key but not its identity opens the transport and nothing more: the first answer ends the
    run before any key is dealt, nobody trains, and nobody is charged."""
    name = "hungary"
    stolen = Home.create(tmp_path / name, name)
    manifest = deployment.setting.submission.consortium
    (stolen.path / CONSORTIUM_FILE).write_text(manifest.to_json())  # it may not join with its own keys: so by hand
    write_settings(stolen.path, stolen.settings.model_copy(update={"consortium": manifest.body.digest}))
    (stolen.keys_directory / NODE_FILE).write_bytes(deployment.homes[name].node_key())
    deployment.stop(name)
    deployment.wait_for([each for each in deployment.names if each != name])
    over = threading.Event()
    thief = Node(stolen, deployment.address, deployment.place.path("authority.crt").read_bytes(), lambda *_: None)
    thread = threading.Thread(target=thief.serve, args=(over,))
    thread.start()
    try:
        deployment.wait_for(deployment.names)
        submission = deployment.sign()
        with deployment.client() as client:
            client.submit(submission)
        state = deployment.finish(submission.run.body.run)
    finally:
        over.set()
        thread.join()
        deployment.join(name)
    deployment.wait_for(deployment.names)
    assert (state["state"], state["failure"]["exit_code"]) == ("failed", 6)
    assert not state["files"]
    for each in deployment.names:
        assert not deployment.charged(each, submission.run.body.run)


# The people's commands over the real thing ---------------------------------------------------------------------------


@pytest.fixture
def submission(deployment: Deployment, tmp_path: Path) -> Path:
    """A signed run in a folder, and the researcher's keys beside it, as `experiment sign` and `keys new` leave them."""
    signed = deployment.sign()
    folder = tmp_path / "heart-1"
    write_folder(folder, signed.parts())
    researcher = deployment.setting.researcher
    person = signed.consortium.body.person(researcher.name, role="researcher")
    save_person(tmp_path / "keys", researcher, person)
    return folder


def test_a_researcher_submits_watches_and_fetches(deployment: Deployment, submission: Path) -> None:
    key, root = submission.parent / "keys", deployment.place.path("authority.crt")
    said = silo_command("experiment", "watch", submission, "--key", key, status=3)
    assert "it was not submitted from here" in said.line
    where = ("--aggregator", deployment.address, "--root-certificate", root, "--key", key)
    said = silo_command("experiment", "submit", submission, *where, "--json")
    assert said.json["run"] == Submission.load(submission).run.body.run
    watched = silo_command("experiment", "watch", submission, "--key", key, "--timeout", "240")
    assert watched.err.count("decision silo=") == len(deployment.names)
    assert "has finished" in watched.out
    facts = silo_command("experiment", "results", submission, "--key", key, "--json").json
    assert facts["decisions"] == dict.fromkeys(deployment.names, "permit")
    assert len(facts["history"]) == ROUNDS
    assert "model: " in silo_command("experiment", "results", submission, "--key", key).out
    # And the same from Python; submitting it again changes nothing.
    remote = silo.submit(submission, key=key, aggregator=deployment.address, root_certificate=root)
    result = remote.wait(timeout=240)
    assert result.weights is not None
    assert np.array_equal(result.weights, np.load(facts["weights"]))
    assert np.array_equal(result.weights, opened_model(deployment, result.submission))
    assert result.model()(torch.zeros(1, 31)).shape == (1,)


def test_a_researcher_is_told_what_went_wrong(deployment: Deployment, submission: Path) -> None:
    root, key = deployment.place.path("authority.crt"), submission.parent / "keys"
    stranger = Identity.generate(deployment.setting.researcher.name)
    with pytest.raises(VerificationFailed, match="no researcher of this consortium"):
        silo.submit(submission, key=stranger, aggregator=deployment.address, root_certificate=root)
    with pytest.raises(PeerError):
        silo.submit(submission, key=key, aggregator=deployment.address)  # nobody vouches for its certificate
    folder = submission.parent / "denied"
    write_folder(folder, deployment.sign(purpose="something-else").parts())
    remote = silo.submit(folder, key=key, aggregator=deployment.address, root_certificate=root)
    with pytest.raises(PolicyDenied, match="0 of 4 silos permit"):
        remote.wait(timeout=240)
    with pytest.raises(PolicyDenied):
        remote.results()
    assert not (folder / "results").exists()


def test_the_admin_sees_the_agent_and_its_aggregator(deployment: Deployment) -> None:
    home = deployment.homes[deployment.names[0]].path
    facts = silo_command("status", "--home", home, "--json").json
    assert facts["agent"]["state"] == "connected"
    assert facts["agent"]["aggregator"] == deployment.address
    found = {each["name"]: each for each in silo_command("doctor", "--home", home, "--json").json["findings"]}
    assert {found[name]["state"] for name in ("aggregator", "certificate", "clock")} == {"ok"}


def test_stop_agent_ends_it_and_it_can_be_started_again(deployment: Deployment) -> None:
    name = deployment.names[0]
    home = deployment.homes[name].path
    silo_command("stop", "--agent", "--home", home)
    assert deployment.processes.pop(name).wait(30) == 0
    assert silo_command("status", "--home", home, "--json").json["agent"] == {"state": "not running"}
    deployment.join(name)
    deployment.until(
        lambda: silo_command("status", "--home", home, "--json").json["agent"]["state"] == "connected", 60, "it is back"
    )
    assert not silo_command("status", "--home", home, "--json").json["agent_asked_to_stop"]

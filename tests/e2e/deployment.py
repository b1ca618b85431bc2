"""A deployment for tests and benchmarks: an aggregator and silo agents as processes of their own, on loopback.

Every process is the command a person starts (``silo aggregator up``, ``silo agent``), over TLS with node
authentication. What is started here is ended here, by its own process id.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from silo_policies import RunManifest, sign

from silo.agent.release import DIGEST_INFO, MODEL_INFO, release_info
from silo.api import Experiment, load_experiment
from silo.canonical import digest_of
from silo.demo.hospitals import REFUSER, Hospital, cast
from silo.demo.run import shipped_experiment
from silo.demo.setting import Setting, set_the_stage
from silo.deploy.client import ResearcherClient
from silo.deploy.place import Place, free_port
from silo.deploy.runs import Runs
from silo.errors import PeerError
from silo.home import Home
from silo.submission import Submission

ROOT = Path(__file__).parents[2]
_SILO = "from silo.cli import main; main()"
PATIENCE = 180.0  # ten seconds on a quiet machine, minutes where others work too


class Deployment:
    """Homes, processes and a researcher's client; use it as a context.

    Args:
        directory: where the homes go.
        rounds: of each run, for which the noise is calibrated.
        custody: ``shared`` or ``threshold``.
        experiment: the file, of a model with ``parameters``; the heart example if None.
        hospitals: who takes part; the demo's four if None.
        address: where the edge listens, besides on loopback.
        within: what comes before the command of a process, by name ("" for all others): to enter a namespace.
        agent: the module, and what comes before the command, that plays ``silo`` for the agents; silo itself if empty.
        server: the same for the aggregator.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rounds: int = 4,
        custody: str = "shared",
        epsilon: float = 0.5,
        experiment: Path | None = None,
        parameters: int = 32,
        hospitals: Sequence[Hospital] | None = None,
        address: str | None = None,
        within: Mapping[str, Sequence[str]] = MappingProxyType({}),
        agent: Sequence[str] = (),
        server: Sequence[str] = (),
    ) -> None:
        path = experiment or shipped_experiment()
        loaded, digest = load_experiment(path)
        self.experiment: Experiment = dataclasses.replace(
            loaded,
            rounds=rounds,
            privacy=dataclasses.replace(loaded.privacy, epsilon=epsilon, delta=1e-6),
            encryption=dataclasses.replace(loaded.encryption, custody=custody),  # type: ignore[arg-type]
        )
        self.directory = directory
        self.setting: Setting = set_the_stage(
            directory,
            hospitals or [each for each in cast(None) if each.name != REFUSER],
            self.experiment,
            path.read_bytes(),
            code_digest=digest,
            model_size=parameters,
            seed=0,
        )
        self.homes: dict[str, Home] = self.setting.homes
        self.names = sorted(self.homes)
        self.aggregator = self.setting.aggregator
        for file in sorted(self.aggregator.run_directory(self.setting.run).iterdir()):
            file.unlink()  # the stage submits a run; here a researcher does, over the edge
        self.aggregator.run_directory(self.setting.run).rmdir()
        hosts = ["localhost", "127.0.0.1", *([address] if address else [])]
        listen = ("0.0.0.0" if address else "127.0.0.1", free_port())
        self.place = Place.create(self.aggregator, hosts=hosts, listen=listen)
        self.address = f"{address or 'localhost'}:{self.place.settings.listen_port}"
        self._within = within
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.nodes = {name: number for number, name in enumerate(self.names, start=101)}  # in the local engine
        self._agent, self._server = tuple(agent), tuple(server)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def start(self, name: str, *arguments: str, module: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a silo command; what it says goes to ``NAME.err``."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "crypto", ROOT / "policies"))),
        }
        environment |= {"OMP_NUM_THREADS": "1"}
        with (self.directory / f"{name}.err").open("ab") as log:
            process = subprocess.Popen(
                [
                    *self._within.get(name, self._within.get("", ())),
                    sys.executable,
                    *(("-m", *module) if module else ("-c", _SILO)),
                    *arguments,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def up(self) -> None:
        """Start the aggregator."""
        self.start("aggregator", "aggregator", "up", "--home", str(self.aggregator.path), module=self._server)

    def join(self, name: str) -> None:
        """Start a silo's agent."""
        root = self.place.root_certificate
        self.start(
            name, "agent", "--home", str(self.homes[name].path), "--aggregator", self.address,
            "--root-certificate", str(root), module=self._agent,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """End a process with SIGKILL, at once."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        """End a process with SIGTERM and wait for it."""
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(30) == 0

    def said(self, name: str) -> str:
        """Return what a process said so far."""
        return (self.directory / f"{name}.err").read_text()

    def status(self) -> dict[str, Any]:
        """Return the aggregator's own view, as `silo aggregator status --json` prints it."""
        path = self.place.path("status.json")
        return dict(json.loads(path.read_bytes())) if path.exists() else {"state": "never up", "silos": {}}

    def connected(self) -> list[str]:
        """Return the silos that are connected now."""
        return sorted(name for name, there in self.status()["silos"].items() if there)

    def client(self) -> ResearcherClient:
        """Return a client with the researcher's keys."""
        root = self.place.path("authority.crt").read_bytes()
        return ResearcherClient(self.address, root, self.setting.researcher, self.aggregator.name)

    def sign(self, **changes: Any) -> Submission:
        """Return a new run, signed by the researcher: the stage's, under another id."""
        self._count += 1
        base = self.setting.submission
        body = base.run.body.model_copy(update={"run": f"run-{self._count}", **changes})
        body = RunManifest.model_validate_json(body.model_dump_json())
        return Submission(base.consortium, sign(body, self.setting.researcher), base.bundle)

    def charged(self, name: str, run: str) -> list[tuple[int, int]]:
        """Return (round, steps) of each charge in a silo's ledger against the run."""
        with self.homes[name].ledger() as ledger:
            return [
                (charge.round, charge.steps)
                for each in ledger.reservations()
                if each.run == run
                for charge in each.charges
            ]

    def logged(self, name: str, run: str, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of a party's log entries of one kind on the run."""
        home = self.aggregator if name == self.aggregator.name else self.homes[name]
        with home.log() as log:
            return [dict(entry.body) for entry in log.entries(run=run) if str(entry.kind) == kind]

    def rounds(self, submission: Submission) -> int:
        """Return how many rounds of a run have ended."""
        events = self.aggregator.path / "runs" / submission.run.body.run / "events.jsonl"
        return events.read_text().count('"event": "round"') if events.exists() else 0

    def model(self, submission: Submission) -> NDArray[np.float32]:
        """Return what the silos sealed to the researcher, opened; all must have sealed the same."""
        researcher, run = self.setting.researcher, submission.run.body.run
        directory = self.aggregator.path / "runs" / run
        result = json.loads((directory / "result.json").read_bytes())

        def opened(blob: str, label: bytes, silo: str) -> bytes:
            info = release_info(label, submission.digest, silo, researcher.name)
            return researcher.open(info, (directory / f"{blob}.{silo}.sealed").read_bytes())

        weights = opened("model", MODEL_INFO, result["releaser"])
        for silo in result["silos"]:
            assert "sha256:" + opened("digest", DIGEST_INFO, silo).hex() == digest_of(weights)
        return np.frombuffer(weights, dtype="<f4")

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for something to be true and return it; fail with what every process said."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.05)
        said = "\n".join(f"--- {name}\n{self.said(name)}" for name in (*self.processes,))
        logs = "\n".join(path.read_text()[-3000:] for path in self.place.path("local").parent.glob("*.log"))
        raise AssertionError(f"{what}, in {seconds} s\n{said}\n{logs}")

    def wait_for(self, names: Sequence[str]) -> None:
        """Wait until exactly these silos are connected."""
        self.until(lambda: self.connected() == sorted(names), PATIENCE, f"{names} connect")

    def ended(self, submission: Submission, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until a run has ended, by what lies in the aggregator's home, and return its state."""
        runs, body = Runs(self.aggregator), submission.run.body

        def over() -> dict[str, Any] | None:
            state = runs.state(body.researcher, body.run)
            return state if state["state"] in ("finished", "failed") else None

        return dict(self.until(over, seconds, f"{body.run} ends"))

    def finish(self, run: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until a run has ended and return its state."""
        with self.client() as client:

            def ended() -> dict[str, Any] | None:
                try:
                    state = client.state(run)
                except PeerError:  # the edge is being started again; if it stays away, `until` says so
                    return None
                return state if state["state"] in ("finished", "failed") else None

            return dict(self.until(ended, seconds, f"{run} ends"))

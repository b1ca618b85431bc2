"""``silo aggregator up``: keeps SuperLink, SuperExec, the edge and every submitted run going.

Invariant: the SuperLink listens on loopback, with process isolation and a secret, and knows exactly the nodes of the
signed manifest's members: others are registered by nobody, and a member who leaves is unregistered.

A run ends when its folder holds a result or a failure. Until then there is one Flower run for it; when the process
that serves it is gone, the next Flower run takes over from what the folder holds. A child that ends is started again,
and the kernel ends every child when this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silo import allocator
from silo.aggregator import SERVING
from silo.canonical import utc_now
from silo.deploy.edge import make_edge
from silo.deploy.place import Place
from silo.deploy.requests import Gatekeeper
from silo.deploy.runs import Runs
from silo.errors import ConfigError, PeerError
from silo.storage import is_held, only_one, write_atomically

if TYPE_CHECKING:
    from silo.flower.control import Control

START_SECONDS = 60.0
LOOK_SECONDS = 0.5
SERVE_SECONDS = 60.0  # how long a started run may take until its process is there
MAX_STARTS = 8  # of one run in a row without a new round
CONCURRENCY = 512

Told = Callable[[str], None]


@dataclass
class _Attempt:
    """One Flower run that serves a submission."""

    flower_run: int
    since: float
    served: bool = False


@dataclass
class _Child:
    """A process and how to start it again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    wait: float = 0.5
    not_before: float = 0.0
    starts: int = 0

    def ensure(self, now: float) -> bool:
        """Start it if it is not there; say whether that was done just now."""
        if self.process is not None and self.process.poll() is None:
            return False
        if now < self.not_before:
            return False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own command, no shell
                [sys.executable, "-m", "silo.deploy.child", str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        self.starts += 1
        self.not_before, self.wait = now + self.wait, min(2 * self.wait, 30.0)
        return True

    def stop(self) -> None:
        """Ask it to end, then end it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Supervisor:
    """One aggregator, up. ``told`` hears each change in a line."""

    place: Place
    told: Told
    _attempts: dict[str, _Attempt] = field(default_factory=dict)
    _starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _registered: str = ""

    def __post_init__(self) -> None:
        self._runs = Runs(self.place.home)
        self._children = _children(self.place)

    def serve(self, stop: threading.Event) -> None:
        """Be up until ``stop`` is set."""
        allocator.give_back_large_blocks()
        with only_one(self.place.path("up.lock")):
            end_leftovers(self.place)
            shutil.rmtree(self.place.path("local/flwr"), ignore_errors=True)  # installed apps are never reused
            root = self.place.path("local/authority.crt").read_bytes()
            edge = _Edge(self.place, self._runs)
            try:
                self._ensure_children()
                with _control(self.place.superlink, root) as control:
                    self._wait(control, stop)
                    self._register(control)
                    edge.start()
                    self.told(f"listening on {self.place.settings.listen_host}:{self.place.settings.listen_port}")
                    while not stop.wait(LOOK_SECONDS):
                        self._look(control, edge)
            finally:
                edge.stop()
                for child in reversed(self._children):
                    child.stop()
                self._write_status("stopped", {})

    def _look(self, control: Control, edge: _Edge) -> None:
        """Look after everything once; that the SuperLink is just being started again is no reason to end."""
        if not edge.alive:
            raise PeerError("the edge ended", where=self.place.superlink, fix="is its port taken? See edge.log")
        try:
            self._ensure_children()
            self._register(control)
            for run in self._runs.open_runs():
                self._tend(control, run)
            self._write_status("up", control.nodes())
        except PeerError as error:
            self._write_status(f"waiting: {error.what}"[:200], {})

    # Children --------------------------------------------------------------------------------------------------------

    def _ensure_children(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.ensure(now):
                self.told(f"started {child.name}" + (" again" if child.starts > 1 else ""))

    def _wait(self, control: Control, stop: threading.Event) -> None:
        """Return when the SuperLink answers."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                control.nodes()
                return
            except PeerError as error:
                if time.monotonic() > end or stop.is_set():
                    raise PeerError(
                        "the SuperLink did not start", where=self.place.superlink, fix="see superlink.log"
                    ) from error
            self._ensure_children()
            stop.wait(0.2)

    def _register(self, control: Control) -> None:
        """Make the registered nodes those of the manifest's members; nothing to do while the manifest is the same."""
        manifest = self.place.home.consortium().body
        if manifest.digest == self._registered:
            return
        wanted = {member.node.encode(): member.name for member in manifest.members if member.node is not None}
        present = control.nodes()
        for key, (node, _) in present.items():
            if key not in wanted:
                control.unregister(node)
                self.told(f"node {node} may not connect any more")
        for key, name in wanted.items():
            if key not in present:
                control.register(key.decode(), name)
        lacking = sorted(member.name for member in manifest.members if member.node is None)
        if lacking:
            self.told(f"the manifest names no node key for {', '.join(lacking)}: they cannot connect")
        self._registered = manifest.digest

    # Runs ------------------------------------------------------------------------------------------------------------

    def _tend(self, control: Control, run: str) -> None:
        """Start a run that nothing serves."""
        attempt = self._attempts.get(run)
        if attempt is not None:
            if is_served(self.place.home.path / "runs" / run):
                attempt.served = True
                return
            ended = control.status(attempt.flower_run).startswith("finished")
            late = time.monotonic() - attempt.since > SERVE_SECONDS
            if not (ended or late or attempt.served):
                return
            if not self._runs_again(run):
                return
            if not ended:
                with contextlib.suppress(PeerError):
                    control.stop(attempt.flower_run)
        elif is_served(self.place.home.path / "runs" / run):
            return  # somebody serves it who was not started here
        self._attempts[run] = _Attempt(control.start(self.place.home.path, run), time.monotonic())
        self.told(f"run {run}: " + ("started" if attempt is None else "takes over from where it was"))

    def _runs_again(self, run: str) -> bool:
        """Say whether a run may be started again: it may not go on dying at the same place for ever."""
        directory = self.place.home.path / "runs" / run
        if run not in self._runs.open_runs():
            return False
        size = sum(path.stat().st_size for path in directory.glob("events.jsonl"))
        at, count = self._starts.get(run, (-1, 0))
        count = count + 1 if at == size else 1
        self._starts[run] = (size, count)
        if count > MAX_STARTS:
            from silo.aggregator import write_failure

            write_failure(directory, PeerError("its process ended again and again", fix="see superexec.log"))
            return False
        return True

    def _write_status(self, state: str, nodes: dict[bytes, tuple[int, bool]]) -> None:
        """Leave the state in the home for `silo aggregator status`."""
        manifest = self.place.home.consortium().body
        keys = {member.name: (member.node or "").encode() for member in manifest.members}
        status: dict[str, Any] = {
            "state": state,
            "at": utc_now(),
            "pid": os.getpid(),
            "edge": f"{self.place.settings.listen_host}:{self.place.settings.listen_port}",
            "silos": {name: bool(nodes.get(key, (0, False))[1]) for name, key in keys.items()},
            "open_runs": self._runs.open_runs(),
        }
        write_atomically(self.place.path("status.json"), json.dumps(status).encode())


class _Edge:
    """The edge in a thread of this process."""

    def __init__(self, place: Place, runs: Runs) -> None:
        self._place = place
        self._runs = runs
        self._server: Any = None
        self._thread = threading.Thread(target=self._serve, name="silo-edge", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Listen; raise :class:`PeerError` if that fails."""
        self._thread.start()
        end = time.monotonic() + START_SECONDS
        while self._server is None or not self._server.started:
            if not self.alive or time.monotonic() > end:
                settings = self._place.settings
                raise ConfigError(
                    "cannot listen", where=f"{settings.listen_host}:{settings.listen_port}", fix="is the port taken?"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(10)

    def _serve(self) -> None:
        import httpx
        import uvicorn

        settings = self._place.settings
        trust = ssl.create_default_context(cafile=str(self._place.path("local/authority.crt")))
        superlink = httpx.AsyncClient(
            base_url=f"https://{self._place.superlink}",
            verify=trust,
            timeout=60.0,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )
        gatekeeper = Gatekeeper(lambda: self._place.home.consortium().body)
        config = uvicorn.Config(
            make_edge(superlink, gatekeeper, self._runs),
            host=settings.listen_host,
            port=settings.listen_port,
            ssl_certfile=str(self._place.path("edge.crt")),
            ssl_keyfile=str(self._place.path("edge.key")),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONCURRENCY,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        with contextlib.suppress(SystemExit):  # what uvicorn does when it cannot bind; `start` says so
            self._server.run()


def end_leftovers(place: Place) -> None:
    """End what a supervisor that was killed left behind, known by the Flower home in its environment.

    The kernel ended its SuperLink and SuperExec. A ServerApp is a grandchild: it may wait for that SuperLink for ever,
    and hold the run that is to be taken over. What it did is on disk, as after any kill. Linux only (proc(5)).
    """
    wanted = f"FLWR_HOME={place.path('local/flwr')}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in file.read_bytes().split(b"\0") and int(file.parent.name) != os.getpid():
                os.kill(int(file.parent.name), signal.SIGKILL)


def is_served(directory: Path) -> bool:
    """Say whether a process serves the run in ``directory`` now: it holds the lock as long as it lives."""
    return (directory / SERVING).exists() and is_held(directory / SERVING)


@contextlib.contextmanager
def _control(address: str, root: bytes) -> Iterator[Control]:
    from silo.flower.control import Control

    with Control(address, root) as control:
        yield control


def _children(place: Place) -> list[_Child]:
    local = place.path("local")
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        **allocator.ENVIRONMENT,
        "PATH": os.pathsep.join((str(scripts), os.environ.get("PATH", ""))),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(local / "flwr"),  # also what `end_leftovers` knows them by
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    }
    root, secret = str(local / "authority.crt"), str(local / "secret")
    superlink = [
        str(scripts / "flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(place.settings.superlink_port)),
        *("--ssl-ca-certfile", root, "--ssl-certfile", str(local / "server.crt")),
        *("--ssl-keyfile", str(local / "server.key"), "--enable-supernode-auth"),
        *("--database", str(local / "superlink.db"), "--isolation", "process"),
        *("--superexec-auth-secret-file", secret),
    ]
    superexec = [
        str(scripts / "flower-superexec"),
        *("--runtime-api-address", place.superlink, "--root-certificates", root),
        *("--superexec-auth-secret-file", secret),
    ]
    return [
        _Child("SuperLink", superlink, environment, place.path("superlink.log")),
        _Child("SuperExec", superexec, environment, place.path("superexec.log")),
    ]

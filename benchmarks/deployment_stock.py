"""Stock Flower as people deploy it, on loopback: SuperLink and SuperNodes with TLS and node authentication, SQLite.

Nothing of Silo takes part: Flower's own commands with their defaults, Flower's ``Grid.send_and_receive``, and an app
that sends 32 numbers and gets them back. So the seconds are those of Flower's transport and task launching alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from silo.deploy.place import free_port
from silo.errors import PeerError
from silo.flower import compat
from silo.flower.control import Control
from tests.e2e.deployment import Deployment

START_SECONDS = 120.0
_APP = {
    "pyproject.toml": b"""\
[project]
name = "echo"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "echo.server:app"
clientapp = "echo.client:app"
[tool.flwr.app.config]
rounds = 1
out = ""
""",
    "echo/__init__.py": b"",
    "echo/client.py": b"""\
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
""",
    "echo/server.py": b"""\
import json, pathlib, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    nodes, out, seconds = list(grid.get_node_ids()), pathlib.Path(context.run_config["out"]), []
    for _ in range(context.run_config["rounds"]):
        content = RecordDict({"model": ArrayRecord({"w": Array(np.zeros(32, dtype=np.float32))})})
        started = time.monotonic()
        replies = list(grid.send_and_receive([Message(content, node, "train") for node in nodes]))
        seconds.append(time.monotonic() - started)
        assert len(replies) == len(nodes) and not any(each.has_error() for each in replies)
    out.with_suffix(".tmp").write_text(json.dumps(seconds))
    out.with_suffix(".tmp").rename(out)
""",
}


class _StockControl(Control):
    """Flower's control API, for an app with code of its own."""

    def start_app(self, rounds: int, out: Path) -> int:
        bundle, _ = compat.build_fab_from_files(_APP)
        request = compat.StartRunRequest(
            fab=compat.fab_to_proto(compat.Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=compat.user_config_to_proto({"rounds": rounds, "out": str(out)}),
        )
        return int(self._call(self._client.StartRun, request).run_id)


def exchanges(deployment: Deployment, rounds: int) -> list[float]:
    """Return the seconds of each exchange with the nodes of ``deployment``, whose own processes are not running."""
    folder, local, port = deployment.directory / "stock", deployment.place.path("local"), free_port()
    folder.mkdir()
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(scripts), os.environ.get("PATH", ""))),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(folder / "flwr"),
    }
    root = local / "authority.crt"
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [str(scripts / command[0]), *command[1:]],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    try:
        start(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
            "--ssl-ca-certfile", str(root), "--ssl-certfile", str(local / "server.crt"),
            "--ssl-keyfile", str(local / "server.key"), "--database", str(folder / "state.db"),
        )  # fmt: skip
        with _StockControl(f"127.0.0.1:{port}", root.read_bytes()) as control:
            _until(lambda: control.nodes() is not None, folder)
            for name, home in deployment.homes.items():
                control.register(home.node_public_key(), name)
            for name, home in deployment.homes.items():
                key = folder / f"{name}.key"
                key.write_bytes(home.node_key())
                key.chmod(0o600)
                start(
                    name, "flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", str(root),
                    "--auth-supernode-private-key", str(key), "--port", str(free_port()),
                )  # fmt: skip
            _until(lambda: sum(there for _, there in control.nodes().values()) == len(deployment.homes), folder)
            out = folder / "seconds.json"
            control.start_app(rounds, out)
            _until(out.exists, folder, 60.0 * rounds + START_SECONDS)
            found: list[float] = json.loads(out.read_text())
            return found
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until(condition: object, folder: Path, seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():  # type: ignore[operator]
                return
        except PeerError:
            pass  # it is starting
        time.sleep(0.2)
    logs = "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(folder.glob("*.log")))
    raise SystemExit(f"stock Flower did not come up, or did not answer\n{logs}")

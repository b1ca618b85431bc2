"""The aggregator's own use of Flower's control API: who may connect, and which runs go on. On loopback only.

Flower's control API knows no users, so whoever reaches it rules the SuperLink: it listens on loopback and the edge
(:mod:`silo.deploy.edge`) exposes none of it.

The app bundle is ours and constant: two names of installed code, no code of its own. What differs from run to run is
the run's id; everything else stands in the signed submission.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from silo.errors import PeerError
from silo.flower import compat
from silo.flower.fleet import APP_ID, APP_NAME

BUNDLE = f"""\
[project]
name = "{APP_NAME}"
version = "1.0.0"
license = "Apache-2.0"
description = "Names the installed apps of Silo; holds no code."

[tool.flwr.app]
publisher = "{APP_ID.split("/")[0]}"

[tool.flwr.app.components]
serverapp = "silo.flower.server_app:app"
clientapp = "silo.flower.client_app:app"

[tool.flwr.app.config]
silo-home = ""
silo-run = ""
"""


class Control:
    """A client of the control API at ``address`` (``host:port``), behind the certificate ``root_certificate`` (PEM)."""

    def __init__(self, address: str, root_certificate: bytes) -> None:
        self._address = address
        self._client = compat.ControlHttpClient.from_server_address(
            address,
            False,
            root_certificate,
            interceptors=[compat.RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def nodes(self) -> dict[bytes, tuple[int, bool]]:
        """Return the registered nodes: public key -> (node id, whether it is connected now)."""
        listed = self._call(self._client.ListNodes, compat.ListNodesRequest()).nodes_info
        return {
            _one_line(each.public_key): (each.node_id, each.status == "online")
            for each in listed
            if each.status != "unregistered"
        }

    def register(self, key: str, name: str) -> None:
        """Let the node with this public key (OpenSSH, one line) connect."""
        request = compat.RegisterNodeRequest(public_key=_pem(key), name=name)
        self._call(self._client.RegisterNode, request)

    def unregister(self, node_id: int) -> None:
        """Let a node connect no more."""
        self._call(self._client.UnregisterNode, compat.UnregisterNodeRequest(node_id=node_id))

    def start(self, home: Path, run: str) -> int:
        """Start the constant app for a run that was submitted to the aggregator's ``home``; return Flower's run id."""
        bundle, _ = compat.build_fab_from_files({"pyproject.toml": BUNDLE.encode(), "silo_run.py": b'"""No code."""\n'})
        import hashlib

        fab = compat.Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = compat.StartRunRequest(
            fab=compat.fab_to_proto(fab),
            override_config=compat.user_config_to_proto({"silo-home": str(home), "silo-run": run}),
        )
        response = self._call(self._client.StartRun, request)
        if not response.HasField("run_id"):
            raise PeerError("the SuperLink did not start the run", where=run, fix="see superlink.log")
        return int(response.run_id)

    def status(self, run_id: int) -> str:
        """Return what Flower says of a run: ``pending``, ``starting``, ``running``, ``finished:...`` or ``unknown``."""
        listed = self._call(self._client.ListRuns, compat.ListRunsRequest(run_id=run_id)).run_dict
        if run_id not in listed:
            return "unknown"
        status = listed[run_id].status
        return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._call(self._client.StopRun, compat.StopRunRequest(run_id=run_id))

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        import httpx

        try:
            return method(request)
        except (httpx.HTTPError, ValueError) as error:
            raise PeerError(f"the SuperLink did not do as told: {error}", where=self._address) from error


def _one_line(pem: bytes) -> bytes:
    """Return a key from Flower (PEM) as OpenSSH writes it; what is no key is returned as it came."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
        return bytes(key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    except ValueError:
        return bytes(pem)


def _pem(key: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(compat.public_key_to_bytes(serialization.load_ssh_public_key(key.encode())))

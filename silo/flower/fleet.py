"""A silo's connection to the aggregator: Flower's fleet API, spoken by the agent itself.

Flower's own connection (``http_request_response``) is for a process of its own: it ends the process when it cannot
connect, and swallows what its caller raises. This one uses the same client and the same requests, turns every failure
of the network into :class:`~silo.errors.PeerError`, and leaves it to the caller to connect again.

Invariant: nothing is believed because of this connection. TLS keeps outsiders out, the node's key opens the door, and
every packet that arrives is checked against the aggregator's signature (:mod:`silo.messages`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from silo.errors import ConfigError, PeerError
from silo.flower import compat

APP_ID, APP_NAME = "silo/silo-run", "silo-run"
HEARTBEAT_SECONDS = 10.0  # the least Flower allows: a silo that died is missed after twice that
BEAT_EVERY = 4.0
MAX_OBJECTS = 20_000
MAX_MESSAGE_BYTES = 2 << 30


@dataclass(frozen=True)
class Delivery:
    """A message that arrived for this node, whole, and the run it belongs to."""

    run_id: int
    message: compat.Message


class FleetConnection:
    """One activated node at one aggregator; use it as a context, from one thread.

    Args:
        address: ``host:port`` of the aggregator's edge.
        root_certificate: PEM of the authority that its certificate must lead to; None for the system's own.
        node_key: the node's P-384 private key, OpenSSH format (``Home.node_key``).
        last_node: the node id of an earlier connection with this key, which may still count as connected.
    """

    def __init__(
        self, address: str, root_certificate: bytes | None, node_key: bytes, last_node: int | None = None
    ) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        try:
            key = load_ssh_private_key(node_key, None)
        except ValueError as error:
            raise ConfigError("the node's key cannot be read", where="keys/node.p384.pem", fix="restore it") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("the node's key is no elliptic-curve key", where="keys/node.p384.pem", fix="restore it")
        self.address = address
        self._public = compat.public_key_to_bytes(key.public_key())
        try:
            self._client = compat.FleetHttpClient.from_server_address(
                address,
                False,
                root_certificate,
                interceptors=[
                    compat.RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                    compat.NodeAuthHttpInterceptor(key, key.public_key()),
                ],
            )
        except (ValueError, OSError) as error:
            raise ConfigError("the root certificate cannot be read", fix="it is a PEM file") from error
        self._last = last_node
        self._node: Any = None
        self._ours: dict[int, bool] = {}
        self._over = threading.Event()
        self._lost = ""
        self._beats = threading.Thread(target=self._beat, name="silo-heartbeat", daemon=True)

    @property
    def node_id(self) -> int:
        """The number by which the aggregator's Flower knows this node."""
        return int(self._node.node_id)

    def __enter__(self) -> Self:
        try:
            if self._last is not None:  # killed a moment ago, it still counts as connected, and cannot be activated
                self._deactivate(self._last)
            request = compat.ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
            response = self._call(self._client.ActivateNode, request)
        except BaseException:
            self._client.close()
            raise
        self._node = compat.Node(node_id=response.node_id)
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beats.join()
        self._deactivate(self.node_id)
        self._client.close()

    def receive(self) -> Delivery | None:
        """Return the next message of a run of our app, or None if there is none now.

        A message of another app is dropped: nothing of it is fetched, and it gets no answer.
        """
        if self._lost:
            raise PeerError(self._lost, where=self.address)
        response = self._call(self._client.PullMessages, compat.PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        run_id = response.messages_list[0].metadata.run_id
        if not self._is_ours(run_id):
            return None
        tree = response.message_object_trees[0]
        return Delivery(run_id, self._fetch(run_id, response.messages_list[0].metadata.message_id, tree))

    def send(self, run_id: int, reply: compat.Message, seconds: float) -> None:
        """Send a reply; ``seconds`` is how long it took to make."""
        tree, contents = compat.to_objects(reply)
        request = compat.PushMessagesRequest(
            node=self._node,
            messages_list=[compat.message_to_proto(compat.remove_content_from_message(reply))],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        response = self._call(self._client.PushMessages, request)
        push = compat.make_push_object_fn_protobuf(
            lambda message: self._call(self._client.PushObject, message), self._node, run_id, response.session_id
        )
        try:
            compat.push_object_contents_from_iterable(
                ((each, contents[each]) for each in response.objects_to_push), push_object_fn=push
            )
        except compat.ObjectPushError as error:
            raise PeerError("the answer was not taken", where=self.address) from error

    def _is_ours(self, run_id: int) -> bool:
        """Say whether a run is of the constant app. Its bundle is never fetched: no code comes this way."""
        if run_id not in self._ours:
            request = compat.GetRunRequest(node=self._node, run_id=run_id)
            self._ours[run_id] = self._call(self._client.GetRun, request).run.fab_id == APP_ID
        return self._ours[run_id]

    def _fetch(self, run_id: int, message_id: str, tree: compat.ObjectTree) -> compat.Message:
        ids = [each.object_id for each in compat.iterate_object_tree(tree)]
        if len(ids) > MAX_OBJECTS:
            raise PeerError(f"a message of {len(ids)} parts was refused", where=self.address)
        pull = compat.make_pull_object_fn_protobuf(
            lambda message: self._call(self._client.PullObject, message), self._node, run_id
        )
        fetched, lock = 0, threading.Lock()

        def bounded(object_id: str) -> bytes:
            nonlocal fetched
            content: bytes = pull(object_id)
            with lock:
                fetched += len(content)
                if fetched > MAX_MESSAGE_BYTES:
                    raise PeerError("a message of more than 2 GiB was refused", where=self.address)
            return content

        try:
            contents = compat.pull_while_it_comes(ids, bounded)
            confirm = compat.make_confirm_message_received_fn_protobuf(
                lambda message: self._call(self._client.ConfirmMessageReceived, message), self._node, run_id
            )
            confirm(message_id)
            return compat.inflate(message_id, contents)
        except compat.ObjectPullError as error:
            raise PeerError("a message was taken back before it was whole", where=self.address) from error
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError("a malformed message was refused", where=self.address) from error

    def _beat(self) -> None:
        """Say that this node is alive, while its agent trains; a refusal ends the connection at the next receive."""
        while not self._over.wait(BEAT_EVERY):
            try:
                request = compat.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
                if not self._call(self._client.SendNodeHeartbeat, request).success:
                    self._lost = "the aggregator does not know this node any more"
            except PeerError as error:
                self._lost = error.what

    def _deactivate(self, node_id: int) -> None:
        """Say good-bye. That it fails is no harm: whoever does not say it is missed a little later."""
        try:
            self._call(self._client.DeactivateNode, compat.DeactivateNodeRequest(node_id=node_id))
        except PeerError:
            return

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        import httpx

        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response.status_code, self.address) from error
        except (httpx.HTTPError, ValueError) as error:
            raise PeerError(_network(error), where=self.address, fix="is the aggregator up?") from error


def _refusal(status: int, address: str) -> PeerError:
    told: Mapping[int, tuple[str, str]] = {
        401: ("the aggregator does not accept this node's key", "is the silo a member? Do the clocks agree?"),
        404: ("there is no aggregator's edge here", "check the address"),
    }
    what, fix = told.get(status, (f"the aggregator answered {status}", "see the aggregator's log"))
    return PeerError(what, where=address, fix=fix)


def _network(error: Exception) -> str:
    """Return what a person can use of a network error; a certificate that does not hold is named as such."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "the aggregator's certificate does not hold: " + text.rsplit("CERTIFICATE_VERIFY_FAILED]", 1)[-1].strip()
    return f"no connection: {text or type(error).__name__}"

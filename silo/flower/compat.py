"""Every private name of Flower 1.41 that Silo uses; `tests/contract/test_flower_compat.py` holds them to it.

Flower's in-process pieces have no public entry: building a message outside a task needs the task's identity set, and
the transport's serialisation lives under ``flwr.supercore``. A new Flower version is a change to this file only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# Before the first import of flwr: no telemetry, no update check, nothing installed at run time.
for _name in ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import Message  # noqa: E402
from flwr.app.message import remove_content_from_message  # noqa: E402
from flwr.cli.build import build_fab_from_files  # noqa: E402
from flwr.common.constant import ErrorCode  # noqa: E402
from flwr.common.serde import (  # noqa: E402
    fab_to_proto,
    message_from_proto,
    message_to_proto,
    user_config_to_proto,
)
from flwr.proto.control_pb2 import (  # noqa: E402
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fleet_pb2 import (  # noqa: E402
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest  # noqa: E402
from flwr.proto.message_pb2 import ObjectTree  # noqa: E402
from flwr.proto.node_pb2 import Node  # noqa: E402
from flwr.proto.run_pb2 import GetRunRequest  # noqa: E402
from flwr.supercore.control import ControlHttpClient  # noqa: E402
from flwr.supercore.fab import Fab  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: E402
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (  # noqa: E402
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor  # noqa: E402
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402
from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: E402
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # noqa: E402

__all__ = [
    "ActivateNodeRequest",
    "ControlHttpClient",
    "DeactivateNodeRequest",
    "ErrorCode",
    "Fab",
    "FleetHttpClient",
    "GetRunRequest",
    "ListNodesRequest",
    "ListRunsRequest",
    "Message",
    "Node",
    "NodeAuthHttpInterceptor",
    "ObjectPullError",
    "ObjectPushError",
    "ObjectTree",
    "PullMessagesRequest",
    "PushMessagesRequest",
    "RegisterNodeRequest",
    "Run",
    "RuntimeVersionHttpInterceptor",
    "SendNodeHeartbeatRequest",
    "StartRunRequest",
    "StopRunRequest",
    "UnregisterNodeRequest",
    "build_fab_from_files",
    "empty_run",
    "fab_to_proto",
    "inflate",
    "iterate_object_tree",
    "make_confirm_message_received_fn_protobuf",
    "make_pull_object_fn_protobuf",
    "make_push_object_fn_protobuf",
    "message_from_proto",
    "message_to_proto",
    "public_key_to_bytes",
    "pull_while_it_comes",
    "push_object_contents_from_iterable",
    "remove_content_from_message",
    "set_task_identity",
    "through_the_wire",
    "to_objects",
    "user_config_to_proto",
]

WHOLE_SECONDS = 1800.0  # as long as a silo may be silent in a round
IDLE_SECONDS = 30.0  # in which 5 MiB, Flower's largest piece, arrive on a line of 1.4 Mbit/s


def set_task_identity(run_id: int, node_id: int = 1, task_id: int = 1) -> None:
    """Give this process the identity that Flower asks for when a ``Message`` is built outside a task."""
    TaskIdentity.task_id = task_id
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def empty_run(run_id: int) -> Run:
    """Return a Flower run without an app bundle."""
    return Run.create_empty(run_id=run_id)


def to_objects(message: Message) -> tuple[ObjectTree, dict[str, bytes]]:
    """Return a message as Flower's transport carries it: the tree of its objects' ids, and their bytes by id."""
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        tree = get_object_tree(message)
        contents = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    return tree, contents


def inflate(message_id: str, contents: dict[str, bytes]) -> Message:
    """Return the message of these objects; ``contents`` is emptied on the way."""
    message = inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise ValueError("the object is no message")
    message.metadata.__dict__["_message_id"] = message_id
    return message


def through_the_wire(message: Message) -> tuple[Message, int]:
    """Return ``message`` after Flower's own serialisation and parsing, and the bytes that would have travelled."""
    with no_object_id_recompute():
        message_id = message.object_id
        contents = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    size = sum(len(content) for content in contents.values())  # now: inflating empties the mapping
    return inflate(message_id, contents), size


def pull_while_it_comes(
    object_ids: list[str], pull_object_fn: Callable[[str], bytes], *, idle: float = IDLE_SECONDS
) -> dict[str, bytes]:
    """Return objects by id, asking every 50 ms to 1 s; raise ``ObjectPullError`` once none came for ``idle`` seconds.

    Flower counts from the first request and waits two hours: too long for what was announced by a process that was
    killed before it sent it, and a bound that is right for that is wrong for a large message on a slow line. Whoever
    sends a piece now and then only to keep others waiting can do so for ``WHOLE_SECONDS``.
    """
    last = time.monotonic()

    def pull(object_id: str) -> bytes:
        nonlocal last
        try:
            content = pull_object_fn(object_id)
        except ObjectUnavailableError:
            if time.monotonic() - last > idle:
                raise ObjectPullError(object_id, f"nothing came for {idle:g} seconds") from None
            raise
        last = time.monotonic()
        return content

    contents: dict[str, bytes] = pull_objects(
        object_ids, pull, max_time=WHOLE_SECONDS, max_tries_per_object=None, initial_backoff=0.05, backoff_cap=1.0
    )
    return contents


def bound_replies() -> None:
    """Have this process's grid fetch replies with :func:`pull_while_it_comes`.

    It waits in the call that serves every other node as well: one silo that is killed between announcing its reply and
    sending it would stop a run.
    """
    from flwr.superlink.grid import http_grid

    http_grid.pull_objects = pull_while_it_comes

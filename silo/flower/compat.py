"""Every private name of Flower 1.41 that Silo uses; `tests/contract/test_flower_compat.py` holds them to it.

Flower's in-process pieces have no public entry: building a message outside a task needs the task's identity set, and
the transport's serialisation lives under ``flwr.supercore``. A new Flower version is a change to this file only.
"""

from __future__ import annotations

import os

# Before the first import of flwr: no telemetry, no update check, nothing installed at run time.
for _name in ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import Message  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

__all__ = ["Run", "empty_run", "set_task_identity", "through_the_wire"]


def set_task_identity(run_id: int, node_id: int = 1, task_id: int = 1) -> None:
    """Give this process the identity that Flower asks for when a ``Message`` is built outside a task."""
    TaskIdentity.task_id = task_id
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def empty_run(run_id: int) -> Run:
    """Return a Flower run without an app bundle."""
    return Run.create_empty(run_id=run_id)


def through_the_wire(message: Message) -> tuple[Message, int]:
    """Return ``message`` after Flower's own serialisation and parsing, and the bytes that would have travelled."""
    with no_object_id_recompute():
        message_id = message.object_id
        contents = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    size = sum(len(content) for content in contents.values())  # now: inflating empties the mapping
    copy = inflate_object_from_contents(message_id, contents)
    copy.metadata.__dict__["_message_id"] = message_id
    return copy, size

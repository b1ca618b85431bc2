"""The fork server: a process with the libraries loaded and no secret, from which confined children are forked.

Invariant: it is started by ``exec`` with an empty environment and one socket, so nothing of the agent is in its
memory; it runs no code but ours; a child that it forks is confined before it hears its first request. Importing torch
takes seconds and a fork milliseconds, so a run starts a child and not an interpreter.

    agent --orders--> nursery --fork--> guard (own namespaces) --fork--> child (process 1, confined)
      \\------------------------- frames (silo.sandbox.channel) -----------------------/

Killing the guard kills the child, and the child, being process 1 of its space, takes whatever it started with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from silo.sandbox import confine, kernel

ORDER_BYTES = 1 << 14
_REAP_SECONDS = 0.5


class Nursery:
    """Serves orders until the agent's end of the socket is closed."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._children: dict[int, int] = {}  # order's number -> guard's pid

    def serve(self) -> None:
        """Answer orders; at their end kill every child."""
        try:
            while True:
                ready, _, _ = select.select([self._orders], [], [], _REAP_SECONDS)
                self._reap()
                if ready and not self._order():
                    return
        finally:
            for number in list(self._children):
                self._stop(number)

    def _order(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._orders, ORDER_BYTES, 1)
        while message and len(message) < ORDER_BYTES:
            rest = self._orders.recv(ORDER_BYTES - len(message))
            message = message + rest if rest else b""
        if not message:
            return False
        body = json.loads(message)
        match body["do"]:
            case "warm":
                load_libraries()
            case "start":
                order = confine.Order.parse(body["order"])
                if not order.probe:
                    load_libraries()
                self._start(body["number"], order, descriptors[0])
            case "stop":
                self._stop(body["number"])
        return True

    def _start(self, number: int, order: confine.Order, channel: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._orders.close()
            _or_exit(lambda: _guard(order, channel))
        os.close(channel)
        self._children[number] = pid

    def _stop(self, number: int) -> None:
        pid = self._children.pop(number, 0)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _reap(self) -> None:
        for number, pid in list(self._children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._children[number]


def load_libraries() -> None:
    """Import what experiments and their worker use, once; the children share the memory."""
    import sklearn.metrics  # noqa: F401  metrics of most experiments come from there
    import torch._dynamo  # torch.optim would import it in every child, for two seconds
    from opacus import GradSampleModule, validators  # noqa: F401

    # What the processor can do is read from files that a child does not have; without, other kernels would round
    # otherwise than everywhere else.
    torch.backends.cpu.get_cpu_capability()
    import silo.sandbox.worker
    import silo.training.optimizer  # noqa: F401

    gc.freeze()  # a child that collects its garbage would otherwise visit, and so copy, all of this


def _guard(order: confine.Order, channel: int) -> None:
    """Enter new namespaces, start the child in them, and wait for its end."""
    missing = confine.separate()
    pid = os.fork()
    if pid == 0:
        _or_exit(lambda: _child(order, channel, missing))
    os.close(channel)
    with contextlib.suppress(OSError):  # not Linux: the child ends when its channel does
        kernel.die_with_parent()
    os.waitpid(pid, 0)
    os._exit(0)


def _or_exit(act: Callable[[], None]) -> NoReturn:
    """Do it and end this process, whatever happens: a fork must never come back into the server's loop."""
    try:
        act()
    except BaseException:
        traceback.print_exc()  # of our own code: foreign code runs with standard error closed
        os._exit(1)
    os._exit(0)


def _child(order: confine.Order, channel: int, missing: str) -> None:
    """Be confined, say what is in force, and serve requests until the channel ends."""
    nothing = os.open(os.devnull, os.O_RDWR)
    outcome = confine.confine(order, spaces_missing=missing)
    for descriptor in (0, 1, 2):  # what it prints may be a record: nobody reads it
        os.dup2(nothing, descriptor)
    os.dup2(channel, 3)
    os.closerange(4, 1 << 16)
    connection = socket.socket(fileno=3)
    os.environ["TMPDIR"] = str(Path.cwd())
    hello = json.dumps({"means": sorted(outcome.in_force), "missing": outcome.missing}).encode()
    connection.sendall(len(hello).to_bytes(4, "big") + hello)
    if order.probe:
        return
    from silo.sandbox.channel import Channel
    from silo.sandbox.worker import serve

    serve(Channel(connection))


def main(descriptor: int) -> None:
    """Serve orders on an inherited socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which closes the socket
    with socket.socket(fileno=descriptor) as orders:
        Nursery(orders).serve()

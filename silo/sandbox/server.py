"""The agent's handle of its fork server: one a process, started when first needed, gone when the agent is.

Invariant: the server gets an empty environment, no descriptor but its socket, and no argument that is secret. Every
child is confined, whatever the operating system: where it lacks a mean, :func:`means` says so, and policies decide.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silo.errors import ConfigError
from silo.sandbox.channel import Channel, ChannelFault
from silo.sandbox.confine import PROTECTIONS, Limits, Order, readable_places
from silo.sandbox.nursery import ORDER_BYTES

_PACKAGES = ("silo", "silo_crypto", "silo_policies")
# Until a child says hello: the fork server may have to import torch first, on a slow disk.
_START_SECONDS = 180.0
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from silo.sandbox.nursery import main; main(int(sys.argv[1]))"
)


@dataclass(frozen=True)
class Means:
    """How researchers' code is confined here: ``in_force``, sorted, and why the rest is not."""

    in_force: tuple[str, ...]
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def isolation(self) -> str:
        """What policies are told: ``process`` with every protection in force, else ``none``."""
        return "process" if set(PROTECTIONS) <= set(self.in_force) else "none"

    def __str__(self) -> str:
        held = ", ".join(self.in_force) or "nothing"
        return f"confined: {held}" + "".join(f"; not {mean}: {why}" for mean, why in self.missing)


@dataclass(frozen=True)
class Child:
    """A confined child that said hello: its channel, what is in force in it, and how to end it."""

    number: int
    channel: Channel
    means: Means

    def end(self) -> None:
        """Kill it and whatever it started."""
        self.channel.close()
        _server.stop(self.number)


class _Server:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner = 0
        self._means: Means | None = None

    def warm(self) -> None:
        """Let the server load its libraries while this process does something else."""
        with self._lock:
            self._send({"do": "warm"})

    def means(self) -> Means:
        """Return what this operating system lets be put in force, tried once in a child that ends at once."""
        if self._means is None:
            child = self.start(Limits(), hidden=(), probe=True)
            child.end()
            self._means = child.means
        return self._means

    def start(self, limits: Limits, hidden: Collection[Path], *, probe: bool = False) -> Child:
        """Start a child; raises :class:`ConfigError` if it cannot be confined as it should."""
        places = [str(place.resolve()) for place in hidden]
        order = Order(limits, readable_places(_PACKAGES), tuple(places), probe)
        ours, theirs = socket.socketpair()
        with theirs:
            number = next(self._numbers)
            with self._lock:
                self._send({"do": "start", "number": number, "order": order.to_json()}, theirs.fileno())
        channel = Channel(ours)
        try:
            hello, _ = channel.receive_hello(_START_SECONDS)
            means = Means(tuple(hello["means"]), tuple(sorted(hello["missing"].items())))
        except ChannelFault as error:
            channel.close()
            self.stop(number)
            raise ConfigError(
                f"the process for the researcher's code did not start: {error}",
                where="sandbox",
                fix="the agent's standard error says why",
            ) from error
        return Child(number, channel, means)

    def stop(self, number: int) -> None:
        """Kill a child."""
        with self._lock:
            if self._running:
                self._send({"do": "stop", "number": number})

    def close(self) -> None:
        """End the server and every child."""
        with self._lock:
            if self._running and self._process is not None and self._socket is not None:
                self._socket.close()
                self._process.wait()
            self._process = self._socket = None

    @property
    def _running(self) -> bool:
        """Tell whether the server is there and ours: a fork of this process has none."""
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _send(self, body: dict[str, Any], *descriptors: int) -> None:
        if not self._running:
            self._open()
        message = json.dumps(body).encode().ljust(ORDER_BYTES)
        if len(message) != ORDER_BYTES or self._socket is None:
            raise ConfigError("an order to the fork server is too long", where="sandbox", fix="shorten sys.path")
        sent = socket.send_fds(self._socket, [message], descriptors)
        self._socket.sendall(message[sent:])

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, and a program that is a constant
                [sys.executable, "-I", "-B", "-c", _PROGRAM, str(theirs.fileno()), json.dumps(_search_path())],
                env={"LANG": "C.UTF-8", "OMP_WAIT_POLICY": "PASSIVE"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket, self._owner = ours, os.getpid()


def _search_path() -> list[str]:
    return [str(Path(place).resolve()) for place in sys.path if place]


_server = _Server()
atexit.register(_server.close)
warm, means, start = _server.warm, _server.means, _server.start

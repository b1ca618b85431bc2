"""A line of our own between two network namespaces: late, lossy, or cut. There is no netem here, and none is needed.

One process makes both namespaces, with a TUN device in each, and carries the packets between them: it holds each back,
loses some, and loses all while the line is cut. What runs in the namespaces is entered with ``nsenter``; both go when
the process ends. Needs root and ``/dev/net/tun``.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

NEAR, FAR = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 0x400454CA, 0x0001, 0x1000


class Line:
    """Two namespaces and the line between; use it as a context. ``near`` and ``far`` are prefixes for commands."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline().split()
        if told[:1] != ["ready"]:
            raise OSError("no namespaces here: " + " ".join(told))
        enter = shutil.which("nsenter") or "nsenter"
        self.near, self.far = ([enter, f"--net=/proc/{self._process.pid}/fd/{fd}"] for fd in told[1:3])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def be(self, *, delay: float = 0.0, loss: float = 0.0) -> None:
        """From now on hold each packet back for ``delay`` seconds and lose the share ``loss``; 1.0 cuts the line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{delay} {loss}\n")
        self._process.stdin.flush()


def _namespace(address: str) -> tuple[int, int]:
    """Enter a new namespace with a TUN device; return descriptors of the namespace and of the device."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"silo0", IFF_TUN | IFF_NO_PI))
    for command in ("ip link set lo up", f"ip addr add {address}/24 dev silo0", "ip link set silo0 up"):
        subprocess.run(command.split(), check=True)
    return os.open("/proc/self/ns/net", os.O_RDONLY), device


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Make both ends, say so, and carry packets until standard input ends."""
    try:
        (near, one), (far, other) = _namespace(NEAR), _namespace(FAR)
    except (OSError, subprocess.CalledProcessError) as error:
        _say(f"failed {error}")
        return
    _say(f"ready {near} {far}")
    delay, loss, order = 0.0, 0.0, 0
    under_way: list[tuple[float, int, int, bytes]] = []
    drawn = random.Random(1)
    commands = b""
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([0, one, other], [], [], wait)
        if 0 in ready:
            read = os.read(0, 4096)
            if not read:
                return
            commands += read
            *lines, commands = commands.split(b"\n")
            for line in lines:
                delay, loss = map(float, line.split())
        for source, target in ((one, other), (other, one)):
            if source in ready:
                packet = os.read(source, 65536)
                order += 1
                if drawn.random() >= loss:
                    heapq.heappush(under_way, (time.monotonic() + delay, order, target, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(under_way)
            try:
                os.write(target, packet)
            except BlockingIOError:
                continue  # its queue is full: lost, as on any line


if __name__ == "__main__":
    main()

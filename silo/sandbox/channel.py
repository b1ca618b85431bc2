"""Frames between the agent and a confined child: a bounded JSON head and raw arrays, nothing that is ever executed.

Invariant: a receiver allocates only what it said it expects, takes every byte into memory of its own (a child cannot
change an array after it was checked), and builds arrays from dtype and shape alone: no pickle, no object, no path.
Whatever else arrives, or nothing in time, is a :class:`ChannelFault`.

A frame: 4 bytes length of the head, big-endian; the head, JSON, ``{"arrays": [[name, dtype, shape], ...], ...}``; the
arrays' bytes in that order, C-contiguous.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEAD = 1 << 16
MAX_BYTES = 1 << 31
NUMBERS = ("float32", "float64", "int64", "int32", "uint8", "bool")
_BUFFER = 1 << 20

Array = NDArray[Any]


class ChannelFault(Exception):
    """The other side closed, took too long, or sent something else than was asked for. The text is always ours."""


@dataclass(frozen=True)
class Shape:
    """An array that is expected: one of ``dtypes``; ``shape`` with None where any length will do, and ``further`` axes
    if so; at ``most`` so many bytes."""

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...]
    most: int = MAX_BYTES
    further: bool = False

    def admits(self, dtype: str, shape: Sequence[int]) -> bool:
        """Tell whether an announced array is one that is expected."""
        fits = len(shape) == len(self.shape) or (self.further and len(shape) > len(self.shape))
        fits = fits and all(wanted is None or wanted == found for wanted, found in zip(self.shape, shape, strict=False))
        return fits and dtype in self.dtypes and math.prod(shape) * np.dtype(dtype).itemsize <= self.most


class Channel:
    """One end of the socket. Not for two threads at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            try:
                connection.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            except OSError:
                break  # a smaller buffer is only slower

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, head: Mapping[str, Any], arrays: Mapping[str, Array] | None = None, *, seconds: float) -> None:
        """Send one frame; raises :class:`ChannelFault` when it is not taken in time."""
        arrays = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
        listed = [[name, array.dtype.str if array.dtype.kind == "U" else array.dtype.name, list(array.shape)]
                  for name, array in arrays.items()]  # fmt: skip
        text = json.dumps({**head, "arrays": listed}, allow_nan=False).encode()
        if len(text) > MAX_HEAD:
            raise ChannelFault("a message is too long")
        end = time.monotonic() + seconds
        parts: list[bytes | memoryview] = [
            len(text).to_bytes(4, "big") + text,
            *(_view(array) for array in arrays.values() if array.size),
        ]
        try:
            for part in parts:
                self._socket.settimeout(_left(end))
                self._socket.sendall(part)
        except TimeoutError as error:
            raise ChannelFault("it did not take the message in time") from error
        except OSError as error:
            raise ChannelFault("it ended") from error

    def receive(self, expected: Mapping[str, Shape], *, seconds: float) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the head and exactly the ``expected`` arrays, or none where the head says ``"ok": false``."""
        end = time.monotonic() + seconds
        head = self.receive_head(end)
        listed = head.pop("arrays", None)
        announced = _announced(listed)
        wanted = expected if head.get("ok") is not False else {}
        if announced.keys() != wanted.keys():
            raise ChannelFault("it sent other arrays than were asked for")
        for name, (dtype, shape) in announced.items():
            if not wanted[name].admits(dtype, shape):
                raise ChannelFault(f"it sent {name} with another dtype, shape or size than was asked for")
        return head, {name: self._array(dtype, shape, end) for name, (dtype, shape) in announced.items()}

    def receive_hello(self, seconds: float) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return what a child says before it has loaded anything: what is in force."""
        head = self.receive_head(time.monotonic() + seconds)
        return head, {}

    def receive_any(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return whatever the trusted side sends, text columns included: for the child's end only."""
        head = self.receive_head(None)
        arrays = {}
        for name, dtype, shape in head.pop("arrays"):
            arrays[name] = self._array(dtype, shape, None)
        return head, arrays

    def receive_head(self, end: float | None) -> dict[str, Any]:
        """Return the next head, a JSON object of at most 64 KiB."""
        length = int.from_bytes(self._bytes(4, end), "big")
        if length > MAX_HEAD:
            raise ChannelFault("it sent a message that is too long")
        try:
            head = json.loads(self._bytes(length, end), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ChannelFault("it sent what is no message") from error
        if not isinstance(head, dict):
            raise ChannelFault("it sent what is no message")
        return head

    def _array(self, dtype: str, shape: Sequence[int], end: float | None) -> Array:
        array: Array = np.empty(tuple(shape), dtype=np.dtype(dtype))
        if array.nbytes:
            self._fill(_view(array), end)
        if array.dtype.kind == "b" and not np.isin(array.view(np.uint8), (0, 1)).all():
            raise ChannelFault("it sent a truth value that is neither")
        return array

    def _bytes(self, count: int, end: float | None) -> bytes:
        buffer = bytearray(count)
        self._fill(memoryview(buffer), end)
        return bytes(buffer)

    def _fill(self, view: memoryview, end: float | None) -> None:
        got = 0
        try:
            while got < len(view):
                self._socket.settimeout(None if end is None else _left(end))
                count = self._socket.recv_into(view[got:])
                if not count:
                    raise ChannelFault("it ended")
                got += count
        except TimeoutError as error:
            raise ChannelFault("it did not answer in time") from error
        except OSError as error:
            raise ChannelFault("it ended") from error


def _view(array: Array) -> memoryview:
    """Return the bytes of a contiguous array, text included, without copying them."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _announced(listed: object) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> (dtype, shape) of a head's list, whatever it is made of."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for each in listed if isinstance(listed, list) else [None]:
        match each:
            case [str(name), str(dtype), list(shape)] if dtype in NUMBERS and len(shape) <= 8 and name not in found:
                if not all(type(length) is int and 0 <= length <= MAX_BYTES for length in shape):
                    raise ChannelFault("it sent what is no list of arrays")
                found[name] = (dtype, tuple(shape))
            case _:
                raise ChannelFault("it sent what is no list of arrays")
    return found

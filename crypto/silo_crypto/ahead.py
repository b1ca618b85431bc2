"""Two steps at once: one thread makes items while the caller works on those before them.

Invariant: items arrive in the order in which they were made, each once; only one thread makes them, and an exception
there is raised where the item was due. It pays because SEAL holds the interpreter's lock only within its own calls,
while NumPy, zstd and AES work without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_DEPTH = 4


class _End:
    """What comes after the last item."""


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, at most four made in advance. Leaving early makes those four and no more."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[T | _End]] = deque(pool.submit(_next, items) for _ in range(_DEPTH))
        while not isinstance(item := pending.popleft().result(), _End):
            pending.append(pool.submit(_next, items))
            yield item


def _next(items: Iterator[T]) -> T | _End:
    return next(items, _End())

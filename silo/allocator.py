"""Memory that was freed goes back to the system: large messages pass through processes that run for months.

glibc gives a block above a threshold a mapping of its own, which ends when it is freed. The threshold grows with what
is freed, up to 32 MiB; then Flower's pieces of 5 MiB lie in the heap, which shrinks from its top only. A SuperLink
held 540 MiB after three uploads of 45 MB, and 190 with a threshold that stays where it is.

Source: mallopt(3), M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import contextlib
import ctypes

LARGE_BYTES = 1 << 20
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(LARGE_BYTES)}  # for processes that are about to start
_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Do so in this process from now on; with another C library than glibc nothing changes."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)

"""Measures one system of encrypted aggregation: bytes, seconds, memory, error. NumPy only, so that peers run it too.

Every system sees the same updates, drawn from one seed. Seconds are medians over the silos (encrypt, add) or of three
runs (decrypt); memory is the resident set of the process above what it had with everything imported and keys made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Spec:
    """What to measure: ``values`` float32 in ``tensors`` tensors of nearly equal size, from ``silos`` silos."""

    system: str
    values: int
    tensors: int
    silos: int

    def update(self, silo: int) -> list[Vector]:
        """Return one silo's update; within [-1, 1], which is every system's declared range."""
        drawn = np.random.default_rng(silo).normal(0, 0.1, self.values).astype(np.float32)
        return np.array_split(np.clip(drawn, -1, 1), self.tensors)


class System(Protocol):
    """One system under measurement, all roles in one process. The steps come in this order."""

    def rehearse(self, update: list[Vector]) -> None:
        """Encrypt once for the memory figure, under a header of its own."""

    def encrypt(self, silo: int, update: list[Vector]) -> bytes:
        """Return what one silo sends."""

    def add(self, silo: int, upload: bytes) -> None:
        """Take what one silo sent: parse, check, add."""

    def aggregate(self) -> tuple[bytes, float]:
        """Return what every silo receives, and the seconds that one silo spent on sharing before it (threshold)."""

    def decrypt(self, download: bytes) -> Vector:
        """Return the mean update, shape (values,)."""

    def reference(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what :meth:`decrypt` gives if encryption adds no error at all; ``mean`` is the plain mean."""

    def close(self) -> None:
        """Give up files."""


def measure(spec: Spec, system: System) -> dict[str, Any]:
    """Run one round, return its row, and close the system."""
    try:
        return _round(spec, system)
    finally:
        system.close()


def _round(spec: Spec, system: System) -> dict[str, Any]:
    peaks = [_rehearsal_mb(spec, system)]
    total = np.zeros(spec.values, dtype=np.float64)
    encrypt_s, add_s, sizes = [], [], []
    for silo in range(spec.silos):
        update = spec.update(silo)
        total += np.concatenate(update)
        upload, seconds = _timed(lambda silo=silo, update=update: system.encrypt(silo, update))  # type: ignore[misc]
        encrypt_s.append(seconds)
        sizes.append(len(upload))
        _, seconds = _timed(lambda silo=silo, upload=upload: system.add(silo, upload))  # type: ignore[misc]
        add_s.append(seconds)
        del upload, update
    (download, share_s), aggregate_s = _timed(system.aggregate)
    mean, peak = _peak_mb(lambda: system.decrypt(download))
    peaks.append(peak + len(download) / 1e6)
    decrypt_s = [_timed(lambda: system.decrypt(download))[1] for _ in range(3)]
    plain = total / spec.silos
    return {
        "system": spec.system,
        "tensors": spec.tensors,
        "values": spec.values,
        "upload_bytes": max(sizes),
        "download_bytes": len(download),
        "encrypt_s": round(statistics.median(encrypt_s), 6),
        "add_s": round(statistics.median(add_s), 6),
        "decrypt_s": round(statistics.median(decrypt_s) + share_s, 6),
        "peak_mb": round(max(peaks), 1),
        "max_error": float(np.abs(mean - system.reference(plain)).max()),
        "encoding_error": float(np.abs(mean - plain).max()),
        "aggregate_s": round(aggregate_s, 6),
        "silos": spec.silos,
        "status": "ok",
    }


def _rehearsal_mb(spec: Spec, system: System) -> float:
    update = spec.update(0)
    return _peak_mb(lambda: system.rehearse(update))[1] + 4 * spec.values / 1e6


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _peak_mb(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result and the peak of resident memory during ``work`` above its start, in 10^6 bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    result = work()
    return result, (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel does not report {name}")

"""What the processes of a deployment hold and use while a run goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from tests.e2e.deployment import Deployment

LEAST_FREE_MIB = 2500


class Watch:
    """Resident MiB of each silo's processes and of the aggregator's, ``every`` seconds, with the round under way.

    A look at four silos takes a tenth of a second of a processor, which the rounds then lack.
    """

    def __init__(self, deployment: Deployment, every: float) -> None:
        self._deployment, self._every = deployment, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.rounds = 0
        self.seen: dict[str, list[tuple[int, float]]] = {"silo": [(0, 0.0)], "aggregator": [(0, 0.0)], "cpu": []}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def slope(self, party: str, rounds: int) -> float | None:
        """Return MiB (or processor seconds) a round; the first quarter is left out, while caches fill."""
        late = [(number, mib) for number, mib in self.seen[party] if number >= rounds / 4]
        return slope_of(late) if len({number for number, _ in late}) > 2 else None

    def _look(self) -> None:
        while not self._over.wait(self._every):
            pids = {name: process.pid for name, process in list(self._deployment.processes.items())}
            self.seen["cpu"].append((self.rounds, sum(_tree(pid, _seconds) for pid in pids.values())))
            found = {name: _tree(pid, _mib) for name, pid in pids.items()}
            aggregator = found.pop("aggregator", 0.0)
            self.seen["aggregator"].append((self.rounds, aggregator))
            self.seen["silo"].append((self.rounds, max(found.values(), default=0.0)))
            lines = Path("/proc/meminfo").read_text().splitlines()
            free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024
            if free < LEAST_FREE_MIB:  # others use this machine
                for process in list(self._deployment.processes.values()):
                    process.kill()


def slope_of(points: list[tuple[float, float]] | list[tuple[int, float]]) -> float:
    """Return the slope of the straight line nearest to the points (x, y)."""
    return float(np.polyfit([float(x) for x, _ in points], [y for _, y in points], 1)[0])


def _tree(pid: int, measured: Callable[[int], float]) -> float:
    """Return the sum of a figure over a process and its descendants."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        below = [int(each) for thread in threads for each in (thread / "children").read_text().split()]
        return measured(pid) + sum(_tree(each, measured) for each in below)
    except OSError:  # it ended
        return 0.0


def _mib(pid: int) -> float:
    """Return the MiB that a process holds, its share of what it shares with others (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


def _seconds(pid: int) -> float:
    """Return the processor seconds of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def status_of(pid: int | str, name: str) -> float:
    """Return a figure of ``/proc/PID/status``, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024

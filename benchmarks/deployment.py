"""``python -m benchmarks.deployment --json``: what a deployment costs in time and memory, as processes on loopback.

Four agents, SuperLink, edge and the aggregator's app are processes of their own, over TLS with node authentication; the
heart example runs over them. Under shared custody a round is one message exchange with every silo, so the seconds of a
round are those of an exchange: requests, training, encryption, answers and adding included. Memory is the resident set
of each agent, by a least-squares line over the rounds; the first quarter is left out, while caches fill.

What others cost is not measured here: stock Flower's 9.4 s an exchange is FLOWER's figure of another day and machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.deployment import Deployment

ROUNDS, QUICK_ROUNDS = 20, 5
PATIENCE = 900.0


def measure(rounds: int, custody: str) -> list[dict[str, Any]]:
    """Return the rows of one deployment and one run of ``rounds`` rounds."""
    with (
        tempfile.TemporaryDirectory(prefix="silo-bench-") as folder,
        Deployment(Path(folder), rounds=rounds, custody=custody, epsilon=2.0) as deployment,
    ):
        started = time.monotonic()
        deployment.up()
        for name in deployment.names:
            deployment.join(name)
        deployment.wait_for(deployment.names)
        up = time.monotonic() - started
        submission = deployment.sign()
        run = submission.run.body.run
        started = time.monotonic()
        with deployment.client() as client:
            client.submit(submission)
        memory: list[tuple[int, float]] = []
        end = started + PATIENCE
        while time.monotonic() < end:
            with deployment.client() as client:
                state = client.state(run)
            done = [event for event in state["events"] if event["event"] == "round"]
            memory.append((len(done), max(_resident(deployment.processes[name].pid) for name in deployment.names)))
            if state["state"] in ("finished", "failed"):
                break
            time.sleep(0.5)
        whole = time.monotonic() - started
        if state["state"] != "finished":
            raise SystemExit(f"the run ended otherwise: {state.get('failure')}")
    seconds = [event["seconds"] for event in done]
    late = [(number, mib) for number, mib in memory if number >= rounds / 4]
    slope = _slope(late) if len({number for number, _ in late}) > 2 else None
    exchange = statistics.median(seconds)
    return [
        _row("all silos connected", up, "s", None),
        _row(
            f"message exchange, median of {rounds} rounds, {custody}",
            exchange,
            "s",
            1.0 if custody == "shared" else None,
        ),
        _row(f"whole run, {rounds} rounds, {custody}", whole, "s", None),
        _row("agent's memory, largest", max(mib for _, mib in memory), "MiB", None),
        _row("agent's memory, slope a round", slope, "MiB", None),
    ]


def _slope(points: list[tuple[int, float]]) -> float:
    """Return the least-squares slope of (round, MiB)."""
    return float(np.polyfit([float(x) for x, _ in points], [y for _, y in points], 1)[0])


def _row(name: str, value: float | None, unit: str, target: float | None) -> dict[str, Any]:
    ok = None if target is None or value is None else value <= target
    return {"name": name, "value": value, "unit": unit, "target": target, "ok": ok}


def _resident(pid: int) -> float:
    """Return a process's resident set in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--custody", choices=("shared", "threshold"), default="shared")
    given = parser.parse_args()
    rows = measure(QUICK_ROUNDS if given.quick else ROUNDS, given.custody)
    if given.json:
        print(json.dumps({"rows": rows}, indent=2))
        return
    for row in rows:
        value = "n/a" if row["value"] is None else f"{row['value']:.3f}"
        print(
            f"{row['name']:60} {value:>10} {row['unit']}"
            + ("" if row["ok"] is None else "  ok" if row["ok"] else "  MISSED")
        )


if __name__ == "__main__":
    main()

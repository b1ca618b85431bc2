"""``python -m benchmarks.deployment --json``: what a deployment costs in time and memory, as processes on loopback.

Agents, SuperLink, edge and the aggregator's app are processes of their own, over TLS with node authentication; the
heart example runs over them. Under shared custody a round is one message exchange with every silo, so the seconds of a
round are those of an exchange: requests, training, encryption, answers and adding included. Stock Flower's are measured
in the same run (`deployment_stock.py`), and so is the run without encryption, log and policies (`deployment_plain.py`).

``--rows`` names groups; each is kept in ``--cache`` when it is measured, so an interrupted benchmark goes on.

    joining    the README's commands from a fresh clone to a silo that has joined, installing (2 GB) included
    exchange   20 rounds of the heart example, 4 silos; memory of each party's processes, and its slope over the rounds
    stock      5 exchanges of 32 numbers through stock Flower
    overhead   the whole run against the plain one, as real processes and on the local engine, in turn, medians
    silos      4, 8, 16, 32 silos in one process: seconds, bytes and MiB that one more silo costs
    large      an update of 50 million parameters from 3 silos; only when it is named
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.deployment_watch import Watch, slope_of, status_of
from silo.aggregator import SERVING
from silo.demo.hospitals import REFUSER, Hospital, cast
from tests.e2e.deployment import Deployment

ROOT = Path(__file__).parent.parent
ROUNDS, QUICK_ROUNDS, STOCK_ROUNDS, REPEATS = 20, 5, 5, 3
SILOS = (4, 8, 16, 32)
HIDDEN = 1_515_151  # Linear(31, HIDDEN) and Linear(HIDDEN, 1): 33 HIDDEN + 1 parameters
PATIENCE = 3000.0

Row = dict[str, Any]


def exchange(rounds: int, custody: str) -> list[Row]:
    """One deployment and one run of ``rounds`` rounds."""
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
        with Watch(deployment, 3.0) as watch:
            whole, done = run(deployment, watch)
    seconds = [event["seconds"] for event in done]
    rows = [
        _row("all silos connected", up, "s"),
        _row(
            f"message exchange, median of {rounds} rounds, {custody}",
            statistics.median(seconds),
            "s",
            1.0 if custody == "shared" else None,
        ),
        _row(f"whole run, {rounds} rounds, {custody}", whole, "s"),
    ]
    rows.append(_row("processor time of a round, all processes", watch.slope("cpu", rounds), "s"))
    for party in ("silo", "aggregator"):
        rows.append(_row(f"{party}'s processes, largest", max(mib for _, mib in watch.seen[party]), "MiB"))
        rows.append(_row(f"{party}'s memory, slope a round", watch.slope(party, rounds), "MiB"))
    return rows


def joining(rounds: int, custody: str) -> list[Row]:
    """From a clean machine to a silo that has joined."""
    from benchmarks.deployment_joining import join

    with tempfile.TemporaryDirectory(prefix="silo-bench-") as folder:
        taken = join(Path(folder))
    return [
        _row("commands to a silo that has joined", len(taken), "", 5),
        _row("the first, which installs; downloads included", taken[0][1], "s"),
        _row("the others together", sum(seconds for _, seconds in taken[1:]), "s"),
        _row("all", sum(seconds for _, seconds in taken), "s", 120.0),
    ]


def stock(rounds: int, custody: str) -> list[Row]:
    """Stock Flower with the same nodes."""
    from benchmarks.deployment_stock import exchanges

    with (
        tempfile.TemporaryDirectory(prefix="silo-bench-") as folder,
        Deployment(Path(folder), rounds=1) as deployment,
    ):
        seconds = exchanges(deployment, STOCK_ROUNDS)
    return [_row(f"stock Flower's exchange, median of {STOCK_ROUNDS}", statistics.median(seconds), "s")]


def overhead(rounds: int, custody: str) -> list[Row]:
    """The whole run with everything and plain: real processes side by side, then the local engine, in turn, medians."""
    return [*_overhead_deployed(rounds, custody), *_overhead_local(rounds, custody)]


def _overhead_deployed(rounds: int, custody: str) -> list[Row]:
    """One deployment of real processes after the other: an idle one would still ask its SuperLink for messages."""
    plain = ("benchmarks.deployment_plain",)
    seconds: dict[str, list[float]] = {}
    for kind, module in (("whole", ()), ("plain", plain)):
        with (
            tempfile.TemporaryDirectory(prefix="silo-bench-") as folder,
            Deployment(
                Path(folder), rounds=rounds, custody=custody, epsilon=0.5, agent=module, server=module
            ) as deployment,
        ):
            deployment.up()
            for name in deployment.names:
                deployment.join(name)
            deployment.wait_for(deployment.names)
            # The first warms up.
            seconds[kind] = [_seconds_of_a_run(deployment) for _ in range(REPEATS + 1)]
            sys.stderr.write(f"overhead, real processes, {kind}: {[round(each, 2) for each in seconds[kind]]} s\n")
    return _overhead_rows(f"real processes, {custody}", seconds["whole"], seconds["plain"], rounds)


def _seconds_of_a_run(deployment: Deployment) -> float:
    """Submit a run; return the seconds from the first invitation of its app to its result."""
    submission = deployment.sign()
    with deployment.client() as client:
        client.submit(submission)
    folder = deployment.aggregator.path / "runs" / submission.run.body.run
    deployment.until((folder / SERVING).exists, PATIENCE, "the app starts")
    started = time.monotonic()
    deployment.until((folder / "result.json").exists, PATIENCE, "the run ends")
    return time.monotonic() - started


def _overhead_local(rounds: int, custody: str) -> list[Row]:
    from benchmarks.deployment_plain import play
    from silo.aggregator import Aggregator
    from silo.flower import client_app
    from silo.flower.server_app import GridExchange
    from tests.e2e.federation import Tap

    ours: list[float] = []
    plain: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="silo-bench-") as folder,
        Deployment(Path(folder), rounds=rounds, custody=custody, epsilon=0.5) as deployment,
    ):
        for number in range(REPEATS + 1):  # the first of each warms up: libraries, the fork server
            submission = deployment.sign()
            deployment.aggregator.add_submission(submission.run.body.run, submission.parts())
            grid = Tap(deployment)
            started = time.monotonic()
            try:
                Aggregator(deployment.aggregator, submission).run(GridExchange(grid))
            finally:
                grid.close()
            ours.append(time.monotonic() - started)
            started = time.monotonic()
            play(deployment.homes, submission)
            plain.append(time.monotonic() - started)
            sys.stderr.write(f"overhead {number}: {ours[-1]:.2f} s against {plain[-1]:.2f} s\n")
        client_app.forget_agents()
    return _overhead_rows(f"local engine, {custody}", ours, plain, rounds)


def _overhead_rows(engine: str, ours: list[float], plain: list[float], rounds: int) -> list[Row]:
    whole, bare = statistics.median(ours[1:]), statistics.median(plain[1:])
    return [
        _row(f"whole run, {rounds} rounds, {engine}", whole, "s"),
        _row("the same without encryption, log and policies", bare, "s"),
        _row("ratio", whole / bare, "x", 1.3),
        _row("what those add to a round", (whole - bare) / rounds, "s"),
    ]


def silos(rounds: int, custody: str) -> list[Row]:
    """Many silos in one process, each number in a process of its own."""
    measured: list[dict[str, float]] = []
    for number in SILOS:
        command = [sys.executable, "-m", "benchmarks.deployment", "--many", str(number), "--custody", custody]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1800)
        if done.returncode:
            raise SystemExit(f"{number} silos: {done.stderr[-2000:]}")
        measured.append(json.loads(done.stdout) | {"silos": number})
        sys.stderr.write(f"silos {measured[-1]}\n")
    rows = [
        _row(f"{name}, {int(each['silos'])} silos, {custody}", each[key], unit)
        for each in measured
        for name, key, unit in (("a round", "seconds", "s"), ("whole process", "peak_mib", "MiB"))
    ]
    for name, key, unit in (
        ("seconds a round that one more silo costs", "seconds", "s"),
        ("bytes to a silo that one more silo costs", "download", "B"),
        ("bytes through the aggregator that one more silo costs", "bytes", "B"),
        ("memory that one more silo costs", "peak_mib", "MiB"),
    ):
        rows.append(_row(name, slope_of([(each["silos"], each[key]) for each in measured]), unit))
    return rows


def many(number: int, custody: str) -> dict[str, float]:
    """Play 3 rounds with so many silos in this process, and return what they took."""
    from silo.aggregator import Aggregator
    from silo.flower import client_app
    from silo.flower.server_app import GridExchange
    from tests.e2e.federation import Tap

    real = [each for each in cast(None) if each.name != REFUSER]
    hospitals = [
        Hospital(f"silo-{each:02}", f"Silo {each}", "US", real[each % len(real)].source) for each in range(number)
    ]
    with tempfile.TemporaryDirectory(prefix="silo-bench-") as folder:
        deployment = Deployment(Path(folder), rounds=3, custody=custody, hospitals=hospitals)
        submission = deployment.sign()
        deployment.aggregator.add_submission(submission.run.body.run, submission.parts())
        tap = Tap(deployment)
        try:
            Aggregator(deployment.aggregator, submission).run(GridExchange(tap))
        finally:
            tap.close()
            client_app.forget_agents()
        result = json.loads((deployment.aggregator.run_directory(submission.run.body.run) / "result.json").read_text())
    sent = [(name, packet) for name, packet in tap.requests if b'"kind":"round"' in packet.head]
    size = sum(_size(packet) for _, packet in [*tap.requests, *tap.replies])
    return {
        "seconds": statistics.median(each["seconds"] for each in result["rounds"]),
        "download": statistics.median(_size(packet) for _, packet in sent),
        "bytes": size / 3,
        "peak_mib": status_of("self", "VmHWM"),
    }


def large(rounds: int, custody: str) -> list[Row]:
    """Two rounds of a model of 50 million parameters, three silos as processes: one to send, one to open what came."""
    with tempfile.TemporaryDirectory(prefix="silo-bench-") as folder:
        path = Path(folder) / "experiment.py"
        text = (ROOT / "examples" / "heart" / "experiment.py").read_text()
        layers = f"torch.nn.Linear(31, {HIDDEN}), torch.nn.ReLU(), torch.nn.Linear({HIDDEN}, 1)"
        text = text.replace("torch.nn.Linear(31, 1)", layers)
        # The message is what is measured: a batch is a record or two.
        text = text.replace("sample_rate=0.5", "sample_rate=0.005").replace("expected_batch=75", "expected_batch=1")
        path.write_text(text)
        with Deployment(
            Path(folder) / "deployment", rounds=2, custody=custody, experiment=path, parameters=33 * HIDDEN + 1
        ) as deployment:
            deployment.up()
            for name in deployment.names[:3]:
                deployment.join(name)
            deployment.wait_for(deployment.names[:3])
            with Watch(deployment, 0.5) as watch:
                whole, done = run(deployment, watch)
    size = 33 * HIDDEN + 1
    return [
        _row(f"a round of {size / 1e6:.1f} million parameters, 3 silos, {custody}", done[-1]["seconds"], "s"),
        _row("its whole run, 2 rounds", whole, "s"),
        _row("its silo's processes, largest", max(mib for _, mib in watch.seen["silo"]), "MiB", 3 * 1024.0),
        _row("its aggregator's processes, largest", max(mib for _, mib in watch.seen["aggregator"]), "MiB", 4 * 1024.0),
    ]


def run(deployment: Deployment, watch: Watch) -> tuple[float, list[dict[str, Any]]]:
    """Submit a run and wait for its end; return its seconds and the events of its rounds."""
    submission = deployment.sign()
    started = time.monotonic()
    with deployment.client() as client:
        client.submit(submission)
        while time.monotonic() < started + PATIENCE:
            state = client.state(submission.run.body.run)
            done = [event for event in state["events"] if event["event"] == "round"]
            watch.rounds = len(done)
            if state["state"] == "finished":
                return time.monotonic() - started, done
            if state["state"] == "failed":
                break
            time.sleep(0.5)
    raise SystemExit(f"the run ended otherwise: {state.get('failure')}")


def _row(name: str, value: float | None, unit: str, target: float | None = None) -> Row:
    ok = None if target is None or value is None else value <= target
    return {"name": name, "value": None if value is None else round(value, 4), "unit": unit, "target": target, "ok": ok}


def _size(packet: Any) -> int:
    return len(packet.head) + sum(map(len, packet.blobs.values()))


GROUPS: dict[str, Callable[[int, str], list[Row]]] = {
    "joining": joining,
    "exchange": exchange,
    "stock": stock,
    "overhead": overhead,
    "silos": silos,
    "large": large,
}


def measure(groups: list[str], rounds: int, custody: str, cache: Path) -> list[Row]:
    """Return the rows of the groups, each measured unless ``cache`` has it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    (cache.parent / ".gitignore").write_text("*\n")
    known = dict(map(json.loads, cache.read_text().splitlines())) if cache.exists() else {}
    rows: list[Row] = []
    for group in groups:
        key = f"{group} {rounds} {custody}"
        if key not in known:
            load = os.getloadavg()[0]
            known[key] = [{**row, "load": round(load, 1)} for row in GROUPS[group](rounds, custody)]
            with cache.open("a") as file:
                file.write(json.dumps([key, known[key]]) + "\n")
        rows += known[key]
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ",".join(name for name in GROUPS if name != "large")
    parser.add_argument("--rows", default=usual, help="groups, with commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--custody", choices=("shared", "threshold"), default="shared")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "deployment.jsonl")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the cache has")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    parser.add_argument("--many", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.many:
        print(json.dumps(many(given.many, given.custody)))
        return
    groups = given.rows.split(",")
    unknown = sorted(set(groups) - GROUPS.keys())
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}")
    if given.fresh:
        given.cache.unlink(missing_ok=True)
    rows = measure(groups, QUICK_ROUNDS if given.quick else given.rounds, given.custody, given.cache)
    if given.json:
        print(json.dumps({"rows": rows}, indent=2))
        return
    for row in rows:
        value = "n/a" if row["value"] is None else f"{row['value']:.3f}"
        verdict = "" if row["ok"] is None else f"  {'ok' if row['ok'] else 'MISSED'} (target {row['target']:g})"
        print(f"{row['name']:60} {value:>12} {row['unit']}{verdict}")


if __name__ == "__main__":
    main()

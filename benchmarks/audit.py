"""The audit trail's costs: ``python -m benchmarks.audit [--json] [--quick]`` or ``make bench-audit``.

Rows of name, value, unit, target and whether it is met (issue 7): one durable append, verifying a whole log, a proof,
its offline check, the report of a long run with many silos, made from its facts as the command does, and the share of
a round that the log takes (:mod:`benchmarks.audit_round`). The log is real and on disk, in the system's folder for
temporary files: a durable append costs what that disk's flush costs, which is a row of its own beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from silo_crypto.keys import Identity

from benchmarks import audit_round
from silo.log import Log, Proof, check, log_key, prove
from silo.report import Report, render_html

ORIGIN = "silo/benchmark"
ROUNDS, SILOS = 100, 8
Row = dict[str, Any]


def row(name: str, value: float, unit: str, target: float) -> Row:
    """Return one row; lower is better for every measure here."""
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "ok": value <= target}


def median_ms(work: Callable[[int], object], times: int) -> float:
    """Return the median wall-clock time of ``work(number)`` in milliseconds."""
    taken = []
    for number in range(times):
        start = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def flush_ms(folder: Path, times: int) -> float:
    """Return the median time of writing one page to a plain file and flushing it: no append can take less."""
    with (folder / "plain").open("wb", buffering=0) as plain:

        def flush(_: int) -> None:
            plain.write(bytes(4096))
            os.fsync(plain.fileno())

        return median_ms(flush, times)


def upload(number: int) -> tuple[str, dict[str, Any]]:
    """Return the entry that a log has most of."""
    body = {"run": "bench", "round": number, "attempt": 1, "silo": "silo-1", "digest": f"sha256:{number:064x}"}
    return "upload", body


def of_log(folder: Path, entries: int, times: int) -> Iterator[Row]:
    """Measure a log of ``entries`` entries."""
    keeper = Identity.generate("benchmark")
    key = log_key(ORIGIN, keeper.public())
    with Log(folder / "log.db", ORIGIN) as log:
        for start in range(0, entries - times, 10_000):
            log.extend(upload(number) for number in range(start, min(start + 10_000, entries - times)))
        yield {
            "name": "flush of 4 KiB",
            "value": round(flush_ms(folder, times), 4),
            "unit": "ms",
            "target": None,
            "ok": None,
        }
        yield row("durable append", median_ms(lambda number: log.append(*upload(entries + number)), times), "ms", 2.0)
        start_s = time.perf_counter()
        head = log.verify()
        yield row(f"verify of {head.size} entries", time.perf_counter() - start_s, "s", 15.0)
        note = log.checkpoint(keeper)
        spread = max(1, head.size // times)
        yield row("proof", median_ms(lambda number: prove(log, number * spread % head.size, note), times), "ms", 1.0)
        text = str(prove(log, head.size // 2, note))
    yield row("offline check of a proof", median_ms(lambda _: check(Proof.parse(text), key), times), "ms", 50.0)
    yield row("proof file", len(text.encode()) / 1e3, "kB", 64.0)


def of_report(rounds: int, silos: int) -> Iterator[Row]:
    """Measure the HTML report of a run."""
    from tests.unit.report.sample import sample

    facts = sample(rounds=rounds, silos=silos).model_dump_json()
    render_html(sample())  # templates and fonts are loaded once a process
    start = time.perf_counter()
    page = render_html(Report.model_validate_json(facts))
    yield row(f"report of {rounds} rounds, {silos} silos", time.perf_counter() - start, "s", 3.0)
    yield row("report, size", len(page.encode()) / 1e3, "kB", 300.0)


def run(*, quick: bool = False) -> list[Row]:
    """Return all rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = list(of_log(Path(folder), 5_000 if quick else 100_000, 50 if quick else 200))
    return rows + list(of_report(ROUNDS, SILOS)) + list(audit_round.rows(quick=quick))


def main() -> None:
    """Print the rows; end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON value")
    parser.add_argument("--quick", action="store_true", help="a smaller log")
    options = parser.parse_args()
    rows = run(quick=options.quick)
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))
    else:
        for each in rows:
            verdict = "" if each["ok"] is None else f"target {each['target']:g}  {'ok' if each['ok'] else 'MISSED'}"
            print(f"{each['name']:<42} {each['value']:>10.3f} {each['unit']:<3} {verdict}".rstrip())
    sys.exit(1 if any(each["ok"] is False for each in rows) else 0)


if __name__ == "__main__":
    main()

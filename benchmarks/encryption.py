"""Encrypted aggregation side by side: ``python -m benchmarks.encryption [--json]`` or ``make bench-encryption``.

One row a system and number of tensors, each measured in a process of its own: bytes a silo sends and receives, seconds
to encrypt and serialise, to load and add (the aggregator, a silo), to decrypt (threshold: share and open), a client's
peak memory, and the error of the opened mean. ``max_error`` is what encryption adds, ``encoding_error`` the whole
distance from the plain mean. NVFlare pins another TenSEAL, so it runs in the environment that ``make bench-setup``
makes; while that is missing its rows say so. Targets are those of issue 3.

``--repeat`` measures every row so often, all systems in turn, and shows medians: a ratio then compares what ran next
to each other. Every measurement is kept in ``--cache`` under a digest of the code that made it, so an interrupted
benchmark goes on where it was; ``--fresh`` measures anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".bench" / "peers" / "bin" / "python"
SYSTEMS = ("silo-shared", "silo-threshold", "nvflare", "tenseal-ckks", "plain")
README = Path(__file__).parent / "README.md"
PLOT = Path(__file__).parent / "encryption.svg"
BEGIN, END = "<!-- encryption: begin -->", "<!-- encryption: end -->"
TIMEOUT_S = 1800

Row = dict[str, Any]
MEASURED = ("encrypt_s", "add_s", "decrypt_s", "aggregate_s", "peak_mb")


def code_digest() -> str:
    """Return SHA-256 over the code that the figures depend on: another state of it is measured anew."""
    state = hashlib.sha256(f"{sys.version} {importlib.metadata.version('tenseal')}".encode())
    measured = [*(ROOT / "crypto" / "silo_crypto").rglob("*.py"), *Path(__file__).parent.glob("encryption_*.py")]
    for path in sorted([*measured, Path(__file__).parent / "measure.py"]):
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


class Cache:
    """Measurements by what was measured, one JSON line each, appended as they are made."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path, self._code = path, code_digest()
        self._known: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        if text and not text.endswith("\n"):  # what comes next is a line of its own
            path.write_text(text + "\n")
        for line in text.splitlines() if not fresh else []:
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["row"]
            except (ValueError, KeyError):  # the line that was being written when the benchmark was interrupted
                continue

    def measure(self, system: str, values: int, tensors: int, silos: int, repeat: int) -> Row:
        """Return one measurement, made now unless it was before; a system that is missing is asked again."""
        key = json.dumps([self._code, system, values, tensors, silos, repeat])
        if key not in self._known:
            load = os.getloadavg()[0]
            row = run(system, values, tensors, silos) | {"load": round(load, 1)}
            if row["status"] != "ok":
                return row
            self._known[key] = row
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "row": row}) + "\n")
        return self._known[key]


def combined(rows: Sequence[Row]) -> Row:
    """Return one row from several measurements of the same: medians of times and memory, the worst of errors."""
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        return rows[0]
    row = dict(good[0])
    for name in MEASURED:
        row[name] = round(statistics.median(each[name] for each in good), 6)
    for name in ("max_error", "encoding_error", "load"):
        row[name] = max(each[name] for each in good)
    return row | {"repeats": len(good)}


def targets(rows: Sequence[Row]) -> list[Row]:
    """Return what issue 3 asks for, as {"name", "value", "unit", "target", "ok"}, from the rows of one run.

    Ratios are to NVFlare at the same number of tensors; what was not measured is left out.
    """
    by = {(row["system"], row["tensors"]): row for row in rows if row["status"] == "ok"}
    found: list[Row] = []

    def add(name: str, value: float, unit: str, target: float, *, least: bool) -> None:
        ok = value >= target if least else value <= target
        sign = ">=" if least else "<="
        found.append({"name": name, "value": round(value, 4), "unit": unit, "target": f"{sign} {target:g}", "ok": ok})

    for system, upload, faster, decrypt in (("silo-shared", 4.2, 10, 0.05), ("silo-threshold", 3.4, 3, 0.3)):
        ours, peer = by.get((system, 60)), by.get(("nvflare", 60))
        if ours is None:
            continue
        millions = ours["values"] / 1e6
        add(f"{system}: upload", ours["upload_bytes"] / 1e6 / millions, "MB per 1M values", upload, least=False)
        add(f"{system}: decrypt", ours["decrypt_s"] / millions, "s per 1M values", decrypt, least=False)
        add(f"{system}: error added by encryption", ours["max_error"], "", 0, least=False)
        add(f"{system}: client memory over the vector", ours["peak_mb"] / (4 * millions), "x float32", 6, least=False)
        if peer is not None:
            speed = peer["encrypt_s"] / ours["encrypt_s"]
            add(f"{system}: encrypt + serialise against NVFlare", speed, "x faster", faster, least=True)
            add(f"{system}: load + add against NVFlare", peer["add_s"] / ours["add_s"], "x faster", 50, least=True)
    return found


def verdicts(rows: Sequence[Row]) -> str:
    """Return the targets as a Markdown table."""
    lines = ["| issue 3 asks, at 60 tensors | reached | target | |", "|---|---:|---:|---|"]
    for row in targets(rows):
        verdict = "ok" if row["ok"] else "**missed**"
        lines.append(f"| {row['name']} | {row['value']:.3g} {row['unit']} | {row['target']} | {verdict} |")
    return "\n".join(lines)


def run(system: str, values: int, tensors: int, silos: int) -> Row:
    """Return one row; what cannot run is a row too, with its reason."""
    python, module = Path(sys.executable), "benchmarks.encryption_systems"
    if system == "nvflare":
        python, module = PEERS, "benchmarks.encryption_peers"
        if not python.exists():
            return missing(system, values, tensors, silos, "its environment is not there: run `make bench-setup`")
    command = [str(python), "-m", module, system, *map(str, (values, tensors, silos))]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return missing(system, values, tensors, silos, f"it did not finish in {TIMEOUT_S} s")
    if done.returncode:
        return missing(system, values, tensors, silos, (done.stderr.strip().splitlines() or ["it failed"])[-1])
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def missing(system: str, values: int, tensors: int, silos: int, reason: str) -> Row:
    """Return the row of a system that could not be measured."""
    place = {"system": system, "tensors": tensors, "values": values, "silos": silos}
    return {**place, "status": "missing", "reason": reason}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    heads = ("system", "tensors", "upload", "x float32", "download", "encrypt", "add, a silo", "decrypt", "memory")
    lines = [f"| {' | '.join(heads)} | error added |", "|---" + "|---:" * len(heads) + "|"]
    for row in rows:
        if row["status"] != "ok":
            lines.append(f"| {row['system']} | {row['tensors']} | missing: {row['reason']} | | | | | | | |")
            continue
        error = "none" if row["max_error"] == 0 else f"{row['max_error']:.0e}"
        lines.append(
            f"| {row['system']} | {row['tensors']} | {row['upload_bytes'] / 1e6:.2f} MB"
            f" | {row['upload_bytes'] / (4 * row['values']):.2f} | {row['download_bytes'] / 1e6:.2f} MB"
            f" | {row['encrypt_s']:.3f} s | {row['add_s']:.4f} s | {row['decrypt_s']:.3f} s"
            f" | {row['peak_mb']:.0f} MB | {error} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Return the date, processor and versions, for the table's caption."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cores = len([line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")])
    versions = {name: importlib.metadata.version(name) for name in ("tenseal", "numpy", "pycryptodome")}
    if PEERS.exists():
        code = "import importlib.metadata as m; print(m.version('nvflare'), m.version('tenseal'))"
        found = subprocess.run([str(PEERS), "-c", code], capture_output=True, text=True, check=True).stdout.split()
        versions |= {"nvflare": f"{found[0]} (with tenseal {found[1]})"}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores of {model}, Python {platform.python_version()}, {listed}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw upload bytes and the three times, one dot a system, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "silo"
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row["status"] == "ok"]
    most = 60 if any(row["tensors"] == 60 for row in shown) else max(row["tensors"] for row in shown)
    shown = [row for row in shown if row["tensors"] == most]
    names = [row["system"] for row in shown]
    colours = ["#0f766e" if name.startswith("silo") else "#94a3b8" for name in names]
    panels = (
        ("upload_bytes", "upload, MB", 1e-6),
        ("encrypt_s", "encrypt + serialise, ms", 1e3),
        ("add_s", "load + add a silo, ms", 1e3),
        ("decrypt_s", "decrypt, ms", 1e3),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 2.6), sharey=True, layout="constrained")
    for axis, (key, title, scale) in zip(axes, panels, strict=True):
        numbers = [max(row[key], 1e-6) * scale for row in shown]  # a clock's tick: the axis is logarithmic
        # Dots, not bars: a logarithmic axis has no zero for a bar to start from.
        axis.scatter(numbers, names, c=colours, s=45, zorder=3)
        for name, number in zip(names, numbers, strict=True):
            label = f"{number:,.0f}" if number >= 100 else f"{number:.2g}"
            axis.annotate(label, (number, name), (7, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set(xscale="log", title=title)
        axis.title.set_fontsize(9)
        axis.minorticks_off()
        axis.margins(x=0.25, y=0.15)
        axis.grid(axis="both", color="#e2e8f0", linewidth=0.7)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0, labelsize=8)
    axes[0].invert_yaxis()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def write_readme(rows: Sequence[Row]) -> None:
    """Replace this benchmark's section of benchmarks/README.md, and its plot; other sections stay."""
    values, silos = rows[0]["values"], rows[0]["silos"]
    good = [row for row in rows if row["status"] == "ok"]
    repeats, load = max(row["repeats"] for row in good), max(row["load"] for row in good)
    rounded = [row["encoding_error"] for row in rows if row["status"] == "ok" and row["system"].startswith("silo")]
    section = f"""{BEGIN}
## Encrypted aggregation: `make bench-encryption`

{values:,} float32 values, {silos} silos. {machine()}.

![upload size and times by system](encryption.svg)

{table(rows)}

{verdicts(rows)}

Times are medians of {repeats} runs a row, the systems in turn; the machine's load was at most {load} when a row began.
"Encrypt" runs from float32 to signed bytes; "add" and "decrypt" start at received bytes and include every check;
"decrypt" ends at float32 and, for threshold custody, includes one silo's share. A threshold silo that is asked for a
share also sends that: as many bytes again as its upload. "Error added" is encryption's own; rounding to 16 bits moves
the mean by at most {max(rounded, default=0):.0e} here. NVFlare's transport is not counted.
{END}
"""
    text = README.read_text() if README.exists() else "# Benchmarks\n\n"
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        text = before + section + rest.split(END, 1)[1].lstrip("\n")
    else:
        text = text.rstrip("\n") + "\n\n" + section
    README.write_text(text)
    plot(rows, PLOT)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__.split("\n")[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated, of " + ", ".join(SYSTEMS))
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--tensors", default="1,60,200", help="comma-separated numbers of tensors")
    parser.add_argument("--silos", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="100,000 values in 1 and 60 tensors, 3 silos")
    parser.add_argument("--repeat", type=int, default=3, help="measurements a row; medians are shown")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "encryption.jsonl")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the cache has")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    parser.add_argument("--write", action="store_true", help="also update benchmarks/README.md and its plot")
    options = parser.parse_args(arguments)
    systems = options.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    values, silos = options.values, options.silos
    counts = [int(count) for count in options.tensors.split(",")]
    repeats = options.repeat
    if options.quick:
        values, counts, silos, repeats = 100_000, [1, 60], 3, 1
    if min(values, silos, repeats, *counts) < 1:
        parser.error("values, silos, tensors and repeats start at 1")
    cache = Cache(options.cache, fresh=options.fresh)
    measured: dict[tuple[int, str], list[Row]] = {}
    for count in counts:
        for repeat in range(repeats):
            for system in systems:
                print(f"{system}, {count} tensors, {repeat + 1} of {repeats} ...", file=sys.stderr, flush=True)
                row = cache.measure(system, values, count, silos, repeat)
                measured.setdefault((count, system), []).append(row)
    rows = [combined(each) for each in measured.values()]
    if options.write:
        write_readme(rows)
    if options.json:
        print(json.dumps({"rows": rows, "targets": targets(rows)}, indent=1))
    else:
        print(table(rows))
        print(f"\n{verdicts(rows)}" if targets(rows) else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())

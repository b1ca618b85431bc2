"""Encrypted aggregation side by side: ``python -m benchmarks.encryption [--json]`` or ``make bench-encryption``.

One row a system and number of tensors, each measured in a process of its own: bytes a silo sends and receives, seconds
to encrypt and serialise, to load and add (the aggregator, a silo), to decrypt (threshold: share and open), a client's
peak memory, and the error of the opened mean. ``max_error`` is what encryption adds, ``encoding_error`` the whole
distance from the plain mean. NVFlare pins another TenSEAL, so it runs in the environment that ``make bench-setup``
makes; while that is missing its rows say so. Targets are those of issue 3.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
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
    rounded = [row["encoding_error"] for row in rows if row["status"] == "ok" and row["system"].startswith("silo")]
    section = f"""{BEGIN}
## Encrypted aggregation: `make bench-encryption`

{values:,} float32 values, {silos} silos. {machine()}.

![upload size and times by system](encryption.svg)

{table(rows)}

Times are medians. "Encrypt" runs from float32 to signed bytes; "add" and "decrypt" start at received bytes and include
every check; "decrypt" ends at float32 and, for threshold custody, includes one silo's share. A threshold silo that is
asked for a share also sends that: as many bytes again as its upload. "Error added" is encryption's own; rounding to 16
bits moves the mean by at most {max(rounded, default=0):.0e} here. NVFlare's transport is not counted.
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
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    parser.add_argument("--write", action="store_true", help="also update benchmarks/README.md and its plot")
    options = parser.parse_args(arguments)
    systems = options.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    values, tensors, silos = options.values, options.tensors, options.silos
    if options.quick:
        values, tensors, silos = 100_000, "1,60", 3
    rows: list[Row] = []
    for count in map(int, tensors.split(",")):
        for system in systems:
            print(f"{system}, {count} tensors ...", file=sys.stderr, flush=True)
            rows.append(run(system, values, count, silos))
    if options.write:
        write_readme(rows)
    print(json.dumps({"rows": rows}, indent=1) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What privacy costs: AUC against epsilon for five ways to train one model on records at several silos.

For each data set, mechanism and epsilon the same grid of settings is tuned on five splits of their own, then the best
setting is measured on the splits that are reported. Tuning looks at the data and is NOT private: the numbers compare
mechanisms that were tuned alike, they promise nothing. What is measured, and that encryption is left out of the loop,
stands in :mod:`benchmarks.privacy_mechanisms`.

    python -m benchmarks.privacy --json
    python -m benchmarks.privacy --datasets heart --seeds 50 --write
    python -m benchmarks.privacy --step --round    # what privacy costs in time and memory

Every model trained is kept in ``--cache``, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.encryption import machine

Row = dict[str, Any]
MECHANISMS = ("central", "distributed", "local", "alone", "none")
DATASETS = ("heart", "breast-cancer", "digits")
EPSILONS = (0.1, 0.25, 0.5, 1.0, 3.0, 8.0)
TUNING_SEEDS = range(1000, 1010)
HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- privacy: begin -->", "<!-- privacy: end -->"
COSTS = ("<!-- privacy costs: begin -->", "<!-- privacy costs: end -->")


@dataclass
class Cache:
    """AUCs by what made them, one JSON line each, appended as they are measured."""

    path: Path
    known: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
                self.known[entry["key"]] = (entry["auc"], entry["seconds"])
            except (ValueError, KeyError):  # the line that was being written when the benchmark was interrupted
                continue

    def measure(self, name: str, mechanism: str, honest: int, epsilon: float, setting: Any, seed: int) -> float:
        """Return the AUC of one model, trained now if it was not before."""
        from benchmarks.privacy_mechanisms import DELTA, dataset, measure

        key = json.dumps([name, mechanism, honest, epsilon, DELTA, asdict(setting), seed])
        if key not in self.known:
            started = time.monotonic()
            auc = measure(dataset(name), mechanism, honest, epsilon, setting, seed)
            self.known[key] = (auc, time.monotonic() - started)
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "auc": auc, "seconds": self.known[key][1]}) + "\n")
        self.seconds += self.known[key][1]
        return self.known[key][0]


def honest_silos(name: str, mechanism: str) -> tuple[int | None, ...]:
    """Return the numbers h of silos whose noise is counted on that are shown: few, half, all but one."""
    if mechanism != "distributed":
        return (None,)
    from benchmarks.privacy_mechanisms import dataset

    n = dataset(name).count
    return tuple(sorted({1, n // 2, n - 1}))


def rows_of(
    names: Sequence[str], mechanisms: Sequence[str], epsilons: Sequence[float], seeds: int, cache: Cache
) -> Iterator[tuple[Row, list[float]]]:
    """Yield each row with its AUCs by split, tuned first."""
    from benchmarks.privacy_mechanisms import DELTA, GRID

    for name in names:
        for mechanism in mechanisms:
            for honest in honest_silos(name, mechanism):
                for epsilon in epsilons if mechanism != "none" else (math.inf,):
                    cache.seconds = 0.0
                    run = (name, mechanism, honest or 0, epsilon)
                    grid = GRID if mechanism != "none" else GRID[:1]
                    tuned = {
                        each: statistics.fmean(cache.measure(*run, each, seed) for seed in TUNING_SEEDS)
                        for each in grid
                    }
                    best = max(grid, key=lambda each: tuned[each])
                    aucs = [cache.measure(*run, best, seed) for seed in range(seeds)]
                    private = math.isfinite(epsilon)
                    yield (
                        {
                            "dataset": name,
                            "mechanism": mechanism,
                            "epsilon": epsilon if private else None,
                            "delta": DELTA if private else None,
                            "h": honest,
                            "splits": seeds,
                            "auc_mean": round(statistics.fmean(aucs), 4),
                            "auc_sd": round(statistics.stdev(aucs), 4) if seeds > 1 else None,
                            "seconds": round(cache.seconds, 1),
                            "setting": asdict(best) if private else None,
                        },
                        aucs,
                    )


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference over splits and the half width of its 95 % interval (Student's t)."""
    from scipy import stats

    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < 2:
        return differences[0], math.nan
    width = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), float(width)


def comparisons(measured: Sequence[tuple[Row, list[float]]]) -> list[Row]:
    """Return DistributedDP, with all but one silo honest, less central and less local, at each epsilon."""
    by = {(row["dataset"], row["mechanism"], row["h"], row["epsilon"]): aucs for row, aucs in measured}
    found = []
    for (name, mechanism, honest, epsilon), aucs in by.items():
        if mechanism != "distributed" or honest != honest_silos(name, "distributed")[-1]:
            continue
        for other in ("central", "local"):
            if (name, other, None, epsilon) in by:
                mean, width = paired(aucs, by[name, other, None, epsilon])
                row = {"dataset": name, "epsilon": epsilon, "h": honest, "minus": other, "splits": len(aucs)}
                found.append({**row, "difference": round(mean, 4), "interval": round(width, 4)})
    return found


def label(row: Row) -> str:
    """Return the mechanism's name in tables and plots."""
    return f"distributed, h = {row['h']}" if row["h"] else str(row["mechanism"])


def table(rows: Sequence[Row], differences: Sequence[Row]) -> str:
    """Return one Markdown table of means a data set, and one of the paired differences."""
    lines: list[str] = []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == name]
        epsilons = sorted({row["epsilon"] for row in own if row["epsilon"] is not None})
        lines += [
            f"{name}, {own[0]['splits']} splits, AUC (standard deviation over splits):",
            "",
            "| mechanism | " + " | ".join(f"epsilon {epsilon:g}" for epsilon in epsilons) + " |",
            "|---|" + "---:|" * len(epsilons),
        ]
        for kind in dict.fromkeys(label(row) for row in own):
            cells = {
                row["epsilon"]: f"{row['auc_mean']:.3f} ({row['auc_sd'] or 0:.3f})" for row in own if label(row) == kind
            }
            line = [cells.get(epsilon, cells.get(None, "")) for epsilon in epsilons]
            lines.append(f"| {kind} | " + " | ".join(line) + " |")
        lines.append("")
        mine = [each for each in differences if each["dataset"] == name]
        for other in dict.fromkeys(each["minus"] for each in mine):
            cells = {
                each["epsilon"]: f"{each['difference']:+.4f} ± {each['interval']:.4f}"
                for each in mine
                if each["minus"] == other
            }
            if other == "central":
                lines += [
                    f"Distributed, h = {mine[0]['h']}, less the other, paired over splits, with 95 % intervals:",
                    "",
                    "| less | " + " | ".join(f"epsilon {epsilon:g}" for epsilon in epsilons) + " |",
                    "|---|" + "---:|" * len(epsilons),
                ]
            lines.append(f"| {other} | " + " | ".join(cells.get(epsilon, "") for epsilon in epsilons) + " |")
        lines.append("")
    return "\n".join(lines).strip() + "\n"


def plot(rows: Sequence[Row], name: str, path: Path) -> None:
    """Draw mean AUC against epsilon, with bars of two standard errors."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "silo"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    own = [row for row in rows if row["dataset"] == name]
    for place, kind in enumerate(dict.fromkeys(label(row) for row in own)):
        points = [row for row in own if label(row) == kind]
        if points[0]["epsilon"] is None:
            axes.axhline(points[0]["auc_mean"], color="black", linestyle="--", linewidth=1, label="no privacy")
            continue
        x = [row["epsilon"] * (1 + 0.01 * (place - 2)) for row in points]
        bars = [2 * (row["auc_sd"] or 0) / math.sqrt(row["splits"]) for row in points]
        marker = "osD^vP"[place % 6]
        axes.errorbar(x, [row["auc_mean"] for row in points], bars, marker=marker, markersize=4, capsize=2, label=kind)
    axes.set_xscale("log")
    axes.set_xticks(sorted({row["epsilon"] for row in own if row["epsilon"] is not None}))
    axes.get_xaxis().set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.minorticks_off()
    axes.set_xlabel("epsilon at delta 1e-4, per record, add or remove")
    axes.set_ylabel("AUC on all silos' test records")
    axes.set_title(f"{name}: tuned alike, non-privately, on splits of their own")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def grid_text() -> str:
    """Return the tuning grid in words."""
    from benchmarks.privacy_mechanisms import GRID

    steps = sorted({each.step for each in GRID})
    pairs = list(dict.fromkeys((each.rounds, each.rate) for each in GRID))
    return (
        f"Tuning, the same {len(GRID)} settings for every mechanism and epsilon, by mean AUC over {len(TUNING_SEEDS)} "
        "splits that are not reported (NON-PRIVATE: it looks at the data): rounds and sample rate "
        + ", ".join(f"{rounds} at {rate:g}" for rounds, rate in pairs)
        + "; clipping norm "
        + ", ".join(f"{norm:g}" for norm in sorted({each.norm for each in GRID}))
        + "; learning rate "
        + ", ".join(f"{step:g}" for step in steps)
        + " over the norm; one step a round."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def write_readme(rows: Sequence[Row], differences: Sequence[Row]) -> None:
    """Replace the sections of these data sets in benchmarks/README.md, and their plots; other sections stay."""
    section = "\n".join(
        [
            BEGIN,
            "## What privacy costs: `make bench-privacy`",
            "",
            _wrapped(
                "Logistic regression; a non-private evaluation of public data. The mechanisms are the product's own "
                "sampler, clipping, noise, encoding, accounting and server step; encryption is not in the loop, "
                "because the sum it carries is exact. Heart lies at its hospitals; breast cancer and digits are dealt "
                "to eight silos, the labels by Dirichlet(0.5)."
            ),
            "",
            _wrapped(
                "`none`: all records together, without privacy. `central`: DP-SGD by somebody trusted with all "
                "records. `distributed`: DistributedDP; all silos add noise, and epsilon holds if that of h silos "
                "stays secret. `local`: LocalDP, averaged. `alone`: every silo by itself with DP, the mean over silos. "
                "Epsilon is at delta 1e-4, per record, add/remove adjacency, by PLD. The intervals are over splits and "
                "noise, not over tuning: at epsilon 0.1, where one model differs much from the next, so does the "
                "setting that is chosen, and a mean moves by 0.01 to 0.05 with the splits that it was tuned on."
            ),
            "",
            _wrapped(grid_text()),
            END,
        ]
    )
    _replace(BEGIN, END, section)
    for name in dict.fromkeys(row["dataset"] for row in rows):
        plot(rows, name, HERE / f"privacy-{name}.svg")
        marks = (f"<!-- privacy {name}: begin -->", f"<!-- privacy {name}: end -->")
        image = f"![AUC against epsilon, {name}](privacy-{name}.svg)"
        of_name = [each for each in rows if each["dataset"] == name]
        words = [f"### {name}", "", f"{machine()}.", "", image, "", table(of_name, differences)]
        _replace(*marks, "\n".join([marks[0], *words, marks[1]]))


def _replace(begin: str, end: str, section: str) -> None:
    """Put a section into benchmarks/README.md, in the place of the one between its marks, or last."""
    text = README.read_text() if README.exists() else "# Benchmarks\n\n"
    if begin in text:
        text = text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    README.write_text(text)


def measure_costs(options: argparse.Namespace) -> int:
    """Measure time and memory of steps and rounds, print them, and keep them in benchmarks/README.md if asked to."""
    import os

    from benchmarks import privacy_costs

    rows = (privacy_costs.step_rows() if options.step else []) + (privacy_costs.round_rows() if options.round else [])
    lines = ["| what | value | target |", "|---|---:|---:|"]
    for row in rows:
        target = "" if row["target"] is None else f"at most {row['target']:g}"
        lines.append(f"| {row['name']} | {row['value']:g} {row['unit']} | {target} |")
    if options.write:
        load = (
            f"The machine was shared while this was measured (load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores)."
        )
        words = f"{machine()}. {load} {' '.join((privacy_costs.__doc__ or '').split()[13:])}"
        head = ["## What privacy costs in time and memory: `python -m benchmarks.privacy --step --round`", ""]
        _replace(*COSTS, "\n".join([COSTS[0], *head, _wrapped(words), "", *lines, COSTS[1]]))
    print(json.dumps({"rows": rows}, indent=2) if options.json else "\n".join(lines))
    return 1 if any(row["ok"] is False for row in rows) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--mechanisms", default=",".join(MECHANISMS))
    parser.add_argument("--epsilons", default=",".join(f"{epsilon:g}" for epsilon in EPSILONS))
    parser.add_argument("--seeds", type=int, default=50, help="splits that are reported")
    parser.add_argument("--quick", action="store_true", help="heart, epsilon 0.25 and 1, 3 splits")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench" / "privacy.jsonl")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout instead of a table")
    parser.add_argument("--write", action="store_true", help="also update benchmarks/README.md and its plots")
    parser.add_argument("--step", action="store_true", help="instead: a DP-SGD step beside plain Opacus, and memory")
    parser.add_argument("--round", action="store_true", help="instead: the protocol of a distributed round")
    options = parser.parse_args(arguments)
    if options.step or options.round:
        return measure_costs(options)
    names, mechanisms = options.datasets.split(","), options.mechanisms.split(",")
    unknown = sorted({*names} - {*DATASETS} | {*mechanisms} - {*MECHANISMS})
    if unknown or options.seeds < 1:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "--seeds must be at least 1")
    epsilons = [float(each) for each in options.epsilons.split(",")]
    if options.quick:
        names, epsilons, options.seeds = ["heart"], [0.25, 1.0], 3
    import torch

    torch.set_num_threads(1)  # the tensors are small
    sys.stderr.write(grid_text() + "\n")
    measured = []
    for row, aucs in rows_of(names, mechanisms, epsilons, options.seeds, Cache(options.cache)):
        sys.stderr.write(f"{row['dataset']}, {label(row)}, epsilon {row['epsilon']}: AUC {row['auc_mean']:.4f}\n")
        measured.append((row, aucs))
    rows, differences = [row for row, _ in measured], comparisons(measured)
    if options.write:
        write_readme(rows, differences)
    if options.json:
        print(json.dumps({"rows": rows, "differences": differences, "tuning": grid_text()}, indent=2))
    else:
        print(table(rows, differences))
    return 0


if __name__ == "__main__":
    sys.exit(main())

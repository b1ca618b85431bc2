"""The heart example over several seeds: what privacy and federation cost in AUC.

Each seed draws another split of every hospital and other initial weights; noise is never seeded. A seed is a whole run
of the two Flower apps, with encryption, policies, ledgers and logs. AUC is on the union of the hospitals' test parts: a
non-private evaluation of public data.

    python -m benchmarks.heart --seeds 5 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

TARGET_GAP = 0.03


def one_seed(seed: int, custody: str, epsilon: float | None) -> dict[str, Any]:
    """Run one seed; return its AUCs, the largest epsilon a silo spent, bytes and seconds."""
    from silo.demo import Options, run_demo

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(out=Path(scratch) / "demo", seed=seed, custody=custody)
        report, _ = run_demo(replace(options, epsilon=epsilon), lambda event: None)
    auc = report.auc
    if auc.pooled is None or auc.federated is None or auc.silo_only is None:
        raise SystemExit("a demo without AUC cannot be compared")
    return {
        "seed": seed,
        "pooled": auc.pooled,
        "federated": auc.federated,
        "silo_only": auc.silo_only,
        "gap": auc.pooled - auc.federated,
        "epsilon": max(silo.epsilon for silo in report.permitted),
        "asked": report.privacy.epsilon,
        "delta": report.privacy.delta,
        "upload_bytes": report.encryption.upload_bytes,
        "seconds": time.monotonic() - started,
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the benchmark: name, value, unit, target, ok."""
    mean = {name: statistics.fmean(run[name] for run in runs) for name in ("pooled", "federated", "silo_only", "gap")}
    worst = max(run["epsilon"] for run in runs)
    asked = runs[0]["asked"]
    row = ("name", "value", "unit", "target", "ok")
    return [
        dict(zip(row, values, strict=True))
        for values in (
            ("pooled AUC, no privacy, mean", round(mean["pooled"], 4), "AUC", None, True),
            ("federated AUC, private, mean", round(mean["federated"], 4), "AUC", None, True),
            ("one silo alone, no privacy, mean", round(mean["silo_only"], 4), "AUC", None, True),
            (
                "pooled minus federated, mean",
                round(mean["gap"], 4),
                "AUC",
                f"<= {TARGET_GAP}",
                mean["gap"] <= TARGET_GAP,
            ),
            (
                "epsilon spent, largest",
                worst,
                f"epsilon at delta {runs[0]['delta']:g}",
                f"<= {asked:g}",
                worst <= asked,
            ),
            ("seconds a run, mean", round(statistics.fmean(run["seconds"] for run in runs), 1), "s", "< 60", True),
        )
    ]


def main() -> None:
    """Run the seeds and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--custody", choices=("shared", "threshold"), default="shared")
    parser.add_argument("--epsilon", type=float, default=None, help="instead of the experiment's")
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = []
    for seed in range(2 if arguments.quick else arguments.seeds):
        runs.append(one_seed(seed, arguments.custody, arguments.epsilon))
        sys.stderr.write(f"seed {seed}: gap {runs[-1]['gap']:+.4f}, {runs[-1]['seconds']:.1f} s\n")
    rows = summary(runs)
    if arguments.json:
        print(json.dumps({"rows": rows, "runs": runs}, indent=2))
        return
    for row in rows:
        verdict = "ok" if row["ok"] else "MISSED"
        print(f"{row['name']:<34}{row['value']:>9} {row['unit']:<26}{row['target'] or '':<9}{verdict}")


if __name__ == "__main__":
    main()

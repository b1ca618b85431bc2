"""How long a silo's policies take: `python -m benchmarks.policies [--json] [--quick]`.

Targets are those of issue 5: 25 rules decide in under 5 ms, load and compile in under 0.2 s; two engines agree on
10,000 random fact sets; no mutant of a shipped rule survives its fixtures. The pack of 25 rules is made of shipped
rules. Times are the median over repetitions (decide) or the best of five cold processes' first load (load).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from silo_policies import Facts, Gate, Layer, Pack, check_pack, parse_pack, shipped_pack, shipped_packs, shipped_text
from silo_policies.evaluator import CelExpr, CommonExpression, Evaluator
from silo_policies.mutation import mutants

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = 25


def pack_of(count: int) -> str:
    """Return the YAML text of a pack of ``count`` shipped rules that speak at the moment ``accept``."""
    rules: list[dict[str, Any]] = []
    for name in shipped_packs():
        for rule in yaml.safe_load(shipped_text(name))["rules"]:
            if "accept" in rule["moments"]:
                rules.append({**rule, "id": f"r{len(rules)}-{rule['id']}"[:64]})
    head = yaml.safe_load(shipped_text("baseline"))
    return yaml.safe_dump({**head, "id": "bench", "rules": rules[:count]}, sort_keys=False)


def known_facts(packs: Sequence[Pack]) -> Facts:
    """Return facts that name everything the packs ask about, from their own passing fixtures."""
    merged: dict[str, Any] = {}
    for pack in packs:
        for rule in pack.document.rules:
            for fixture in rule.tests:
                merged.update(fixture.facts)
    merged.pop("time.now", None)
    return Facts.parse(merged)


def decide_ms(pack: Pack, repetitions: int) -> float:
    """Return the median milliseconds of one decision over all rules, facts conversion and hash included."""
    gate, facts = Gate(Layer.pinned(pack)), known_facts([pack])
    taken: list[float] = []
    for _ in range(repetitions):
        start = time.perf_counter()
        outcome = gate.evaluate("accept", facts, now=NOW)
        taken.append((time.perf_counter() - start) * 1e3)
    if any(result.result == "error" for result in outcome.results):
        raise RuntimeError("a benchmark rule did not decide")
    return statistics.median(taken)


def load_s(text: str, processes: int) -> float:
    """Return the best of several fresh processes' first load and compilation, imports excluded, in seconds."""
    code = (
        "import sys, time; from silo_policies import parse_pack; text = sys.stdin.read(); start = time.perf_counter();"
        "parse_pack(text, 'bench.yaml'); print(time.perf_counter() - start)"
    )
    runs = (
        subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True)
        for _ in range(processes)
    )
    return min(float(run.stdout) for run in runs)


def disagreements(count: int) -> int:
    """Return on how many of ``count`` random fact sets the two engines differ in any rule's result."""
    engines: tuple[Evaluator, ...] = (CelExpr(), CommonExpression())
    layers = [Layer.pinned(*(shipped_pack(name, engine) for name in shipped_packs())) for engine in engines]
    gates = [Gate(layer, evaluator=engine) for layer, engine in zip(layers, engines, strict=True)]
    values: dict[str, list[Any]] = {}
    for pack in layers[0].packs:
        for rule in pack.document.rules:
            for fixture in rule.tests:
                for name, value in fixture.facts.items():
                    values.setdefault(name, [None]).append(value)
    values.pop("time.now", None)
    source, differing = random.Random(5), 0  # noqa: S311  # a benchmark's inputs, repeated from run to run
    for _ in range(count):
        drawn = {name: source.choice(choices) for name, choices in values.items()}
        facts = Facts.parse({name: value for name, value in drawn.items() if value is not None})
        moment = source.choice(("join", "accept", "round", "release"))
        answers = [
            [(each.id, each.result) for each in gate.evaluate(moment, facts, now=NOW).results]  # type: ignore[arg-type]
            for gate in gates
        ]
        differing += answers[0] != answers[1]
    return differing


def rows(*, quick: bool) -> list[dict[str, Any]]:
    """Measure and return the benchmark's rows."""
    text = pack_of(RULES)
    decide, load = decide_ms(parse_pack(text, "bench.yaml"), 50 if quick else 500), load_s(text, 1 if quick else 5)
    sets = 500 if quick else 10_000
    differing = disagreements(sets)
    packs = [shipped_pack(name) for name in shipped_packs()]
    made = sum(len(list(mutants(rule.expression))) for pack in packs for rule in pack.compiled)
    alive = sum(len(check_pack(pack, mutate=True).survivors) for pack in packs)
    size = sum(len(pack.compiled) for pack in packs)

    def row(name: str, value: float, unit: str, target: str, ok: bool) -> dict[str, Any]:
        return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "ok": ok}

    return [
        row(f"decide {RULES} rules", decide, "ms", "< 5", decide < 5),
        row(f"load and compile {RULES} rules", load, "s", "< 0.2", load < 0.2),
        row(f"fact sets of {sets} on which two engines differ", differing, "sets", "0", differing == 0),
        row(f"surviving mutants of {made} in {size} shipped rules", alive, "mutants", "0", alive == 0),
    ]


def main() -> int:
    """Print the rows; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]}')
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and fact sets")
    arguments = parser.parse_args()
    found = rows(quick=arguments.quick)
    if arguments.json:
        print(json.dumps({"rows": found}, indent=2))
    else:
        for each in found:
            sign = "ok  " if each["ok"] else "MISS"
            print(f"{sign} {each['name']}: {each['value']} {each['unit']} (target {each['target']})")
    return 0 if all(each["ok"] for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs the tests that stand in a pack, as a compliance officer would before pinning it.

Invariant: a pack is *good* only if every rule has at least one passing and one failing fixture and every fixture comes
out as it says. A fixture states every fact its rule names: a fact left out is an error, which is neither a pass nor a
fail, exactly as at the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from silo_policies.errors import EvaluationError
from silo_policies.evaluator import Evaluator, default_evaluator
from silo_policies.facts import Facts
from silo_policies.mutation import survivors
from silo_policies.pack import CompiledRule, Fixture, Pack


@dataclass(frozen=True)
class FixtureResult:
    """One fixture: what it expects of its rule and what came out."""

    rule: str
    fixture: str
    expect: Literal["pass", "fail"]
    got: Literal["pass", "fail", "error"]
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.expect == self.got


@dataclass(frozen=True)
class PackReport:
    """What :func:`check_pack` found. ``survivors`` are mutants that no fixture notices, if they were looked for."""

    pack: str
    results: tuple[FixtureResult, ...]
    lacking: tuple[tuple[str, Literal["pass", "fail"]], ...]
    survivors: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.lacking and not self.survivors and all(result.ok for result in self.results)

    def problems(self) -> Sequence[str]:
        """Return one sentence for everything that is wrong."""
        return [
            *(f"{rule}: there is no test that the rule must {kind}" for rule, kind in self.lacking),
            *(
                f"{each.rule}: test {each.fixture!r} expects {each.expect}, got {each.got}"
                + (f" ({each.detail})" if each.detail else "")
                for each in self.results
                if not each.ok
            ),
            *(f"{rule}: no test notices if the rule read: {source}" for rule, source in self.survivors),
        ]


def check_pack(pack: Pack, *, mutate: bool = False, evaluator: Evaluator | None = None) -> PackReport:
    """Run a pack's fixtures; with ``mutate`` also look for mutants that survive them (slower, about 10 ms a rule)."""
    engine = evaluator or default_evaluator()
    results: list[FixtureResult] = []
    lacking: list[tuple[str, Literal["pass", "fail"]]] = []
    alive: list[tuple[str, str]] = []
    kinds: tuple[Literal["pass", "fail"], ...] = ("pass", "fail")
    for compiled in pack.compiled:
        rule = compiled.rule
        for kind in kinds:
            if not any(fixture.expect == kind for fixture in rule.tests):
                lacking.append((rule.id, kind))
        results += [_run(compiled, fixture, engine) for fixture in rule.tests]
        if mutate:
            alive += [(rule.id, source) for source in survivors(compiled, engine)]
    return PackReport(pack.id, tuple(results), tuple(lacking), tuple(alive))


def _run(compiled: CompiledRule, fixture: Fixture, engine: Evaluator) -> FixtureResult:
    known = Facts.parse(fixture.facts).values()
    missing = sorted(compiled.expression.facts - set(known))
    got: Literal["pass", "fail", "error"] = "error"
    detail = f"it does not state {', '.join(missing)}" if missing else ""
    if not missing:
        try:
            program = engine.compile(compiled.expression, where=compiled.where)
            got = "pass" if program(engine.bind(known)) is True else "fail"
        except EvaluationError as error:
            detail = error.what
    return FixtureResult(compiled.rule.id, fixture.name, fixture.expect, got, detail)

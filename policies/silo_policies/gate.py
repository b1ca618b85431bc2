"""The gate: every rule of every pack says yes, or the silo does not take part.

Invariant: :meth:`Gate.evaluate` permits only if every pinned pack is there with its pinned digest and in effect, at
least one consortium rule speaks at the moment, and every rule that speaks is literally true or is false and covered by
a valid waiver. Everything else is a denial: it never raises because of facts, waivers or an engine.

A rule that names a fact which is not known is an error and is not even evaluated: so `missing && false` cannot turn
into a mere "false" that a waiver could cover, and all engines agree. Consortium (federation) packs and the silo's own
packs are one conjunction; a silo's pack cannot replace or weaken a rule, only add one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Self

from silo_policies.documents import digest, parse_instant
from silo_policies.errors import EvaluationError, PolicyError
from silo_policies.evaluator import Evaluator, default_evaluator
from silo_policies.facts import Facts, FactValue
from silo_policies.pack import RESERVED, Citation, CompiledRule, Moment, Pack
from silo_policies.signing import Signed, Verifier
from silo_policies.waiver import Waiver, check_waiver

Result = Literal["true", "false", "error", "waived"]
Verdict = Literal["permit", "deny"]


@dataclass(frozen=True)
class Layer:
    """Packs with the digests they are pinned to: the consortium manifest's for the federation, the silo's own."""

    packs: tuple[Pack, ...]
    pins: Mapping[str, str]

    @classmethod
    def pinned(cls, *packs: Pack) -> Self:
        """Pin packs to what they are now (when a steward pins, and in tests)."""
        return cls(packs, {pack.id: pack.digest for pack in packs})


@dataclass(frozen=True)
class RuleResult:
    """What one rule said. ``facts`` are those the rule names, as far as known: they stay inside the silo."""

    pack: str
    rule: str
    result: Result
    title: str
    severity: str
    message: str
    remediation: str
    cite: Citation | None
    detail: str = ""
    facts: Mapping[str, FactValue] = field(default_factory=dict)
    waiver: Signed[Waiver] | None = None

    @property
    def id(self) -> str:
        """``pack/rule``."""
        return f"{self.pack}/{self.rule}"


@dataclass(frozen=True)
class Outcome:
    """The gate's answer, with everything needed to explain it. ``refused_waivers`` are reasons in words."""

    decision: Verdict
    moment: Moment
    time: datetime
    packs: Mapping[str, str]
    facts_hash: str
    results: tuple[RuleResult, ...]
    refused_waivers: tuple[str, ...] = ()

    @property
    def permitted(self) -> bool:
        return self.decision == "permit"

    @property
    def denied(self) -> tuple[RuleResult, ...]:
        """Every result that stands in the way, most severe first."""
        order = ("critical", "major", "minor")
        bad = [result for result in self.results if result.result in ("false", "error")]
        return tuple(sorted(bad, key=lambda result: order.index(result.severity)))

    @property
    def waived(self) -> tuple[RuleResult, ...]:
        return tuple(result for result in self.results if result.result == "waived")


class Gate:
    """The packs that bind one silo, and who may approve a waiver there.

    ``federation`` comes from the signed consortium manifest, ``silo`` from the silo's own policy folder.
    """

    def __init__(
        self,
        federation: Layer,
        silo: Layer | None = None,
        *,
        approvers: Mapping[str, Verifier] | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self._federation = federation
        self._silo = silo or Layer((), {})
        self._approvers = dict(approvers or {})
        self._evaluator = evaluator or default_evaluator()

    def evaluate(
        self, moment: Moment, facts: Facts, *, now: datetime, waivers: Sequence[Signed[Waiver]] = ()
    ) -> Outcome:
        """Decide. ``now`` is the silo's clock (aware); it becomes the fact ``time.now``."""
        now = parse_instant(now)
        facts = facts.at(now)
        results = list(self._standing(now))
        if not any(pack.at(moment) for pack in self._federation.packs):
            results.append(_gate("no-rules", f"no rule of the consortium's packs speaks at the moment {moment!r}"))
        refused: list[str] = []
        try:
            known = facts.values()
            facts_hash = digest(facts.to_dict())
            bound = self._evaluator.bind(known)
        except Exception as error:  # an engine that cannot even take the facts decides nothing
            results.append(_gate("facts-unusable", f"the facts cannot be used: {error}"))
            return Outcome("deny", moment, now, self._digests(), digest({}), tuple(results))
        for pack in (*self._federation.packs, *self._silo.packs):
            for compiled in pack.at(moment):
                result = _decide(pack, compiled, bound, known)
                if result.result == "false":
                    result = self._waive(pack, compiled, result, facts, now, waivers, refused)
                results.append(result)
        permitted = bool(results) and all(result.result in ("true", "waived") for result in results)
        verdict: Verdict = "permit" if permitted else "deny"
        return Outcome(verdict, moment, now, self._digests(), facts_hash, tuple(results), tuple(refused))

    def _digests(self) -> dict[str, str]:
        return {pack.id: pack.digest for pack in (*self._silo.packs, *self._federation.packs)}

    def _standing(self, now: datetime) -> Iterator[RuleResult]:
        """Yield what is wrong with the packs themselves."""
        owner: dict[str, Pack] = {}
        for layer in (self._federation, self._silo):
            held = {pack.id for pack in layer.packs}
            for name in sorted(set(layer.pins) - held):
                yield _gate("pack-unknown", f"the pinned pack {name} ({layer.pins[name]}) is not here")
            for pack in layer.packs:
                if pack.id in owner:
                    yield _gate("pack-duplicate", f"the pack {pack.id} is given twice")
                owner[pack.id] = pack
                pin = layer.pins.get(pack.id)
                if pin is None:
                    yield _gate("pack-unpinned", f"{pack.origin}: the pack {pack.id} is not pinned")
                elif pin != pack.digest:
                    yield _gate(
                        "pack-differs", f"{pack.origin}: the pack {pack.id} is {pack.digest}, but {pin} is pinned"
                    )
                if not pack.in_effect(now):
                    start, end = pack.document.effective_from, pack.document.effective_until
                    yield _gate(
                        "pack-expired", f"the pack {pack.id} is in effect from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
                    )

    def _waive(
        self,
        pack: Pack,
        compiled: CompiledRule,
        result: RuleResult,
        facts: Facts,
        now: datetime,
        waivers: Sequence[Signed[Waiver]],
        refused: list[str],
    ) -> RuleResult:
        for signed in waivers:
            waiver = signed.body
            if (waiver.pack, waiver.rule) != (pack.id, compiled.rule.id):
                continue
            where = f"waiver of {result.id}"
            if not compiled.rule.waivable:
                refused.append(f"{where}: the pack does not let this rule be waived")
            elif waiver.pack_digest != pack.digest:
                refused.append(f"{where}: it was given for another version of the pack")
            else:
                try:
                    check_waiver(
                        signed,
                        self._approvers,
                        silo=facts.silo.name,
                        run=facts.run.id,
                        researcher=facts.run.researcher,
                        now=now,
                    )
                except PolicyError as error:
                    refused.append(str(error))
                else:
                    return _with(result, "waived", f"waived by {waiver.approver}: {waiver.reason}", signed)
        return result


def _decide(pack: Pack, compiled: CompiledRule, bound: Any, known: Mapping[str, FactValue]) -> RuleResult:
    rule, named = compiled.rule, sorted(compiled.expression.facts)
    missing = [name for name in named if name not in known]
    result: Result
    detail = ""
    if missing:
        result, detail = "error", f"not known: {', '.join(missing)}"
    else:
        try:
            # `is True`: a truthy value of another type is not a permission.
            result = "true" if compiled.program(bound) is True else "false"
        except EvaluationError as error:
            result, detail = "error", error.what
        except Exception as error:  # any fault of an engine is a denial, never a crash past the gate
            result, detail = "error", f"{type(error).__name__} in the engine"
    return RuleResult(
        pack=pack.id,
        rule=rule.id,
        result=result,
        title=rule.title,
        severity=rule.severity,
        message=rule.message,
        remediation=rule.remediation,
        cite=rule.cite,
        detail=detail,
        facts={name: known[name] for name in named if name in known},
    )


def _with(result: RuleResult, new: Result, detail: str, waiver: Signed[Waiver]) -> RuleResult:
    return replace(result, result=new, detail=detail, waiver=waiver)


_REMEDIES = {
    "no-rules": "a consortium pins at least one pack that speaks at every moment, such as baseline",
    "facts-unusable": "report it: the fact schema should have refused them",
    "pack-unknown": "fetch the pack and put it into the policy folder",
    "pack-duplicate": "keep one of the two",
    "pack-unpinned": "pin it with: silo policy pin",
    "pack-differs": "restore the pinned version, or review the new one and pin it",
    "pack-expired": "adopt the pack's current version",
}


def _gate(rule: str, message: str) -> RuleResult:
    return RuleResult(
        pack=RESERVED,
        rule=rule,
        result="error",
        title=rule.replace("-", " "),
        severity="critical",
        message=message,
        remediation=_REMEDIES[rule],
        cite=None,
    )

"""The decision record: what one silo decided, when, by which packs, and why; signed and logged.

Invariant: the record carries rule ids, results and the packs' own words, and only the hash of the facts: nothing about
a silo's data leaves with it. ``deciding`` names the rules that stood in the way; of a permission, those waived.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from silo_policies.documents import CLOCK_SKEW, AsTuple, Digest, Instant, Name, Slug
from silo_policies.documents import Document as _Document
from silo_policies.errors import DocumentError
from silo_policies.gate import Outcome, RuleResult
from silo_policies.pack import Citation, Moment
from silo_policies.signing import Signed, SignedBody, Verifier

_Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}/[a-z0-9-]{1,64}$")]


class DecidedRule(_Document):
    """One line of the record."""

    pack: Slug
    id: Slug
    result: Literal["true", "false", "error", "waived"]


class Reason(_Document):
    """Why a deciding rule exists, in the pack's words, so that who is refused need not hold the pack."""

    pack: Slug
    id: Slug
    message: str
    remediation: str
    cite: Citation | None


class UsedWaiver(_Document):
    """A waiver that turned a false rule, and that waiver's digest."""

    pack: Slug
    id: Slug
    approver: Name
    reason: str
    expires: Instant
    waiver: Digest


class Decision(SignedBody):
    """What a silo signs at each of the four moments. ``packs`` maps id to digest."""

    label: ClassVar[str] = "silo/v1/decision"

    run: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    manifest: Digest
    silo: Name
    decision: Literal["permit", "deny"]
    moment: Moment
    packs: dict[Slug, Digest]
    facts_hash: Digest
    rules: Annotated[tuple[DecidedRule, ...], AsTuple, Field(min_length=1)]
    deciding: Annotated[tuple[_Id, ...], AsTuple]
    reasons: Annotated[tuple[Reason, ...], AsTuple]
    waivers: Annotated[tuple[UsedWaiver, ...], AsTuple]
    time: Instant

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        against = [f"{rule.pack}/{rule.id}" for rule in self.rules if rule.result in ("false", "error")]
        waived = sorted(f"{rule.pack}/{rule.id}" for rule in self.rules if rule.result == "waived")
        if (self.decision == "permit") != (not against):
            raise ValueError("the decision does not follow from the results")
        if sorted(self.deciding) != sorted(against or waived):
            raise ValueError("the deciding rules do not follow from the results")
        if sorted(f"{waiver.pack}/{waiver.id}" for waiver in self.waivers) != waived:
            raise ValueError("the waivers do not match the waived rules")
        return self

    @classmethod
    def of(cls, outcome: Outcome, *, run: str, manifest: str, silo: str) -> Self:
        """Make the record of an outcome."""
        deciding = outcome.denied or outcome.waived
        return cls(
            run=run,
            manifest=manifest,
            silo=silo,
            decision=outcome.decision,
            moment=outcome.moment,
            packs=dict(outcome.packs),
            facts_hash=outcome.facts_hash,
            rules=tuple(DecidedRule(pack=each.pack, id=each.rule, result=each.result) for each in outcome.results),
            deciding=tuple(each.id for each in deciding),
            reasons=tuple(_reason(each) for each in deciding),
            waivers=tuple(_used(each) for each in outcome.waived),
            time=outcome.time,
        )


def _reason(result: RuleResult) -> Reason:
    return Reason(
        pack=result.pack, id=result.rule, message=result.message, remediation=result.remediation, cite=result.cite
    )


def _used(result: RuleResult) -> UsedWaiver:
    assert result.waiver is not None  # the gate sets both together
    waiver = result.waiver.body
    return UsedWaiver(
        pack=result.pack,
        id=result.rule,
        approver=waiver.approver,
        reason=waiver.reason,
        expires=waiver.expires,
        waiver=waiver.digest,
    )


def verify_decision(
    signed: Signed[Decision], verifier: Verifier, *, run: str, manifest: str, now: datetime
) -> Decision:
    """Return the record if its silo, and only it, signed it for this run and not in the future."""
    decision = signed.body
    where = f"decision of {decision.silo}"
    signed.verify({decision.silo: verifier})
    if decision.run != run:
        raise DocumentError(f"it is for run {decision.run}, not {run}", where=where)
    if decision.manifest != manifest:
        raise DocumentError(f"it is for the manifest {decision.manifest} of run {run}, not {manifest}", where=where)
    if decision.time > now + CLOCK_SKEW:
        raise DocumentError("it is dated in the future", where=where, fix="compare the clocks")
    return decision

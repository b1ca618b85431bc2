"""Waivers: a named person takes responsibility for one rule that is false.

Invariant: a waiver covers exactly one rule of one version of one pack, at one silo, for one run, until it expires, and
only if an approver of that silo signed it who is not the run's researcher. It never covers an error, a missing fact, an
expired or unknown pack, or a rule that its pack calls not waivable. Every waiver used stands in the signed decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Self

from pydantic import StringConstraints, model_validator

from silo_policies.documents import CLOCK_SKEW, Digest, Instant, Name, Slug
from silo_policies.errors import DocumentError, SignatureRefused
from silo_policies.signing import Signed, SignedBody, Verifier


class Waiver(SignedBody):
    """What is signed. ``pack_digest`` ties it to the rule's wording: a changed pack needs a new waiver."""

    label: ClassVar[str] = "silo/v1/waiver"

    pack: Slug
    pack_digest: Digest
    rule: Slug
    silo: Name
    run: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    approver: Name
    reason: Annotated[str, StringConstraints(min_length=10, max_length=2000)]
    created: Instant
    expires: Instant

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.expires <= self.created:
            raise ValueError("expires must lie after created")
        return self


def check_waiver(
    signed: Signed[Waiver],
    approvers: Mapping[str, Verifier],
    *,
    silo: str | None,
    run: str | None,
    researcher: str | None,
    now: datetime,
) -> None:
    """Return if the waiver holds for this silo and run now; raises otherwise, saying why."""
    waiver = signed.body
    where = f"waiver of {waiver.pack}/{waiver.rule}"
    if silo is None or waiver.silo != silo:
        raise DocumentError(f"it is for silo {waiver.silo}", where=where)
    if run is None or waiver.run != run:
        raise DocumentError(f"it is for run {waiver.run}", where=where)
    if waiver.created > now + CLOCK_SKEW:
        raise DocumentError("it is dated in the future", where=where, fix="compare the clocks")
    if now >= waiver.expires:
        raise DocumentError("it has expired", where=where, fix="have it approved anew")
    if waiver.approver not in approvers:
        raise SignatureRefused(f"{waiver.approver} may not approve waivers here", where=where)
    if researcher is None or waiver.approver == researcher:
        raise SignatureRefused("the researcher may not waive a rule for their own run", where=where)
    signed.verify({waiver.approver: approvers[waiver.approver]})
